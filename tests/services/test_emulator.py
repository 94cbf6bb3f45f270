"""The posting emulator between a real database and a real gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import requests

from ingestion.emulation.database import StoredPosts
from ingestion.emulation.defects import KINDS as NAMES
from ingestion.emulation.posting import SyntheticPosts, draws
from ingestion.emulation.posts import Plan, records
from ingestion.errors import SourceError
from ingestion.sources.database import Database
from ingestion.sources.mysql import as_json
from tests.services.conftest import client, eventually
from tests.services.test_mysql import Source, seeded, source  # noqa: F401

ROWS = 400
PLAN = Plan(posts=ROWS + 1, people=round((ROWS + 1) / 1.4), seed=1, clean=True)


@pytest.fixture
def filled(source: Source) -> Source:  # noqa: F811
    assert seeded(source, "--posts", str(ROWS + 1)).code == 0
    return source


def test_stored_posts_are_the_invented_ones(filled: Source) -> None:
    numbers = [7, 0, ROWS, 7, 33]
    stored = StoredPosts(Database(filled.url), ROWS + 1).posts(numbers)
    invented = SyntheticPosts(PLAN).posts(numbers)
    for one, other in zip(stored, invented, strict=True):
        assert list(one) == list(other) == list(NAMES)
        assert {name: json.loads(as_json(row)) for name, row in one.items()} == other


def test_a_number_is_a_place_in_the_order_of_the_keys(source: Source) -> None:  # noqa: F811
    source.tables()
    source.put(30, None, -5, 10, 20)
    source.sql("INSERT INTO pinterest_data (`index`, title) VALUES (7, 'a')")
    source.sql("INSERT INTO user_data (ind, age) VALUES (1, 20), (2, 30)")
    stored = StoredPosts(Database(source.url), 3)
    assert stored.lengths == {"pinterest_data": 1, "geolocation_data": 3, "user_data": 2}
    found = stored.posts([2, 0, 1, 9])
    assert [list(post) for post in found] == [["geo"], ["pin", "geo", "user"], ["geo", "user"], []]
    assert [post["geo"]["ind"] for post in found[:3]] == [30, 10, 20]
    assert StoredPosts(Database(source.url), 2).lengths["geolocation_data"] == 2


def test_an_empty_table_is_named(source: Source) -> None:  # noqa: F811
    with pytest.raises(SourceError, match="pinterest_data' doesn't exist; create it"):
        StoredPosts(Database(source.url), 5)
    source.tables()
    with pytest.raises(SourceError, match="pinterest_data is empty; fill it with 'ingest seed-"):
        StoredPosts(Database(source.url), 5)


class Streams:
    """A gateway of its own before a broker and a Kinesis, with a pipeline's topics and streams."""

    def __init__(self, broker: str, kinesis_url: str) -> None:
        from kafka.admin import KafkaAdminClient

        self.pipeline = f"e{uuid4().hex[:10]}"
        self._broker = broker
        self._kinesis = client("kinesis", {"AWS_ENDPOINT_URL": kinesis_url})
        admin = KafkaAdminClient(bootstrap_servers=broker)
        admin.create_topics([f"{self.pipeline}.{name}" for name in NAMES])
        admin.close()
        for name in NAMES:
            self._kinesis.create_stream(StreamName=self._stream(name), ShardCount=1)
        for name in NAMES:
            eventually(lambda name=name: self._shards(name))  # type: ignore[misc]
        self._gateway = subprocess.Popen(
            [sys.executable, "-m", "ingestion", "gateway", "--port", "0", "--open"],
            env={
                **os.environ,
                "KAFKA_BOOTSTRAP_SERVERS": broker,
                "AWS_ENDPOINT_URL_KINESIS": kinesis_url,
                "AWS_ACCESS_KEY_ID": "any",
                "AWS_SECRET_ACCESS_KEY": "any",
                "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._gateway.stdout is not None
        line = self._gateway.stdout.readline()
        assert line.startswith("listening on "), line
        self.url = line.split()[-1]
        eventually(self._connected)  # until then records are sent again

    def _connected(self) -> None:
        health = requests.get(f"{self.url}/healthz", timeout=30).json()
        assert health["kafka"] == "connected"

    def close(self) -> None:
        self._gateway.send_signal(signal.SIGTERM)
        self._gateway.wait(30)
        assert self._gateway.stdout is not None
        self._gateway.stdout.close()

    def _stream(self, name: str) -> str:
        return f"streaming-{self.pipeline}-{name}"

    def _shards(self, name: str) -> list[str]:
        found = self._kinesis.describe_stream(StreamName=self._stream(name))["StreamDescription"]
        assert found["StreamStatus"] == "ACTIVE"
        return [shard["ShardId"] for shard in found["Shards"]]

    def in_topic(self, name: str) -> list[Any]:
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(bootstrap_servers=self._broker, enable_auto_commit=False)
        partitions = consumer.partitions_for_topic(f"{self.pipeline}.{name}")
        assigned = [TopicPartition(f"{self.pipeline}.{name}", number) for number in partitions]
        consumer.assign(assigned)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(assigned)
        found: list[Any] = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for batch in consumer.poll(timeout_ms=200).values():
                found += [json.loads(record.value) for record in batch]
        consumer.close()
        return found

    def in_stream(self, name: str) -> list[Any]:
        (shard,) = self._shards(name)
        at = self._kinesis.get_shard_iterator(
            StreamName=self._stream(name), ShardId=shard, ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        found: list[Any] = []
        while page := self._kinesis.get_records(ShardIterator=at)["Records"]:
            found += [json.loads(record["Data"]) for record in page]
            at = self._kinesis.get_shard_iterator(
                StreamName=self._stream(name),
                ShardId=shard,
                ShardIteratorType="AFTER_SEQUENCE_NUMBER",
                StartingSequenceNumber=page[-1]["SequenceNumber"],
            )["ShardIterator"]
        return found


@pytest.fixture(scope="module")
def streams(broker: str, kinesis_url: str) -> Iterator[Streams]:
    made = Streams(broker, kinesis_url)
    yield made
    made.close()


def test_what_is_drawn_arrives_through_the_gateway(filled: Source, streams: Streams) -> None:
    where = ["--gateway", streams.url, "--pipeline-id", streams.pipeline, "--rows", str(ROWS)]
    ran = filled.ingest(*where, "--count", "30", command="emulate")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("posts 30  kafka 90 records  kinesis 90 records  retries 0  ")
    more = ["--count", "200", "--batch", "20", "--connections", "3", "--seed", "7"]
    ran = filled.ingest(*where, *more, "--json", command="emulate")
    assert json.loads(ran.out)["records"] == {"kafka": 600, "kinesis": 600}
    first, second = list(islice(draws(100, ROWS), 30)), list(islice(draws(7, ROWS), 200))
    for name in NAMES:
        lines = records(PLAN, name, np.array(first + second))
        due = [json.loads(line) for line in lines]
        for found in (streams.in_topic(name), streams.in_stream(name)):
            # One connection keeps the order, several do not.
            assert Counter(map(str, found)) == Counter(map(str, due))
        assert streams.in_stream(name)[:30] == due[:30]


def test_a_topic_that_is_not_there_is_named(filled: Source, streams: Streams) -> None:
    where = ["--gateway", streams.url, "--pipeline-id", "nobodys", "--rows", str(ROWS)]
    for target, said in (("kafka", "answered 404"), ("kinesis", "streaming-nobodys-pin")):
        ran = filled.ingest(*where, "--to", target, command="emulate")
        assert ran.code == 1
        assert said in ran.err
        assert len(ran.err.splitlines()) == 1


def test_fewer_rows_than_are_drawn_from_are_said(filled: Source) -> None:
    ran = filled.ingest("--gateway", "http://127.0.0.1:9", "--patience", "0", command="emulate")
    assert ran.code == 1
    *warnings, error = ran.err.splitlines()
    assert len(warnings) == 3
    assert warnings[0] == (
        "warning: pinterest_data has 401 rows and numbers up to 11,000 are drawn: those beyond "
        "post nothing; --rows 400 draws from what is there"
    )
    assert "takes no records" in error
