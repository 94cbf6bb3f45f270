"""Apache Spark with Delta: a cluster's engine on one machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import stack
from stack.process import Server, ServerError

#: Where `make spark` puts the distribution and Delta's libraries.
HOME = stack.HOME / "spark"

#: What Spark is told wherever it runs here.
SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.shuffle.partitions": "4",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
    "spark.log.level": "WARN",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
}


def missing(home: Path = HOME) -> str | None:
    """What keeps Spark from starting, with the way out; None if nothing does."""
    if shutil.which("java") is None:
        return "Spark needs Java 17 or newer: apt-get install default-jre-headless maven"
    if not (home / "python/pyspark/jars").is_dir() or not list((home / "jars").glob("*.jar")):
        return f"Spark is not in {home}: make spark-install"
    return None


def connect_server(
    port: int, folder: Path, settings: Mapping[str, str] | None = None, home: Path = HOME
) -> Server:
    """Spark Connect, which a dbt target reaches as ``sc://127.0.0.1:{port}``.

    Args:
        port: of 127.0.0.1.
        folder: for its catalog, its log and what it spills.
        settings: of Spark, besides or instead of ``SETTINGS``.
        home: where Spark and Delta lie.

    Raises:
        ServerError: Spark is not installed.
    """
    return _submitted(
        "Spark",
        "org.apache.spark.sql.connect.service.SparkConnectServer",
        port,
        folder,
        {
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": str(port),
            **(settings or {}),
        },
        (),
        home,
    )


def thrift_server(
    port: int, folder: Path, settings: Mapping[str, str] | None = None, home: Path = HOME
) -> Server:
    """Spark's Thrift server over HTTP, which answers what speaks to a SQL warehouse.

    The arguments and errors are those of ``connect_server``.
    """
    return _submitted(
        "Spark's Thrift server",
        "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2",
        port,
        folder,
        settings or {},
        [
            # Hive's parser wants an option's name and its value as two words.
            word
            for setting in (
                "hive.server2.transport.mode=http",
                f"hive.server2.thrift.http.port={port}",
                "hive.server2.thrift.bind.host=127.0.0.1",
                "hive.server2.thrift.http.path=cliservice",
            )
            for word in ("--hiveconf", setting)
        ],
        home,
    )


def _submitted(
    name: str,
    main_class: str,
    port: int,
    folder: Path,
    settings: Mapping[str, str],
    arguments: Sequence[str],
    home: Path,
) -> Server:
    if reason := missing(home):
        raise ServerError(reason)
    folder = folder.resolve()
    distribution = (home / "python/pyspark").resolve()
    jars = ",".join(str(jar) for jar in sorted((home / "jars").resolve().glob("*.jar")))
    every = {
        **SETTINGS,
        "spark.local.dir": str(folder / "scratch"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.hadoop.javax.jdo.option.ConnectionURL": (
            f"jdbc:derby:;databaseName={folder / 'metastore'};create=true"
        ),
        **settings,
    }
    return Server(
        name,
        [
            str(distribution / "bin/spark-submit"),
            "--class", main_class,
            "--jars", jars,
            "--driver-memory", os.environ.get("SPARK_DRIVER_MEMORY") or "3g",
            *(f"--conf={key}={value}" for key, value in every.items()),
            "spark-internal",
            *arguments,
        ],
        port,
        folder,
        {"SPARK_HOME": str(distribution), "TZ": "UTC"},
        # Clients are told by SPARK_REMOTE where the server is; the launcher takes it for the master
        # and refuses to start. The others lead to the settings and programs of another Spark.
        ("SPARK_", "PYSPARK_", "HADOOP_", "HIVE_", "YARN_"),
    )  # fmt: skip
