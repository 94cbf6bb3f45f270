"""Records to Kafka: what is acknowledged, what fails, and clients that are made anew."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

import pytest
from kafka import errors
from kafka.future import Future

from ingestion.gateway import kafka
from ingestion.gateway.answers import Offset, Reason, Refused
from ingestion.gateway.bodies import KafkaRecord
from ingestion.gateway.kafka import Clients, KafkaSink, settled
from ingestion.gateway.topics import AGAIN_SECONDS, Topic, Topics


class Metadata(NamedTuple):
    """What a producer says of an acknowledged record."""

    partition: int
    offset: int


class Producer:
    """A producer that acknowledges, or does what it is told, in a thread of its own."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes | None, bytes | None, int | None]] = []
        self.error: Exception | None = None
        self.silent = False
        self.lost_topic = False
        self.closed = threading.Event()
        self.lookups = 0
        self.partitions = {0, 1, 2}
        self.learns: set[int] = set()

    def partitions_for(self, _: str) -> set[int]:
        self.lookups += 1
        return set(self.partitions)

    def look_again(self) -> None:
        self.partitions |= self.learns

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: None,
        partition: int | None,
    ) -> Future:
        assert (topic, headers) == ("t", None)
        if partition is not None and partition not in self.partitions:
            raise ValueError(f"Unrecognized partition {partition} for topic {topic}")
        if self.lost_topic:
            raise errors.KafkaTimeoutError("Failed to update metadata")
        self.sent.append((key, value, partition))
        future = Future()
        if not self.silent:
            arguments = (future, 9 if partition is None else partition, len(self.sent) - 1)
            threading.Thread(target=self._settle, args=arguments).start()
        return future

    def _settle(self, future: Future, partition: int, offset: int) -> None:
        if self.error is not None:
            future.failure(self.error)
        else:
            future.success(Metadata(partition, offset))

    def close(self, timeout: float) -> None:
        assert timeout >= 0
        self.closed.set()


class Admin:
    """What tells of one topic, t."""

    def __init__(self, **settings: str) -> None:
        self.settings = settings
        self.partitions = 3
        self.gone = False
        self.asked = 0
        self.closed = threading.Event()

    def describe_topics(self) -> list[dict[str, Any]]:
        self.asked += 1
        if self.gone:
            raise errors.KafkaTimeoutError
        partitions = [{"partition_index": number} for number in range(self.partitions)]
        internal = {"name": "__consumer_offsets", "is_internal": True}
        named = {"name": "t", "is_internal": False}
        return [{"error_code": 0, "partitions": partitions, **topic} for topic in (internal, named)]

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        assert config_filter == "all"
        assert [resource.name for resource in resources] == ["t"]
        return {"topic": {"t": {name: {"value": text} for name, text in self.settings.items()}}}

    def close(self) -> None:
        self.closed.set()


def sink(
    test: Callable[[KafkaSink, Producer, Admin], Awaitable[None]],
    ack_seconds: float = 5.0,
    now: Callable[[], float] = time.monotonic,
    **settings: str,
) -> None:
    """Run a test with a sink that is connected."""

    async def run() -> None:
        producer, admin = Producer(), Admin(**settings)
        made = KafkaSink({}, ack_seconds, lambda *_: Clients(producer, admin), now)
        await made.start()
        await eventually(lambda: made.state == "connected")
        await test(made, producer, admin)
        await made.stop()
        assert producer.closed.is_set()
        assert admin.closed.is_set()
        assert made.state == "unreachable"

    asyncio.run(run())


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def record(
    value: bytes | None = b"1", key: bytes | None = None, partition: int | None = None
) -> KafkaRecord:
    return KafkaRecord(key, value, partition)


def test_records_of_a_request_stay_together_and_in_order() -> None:
    async def test(made: KafkaSink, producer: Producer, _: Admin) -> None:
        many = [record(b"%d" % number) for number in range(700)]
        offsets = await made.send("t", many)
        assert [value for _, value, _ in producer.sent] == [one.value for one in many]
        assert offsets == [Offset(offsets[0].partition, at) for at in range(700)]
        partitions = {(await made.send("t", [record()]))[0].partition for _ in range(3)}
        assert partitions == {0, 1, 2}
        assert producer.lookups == 1

    sink(test)


def test_keys_and_partitions_are_the_producer_s_to_follow() -> None:
    async def test(made: KafkaSink, producer: Producer, _: Admin) -> None:
        await made.send("t", [record(key=b'"k"'), record(partition=2), record(None, b"1", 0)])
        assert producer.sent == [(b'"k"', b"1", None), (None, b"1", 2), (b"1", None, 0)]

    sink(test)


def test_a_topic_and_a_partition_that_are_not_there() -> None:
    async def test(made: KafkaSink, producer: Producer, admin: Admin) -> None:
        for name in ("u", "__consumer_offsets", "\x00"):
            assert (await refusal(made.send(name, [record()]))).reason is Reason.UNKNOWN
        refused = await refusal(made.send("t", [record(), record(partition=3)]))
        assert refused.reason is Reason.UNKNOWN_PARTITION
        assert producer.sent == []
        assert await made.names() == ["t"]
        assert admin.asked <= 5

    sink(test)


def test_a_partition_that_the_producer_does_not_know_yet() -> None:
    async def test(made: KafkaSink, producer: Producer, admin: Admin) -> None:
        await made.send("t", [record()])
        admin.partitions = 4
        producer.learns = {3}
        await asyncio.sleep(AGAIN_SECONDS)
        assert (await made.send("t", [record(partition=3)]))[0] == Offset(3, 1)
        assert {(await made.send("t", [record()]))[0].partition for _ in range(4)} == {0, 1, 2, 3}

    sink(test)


def test_partitions_that_the_producer_does_not_learn_of() -> None:
    async def test(made: KafkaSink, producer: Producer, admin: Admin) -> None:
        admin.partitions = 4
        assert (await refusal(made.send("t", [record()]))).reason is Reason.UNAVAILABLE
        assert producer.sent == []
        producer.learns = {3}
        assert (await made.send("t", [record()]))[0].error_code is None

    sink(test, ack_seconds=0.5)


def test_a_record_that_the_topic_does_not_take_never_reaches_the_producer() -> None:
    """It would leave an idempotent producer unable to send anything more."""

    async def test(made: KafkaSink, producer: Producer, _: Admin) -> None:
        offsets = await made.send("t", [record(b"1", b"1"), record(b"x" * 1000), record(b"2")])
        assert [one.error_code for one in offsets] == [None, 1, 1]
        assert offsets[1].error == "the record has 1,100 bytes, the topic takes 1,000"
        assert offsets[2].error == "the topic is compacted and takes no record without a key"
        assert len(producer.sent) == 1

    sink(test, **{"max.message.bytes": "1000", "cleanup.policy": "compact,delete"})


def test_a_record_that_the_producer_does_not_take_never_reaches_it() -> None:
    """The topic takes more: what comes behind such a record would fail with it, again and again."""

    async def test(made: KafkaSink, producer: Producer, _: Admin) -> None:
        offsets = await made.send("t", [record(b"1"), record(b"x" * 8 * 2**20), record(b"2")])
        assert [one.error_code for one in offsets] == [None, 1, None]
        assert offsets[1].error == "the record has 8,388,708 bytes, the gateway sends on 8,388,608"
        assert len(producer.sent) == 2

    sink(test, **{"max.message.bytes": str(2**30)})


def test_settings_that_may_not_be_read() -> None:
    async def test(made: KafkaSink, producer: Producer, admin: Admin) -> None:
        def denied(*_: Any, **__: Any) -> None:
            raise errors.TopicAuthorizationFailedError("t")

        admin.describe_configs = denied  # type: ignore[method-assign]
        assert (await made.send("t", [record()]))[0].error_code is None
        assert len(producer.sent) == 1

    sink(test)


def test_records_that_time_out_may_be_sent_again() -> None:
    async def test(made: KafkaSink, producer: Producer, _: Admin) -> None:
        producer.error = errors.KafkaTimeoutError("Expiring 2 record(s)")
        offsets = await made.send("t", [record(), record()])
        assert [one.error_code for one in offsets] == [2, 2]
        assert "Expiring" in (offsets[0].error or "")
        assert made.state == "failing"
        producer.error = None
        assert (await made.send("t", [record()]))[0].error_code is None
        assert made.state == "connected"
        assert not producer.closed.is_set()

    sink(test)


def test_a_producer_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "_GRACE_SECONDS", 0.0)

    async def test(made: KafkaSink, producer: Producer, _: Admin) -> None:
        producer.silent = True
        (offset,) = await made.send("t", [record()])
        assert offset.error_code == 2
        assert "may have been written" in (offset.error or "")

    sink(test, ack_seconds=0.5)


def test_a_topic_that_the_producer_has_lost() -> None:
    async def test(made: KafkaSink, producer: Producer, _: Admin) -> None:
        await made.send("t", [record()])
        producer.lost_topic = True
        offsets = await made.send("t", [record(), record()])
        assert [one.error_code for one in offsets] == [2, 2]
        producer.lost_topic = False
        assert (await made.send("t", [record()]))[0].error_code is None
        assert producer.lookups == 2

    sink(test)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TopicAuthorizationFailedError("t"), 1),
        (errors.TopicAuthorizationFailedError("u"), 2),  # another topic's, whose batch was first
        (errors.MessageSizeTooLargeError("x"), 2),
        (errors.InvalidRecordError("x"), 2),
        (errors.ProducerFencedError(), 2),
        (errors.IllegalStateError("Producer is closed forcefully."), 2),
    ],
)
def test_a_producer_that_cannot_go_on_is_replaced(error: Exception, code: int) -> None:
    async def run() -> None:
        made: list[Clients] = []

        def connect(*_: object) -> Clients:
            made.append(Clients(Producer(), Admin()))
            made[0].producer.error = error
            return made[-1]

        sink = KafkaSink({}, 5, connect)
        await sink.start()
        await eventually(lambda: sink.state == "connected")
        assert [one.error_code for one in await sink.send("t", [record(), record()])] == [code] * 2
        await eventually(lambda: sink.state == "connected")
        # A topic that may not be written is not tried again at once.
        assert (await sink.send("t", [record()]))[0].error_code == (1 if code == 1 else None)
        assert len(made[1].producer.sent) == (0 if code == 1 else 1)
        assert len(made) == 2
        await eventually(made[0].producer.closed.is_set)
        await sink.stop()

    asyncio.run(run())


def test_what_was_sent_with_clients_that_are_gone_says_nothing_about_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka, "_GRACE_SECONDS", 0.0)

    async def run() -> None:
        made: list[Clients] = []

        def connect(*_: object) -> Clients:
            made.append(Clients(Producer(), Admin()))
            made[0].producer.error = errors.ProducerFencedError()
            return made[-1]

        sink = KafkaSink({}, 0.5, connect)
        await sink.start()
        await eventually(lambda: sink.state == "connected")
        old = made[0].producer
        old.silent = True
        late = asyncio.create_task(sink.send("t", [record()]))
        await eventually(lambda: bool(old.sent))
        old.silent = False
        await sink.send("t", [record()])
        await eventually(lambda: len(made) == 2)
        await eventually(lambda: sink.state == "connected")
        assert (await late)[0].error_code == 2
        assert sink.state == "connected"
        assert len(made) == 2
        await sink.stop()

    asyncio.run(run())


def test_clients_by_which_nothing_is_acknowledged_for_long_are_replaced() -> None:
    async def run() -> None:
        at = [0.0]
        made: list[Clients] = []

        def connect(*_: object) -> Clients:
            made.append(Clients(Producer(), Admin()))
            made[0].producer.error = errors.KafkaTimeoutError()
            return made[-1]

        sink = KafkaSink({}, 5, connect, lambda: at[0])
        await sink.start()
        await eventually(lambda: sink.state == "connected")
        await sink.send("t", [record()])
        at[0] += 4
        await sink.send("t", [record()])
        assert len(made) == 1
        at[0] += 2
        await eventually(lambda: len(made) == 2)
        await eventually(lambda: sink.state == "connected")
        assert (await sink.send("t", [record()]))[0].error_code is None
        await sink.stop()

    asyncio.run(run())


def test_brokers_that_cannot_be_reached_until_they_can(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "_CONNECT_SECONDS", 0.05)

    async def run() -> None:
        failures = [
            errors.KafkaTimeoutError("Unable to bootstrap"),
            OSError("no route"),
            ValueError("bad host"),
        ]

        def connect(*_: object) -> Clients:
            if failures:
                raise failures.pop(0)
            return Clients(Producer(), Admin())

        sink = KafkaSink({"bootstrap_servers": "b:1"}, 5, connect)
        await sink.start()
        for work in (sink.names(), sink.send("t", [record()])):
            refused = await refusal(work)
            assert refused.reason is Reason.UNAVAILABLE
            assert refused.retry_after
        await eventually(lambda: sink.state == "connected")
        assert (await sink.send("t", [record()]))[0].error_code is None
        await sink.stop()

    asyncio.run(run())
    assert [message for message in caplog.messages if "503" in message] == [
        "Kafka at b:1 does not answer, requests are answered 503 until it does: "
        "KafkaTimeoutError: Unable to bootstrap"
    ]


def test_brokers_that_do_not_tell_of_topics() -> None:
    async def test(made: KafkaSink, _: Producer, admin: Admin) -> None:
        admin.gone = True
        for work in (made.names(), made.send("t", [record()])):
            assert (await refusal(work)).reason is Reason.UNAVAILABLE
        admin.gone = False
        assert (await made.send("t", [record()]))[0].error_code is None

    sink(test)


def test_clients_that_fail_because_they_are_closed() -> None:
    """By another thread, while they are used: in ways of many kinds."""

    async def test(made: KafkaSink, producer: Producer, admin: Admin) -> None:
        def closed(*_: Any) -> Any:
            raise RuntimeError("NetworkSelector closed!")

        assert (await made.send("t", [record()]))[0].error_code is None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(producer, "send", closed)
            offsets = await made.send("t", [record(), record()])
            assert [one.error_code for one in offsets] == [2, 2]
            patch.setattr(producer, "partitions_for", closed)
            assert (await refusal(made.send("t", [record()]))).reason is Reason.UNAVAILABLE
            patch.setattr(admin, "describe_topics", closed)
            await asyncio.sleep(0.3)
            assert (await refusal(made.names())).reason is Reason.UNAVAILABLE
        assert (await made.send("t", [record()]))[0].error_code is None

    sink(test)


async def refusal(work: Awaitable[object]) -> Refused:
    with pytest.raises(Refused) as refused:
        await work
    return refused.value


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_records_settle_in_any_order(order: tuple[int, ...]) -> None:
    async def run() -> None:
        futures = [Future() for _ in order]
        waiting = asyncio.create_task(settled(futures, 10))
        for number in order:
            await asyncio.sleep(0.01)
            assert not waiting.done()
            threading.Thread(target=futures[number].success, args=(number,)).start()
        await waiting
        assert all(future.is_done for future in futures)

    asyncio.run(run())


# ------------------------------------------------------------------------------ topics


class Cluster:
    """Topics that come and go, and how often they were asked for."""

    def __init__(self) -> None:
        self.topics: dict[str, int] = {"t": 1}
        self.read: list[set[str]] = []

    async def look(self, wanted: Collection[str]) -> tuple[list[str], dict[str, Topic]]:
        self.read.append(set(wanted))
        await asyncio.sleep(0)
        found = {
            name: Topic(name, tuple(range(self.topics[name])))
            for name in wanted
            if name in self.topics
        }
        return sorted(self.topics), found


def topics(test: Callable[[Topics, Cluster, list[float]], Awaitable[None]]) -> None:
    cluster, at = Cluster(), [0.0]
    asyncio.run(test(Topics(cluster.look, lambda: at[0]), cluster, at))  # type: ignore[arg-type]


def test_unknown_names_are_looked_for_together() -> None:
    async def test(known: Topics, cluster: Cluster, at: list[float]) -> None:
        assert set(await asyncio.gather(*(known.find(f"u{n}") for n in range(99)))) == {None}
        assert cluster.read == [{f"u{n}" for n in range(99)}]
        at[0] += 1
        cluster.topics["u5"] = 2
        assert (await known.find("u5")) == Topic("u5", (0, 1))
        assert cluster.read[1:] == [{"u5"}]
        assert await known.names() == ["t", "u5"]
        # One that was in the list is looked at whenever it is asked for.
        assert (await known.find("t")) == Topic("t", (0,))
        assert cluster.read[2:] == [{"u5", "t"}]
        # One that came since is found at once, or almost.
        at[0] += 0.2
        cluster.topics["v"] = 1
        assert (await known.find("v")) == Topic("v", (0,))

    topics(test)


def test_topics_are_looked_at_together() -> None:
    """However many are posted to at once, for the first time."""

    async def test(known: Topics, cluster: Cluster, at: list[float]) -> None:
        cluster.topics = {f"t{n}": 1 for n in range(99)}
        await known.names()
        look, failures = known._read, [errors.KafkaTimeoutError()]

        async def fail(wanted: Collection[str]) -> tuple[list[str], dict[str, Topic]]:
            if failures:
                raise failures.pop()
            return await look(wanted)

        for failing in (False, True):
            at[0] += 1
            cluster.read.clear()
            known._known.clear()
            known._read = fail if failing else look  # type: ignore[method-assign]
            found = await asyncio.gather(
                *(known.find(name) for name in cluster.topics), return_exceptions=True
            )
            missing = {place for place, one in enumerate(found) if not isinstance(one, Topic)}
            assert missing == ({0} if failing else set())
            assert len(cluster.read) == 1

    topics(test)


def test_a_topic_is_looked_at_again_behind_a_request_s_back() -> None:
    async def test(known: Topics, cluster: Cluster, at: list[float]) -> None:
        assert await known.find("t") == Topic("t", (0,))
        cluster.topics["t"] = 2
        at[0] += 29
        assert await known.find("t") == Topic("t", (0,))
        assert len(cluster.read) == 1
        at[0] += 1
        for _ in range(9):
            assert (await known.find("t")) is not None
        await asyncio.sleep(0.01)
        assert len(cluster.read) == 2
        assert await known.find("t") == Topic("t", (0, 1))
        del cluster.topics["t"]
        at[0] += 30
        await known.find("t")
        await asyncio.sleep(0.01)
        assert await known.find("t") is None

    topics(test)


def test_a_look_behind_a_request_s_back_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def test(known: Topics, cluster: Cluster, at: list[float]) -> None:
        assert await known.find("t") == Topic("t", (0,))
        topics, cluster.topics = cluster.topics, None  # type: ignore[assignment]
        at[0] += 30
        assert await known.find("t") == Topic("t", (0,))
        await asyncio.sleep(0.01)
        cluster.topics = {**topics, "t": 2}
        assert await known.find("t") == Topic("t", (0,))
        await asyncio.sleep(0.01)
        assert await known.find("t") == Topic("t", (0, 1))

    topics(test)
    assert any("the topics cannot be looked at" in message for message in caplog.messages)


def test_a_partition_that_has_come_since() -> None:
    async def test(known: Topics, cluster: Cluster, at: list[float]) -> None:
        assert await known.find("t", {0}) == Topic("t", (0,))
        cluster.topics["t"] = 3
        assert await known.find("t", {2}) == Topic("t", (0,))  # just looked
        at[0] += 1
        assert await known.find("t", {2}) == Topic("t", (0, 1, 2))
        assert await known.find("t", {7}) == Topic("t", (0, 1, 2))
        assert len(cluster.read) == 2

    topics(test)
