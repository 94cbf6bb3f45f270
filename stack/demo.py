"""Posts through every part of the pipeline on this machine, by both paths, and the two compared.

The database is filled; the emulator draws posts from it and sends each to the gateway twice, once
for Kafka and once for Kinesis. The batch path copies Kafka's topics into objects of an S3 store and
lands those; the stream path lands Kinesis' shards. Each has a lake of its own, and what dbt builds
of the two must be the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from deltalake import DeltaTable, QueryBuilder
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError

from stack import local, process
from stack.steps import Steps

KINDS = ("pin", "geo", "user")
BUCKET = "pinterest"
PARTITIONS = SHARDS = 2
#: What the two paths must agree about; what counts landed records says by which path they came.
COMPARED = ("staging", "intermediate", "marts")
#: The paths, each with the name of its lake under ``LAKES``.
BATCH, STREAM = "batch", "stream"
LAKES = local.RUN / "lakes"
COUNTS_OF_LANDING = ("data_quality", "rejected_by_reason")


class DemoError(Exception):
    """A step failed, or the two paths differ."""


def run(posts: int, pipeline: str, steps: Steps) -> list[tuple[str, int]]:
    """Drive posts through all of it; running it again sends more of them.

    Args:
        posts: how many the emulator sends.
        pipeline: the deployment's id.
        steps: tells people what is done, about how long it takes, and how long it took.

    Returns:
        The tables that the two paths agree about, each with its number of rows.

    Raises:
        ServerError: a server does not start.
        DemoError: a step fails, or the two paths differ.
    """
    servers = local.servers()
    steps.say(f"starting {', '.join(local.PIPELINE)} (20 s to 2 min)")
    for name in local.PIPELINE:
        started = steps.clock()
        if name == "gateway":
            try:
                make_streams(pipeline)
            except (KafkaError, BotoCoreError, ClientError) as error:
                said = " ".join(str(error).split()) or type(error).__name__
                raise DemoError(f"topics, streams and bucket cannot be made: {said}") from error
        servers[name].up()
        took = steps.clock() - started
        steps.say(f"  {name} listens on {servers[name].address()} ({took:.1f} s)")
    objects = f"s3://{BUCKET}/msk"
    commands: list[tuple[str, str, list[str], str | None]] = [
        ("filling the source database", "5 s", ["ingestion", "seed-database"], None),
        (
            f"posting {posts:,} posts to Kafka and to Kinesis",
            f"{5 + posts // 40} s",
            ["ingestion", "emulate", "--count", str(posts), "--connections", "4"],
            None,
        ),
        ("batch path: Kafka to S3", "5 s", ["ingestion", "archive", "--uri", objects], None),
        ("batch path: S3 to bronze", "5 s", ["ingestion", "s3", "--uri", objects], BATCH),
        (
            "batch path: building",
            "20 s",
            ["dbt_lake", "build", "--quiet", "--exclude-resource-type", "unit_test"],
            BATCH,
        ),
        ("stream path: Kinesis to bronze", "10 s", ["ingestion", "kinesis", "--once"], STREAM),
        # The tables of the other path have been tested, and these must be the same.
        ("stream path: building", "15 s", ["dbt_lake", "run", "--quiet"], STREAM),
    ]
    environment = {**process.inherit(local.led_here(os.environ)), "PIPELINE_ID": pipeline}
    for title, about, command, path in commands:
        steps.say(f"\n{title}, about {about}: {' '.join(['python', '-m', *command])}")
        more = {"LAKE_URI": str((LAKES / path).resolve())} if path else {}
        started = steps.clock()
        done = subprocess.run([sys.executable, "-m", *command], env=environment | more, check=False)
        if done.returncode:
            raise DemoError(f"{title} failed; the servers go on running (python -m stack down)")
        steps.say(f"  {steps.clock() - started:.1f} s")
    return compare(LAKES / BATCH, LAKES / STREAM)


def compare(batch: Path, stream: Path) -> list[tuple[str, int]]:
    """The tables of two lakes, which must be the same, each with its number of rows.

    Raises:
        DemoError: a table differs, or no post is there.
    """
    found = {name: content(batch, name) for name in tables(batch)}
    others = {name: content(stream, name) for name in tables(stream)}
    differing = [n for n in sorted({*found, *others}) if found.get(n) != others.get(n)]
    if differing:
        raise DemoError(
            f"the two paths differ in {', '.join(differing)}; their lakes are {batch} and {stream} "
            "(so they do after posts to one of the two alone: end the servers and remove "
            f"{local.RUN} to begin anew)"
        )
    if not found.get("intermediate/int_posts"):
        raise DemoError(f"no post arrived; the lakes are {batch} and {stream}")
    return [(name, len(rows)) for name, rows in found.items()]


def tables(lake: Path) -> Iterator[str]:
    """The tables that the two paths must agree about, as ``schema/table``."""
    for schema in COMPARED:
        for path in sorted((lake / schema).iterdir()):
            if path.name not in COUNTS_OF_LANDING:
                yield f"{schema}/{path.name}"


def content(lake: Path, table: str) -> list[Any]:
    """A table's rows in an order of their own, without the times when something landed."""
    builder = QueryBuilder().register("t", DeltaTable(str(lake / table)))
    rows: list[Any] = []
    for batch in builder.execute("select * from t"):
        names = [name for name in batch.schema.names if not name.endswith("_at")]
        rows += zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    return sorted(rows, key=repr)


def make_streams(pipeline: str) -> None:
    """Make the topics, the streams and the bucket that are not there yet."""
    environment = local.environment()
    keys = {
        "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
        "region_name": environment["AWS_REGION"],
    }
    admin = KafkaAdminClient(
        bootstrap_servers=environment["KAFKA_BOOTSTRAP_SERVERS"],
        # The broker runs; on a busy machine it may take longer than the usual half minute.
        bootstrap_timeout_ms=300_000,
        request_timeout_ms=300_000,
    )
    try:
        there = set(admin.list_topics())
        names = [f"{pipeline}.{kind}" for kind in KINDS]
        # A client that is asked to make none of them refuses.
        if missing := [NewTopic(n, PARTITIONS, 1) for n in names if n not in there]:
            admin.create_topics(missing)
    finally:
        admin.close()
    kinesis = boto3.client("kinesis", endpoint_url=environment["AWS_ENDPOINT_URL_KINESIS"], **keys)
    for kind in KINDS:
        name = f"streaming-{pipeline}-{kind}"
        try:
            kinesis.create_stream(StreamName=name, ShardCount=SHARDS)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceInUseException":
                raise
        kinesis.get_waiter("stream_exists").wait(
            StreamName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 300}
        )
    s3 = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], **keys)
    if BUCKET not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=BUCKET)
