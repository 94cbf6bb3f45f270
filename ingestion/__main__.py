"""`python -m ingestion`: the `ingest` command."""

from ingestion.cli import main

main()
