"""Whether a server answers: what counts as an answer, and when it is asked."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest
from kafka import errors

from ingestion.gateway import health, kafka
from ingestion.gateway.bodies import KinesisRecord
from ingestion.gateway.health import Pulse
from ingestion.gateway.kafka import Clients, KafkaSink
from ingestion.gateway.kinesis import KinesisSink, speaks_http
from stack.process import free_port
from tests.unit.test_gateway_kafka import Admin, Producer, eventually, record


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(health, "SILENT_SECONDS", 0.5)


def watching(
    check: Callable[[], Awaitable[object]], test: Callable[[Pulse], Awaitable[None]]
) -> None:
    async def run() -> None:
        pulse = Pulse(check, asyncio.get_running_loop().time)
        watcher = asyncio.create_task(pulse.watch())
        await test(pulse)
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher

    asyncio.run(run())


# ------------------------------------------------------------------------------ pulse


def test_a_server_is_gone_some_seconds_after_its_last_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    clock = [100.0]
    pulse = Pulse(lambda: asyncio.sleep(0), lambda: clock[0])
    clock[0] = 107.0
    assert not pulse.gone
    clock[0] = 107.1
    assert pulse.gone
    pulse.heard()
    assert not pulse.gone
    # Within 10 s of its end, though it ended right after an answer.
    assert health.SILENT_SECONDS + health.CHECK_SECONDS < 10


@pytest.mark.parametrize("hangs", [False, True])
def test_a_server_that_stops_answering_is_gone_until_it_answers(hangs: bool) -> None:
    answers = asyncio.Event()

    async def check() -> None:
        if not answers.is_set():
            if hangs:
                await asyncio.sleep(3600)
            raise errors.KafkaConnectionError

    async def test(pulse: Pulse) -> None:
        for _ in range(2):
            answers.set()
            await eventually(lambda: not pulse.gone)
            await asyncio.sleep(1.0)
            assert not pulse.gone
            answers.clear()
            await eventually(lambda: pulse.gone)

    watching(check, test)


def test_a_server_that_is_heard_of_is_not_asked() -> None:
    asked: list[None] = []

    async def check() -> None:
        asked.append(None)

    async def test(pulse: Pulse) -> None:
        for _ in range(200):
            pulse.heard()
            await asyncio.sleep(0.001)
        assert len(asked) <= 2  # where this test was held up
        await eventually(lambda: len(asked) > 10)

    watching(check, test)


# ------------------------------------------------------------------------------ kafka


class Cluster(Admin):
    """Brokers that are asked whether they are there."""

    error: Exception | None = None
    checks = 0

    def describe_cluster(self) -> None:
        self.checks += 1
        if self.error is not None:
            raise self.error


def with_cluster(
    test: Callable[[KafkaSink, Producer, Cluster], Awaitable[None]], expected: bool = True
) -> None:
    async def run() -> None:
        producer, cluster = Producer(), Cluster()
        sink = KafkaSink({}, 5.0, lambda *_: Clients(producer, cluster), expected=expected)
        await sink.start()
        await eventually(lambda: sink.state == "connected")
        await test(sink, producer, cluster)
        await sink.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    "error",
    [
        errors.KafkaConnectionError("refused"),
        errors.NodeNotReadyError(0),
        errors.RequestTimedOutError("Request timed out after 5000 ms"),
        RuntimeError("NetworkSelector closed!"),
    ],
)
def test_brokers_that_go_show_though_nobody_posts(error: Exception) -> None:
    async def test(sink: KafkaSink, _: Producer, cluster: Cluster) -> None:
        cluster.error = error
        await eventually(lambda: sink.state == "unreachable")
        cluster.error = None
        await eventually(lambda: sink.state == "connected")

    with_cluster(test)


def test_a_refusal_is_an_answer() -> None:
    async def test(sink: KafkaSink, _: Producer, cluster: Cluster) -> None:
        cluster.error = errors.ClusterAuthorizationFailedError()
        checks = cluster.checks
        await eventually(lambda: cluster.checks > checks + 40)
        assert sink.state == "connected"

    with_cluster(test)


def test_acknowledged_records_are_answers() -> None:
    async def test(sink: KafkaSink, producer: Producer, cluster: Cluster) -> None:
        cluster.error = errors.KafkaConnectionError("refused")
        await eventually(lambda: sink.state == "unreachable")
        await sink.send("t", [record()])
        assert sink.state == "connected"
        producer.error = errors.KafkaTimeoutError("Expiring 1 record(s)")
        await sink.send("t", [record()])
        assert sink.state == "failing"
        await eventually(lambda: sink.state == "unreachable")

    with_cluster(test)


def test_clients_of_brokers_that_stay_away_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The brokers may be at other addresses, and without requests nothing else would tell."""
    monkeypatch.setattr(kafka, "_LOST_SECONDS", 0.5)

    async def run() -> None:
        made: list[Clients] = []

        def connect(*_: object) -> Clients:
            made.append(Clients(Producer(), Cluster()))
            return made[-1]

        sink = KafkaSink({}, 0.5, connect)
        await sink.start()
        await eventually(lambda: sink.state == "connected")
        made[0].admin.error = errors.KafkaConnectionError("refused")
        await eventually(lambda: len(made) == 2)
        await eventually(lambda: sink.state == "connected")
        assert made[0].producer.closed.wait(10)
        await sink.stop()

    asyncio.run(run())


def test_brokers_that_nobody_named_are_not_missed_before_they_are_found() -> None:
    async def run() -> None:
        there = asyncio.Event()

        def connect(*_: object) -> Clients:
            if not there.is_set():
                raise errors.KafkaTimeoutError
            return Clients(Producer(), Cluster())

        named, unnamed = KafkaSink({}, 5.0, connect), KafkaSink({}, 5.0, connect, expected=False)
        for sink, state in ((named, "unreachable"), (unnamed, "unused")):
            assert sink.state == state
            await sink.start()
            await asyncio.sleep(0.1)
            assert sink.state == state
        there.set()
        for sink in (named, unnamed):
            await eventually(lambda sink=sink: sink.state == "connected")
            await sink.stop()
            assert sink.state == "unreachable"

    asyncio.run(run())


# ----------------------------------------------------------------------------- kinesis


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Speaks HTTP, and refuses everything."""

    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def test_any_answer_of_an_endpoint_will_do(endpoint: http.server.ThreadingHTTPServer) -> None:
    port = endpoint.server_address[1]
    speaks_http(f"http://127.0.0.1:{port}")
    with pytest.raises(OSError, match="refused"):
        speaks_http(f"http://127.0.0.1:{free_port()}")


def test_an_endpoint_that_goes_shows_once_it_was_used(
    endpoint: http.server.ThreadingHTTPServer,
) -> None:
    placed = {"SequenceNumber": "1", "ShardId": "s"}
    meta = SimpleNamespace(endpoint_url=f"http://127.0.0.1:{endpoint.server_address[1]}")
    client = SimpleNamespace(meta=meta, put_record=lambda **_: placed, close=lambda: None)

    async def run() -> None:
        sink = KinesisSink(5.0, lambda: client)
        assert sink.state == "unused"
        await sink.put("s", KinesisRecord(b"1", "k"))
        await asyncio.sleep(1.0)
        assert sink.state == "connected"
        alive, meta.endpoint_url = meta.endpoint_url, f"http://127.0.0.1:{free_port()}"
        await eventually(lambda: sink.state == "unreachable")
        await sink.put("s", KinesisRecord(b"1", "k"))
        assert sink.state == "connected"
        await eventually(lambda: sink.state == "unreachable")
        meta.endpoint_url = alive
        await eventually(lambda: sink.state == "connected")
        await sink.stop()

    asyncio.run(run())
