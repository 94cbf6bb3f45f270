"""A Spark of its own for a test: quick to start, and quick with little data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stack import process, spark

#: Little data and many statements: what pays off over hours costs here.
SETTINGS = {
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"
    " -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.databricks.delta.snapshotPartitions": "1",
    # A union of many parts is otherwise looked at in parallel.
    "spark.rdd.parallelListingThreshold": "1000",
    # Compiling a query takes longer than interpreting it here.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


@contextmanager
def serving(folder: Path) -> Iterator[Mapping[str, str]]:
    """Run a Spark Connect server for as long as the context lasts.

    Yields:
        The environment of a dbt process that shall work with it.
    """
    port = process.free_port()
    process.start(spark.connect_server(port, folder, SETTINGS))
    try:
        yield {"DBT_TARGET": "spark", "SPARK_REMOTE": f"sc://127.0.0.1:{port}"}
    finally:
        process.stop(folder)
