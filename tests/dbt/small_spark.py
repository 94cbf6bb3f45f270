"""A Spark of its own for a test: quick to start, and quick with little data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stack import process, spark

#: Little data and many statements: what pays off over hours costs here.
SETTINGS = {
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"
    # A heap that starts large: growing it step by step costs full collections.
    " -Xmn1g -XX:OldSize=1g -XX:MetaspaceSize=256m"
    " -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.databricks.delta.snapshotPartitions": "1",
    # A union of many parts is otherwise looked at in parallel.
    "spark.rdd.parallelListingThreshold": "1000",
    # Compiling a query takes longer than interpreting it here.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    # No session brings classes of its own, for which each would get class loaders of its own.
    "spark.sql.artifact.isolation.enabled": "false",
    "spark.sql.ui.explainMode": "simple",
    "spark.sql.maxPlanStringLength": "1000",
}


@dataclass(frozen=True)
class Server:
    """A Spark that runs.

    Attributes:
        connect: the port of Spark Connect.
        thrift: the port of the Thrift server.
        tables: where tables of schemas lie that have no location.
    """

    connect: int
    thrift: int
    tables: Path

    @property
    def remote(self) -> str:
        """The address of Spark Connect."""
        return f"sc://127.0.0.1:{self.connect}"

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment of a dbt process that shall work with it by Spark Connect."""
        return {"DBT_TARGET": "spark", "SPARK_REMOTE": self.remote}


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Run a Spark, for as long as the context lasts, that serves Spark Connect and Thrift."""
    connect, thrift = process.free_port(), process.free_port()
    settings = {
        **SETTINGS,
        # With Hive's metastore, a quarter of the CPU time goes to its configuration: each thread
        # reads it, and most threads serve one statement.
        "spark.sql.catalogImplementation": "in-memory",
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(connect),
    }
    process.start(spark.thrift_server(thrift, folder, settings))
    try:
        yield Server(connect, thrift, folder / "warehouse")
    finally:
        process.stop(folder)
