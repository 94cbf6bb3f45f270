"""Real servers on one machine, started and stopped by name: what a cluster is elsewhere."""
