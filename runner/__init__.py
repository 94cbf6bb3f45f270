"""Runs dbt commands: several in one process, with progress, and in the end what failed."""
