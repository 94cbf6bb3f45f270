"""HTTP in: records posted to Kafka topics and Kinesis streams, as through an API gateway."""
