"""The servers of `make stack`: starting them again, and what is left when that is cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from sqlalchemy import create_engine, text

from stack import demo, local, mysql, process
from tests.services.conftest import client, folder_of


def test_what_is_there_is_not_made_again(
    broker: str, kinesis_url: str, store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": broker,
        "AWS_ENDPOINT_URL_KINESIS": kinesis_url,
        **store,
    }
    monkeypatch.setattr(local, "environment", lambda: environment)
    pipeline = f"p{uuid.uuid4().hex[:11]}"
    admin = KafkaAdminClient(bootstrap_servers=broker)
    # Some of it is there, as after a kill; then all of it.
    admin.create_topics([NewTopic(f"{pipeline}.geo", demo.PARTITIONS, 1)])
    for _ in range(2):
        demo.make_streams(pipeline)
        topics = admin.describe_topics([f"{pipeline}.{kind}" for kind in demo.KINDS])
        assert [len(topic["partitions"]) for topic in topics] == [demo.PARTITIONS] * 3
    admin.close()
    kinesis = client("kinesis", {"AWS_ENDPOINT_URL": kinesis_url})
    for kind in demo.KINDS:
        shards = kinesis.list_shards(StreamName=f"streaming-{pipeline}-{kind}")["Shards"]
        assert len(shards) == demo.SHARDS
    client("s3", store).head_bucket(Bucket=demo.BUCKET)


def test_a_database_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    if reason := mysql.missing():
        pytest.skip(reason)
    folder, port = folder_of(tmp_path, "mysql"), process.free_port()
    script = "import sys; from pathlib import Path; from stack import mysql; "
    script += f"mysql.server({port}, Path({str(folder)!r}))"
    making = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/mysql/*")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    # All of it, as the keyboard's interrupt is for the whole group.
    os.killpg(making.pid, signal.SIGKILL)
    making.wait(20)
    process.start(mysql.server(port, folder))
    try:
        with create_engine(mysql.url(port)).connect() as connection:
            assert connection.execute(text("select database()")).scalar() == mysql.DATABASE
    finally:
        process.stop(folder)
