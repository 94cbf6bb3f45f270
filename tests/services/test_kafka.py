"""`ingest kafka` against a real broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import trustme
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
from botocore.session import Session
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec, UserScramCredentialUpsertion
from kafka.consumer.fetcher import Fetcher
from kafka.errors import (
    CoordinatorNotAvailableError,
    LogTruncationError,
    NotCoordinatorError,
    OffsetOutOfRangeError,
)
from kafka.structs import OffsetAndMetadata

from ingestion import cli
from ingestion.commands.kafka import Job, land_share
from ingestion.errors import SourceError
from ingestion.lake import REJECTED, Lake, Origin
from ingestion.landing import Account, Batches, Chunk
from ingestion.processes import Report
from ingestion.records import KINDS
from ingestion.sources import kafka_cluster
from ingestion.sources.kafka import KafkaReader, client_settings
from ingestion.sources.kafka_cluster import _WHY, Cluster, Unreachable, _LastWords
from ingestion.sources.kafka_topics import topic_id
from stack import kafka, process
from tests.services.conftest import eventually
from tests.unit.test_lake import rows


class Ran:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err

    def streams(self) -> dict[str, dict[str, Any]]:
        """The accounts, by kind."""
        assert self.code == 0, self.err
        return {stream["kind"]: stream for stream in json.loads(self.out)["streams"]}


class Pipeline:
    """Topics of a pipeline of its own, and a lake."""

    def __init__(self, servers: str, folder: Path) -> None:
        self.servers = servers
        self.id = f"k{uuid4().hex[:11]}"
        self.lake = str(folder / "lake")
        self.admin = KafkaAdminClient(bootstrap_servers=servers)
        self.producer = KafkaProducer(bootstrap_servers=servers, acks="all", linger_ms=5)
        self.capsys: pytest.CaptureFixture[str] | None = None
        self.deleted: set[Any] = set()

    def topic(self, kind: str) -> str:
        return f"{self.id}.{kind}"

    def create(self, *kinds: str, partitions: int = 1, **configs: str) -> None:
        """Create topics; the name of one that was just deleted may still be taken."""
        how = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
        for kind in kinds or KINDS:
            topics = {self.topic(kind): how}
            eventually(lambda topics=topics: self.admin.create_topics(topics))
        for kind in kinds or KINDS:
            eventually(lambda kind=kind: self._ready(kind, partitions))

    def _ready(self, kind: str, partitions: int) -> None:
        (topic,) = self.admin.describe_topics([self.topic(kind)])
        assert [p["leader_id"] for p in topic["partitions"]] == [1] * partitions
        assert topic["topic_id"] not in self.deleted  # a broker hears of both after they are done

    def delete(self, kind: str) -> None:
        (topic,) = self.admin.describe_topics([self.topic(kind)])
        self.deleted.add(topic["topic_id"])
        self.admin.delete_topics([self.topic(kind)])

    def send(self, kind: str, values: Sequence[bytes | None], partition: int = 0) -> None:
        for value in values:
            key = b"k" if value is None else None
            self.producer.send(self.topic(kind), value, key, partition=partition)
        self.producer.flush()

    def remove(self, kind: str, before: int, partition: int = 0) -> None:
        """What retention does."""
        self.admin.delete_records({TopicPartition(self.topic(kind), partition): before})

    def ingest(self, *arguments: str) -> Ran:
        """Run `ingest kafka` in this process."""
        assert self.capsys is not None
        self.capsys.readouterr()
        code = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                sys,
                "argv",
                ["ingest", "kafka", "--json", *self.where(), *arguments],
            )
            try:
                cli.main()
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Ran(code, *self.capsys.readouterr())

    def where(self) -> list[str]:
        return [
            *("--bootstrap-servers", self.servers),
            *("--lake", self.lake, "--pipeline-id", self.id),
        ]

    def refused(self, *said: str, arguments: Sequence[str] = ()) -> None:
        ran = self.ingest(*arguments)
        assert ran.code == 1
        *_, last = ran.err.splitlines()
        assert last.startswith("error: ")
        for text in said:
            assert text in last

    def offsets(self, kind: str, partition: str = "0") -> list[int]:
        """The offsets of a partition's rows and rejected records, each as often as it is there."""
        where = f"where _source = 'kafka' and _stream = '{self.topic(kind)}' "
        where += f"and _partition = '{partition}'"
        found = []
        for table in (kind, REJECTED):
            found += [int(at) for (at,) in rows(self.lake, table, "_position", where)]
        return sorted(found)

    def landed(self, kind: str) -> int:
        """How many rows a table has."""
        ((count,),) = rows(self.lake, kind, "count(*)")
        return int(count)

    def await_rows(self, kind: str, count: int) -> None:
        """Wait until a table has so many rows."""
        wait_until(lambda: self.landed(kind) == count)

    def held(self, kind: str, partition: int | str = 0) -> list[tuple[int, int]]:
        """The ranges of offsets that a table accounts for."""
        lake = Lake(self.lake)
        return list(lake.offsets(kind, Origin("kafka", self.topic(kind), str(partition))).ranges)

    def follow(self, **more: Any) -> Following:
        return Following(self, **more)


class Following(threading.Thread):
    """`ingest kafka --follow` in a thread."""

    def __init__(self, pipeline: Pipeline, **more: Any) -> None:
        super().__init__(daemon=True)
        settings = {
            "max_latency": 0.1,
            "group": None,
            "accept_gap": False,
            "accept_new_topic": False,
            **more,
        }
        self.job = Job(pipeline.lake, pipeline.id, pipeline.servers, **settings)
        Lake(pipeline.lake).create()
        self.notices: list[str] = []
        self.report: Report | None = None
        self.error: Exception | None = None
        self._stop_ = threading.Event()

    def run(self) -> None:
        try:
            self.report = land_share(
                self.job, (0, 1), self._stop_.is_set, lambda _: None, self.notices.append
            )
        except Exception as error:
            self.error = error

    def __enter__(self) -> Following:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, asked: bool = True) -> None:
        """Ask it to end, or wait until it does by itself; raises what it failed with."""
        if asked:
            self._stop_.set()
        self.join(40)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error

    def noticed(self, text: str) -> None:
        wait_until(lambda: any(text in notice for notice in self.notices))


def wait_until(reached: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def pipeline(broker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Pipeline]:
    made = Pipeline(broker, tmp_path)
    made.capsys = capsys
    yield made
    made.producer.close()
    made.admin.close()


def geo(start: int, end: int) -> list[bytes]:
    """Records that tell their offset."""
    return [b'{"ind":%d,"country":"x"}' % at for at in range(start, end)]


def in_place(pipeline: Pipeline) -> bool:
    """Whether every row of geo has the offset that it tells."""
    return all(int(at) == ind for at, ind in rows(pipeline.lake, "geo", "_position, ind"))


# ------------------------------------------------------------------------------ one lander


def test_every_record_of_every_partition_lands_or_is_rejected_once(pipeline: Pipeline) -> None:
    pipeline.create(partitions=2)
    pipeline.send("geo", [*geo(0, 300), None, b"", b" ", b"{", *geo(304, 500)])
    pipeline.send("geo", geo(0, 40), partition=1)
    pipeline.send("pin", [b'{"index":1,"title":"a"}'] * 3)
    pipeline.send("user", [b'{"ind":1,"title":"a pin"}', b'{"ind":1,"age":3}'], partition=1)
    streams = pipeline.ingest().streams()
    assert pipeline.offsets("geo") == list(range(500))
    assert pipeline.offsets("geo", "1") == list(range(40))
    assert in_place(pipeline)
    found = {
        (stream["kind"], stream["received"], stream["landed"], str(stream["rejected"]))
        for stream in streams.values()
    }
    assert found == {
        ("geo", 540, 536, "{'malformed': 4}"),
        ("pin", 3, 3, "{}"),
        ("user", 2, 1, "{'misrouted': 1}"),
    }
    raws = rows(pipeline.lake, REJECTED, "raw", "where kind = 'geo'")
    assert sorted(raw for (raw,) in raws) == [b"", b"", b" ", b"{"]
    assert all(stream["gaps"] == [] and stream["objects"] is None for stream in streams.values())

    versions = [Lake(pipeline.lake).handle(kind).version() for kind in KINDS]
    again = pipeline.ingest().streams()
    assert {stream["received"] for stream in again.values()} == {0}
    assert [Lake(pipeline.lake).handle(kind).version() for kind in KINDS] == versions
    pipeline.send("geo", geo(500, 510))
    assert pipeline.ingest().streams()["geo"]["landed"] == 10
    assert pipeline.offsets("geo") == list(range(510))


def test_transactions_leave_ranges_without_rows(pipeline: Pipeline) -> None:
    """Aborted records, markers, and the end of a transaction that is still open."""
    pipeline.create("geo")
    sender = KafkaProducer(bootstrap_servers=pipeline.servers, transactional_id=pipeline.id)
    sender.init_transactions()

    def ends_at(offset: int) -> None:
        """A marker is written after the answer that it will be."""
        at = TopicPartition(pipeline.topic("geo"), 0)
        latest = {at: OffsetSpec.LATEST}
        wait_until(lambda: pipeline.admin.list_partition_offsets(latest)[at].offset == offset)

    def transaction(values: list[bytes], commit: bool | None) -> None:
        sender.begin_transaction()
        for value in values:
            sender.send(pipeline.topic("geo"), value, partition=0)
        sender.flush()
        if commit is not None:
            (sender.commit_transaction if commit else sender.abort_transaction)()

    pipeline.send("geo", geo(0, 10))
    transaction(geo(10, 15), commit=True)
    ends_at(16)
    transaction([b'{"ind":0,"country":"aborted"}'] * 5, commit=False)
    ends_at(22)
    pipeline.send("geo", geo(22, 25))
    transaction([b'{"ind":0,"country":"aborted"}'], commit=False)
    ends_at(27)
    assert pipeline.ingest().streams()["geo"]["landed"] == 18
    assert pipeline.offsets("geo") == [*range(15), 22, 23, 24]
    assert in_place(pipeline)
    # All of it is accounted for, so that none of it is taken for lost once Kafka removes it.
    assert pipeline.held("geo") == [(0, 27)]
    pipeline.send("geo", geo(27, 28))
    transaction(geo(28, 30), commit=None)
    pipeline.send("geo", geo(30, 31))
    assert pipeline.ingest().streams()["geo"]["received"] == 1
    sender.commit_transaction()
    ends_at(32)
    assert pipeline.ingest().streams()["geo"]["received"] == 3
    assert pipeline.offsets("geo") == [*range(15), 22, 23, 24, *range(27, 31)]
    sender.close()


@pytest.mark.parametrize("compression", ["gzip", "lz4", "zstd"])
def test_runs_hold_what_a_consumer_of_kafka_python_reads(
    pipeline: Pipeline, compression: str
) -> None:
    pipeline.create("pin")
    at = TopicPartition(pipeline.topic("pin"), 0)
    sender = KafkaProducer(
        bootstrap_servers=pipeline.servers, compression_type=compression, linger_ms=20
    )
    for number in range(2_000):
        value = None if number % 50 == 7 else b"x" * (number % 300) + os.urandom(number % 7)
        headers = [("h", b"v")] * (number % 3)
        key = b"k" * (number % 90 + (value is None)) or None
        sender.send(at.topic, value, key=key, headers=headers, partition=0)
    sender.send(at.topic, os.urandom(900_000), partition=0)
    sender.close()
    cluster = Cluster(client_settings({"KAFKA_BOOTSTRAP_SERVERS": pipeline.servers}))
    plain = KafkaConsumer(
        bootstrap_servers=pipeline.servers, auto_offset_reset="none", enable_auto_commit=False
    )
    for offset in (0, 1, 777):
        found: list[tuple[int, bytes]] = []
        expected: list[tuple[int, bytes]] = []
        for consumer in (cluster.consumer, plain):
            consumer.assign([at])
            consumer.seek(at, offset)
        while len(found) < 2_001 - offset:
            for runs in cluster.consumer.poll(timeout_ms=500, max_records=1).values():
                assert len(runs) == 1
                found += zip(runs[0].offsets, runs[0].values, strict=True)
        while len(expected) < 2_001 - offset:
            for records in plain.poll(timeout_ms=500).values():
                expected += [(record.offset, record.value or b"") for record in records]
        assert found == expected
    cluster.close()
    plain.close()


# ------------------------------------------------------------------ topics and partitions


def test_a_topic_that_does_not_exist_is_named_and_the_others_land(pipeline: Pipeline) -> None:
    pipeline.create("geo")
    pipeline.send("geo", geo(0, 5))
    ran = pipeline.ingest()
    assert ran.streams()["geo"]["landed"] == 5
    assert json.loads(ran.out)["absent"] == [pipeline.topic("pin"), pipeline.topic("user")]
    assert f"warning: topic {pipeline.topic('pin')} does not exist; the others are read" in ran.err


def test_topics_of_which_none_exists_are_an_error(pipeline: Pipeline) -> None:
    """Nothing would tell a mistaken name from a day without records."""
    pipeline.refused("none of the topics exists: ", pipeline.topic("pin"), "check --pipeline-id")


def test_topics_and_partitions_are_found_while_following(pipeline: Pipeline) -> None:
    with pipeline.follow() as following:
        following.noticed(f"{pipeline.topic('geo')} does not exist yet; waiting for it")
        pipeline.create("geo")
        pipeline.send("geo", geo(0, 50))
        wait_until(lambda: pipeline.offsets("geo") == list(range(50)))
        pipeline.admin.create_partitions({pipeline.topic("geo"): 3})
        pipeline.producer = KafkaProducer(bootstrap_servers=pipeline.servers)  # knows of them
        eventually(lambda: pipeline.send("geo", geo(0, 7), partition=2))
        following.noticed("has new partitions: 1, 2")
        wait_until(lambda: len(pipeline.offsets("geo", "2")) == 7)
    assert following.report is not None
    (geo_account,) = [a for a in following.report.accounts if a.kind == "geo"]
    assert (geo_account.received, geo_account.landed) == (57, 57)
    pipeline.send("geo", geo(50, 60))
    pipeline.send("geo", geo(0, 3), partition=1)
    assert pipeline.ingest().streams()["geo"]["landed"] == 13


def test_a_topic_created_anew_is_not_taken_for_landed(pipeline: Pipeline) -> None:
    pipeline.create()
    pipeline.send("geo", geo(0, 20))
    pipeline.ingest()
    pipeline.delete("geo")
    pipeline.create("geo")
    pipeline.send("geo", geo(0, 30))
    pipeline.refused(f"topic {pipeline.topic('geo')} is not the one that was read before: its id")
    pipeline.refused("--accept-new-topic lands it from its first record, as partitions 0@")
    assert pipeline.offsets("geo") == list(range(20))
    (topic,) = pipeline.admin.describe_topics([pipeline.topic("geo")])
    new = f"0@{topic_id(topic['topic_id'])}"
    assert pipeline.ingest("--accept-new-topic").streams()["geo"]["landed"] == 30
    pipeline.send("geo", geo(30, 33))
    assert pipeline.ingest().streams()["geo"]["landed"] == 3
    assert pipeline.offsets("geo") == list(range(20))
    assert pipeline.offsets("geo", new) == list(range(33))
    assert in_place(pipeline)


def test_a_topic_created_anew_while_following(pipeline: Pipeline) -> None:
    pipeline.create()
    following = pipeline.follow()
    following.start()
    pipeline.send("geo", geo(0, 20))
    pipeline.await_rows("geo", 20)
    pipeline.delete("geo")
    following.noticed(f"{pipeline.topic('geo')} is gone")
    pipeline.create("geo")
    pipeline.send("geo", geo(0, 30))
    with pytest.raises(SourceError, match="is not the one that was read before"):
        following.end(asked=False)
    assert pipeline.offsets("geo") == list(range(20))
    with pipeline.follow(accept_new_topic=True):
        pipeline.await_rows("geo", 50)
    assert len(rows(pipeline.lake, "geo", "ind", "where _partition like '0@%'")) == 30


def test_a_topic_created_anew_between_two_looks(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower first learns that it stands behind the new topic's end."""
    pipeline.create()
    settle, still = KafkaReader._settle, threading.Event()

    def settling(reader: KafkaReader, *looked: Any) -> None:
        if not still.is_set():
            settle(reader, *looked)

    drop = KafkaReader._drop

    def dropping(reader: KafkaReader, name: str) -> bool:
        still.clear()
        return drop(reader, name)

    monkeypatch.setattr(KafkaReader, "_settle", settling)
    monkeypatch.setattr(KafkaReader, "_drop", dropping)
    with pipeline.follow(accept_new_topic=True):
        pipeline.send("geo", geo(0, 20))
        pipeline.await_rows("geo", 20)
        still.set()
        pipeline.delete("geo")
        pipeline.create("geo")
        wait_until(lambda: not still.is_set())
        pipeline.send("geo", geo(0, 30))
        pipeline.await_rows("geo", 50)
    assert pipeline.offsets("geo") == list(range(20))
    (topic,) = pipeline.admin.describe_topics([pipeline.topic("geo")])
    assert pipeline.offsets("geo", f"0@{topic_id(topic['topic_id'])}") == list(range(30))


def test_a_topic_created_anew_while_it_is_read_to_its_end(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.create()
    pipeline.send("geo", geo(0, 20))
    pipeline.ingest()
    pipeline.send("geo", geo(20, 25))
    poll, anew = KafkaConsumer.poll, [True]

    def polling(consumer: KafkaConsumer, **how: Any) -> Any:
        if anew:
            anew.clear()
            pipeline.delete("geo")
            pipeline.create("geo")
            pipeline.send("geo", geo(0, 30))
            raise OffsetOutOfRangeError({TopicPartition(pipeline.topic("geo"), 0): 20})
        return poll(consumer, **how)

    monkeypatch.setattr(KafkaConsumer, "poll", polling)
    pipeline.refused("is not the one that was read before")
    pipeline.ingest("--accept-new-topic")
    pipeline.send("geo", geo(30, 31))
    anew.append(True)
    streams = pipeline.ingest("--accept-new-topic").streams()
    assert streams["geo"]["landed"] == 30
    assert pipeline.landed("geo") == 20 + 30 + 30
    assert in_place(pipeline)


# --------------------------------------------------------------- partitions without a leader


@pytest.fixture
def leaderless(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of partitions that brokers say have no leader."""
    numbers: set[int] = set()
    describe = KafkaAdminClient.describe_topics

    def described(admin: KafkaAdminClient, names: list[str]) -> Any:
        topics = describe(admin, names)
        for topic in topics:
            for part in topic["partitions"]:
                if part["partition_index"] in numbers:
                    part["leader_id"] = -1
        return topics

    monkeypatch.setattr(KafkaAdminClient, "describe_topics", described)
    return numbers


def test_a_follower_reads_what_has_a_leader_and_waits_for_the_rest(
    pipeline: Pipeline, leaderless: set[int]
) -> None:
    pipeline.create(partitions=2)
    for kind in ("geo", "user"):
        for partition in (0, 1):
            pipeline.send(kind, geo(0, 10), partition)
    leaderless.add(1)
    with pipeline.follow() as following:
        following.noticed(f"{pipeline.topic('geo')}, partition 1 has no leader; waiting for one")
        wait_until(lambda: len(pipeline.offsets("geo")) == len(pipeline.offsets("user")) == 10)
        leaderless.clear()
        wait_until(lambda: len(pipeline.offsets("user", "1")) == 10)
        wait_until(lambda: len(pipeline.offsets("geo", "1")) == 10)
    assert not any("new partitions" in notice for notice in following.notices)


def test_reading_to_the_end_names_a_partition_without_a_leader(
    pipeline: Pipeline, leaderless: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.create(partitions=2)
    leaderless.add(1)
    pipeline.refused(f"topic {pipeline.topic('pin')}, partition 1 has no leader; see whether all")
    leaderless.clear()
    group = Fetcher._group_list_offset_requests

    def grouped(fetcher: Any, timestamps: dict[TopicPartition, int]) -> Any:
        """What kafka-python asks for if the leader went after the topic was described."""
        return group(fetcher, {at: time_ for at, time_ in timestamps.items() if not at.partition})

    monkeypatch.setattr(Fetcher, "_group_list_offset_requests", grouped)
    pipeline.refused("cannot be reached: topic ", "partition 1 has no leader; ")


# ---------------------------------------------------------------------- what Kafka removed


def test_a_partition_may_begin_anywhere(pipeline: Pipeline) -> None:
    pipeline.create("geo")
    pipeline.send("geo", geo(0, 100))
    pipeline.remove("geo", before=60)
    account = pipeline.ingest().streams()["geo"]
    assert (account["landed"], account["gaps"]) == (40, [])
    assert pipeline.ingest().streams()["geo"]["received"] == 0
    assert pipeline.offsets("geo") == list(range(60, 100))


def test_records_removed_before_they_landed_are_a_gap_that_is_accepted_or_not(
    pipeline: Pipeline,
) -> None:
    pipeline.create("geo", partitions=2)
    for partition in (0, 1):
        pipeline.send("geo", geo(0, 10), partition)
    pipeline.ingest()
    for partition in (0, 1):
        pipeline.send("geo", geo(10, 50), partition)
    pipeline.remove("geo", before=30, partition=1)
    pipeline.refused(
        f"topic {pipeline.topic('geo')}, partition 1: the records at [10, 30) were removed from",
        "--accept-gap reads what is still there",
    )
    assert len(pipeline.offsets("geo")) == 10
    account = pipeline.ingest("--accept-gap").streams()["geo"]
    gap = {"partition": 1, "first": 10, "last": 29}
    assert (account["landed"], account["gaps"]) == (60, [gap])
    assert pipeline.offsets("geo", "1") == [*range(10), *range(30, 50)]
    pipeline.send("geo", geo(50, 55), 1)
    account = pipeline.ingest().streams()["geo"]
    assert (account["landed"], account["gaps"]) == (5, [gap])
    assert in_place(pipeline)


@pytest.mark.parametrize("accept", [False, True])
def test_records_removed_under_a_follower(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, accept: bool
) -> None:
    """It stands still, and meanwhile what it would read next goes."""
    pipeline.create("geo")
    poll, still, stands = KafkaReader._poll, threading.Event(), threading.Event()

    def polling(reader: KafkaReader, timeout: float) -> list[Chunk]:
        if not still.is_set():
            return poll(reader, timeout)
        assert reader._cluster is not None
        # A fetch that is under way would bring what comes before it is removed.
        if not reader._cluster.consumer._fetcher.in_flight_fetches():
            stands.set()
        time.sleep(0.01)
        return []

    monkeypatch.setattr(KafkaReader, "_poll", polling)
    with pipeline.follow(accept_gap=accept) as following:
        pipeline.send("geo", geo(0, 10))
        pipeline.await_rows("geo", 10)
        still.set()
        assert stands.wait(20)
        pipeline.send("geo", geo(10, 100))
        pipeline.remove("geo", before=60)
        still.clear()
        if accept:
            wait_until(lambda: 99 in pipeline.offsets("geo"))
        else:
            with pytest.raises(
                SourceError, match=r"\[10, 60\) were removed from Kafka before they"
            ):
                following.end(asked=False)
            following.error = None
    assert in_place(pipeline)
    assert pipeline.offsets("geo") == [*range(10), *(range(60, 100) if accept else ())]


def test_a_partition_that_ends_before_where_it_has_landed(pipeline: Pipeline) -> None:
    """A broker lost records: those that came since have offsets that are accounted for."""
    pipeline.create("geo")
    pipeline.send("geo", geo(0, 20))
    pipeline.ingest()
    lake = Lake(pipeline.lake)
    origin = Origin("kafka", pipeline.topic("geo"), "0")
    batches = Batches(lake, KINDS["geo"], Account("", "geo"))
    batches.add(Chunk(origin, 20, 25, [], []))
    batches.close()
    pipeline.refused("partition 0 ends at 20, before 25, up to where it was read: Kafka lost")
    assert pipeline.ingest("--accept-new-topic").streams()["geo"]["landed"] == 20
    pipeline.send("geo", geo(20, 30))
    assert pipeline.ingest().streams()["geo"]["landed"] == 10
    assert len(rows(pipeline.lake, "geo", "ind", "where _partition like '0@%'")) == 30


@pytest.mark.parametrize("known", [True, False])
def test_records_that_Kafka_lost_after_they_were_read(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Other records have their offsets now, and the log has grown beyond them again."""
    pipeline.create("geo")
    at = TopicPartition(pipeline.topic("geo"), 0)
    divergent = {at: OffsetAndMetadata(6, "", 0) if known else None}
    elsewhere = {TopicPartition(pipeline.topic("geo"), 7): None}  # is read no more
    pending: list[LogTruncationError] = []
    poll = KafkaConsumer.poll

    def polling(consumer: KafkaConsumer, **how: Any) -> Any:
        if pending:
            raise pending.pop()
        return poll(consumer, **how)

    monkeypatch.setattr(KafkaConsumer, "poll", polling)
    said = f"Kafka lost the records at {'[6, 10)' if known else 'an unknown offset to 10'} after"
    for accept in (True, False):
        with pipeline.follow(accept_gap=accept) as following:
            if accept:
                pipeline.send("geo", geo(0, 10))
            pipeline.await_rows("geo", 10 if accept else 15)
            if accept:
                pending.append(LogTruncationError(divergent | elsewhere))
                following.noticed(said)
                pipeline.send("geo", geo(10, 15))
                pipeline.await_rows("geo", 15)
            else:
                pending.append(LogTruncationError(divergent))
                with pytest.raises(SourceError, match="--accept-gap leaves those out and reads"):
                    following.end(asked=False)
                following.error = None
    assert in_place(pipeline)


# ------------------------------------------------------------------------- consumer groups


def test_a_groups_offsets_are_written_and_never_read(pipeline: Pipeline) -> None:
    pipeline.create("geo", partitions=2)
    pipeline.send("geo", geo(0, 30))
    at = TopicPartition(pipeline.topic("geo"), 0)
    group = f"ingest-{pipeline.id}"
    pipeline.ingest()

    def written() -> int | None:
        found = pipeline.admin.list_group_offsets([group])[group]
        return found[at].offset if at in found else None

    assert written() == 30
    for wrong in (0, 10**6):
        pipeline.admin.alter_group_offsets(group, {at: OffsetAndMetadata(wrong, "", -1)})
        pipeline.send("geo", geo(0, 1), partition=1)
        assert pipeline.ingest().streams()["geo"]["received"] == 1
    with pipeline.follow(group=group):
        pipeline.send("geo", geo(30, 35))
        wait_until(lambda: written() == 35)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KafkaAdminClient, "alter_group_offsets", fail)
        pipeline.send("geo", geo(35, 40))
        assert pipeline.ingest().streams()["geo"]["landed"] == 5
    assert written() == 35


def test_a_group_that_another_broker_keeps_by_now(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that kept it says so as long as it is asked, and nothing more comes to be told."""
    pipeline.create("geo")
    at = TopicPartition(pipeline.topic("geo"), 0)
    group = f"ingest-{pipeline.id}"
    refused: list[bool] = []
    alter = KafkaAdminClient.alter_group_offsets

    def altered(admin: KafkaAdminClient, name: str, offsets: dict[TopicPartition, Any]) -> Any:
        known = admin._manager.cluster.get_coordinator(name)
        if known is None or 10 in {of.offset for of in offsets.values()}:
            return alter(admin, name, offsets)
        refused.append(True)
        return dict.fromkeys(offsets, NotCoordinatorError)

    def written() -> int | None:
        found = pipeline.admin.list_group_offsets([group])[group]
        return found[at].offset if at in found else None

    monkeypatch.setattr(KafkaAdminClient, "alter_group_offsets", altered)
    with pipeline.follow(group=group):
        pipeline.send("geo", geo(0, 10))
        wait_until(lambda: written() == 10)
        pipeline.send("geo", geo(10, 15))
        wait_until(lambda: written() == 15)
    assert refused


def test_a_groups_offsets_wait_for_the_first_group_of_a_cluster(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps groups is made when one is asked for: until then there is no broker for it."""
    pipeline.create("geo")
    pipeline.send("geo", geo(0, 10))
    answers = [CoordinatorNotAvailableError, NotCoordinatorError]
    alter = KafkaAdminClient.alter_group_offsets

    def altered(admin: KafkaAdminClient, group: str, offsets: dict[TopicPartition, Any]) -> Any:
        if len(answers) == 2:
            raise answers.pop(0)
        if answers:
            return dict.fromkeys(offsets, answers.pop())
        return alter(admin, group, offsets)

    monkeypatch.setattr(KafkaAdminClient, "alter_group_offsets", altered)
    pipeline.ingest()
    group = f"ingest-{pipeline.id}"
    found = pipeline.admin.list_group_offsets([group])[group]
    assert found[TopicPartition(pipeline.topic("geo"), 0)].offset == 10


def fail(*_: Any) -> None:
    raise RuntimeError


# ---------------------------------------------------------------------- brokers that go


def test_a_broker_that_is_not_there(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_cluster, "CONNECT_MS", 1_500)
    pipeline.servers = f"127.0.0.1:{process.free_port()}"
    begun = time.monotonic()
    pipeline.refused(f"Kafka at {pipeline.servers} cannot be reached: ", "--bootstrap-servers")
    assert time.monotonic() - begun < 30


def test_a_server_that_is_silent_where_TLS_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_cluster, "CONNECT_MS", 500)
    failed: list[Exception] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = {"KAFKA_BOOTSTRAP_SERVERS": servers, "KAFKA_SECURITY_PROTOCOL": "SSL"}

        def connect() -> None:
            try:
                Cluster(client_settings(settings))
            except Exception as error:
                failed.append(error)

        connecting = threading.Thread(target=connect, daemon=True)
        connecting.start()
        connecting.join(20)
    (error,) = failed
    assert isinstance(error, Unreachable)
    assert str(error) == "Handshake failed: it accepts the connection and does not answer to TLS"


def test_the_client_may_warn_while_its_warnings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    words = _LastWords()
    words.texts += ["Connection failed: refused", "Connection failed: timed out"]

    class Warning_:
        def search(self, text: str) -> Any:
            words.texts.append("another thread's")
            return _WHY.search(text)

    monkeypatch.setattr(kafka_cluster, "_WHY", Warning_())
    assert words.reason(RuntimeError()) == "refused"


# ------------------------------------------------------------------------ several processes


class Commands:
    """Commands in processes of their own, which do not outlive the test."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Commands:
        return self

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "ingestion", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(child)
        return child

    def __exit__(self, *_: object) -> None:
        for child in self._started:
            if child.poll() is None:
                others = psutil.Process(child.pid).children(recursive=True)
                for process_ in (*others, child):
                    process_.kill()
                child.communicate(timeout=30)


@pytest.fixture
def commands() -> Iterator[Commands]:
    with Commands() as made:
        yield made


def ended(child: subprocess.Popen[str]) -> Ran:
    out, err = child.communicate(timeout=60)
    return Ran(child.returncode, out, err)


def test_several_processes_share_the_partitions_and_end_together(
    pipeline: Pipeline, commands: Commands
) -> None:
    """The first time they are asked to end, the second time one of them is killed."""
    pipeline.create(partitions=3)
    Lake(pipeline.lake).create()
    sent = 0
    for failing in (False, True):
        how = ["--follow", "--processes", "2", "--max-latency", "0.1"]
        first = commands.start("kafka", "--json", *pipeline.where(), *how)
        for kind, lines in (("geo", geo(sent, sent + 500)), ("user", [b'{"ind":1,"age":2}'] * 500)):
            for partition in range(3):
                pipeline.send(kind, lines, partition)
        sent += 500
        for kind in ("geo", "user"):
            pipeline.await_rows(kind, 3 * sent)
        children = [
            child
            for child in psutil.Process(first.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        assert len(children) == 2
        (children[1] if failing else psutil.Process(first.pid)).send_signal(
            signal.SIGKILL if failing else signal.SIGTERM
        )
        ran = ended(first)
        psutil.wait_procs(children, 10)
        assert not any(child.is_running() for child in children)
        if failing:
            assert ran.code == 1
            assert "one of the processes ended with code -9; run again" in ran.err
        else:
            streams = ran.streams()
            for count in ("received", "landed"):  # none of them reads another's partitions
                assert [streams[kind][count] for kind in KINDS] == [0, 1_500, 1_500]
    assert in_place(pipeline)
    for partition in "012":
        assert pipeline.offsets("geo", partition) == list(range(sent))


# ------------------------------------------------------------------------------- security


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A broker with a listener for users, and one for users with TLS."""
    if reason := kafka.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("secured")
    plain, controller, users, tls = (process.free_port() for _ in range(4))
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    store, trusted = folder / "server.pem", folder / "ca.pem"
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    store.write_bytes(pem + b"".join(part.bytes() for part in certificate.cert_chain_pems))
    authority.cert_pem.write_to_path(str(trusted))
    security = "org.apache.kafka.common.security"
    scram = f"{security}.scram.ScramLoginModule required;"
    bearer = f"{security}.oauthbearer.OAuthBearerLoginModule required "
    bearer += 'unsecuredLoginStringClaim_sub="broker";'  # it takes tokens that nobody signed
    server = kafka.broker(
        plain,
        controller,
        folder / "kafka",
        {
            "listeners": f"PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},"
            f"USERS://127.0.0.1:{users},TLS://127.0.0.1:{tls}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},USERS://127.0.0.1:{users},"
            f"TLS://127.0.0.1:{tls}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "USERS:SASL_PLAINTEXT,TLS:SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
            # One that was killed may come back when its old session has ended.
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "200",
            "listener.name.users.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.tls.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.users.oauthbearer.sasl.jaas.config": bearer,
            "listener.name.tls.oauthbearer.sasl.jaas.config": bearer,
            "listener.name.tls.ssl.keystore.type": "PEM",
            "listener.name.tls.ssl.keystore.location": str(store),
        },
    )
    process.start(server)
    made = Pipeline(f"127.0.0.1:{plain}", folder)
    made.admin.alter_user_scram_credentials(
        [UserScramCredentialUpsertion("ann", "SCRAM-SHA-512", "secret")]
    )
    made.producer.close()
    made.admin.close()
    yield {
        "server": server,
        "plain": plain,
        "users": users,
        "tls": tls,
        "trusted": str(trusted),
    }
    process.stop(server.folder)


#: Long enough to sign in on a machine that is busy; what refuses is asked until the time is over.
PATIENT_MS = 30_000


@pytest.fixture
def guarded(
    secured: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Pipeline]:
    """Topics of a test's own, with five records."""
    made = Pipeline(f"127.0.0.1:{secured['plain']}", tmp_path)
    made.capsys = capsys
    made.create("geo")
    made.send("geo", geo(0, 5))
    yield made
    made.producer.close()
    made.admin.close()


def test_users_and_certificates(
    secured: dict[str, Any], guarded: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = guarded
    monkeypatch.setattr(kafka_cluster, "CONNECT_MS", PATIENT_MS)
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "ann")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "secret")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    pipeline.servers = f"127.0.0.1:{secured['users']}"
    assert pipeline.ingest().streams()["geo"]["landed"] == 5
    monkeypatch.setattr(kafka_cluster, "CONNECT_MS", 4_000)
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "wrong")
    pipeline.refused(f"Kafka at {pipeline.servers} ", "refuse")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "secret")
    pipeline.send("geo", geo(5, 9))
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    pipeline.servers = f"127.0.0.1:{secured['tls']}"
    pipeline.refused("cannot be reached: ", "CERTIFICATE_VERIFY_FAILED")
    monkeypatch.setattr(kafka_cluster, "CONNECT_MS", PATIENT_MS)
    monkeypatch.setenv("KAFKA_SSL_CAFILE", secured["trusted"])
    assert pipeline.ingest().streams()["geo"]["landed"] == 4


def test_amazons_identities(
    secured: dict[str, Any], guarded: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that takes tokens of a form that Amazon's do not have."""
    pipeline = guarded
    pipeline.servers = f"127.0.0.1:{secured['tls']}"
    for name, value in (
        ("KAFKA_SASL_MECHANISM", "AWS_MSK_IAM"),
        ("KAFKA_SSL_CAFILE", secured["trusted"]),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(kafka_cluster, "CONNECT_MS", 4_000)
    pipeline.refused(f"Kafka at {pipeline.servers} ", "refuse")
    with monkeypatch.context() as patch:
        patch.setattr(Session, "get_credentials", lambda _: None)
        pipeline.refused(
            f"Kafka at {pipeline.servers} refuses the user: ",
            "no AWS credentials are found; correct KAFKA_SASL_MECHANISM, AWS_REGION and the AWS",
        )
    monkeypatch.setattr(kafka_cluster, "CONNECT_MS", PATIENT_MS)
    regions: list[str] = []

    def signed(region: str) -> tuple[str, int]:
        regions.append(region)
        parts = {"alg": "none"}, {"sub": "ann", "iat": time.time(), "exp": time.time() + 900}
        token = [urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
        return f"{'.'.join(token).replace('=', '')}.", 0

    monkeypatch.setattr(MSKAuthTokenProvider, "generate_auth_token", signed)
    assert pipeline.ingest().streams()["geo"]["landed"] == 5
    assert set(regions) == {"eu-west-1"}


# --------------------------------------------------------------------------- a broker that goes


def test_a_follower_waits_for_its_broker_and_goes_on_when_it_is_back(
    secured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_cluster, "CONNECT_MS", 1_500)
    server = secured["server"]
    servers = f"127.0.0.1:{secured['plain']}"
    pipeline = Pipeline(servers, tmp_path)
    pipeline.create(partitions=2)
    pipeline.send("geo", geo(0, 2_000))
    with pipeline.follow() as following:
        pipeline.await_rows("geo", 2_000)
        pipeline.send("geo", geo(2_000, 3_000))
        kill(server)
        following.noticed(f"Kafka at {servers} cannot be reached")
        with pipeline.follow() as another:  # begins while nobody answers
            another.noticed(f"Kafka at {servers} cannot be reached")
            process.start(server)
            eventually(lambda: pipeline.send("geo", geo(3_000, 4_000)))
            pipeline.await_rows("geo", 4_000)
            for one in (following, another):
                one.noticed("answers again")
    assert in_place(pipeline)
    assert pipeline.offsets("geo") == list(range(4_000))


def kill(server: process.Server) -> None:
    found = process.find(server.folder)
    assert found is not None
    found.kill()
    found.wait(20)
