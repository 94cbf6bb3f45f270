"""Posts through every part of the pipeline on this machine, by both paths, and the two compared.

The database is filled; the emulator draws posts from it and sends each to the gateway twice, once
for Kafka and once for Kinesis. The batch path copies Kafka's topics into objects of an S3 store and
lands those; the stream path lands Kinesis' shards. One path alone must give the tables of both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deltalake import DeltaTable, QueryBuilder

from stack import local

KINDS = ("pin", "geo", "user")
BUCKET = "pinterest"
PARTITIONS = SHARDS = 2
#: What the two paths must agree about; what counts landed records is left out: by both, more land.
COMPARED = ("staging", "intermediate", "marts")
COUNTS_OF_LANDING = ("data_quality", "rejected_by_reason")


class DemoError(Exception):
    """A step failed, or the two paths differ."""


def run(posts: int, lake: Path, pipeline: str, say: Callable[[str], None]) -> None:
    """Drive posts through all of it; running it again sends more of them.

    Args:
        posts: how many the emulator sends.
        lake: the folder for the lake of both paths; that of the stream path alone lies beside it.
        pipeline: the deployment's id.
        say: takes a line about each step.

    Raises:
        ServerError: a server does not start.
        DemoError: a step fails, or the two paths differ.
    """
    servers = local.servers()
    for name in local.PIPELINE:
        if name == "gateway":
            make_streams(pipeline)
        servers[name].up()
        say(f"{name} listens on {servers[name].address()}")
    both, stream = lake, lake.with_name(f"{lake.name}-of-streams")
    objects = f"s3://{BUCKET}/msk"
    steps: list[tuple[str, list[str], Path | None]] = [
        ("filling the source database", ["ingestion", "seed-database"], None),
        (
            f"posting {posts:,} posts to Kafka and to Kinesis",
            ["ingestion", "emulate", "--count", str(posts), "--connections", "4"],
            None,
        ),
        ("batch path: Kafka to S3", ["ingestion", "archive", "--uri", objects], None),
        ("batch path: S3 to bronze", ["ingestion", "s3", "--uri", objects], both),
        ("stream path: Kinesis to bronze", ["ingestion", "kinesis", "--once"], both),
        ("building from both", ["dbt_lake", "build", "--quiet"], both),
        ("stream path alone: Kinesis to bronze", ["ingestion", "kinesis", "--once"], stream),
        ("building from the stream path alone", ["dbt_lake", "build", "--quiet"], stream),
    ]
    environment = {**os.environ, **local.environment(), "PIPELINE_ID": pipeline}
    for title, command, where in steps:
        say(f"\n{title}: {' '.join(['python', '-m', *command])}")
        more = {"LAKE_URI": str(where)} if where else {}
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-m", *command], env=environment | more, check=False)
        if done.returncode:
            raise DemoError(f"{title} failed; the servers go on running (python -m stack down)")
        say(f"  {time.monotonic() - begun:.1f} s")
    differing = [name for name in tables(both) if content(both, name) != content(stream, name)]
    if differing:
        raise DemoError(f"the two paths differ in {', '.join(differing)}")
    say(f"\nthe batch path and the stream path agree in {len(list(tables(both)))} tables")


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
    import boto3
    from botocore.exceptions import ClientError
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic

    environment = local.environment()
    keys = {
        "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
        "region_name": environment["AWS_REGION"],
    }
    admin = KafkaAdminClient(bootstrap_servers=environment["KAFKA_BOOTSTRAP_SERVERS"])
    try:
        there = set(admin.list_topics())
        names = [f"{pipeline}.{kind}" for kind in KINDS]
        admin.create_topics([NewTopic(n, PARTITIONS, 1) for n in names if n not in there])
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
            StreamName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
        )
    s3 = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], **keys)
    if BUCKET not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=BUCKET)
