"""The dbt plugin for targets that reach their engine by Spark Connect: the lake is the catalog.

dbt finds this module by its name's prefix and calls the plugin once in each process, before it
connects. For the local target it starts the engine (Sail, a Spark Connect server in a wheel),
which listens on a free port of the loopback interface and lives as long as the process; for a
target with ``spark.remote`` it connects to the server named there. Every Delta table found under
the lake is attached to the engine's catalog; new tables go to ``{lake}/{schema}/{table}``, because
every schema is created with its folder as location.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from dbt.flags import get_flags
from dbt.plugins.manager import dbtPlugin
from dbt_common.context import get_invocation_context
from dbt_common.exceptions import DbtRuntimeError

from ingestion.address import is_bucket, resolve
from ingestion.bucket import engine_options
from ingestion.errors import AddressError

#: Commands that never talk to an engine.
WITHOUT_ENGINE = frozenset({"clean", "deps", "docs", "init", "list", "ls", "parse", "serve"})
#: Commands that write tables.
WRITERS = frozenset({"build", "clone", "retry", "run", "seed", "snapshot"})


class LakePlugin(dbtPlugin):
    """Starts the engine and attaches the lake, for commands and targets that need them."""

    def initialize(self) -> None:
        """Called by dbt once the command, the profile and the target are known."""
        if get_flags().WHICH in WITHOUT_ENGINE:
            return
        remote = _remote()
        if remote is None:
            return
        lake = _absolute(os.environ.get("LAKE_URI") or "./lake", Path(get_flags().PROJECT_DIR))
        if get_flags().WHICH in WRITERS:
            _wait_for_turn(lake)
            _tell_macros("LAKE_SCRATCH", _scratch(lake))  # where create_table_as gathers slices
        _tell_macros("LAKE_LOCATION", lake)  # where create_schema puts new schemas
        _tell_macros("LAKE_ENGINE", "remote" if remote else "embedded")  # how replace_by_key works
        if not remote:
            # The embedded engine reads fewer of the AWS clients' variables than boto3.
            os.environ.update(engine_options(lake) or {})
        _attach(_connected(remote) if remote else _session(), lake, embedded=not remote)


plugins = [LakePlugin]


def _remote() -> str | None:
    """The address of the target's Spark Connect server.

    Returns:
        The address; an empty text where the engine is the embedded one; None where the target is
        no Spark session, so that nothing here concerns it.
    """
    context = click.get_current_context(silent=True)
    profile = (context.obj or {}).get("profile") if context else None
    credentials = getattr(profile, "credentials", None)
    if credentials is None or credentials.type != "spark" or credentials.method != "session":
        return None
    return str((credentials.server_side_parameters or {}).get("spark.remote", ""))


def _absolute(lake: str, project: Path) -> str:
    """The lake's address as Python's commands resolve it; a relative path lies in the project.

    Raises:
        DbtRuntimeError: it is no path and no place in a bucket.
    """
    try:
        address = resolve(lake, "LAKE_URI")
    except AddressError as error:
        raise DbtRuntimeError(str(error)) from error
    return address if is_bucket(address) else str((project / address).resolve())


def _tell_macros(name: str, value: str) -> None:
    """Make a value available as ``env_var(name)``; dbt copied the environment before this."""
    environment = get_invocation_context().env
    if isinstance(environment, dict):
        environment[name] = value


_turn: Any = None


def _wait_for_turn(lake: str) -> None:
    """Hold the lake's lock until this process ends, however it ends.

    Two processes that add the same day to one table would each add it. A lake in a bucket has no
    such lock.
    """
    global _turn
    if _turn is not None or is_bucket(lake) or not Path(lake).is_dir():
        return
    import fcntl

    try:
        lock = Path(lake, ".dbt.lock").open("a+")  # noqa: SIM115 (held until the process ends)
    except OSError as error:
        raise DbtRuntimeError(
            f"{lake} cannot be written: {error.strerror}; change its permissions or set LAKE_URI"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another dbt to finish with {lake}", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    _turn = lock


def _scratch(lake: str) -> str:
    """An empty place on the lake's disk for the process whose turn it is.

    It goes when the process ends; what a killed one left goes now. A lake in a bucket has none:
    there it is a folder of the machine.
    """
    if is_bucket(lake):
        scratch = Path(tempfile.gettempdir(), f"lake-scratch-{os.getpid()}")
    else:
        scratch = Path(lake, ".scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return str(scratch)


_running: Any = None


def _session() -> Any:
    """A session on the engine, which is started at the first call in a process."""
    global _running
    os.environ["TZ"] = "UTC"
    os.environ.setdefault("RUST_LOG", "error")
    # Beyond half of the machine's memory, sorting and grouping go on on disk.
    if "SAIL_RUNTIME__MEMORY_POOL__TYPE" not in os.environ:
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        os.environ["SAIL_RUNTIME__MEMORY_POOL__TYPE"] = "greedy"
        os.environ["SAIL_RUNTIME__MEMORY_POOL__GREEDY__MAX_SIZE"] = str(half)
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    if _running is None:
        server = SparkConnectServer("127.0.0.1", 0)
        server.start(background=True)
        _, port = server.listening_address
        os.environ["SPARK_REMOTE"] = f"sc://127.0.0.1:{port}"
        _running = server
        atexit.register(server.stop)
    return SparkSession.builder.remote(os.environ["SPARK_REMOTE"]).getOrCreate()


def _connected(remote: str) -> Any:
    """A session on a server that somebody else runs."""
    os.environ["TZ"] = "UTC"
    from pyspark.sql import SparkSession

    # The adapter asks for a catalog kind at every statement; a server that runs has one.
    warnings.filterwarnings("ignore", "Failed to set spark.sql.catalogImplementation")
    # dbt tells of a failed statement; the client would add pages of the server's stack.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    # The client itself would try again for ten minutes.
    address = urlsplit(remote)
    try:
        with socket.create_connection((address.hostname or "", address.port or 15002), timeout=10):
            pass
    except OSError as error:
        raise DbtRuntimeError(
            f"no Spark Connect server answers at {remote}: {error.strerror or error}; 'make spark' "
            "starts one on this machine, SPARK_REMOTE names another"
        ) from error
    return SparkSession.builder.remote(remote).getOrCreate()


def _attach(spark: Any, lake: str, embedded: bool) -> None:
    """Put every table of the lake into the engine's catalog; those that are there stay."""
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    tables = list(_tables_under(lake))
    if not any(schema == "bronze" for schema, _, _ in tables):
        raise DbtRuntimeError(
            f"{lake} holds no bronze tables; run 'ingest init' for empty ones, "
            "'ingest s3 --uri …' to land records, or 'make demo' for both"
        )
    for schema in sorted({schema for schema, _, _ in tables}):
        spark.sql(f"create schema if not exists `{schema}` location '{lake}/{schema}'")
        if not embedded:
            _check_location(spark, schema, f"{lake}/{schema}")
            if not is_bucket(lake):
                _forget_what_is_gone(spark, schema, Path(lake))
    for schema, table, location in tables:
        # The embedded engine learns a table's columns from a query alone; nothing is written.
        like = f" as select * from delta.`{location}` limit 0" if embedded else ""
        try:
            spark.sql(
                f"create table if not exists `{schema}`.`{table}` using delta "
                f"location '{location}'{like}"
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise DbtRuntimeError(
                f"{location} cannot be attached as {schema}.{table}: {reason}; "
                "repair it or move it out of the lake"
            ) from error


def _check_location(spark: Any, schema: str, expected: str) -> None:
    """A server that others use may have a schema of that name elsewhere."""
    described = {row[0]: row[1] for row in spark.sql(f"describe schema `{schema}`").collect()}
    found = described.get("Location", "").removeprefix("file:")
    if found != expected:
        raise DbtRuntimeError(
            f"the server's schema {schema} lies in {found}, not in {expected}; set LAKE_URI to the "
            "lake it serves, or start the server anew ('make spark-down', 'make spark')"
        )


def _forget_what_is_gone(spark: Any, schema: str, lake: Path) -> None:
    """Take tables out of a server's catalog whose folders were removed."""
    views = {row["viewName"] for row in spark.sql(f"show views in `{schema}`").collect()}
    for row in spark.sql(f"show tables in `{schema}`").collect():
        table = row["tableName"]
        if table not in views and not Path(lake, schema, table).exists():
            spark.sql(f"drop table if exists `{schema}`.`{table}`")


def _tables_under(lake: str) -> Iterator[tuple[str, str, str]]:
    """Schema, table and address of every Delta table two levels below the lake."""
    if is_bucket(lake):
        yield from _tables_in_bucket(lake)
        return
    for log in sorted(Path(lake).glob("*/*/_delta_log")):
        if log.parent.parent.name.startswith("."):
            continue
        if any(log.glob("*.json")) or any(log.glob("*.parquet")):
            yield log.parent.parent.name, log.parent.name, str(log.parent)


def _tables_in_bucket(lake: str) -> Iterator[tuple[str, str, str]]:
    import boto3

    bucket, _, prefix = lake.removeprefix("s3://").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    pages = boto3.session.Session().client("s3").get_paginator("list_objects_v2")

    def folders(below: str) -> Iterator[str]:
        for page in pages.paginate(Bucket=bucket, Prefix=below, Delimiter="/"):
            for entry in page.get("CommonPrefixes", []):
                yield entry["Prefix"]

    for schema in folders(prefix):
        for table in folders(schema):
            if f"{table}_delta_log/" in folders(table):
                location = f"s3://{bucket}/{table.rstrip('/')}"
                yield (
                    schema.rstrip("/").rsplit("/")[-1],
                    table.rstrip("/").rsplit("/")[-1],
                    location,
                )


if __name__ == "__main__":
    from runner.commands import main

    sys.exit(main(sys.argv[1:]))
