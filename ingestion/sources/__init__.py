"""One module a source; each yields batches of raw records with their positions."""
