"""Amazon Managed Workflows for Apache Airflow: what goes into its bucket, and how."""
