"""Landing: records from streams and batches into the bronze Delta tables."""
