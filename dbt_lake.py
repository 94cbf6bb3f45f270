"""The dbt plugin for the local target: an embedded engine with the lake as its catalog.

dbt finds this module by its name's prefix and calls the plugin once in each process, before it
connects. The engine (Sail, a Spark Connect server in a wheel) listens on a free port of the
loopback interface and lives as long as the process. Its catalog is empty at the start, so every
Delta table found under the lake is attached to it; new tables go to ``{lake}/{schema}/{table}``,
because every schema is created with its folder as location.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from dbt.flags import get_flags
from dbt.plugins.manager import dbtPlugin
from dbt_common.context import get_invocation_context
from dbt_common.exceptions import DbtRuntimeError

#: Commands that never talk to an engine.
WITHOUT_ENGINE = frozenset({"clean", "deps", "docs", "init", "list", "ls", "parse", "serve"})
#: Commands that write tables.
WRITERS = frozenset({"build", "clone", "retry", "run", "seed", "snapshot"})


class LakePlugin(dbtPlugin):
    """Starts the engine and attaches the lake, for commands and targets that need them."""

    def initialize(self) -> None:
        """Called by dbt once the command, the profile and the target are known."""
        if get_flags().WHICH in WITHOUT_ENGINE or not _embedded():
            return
        lake = _absolute(os.environ.get("LAKE_URI") or "./lake", Path(get_flags().PROJECT_DIR))
        if get_flags().WHICH in WRITERS:
            _wait_for_turn(lake)
        _tell_macros("LAKE_LOCATION", lake)  # where create_schema puts new schemas
        _tell_macros("LAKE_ENGINE", "embedded")  # how replace_by_key works
        _attach(_session(), lake)


plugins = [LakePlugin]


def _embedded() -> bool:
    """Whether the target is a Spark session that nobody else serves."""
    context = click.get_current_context(silent=True)
    profile = (context.obj or {}).get("profile") if context else None
    credentials = getattr(profile, "credentials", None)
    if credentials is None or credentials.type != "spark" or credentials.method != "session":
        return False
    return "spark.remote" not in (credentials.server_side_parameters or {})


def _absolute(lake: str, project: Path) -> str:
    if "://" in lake:
        return lake.rstrip("/")
    return str((project / lake).resolve())


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
    if _turn is not None or "://" in lake or not Path(lake).is_dir():
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


_running: Any = None


def _session() -> Any:
    """A session on the engine, which is started at the first call in a process."""
    global _running
    os.environ["TZ"] = "UTC"
    os.environ.setdefault("RUST_LOG", "error")
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


def _attach(spark: Any, lake: str) -> None:
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    tables = list(_tables_under(lake))
    if not any(schema == "bronze" for schema, _, _ in tables):
        raise DbtRuntimeError(
            f"{lake} holds no bronze tables; run 'ingest init' for empty ones, "
            "'ingest s3 --uri …' to land records, or 'make demo' for both"
        )
    for schema in sorted({schema for schema, _, _ in tables}):
        spark.sql(f"create schema if not exists `{schema}` location '{lake}/{schema}'")
    for schema, table, location in tables:
        try:
            spark.sql(
                f"create table if not exists `{schema}`.`{table}` using delta "
                f"location '{location}' as select * from delta.`{location}` limit 0"
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise DbtRuntimeError(
                f"{location} cannot be attached as {schema}.{table}: {reason}; "
                "repair it or move it out of the lake"
            ) from error


def _tables_under(lake: str) -> Iterator[tuple[str, str, str]]:
    """Schema, table and address of every Delta table two levels below the lake."""
    if "://" in lake:
        yield from _tables_in_bucket(lake)
        return
    for log in sorted(Path(lake).glob("*/*/_delta_log")):
        if any(log.glob("*.json")) or any(log.glob("*.parquet")):
            yield log.parent.parent.name, log.parent.name, str(log.parent)


def _tables_in_bucket(lake: str) -> Iterator[tuple[str, str, str]]:
    import boto3

    bucket, _, prefix = lake.removeprefix("s3://").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    pages = boto3.client("s3").get_paginator("list_objects_v2")

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


def main(arguments: list[str]) -> int:
    """Run several dbt commands in one process, which share the engine and the imports.

    Args:
        arguments: dbt's own, the commands separated by a lone comma, such as
            ``build --quiet , docs generate --static``.

    Returns:
        dbt's exit code: 0, 1 for a failure, 2 for an error; commands after one that failed are
        not run.
    """
    import time

    from dbt.cli.main import dbtRunner

    command: list[str] = []
    for argument in [*arguments, ","]:
        if argument != ",":
            command.append(argument)
            continue
        begun = time.monotonic()
        outcome = dbtRunner().invoke(command)
        results = getattr(outcome.result, "results", None) or []
        counts = Counter(str(getattr(result, "status", "done")) for result in results)
        said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        print(f"dbt {' '.join(command)}: {said or 'done'} in {time.monotonic() - begun:.1f} s")
        if not outcome.success:
            if outcome.exception:
                print(f"error: {outcome.exception}", file=sys.stderr)
            return 2 if outcome.exception else 1
        command = []
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
