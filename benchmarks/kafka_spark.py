"""The same topics to Delta with Spark Structured Streaming: `kafka_landing` measures it.

It reads what is there, decodes each kind's fields, and writes a table for each, as `ingest kafka`
does but for rejected records and what has no column.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from benchmarks.kafka_landing import _TOPICS as TOPICS
from ingestion.records import KINDS
from stack.spark import SETTINGS


def land(servers: str, lake: str) -> dict[str, float]:
    """Land all topics; records and seconds, from the first query's start to the last one's end."""
    from pyspark.sql import SparkSession, functions

    builder: Any = SparkSession.builder.master(f"local[{os.cpu_count()}]")
    settings = {**SETTINGS, "spark.driver.memory": "3g", "spark.jars": os.environ["SPARK_JARS"]}
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    begun = time.monotonic()
    queries = []
    for topic, kind in zip(TOPICS, KINDS.values(), strict=True):
        key = "index" if kind.name == "pin" else "ind"
        schema = ", ".join(
            [f"{key} bigint", *(f"`{name}` {type_}" for name, type_ in kind.fields.items())]
        )
        records = (
            session.readStream.format("kafka")
            .option("kafka.bootstrap.servers", servers)
            .option("subscribe", topic)
            .option("startingOffsets", "earliest")
            .load()
        )
        record = functions.from_json(records.value.cast("string"), schema)
        rows = records.select(
            record.alias("record"), "topic", "partition", "offset", "timestamp"
        ).select(
            "record.*",
            "topic",
            "partition",
            "offset",
            functions.current_timestamp().alias("landed_at"),
        )
        queries.append(
            rows.writeStream.format("delta")
            .option("checkpointLocation", f"{lake}/checkpoints/{kind.name}")
            .trigger(availableNow=True)
            .start(f"{lake}/{kind.name}")
        )
    for query in queries:
        query.awaitTermination()
    seconds = time.monotonic() - begun
    counts = [session.read.format("delta").load(f"{lake}/{kind}").count() for kind in KINDS]
    session.stop()
    return {"records": sum(counts), "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(land(*sys.argv[1:])))
