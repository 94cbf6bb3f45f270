"""What runs the pipeline elsewhere: Databricks, MWAA."""
