"""The gateway's HTTP server: what a connection may hold, and answers as they are described."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from ingestion.gateway.limits import Limits
from ingestion.gateway.server import Plain, bind, serve, server
from tests.unit.test_gateway_app import KAFKA, ONE, PIN, STREAM, Asked, records

HEAD = (
    f"POST {PIN} HTTP/1.1\r\nHost: x\r\nContent-Type: {KAFKA}\r\nContent-Length: %d\r\n\r\n"
).encode()
CHUNKED = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")


@contextmanager
def served(
    limits: Limits, *keys: str, send_buffer: int | None = None
) -> Iterator[tuple[int, Asked]]:
    """A gateway with sinks in memory, and its port."""
    listener = bind("127.0.0.1", 0)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    gateway = Asked(limits, *keys)
    running = server(gateway.app, limits)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1], gateway
    finally:
        running.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Connection:
    """A connection that sends and receives bytes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def trickle(self, data: bytes) -> None:
        """Send a little again and again, for ten seconds."""
        for _ in range(200):
            self.send(data)
            time.sleep(0.05)

    def flood(self, data: bytes) -> None:
        """Send the same for ten seconds."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            self.send(data)

    def receive(self, until: bytes = b"\r\n\r\n") -> bytes:
        """What comes, up to some bytes or the end."""
        found = b""
        while until not in found and (part := self.socket.recv(65536)):
            found += part
        return found

    def closed(self) -> bool:
        """Whether it is closed, waiting for that."""
        try:
            return self.receive(b"nothing of the kind") is not None
        except ConnectionError:
            return True


def good(values: bytes = records("1")) -> bytes:
    return HEAD % len(values) + values


def test_requests_on_one_connection() -> None:
    with served(Limits()) as (port, gateway):
        connection = Connection(port)
        for _ in range(3):
            connection.send(good())
            assert b'"offset":0' in connection.receive(b"null}")
        connection.send(good() * 5)
        found = b""
        while found.count(b"HTTP/1.1 200 OK") < 5 or not found.endswith(b"null}"):
            found += connection.receive(b"null}")
        assert len(gateway.kafka.records) == 8


@pytest.mark.parametrize(
    "start", [b"", b"POST /topics/a HTT", b"GET /topics HTTP/1.1\r\nX-A: b\r\n", b"\r\n"]
)
def test_a_head_that_does_not_come(start: bytes) -> None:
    with served(Limits(head_seconds=0.2)) as (port, _):
        connection = Connection(port)
        connection.send(start)
        assert connection.closed()
        # The same after a request: nothing that it sent before gives it more time.
        connection = answered(port)
        connection.send(start or b"\r\n")
        assert connection.closed()


def answered(port: int) -> Connection:
    """A connection with a request behind it, which may take some attempts to come in time."""
    deadline = time.monotonic() + 20
    while True:
        connection = Connection(port)
        with suppress(ConnectionError):
            connection.send(good())
            if connection.receive(b"null}"):
                return connection
        assert time.monotonic() < deadline


def test_a_head_that_trickles() -> None:
    with served(Limits(head_seconds=0.5)) as (port, _):
        connection = Connection(port)
        connection.send(b"GET /topics HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            connection.trickle(b"X: y\r\n")


def test_a_head_without_end() -> None:
    with served(Limits(head_bytes=10_000)) as (port, _):
        for part in (b"x" * 100, b"x: y\r\n"):
            connection = Connection(port)
            connection.send(b"GET /topics HTTP/1.1\r\nX: ")
            with pytest.raises(ConnectionError):
                connection.flood(part * 1_000)
        assert requests.get(f"http://127.0.0.1:{port}/topics", timeout=20).status_code == 200


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["unfinished", "all at once"])
def test_a_head_that_is_too_long_is_told_so(end: bytes) -> None:
    with served(Limits(head_bytes=10_000)) as (port, _):
        connection = Connection(port)
        connection.send(b"GET /topics HTTP/1.1\r\nX: " + b"x" * 10_000 + end)
        assert connection.receive().startswith(b"HTTP/1.1 431 ")
        assert connection.closed()


@pytest.mark.parametrize("key", ["right", "wrong"])
@pytest.mark.parametrize(
    ("start", "part"),
    [(b"0\r\nX: ", b"x" * 1_000), (b"0\r\n", b"x: y\r\n" * 100), (b"1;", b"x" * 1_000)],
    ids=["a trailer", "trailers", "an extension"],
)
def test_what_is_no_body_without_end(start: bytes, part: bytes, key: str) -> None:
    """Headers behind the chunks of a body, say: nothing of it is kept, and not all is read."""
    head = CHUNKED.replace(b"Host: x", b"x-api-key: " + key.encode())
    with served(Limits(head_bytes=10_000), "right") as (port, gateway):
        connection = Connection(port)
        connection.send(head + start)
        with pytest.raises(ConnectionError):
            connection.flood(part)
        assert gateway.kafka.records == []
        eventually_posts(port, "right")


def test_a_header_behind_the_body_is_none() -> None:
    chunk = b"%x\r\n%b\r\n0\r\n" % (len(records("1")), records("1"))
    with served(Limits(), "right") as (port, gateway):
        connection = Connection(port)
        # The second is read as a whole before it has its turn.
        connection.send(good() + CHUNKED + chunk + b"x-api-key: right\r\n\r\n")
        found = connection.receive(b'keys"}')
        while found.count(b"HTTP/1.1 ") < 2 or not found.endswith(b'keys"}'):
            found += connection.receive(b'keys"}')
        assert found.count(b"HTTP/1.1 403 ") == 2
        assert gateway.kafka.records == []


def test_a_body_is_no_request_of_another_protocol() -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost: x"
    with served(Limits()) as (port, _):
        for head in (HEAD % 40, CHUNKED):
            connection = Connection(port)
            body = b"GET /topics HTTP/1.1\r\n\r\n".ljust(40)
            connection.send(head.replace(b"Host: x", upgrade) + body)
            found = connection.receive(b"nothing of the kind")
            assert found.startswith(b"HTTP/1.1 400 ")
            assert found.endswith(b"with Connection: Upgrade.")
            assert found.count(b"HTTP/1.1") == 1
        # A client that would speak something else is answered in HTTP/1.1.
        connection = Connection(port)
        connection.send(b"GET /topics HTTP/1.1\r\n" + upgrade + b"\r\n\r\n")
        assert connection.receive(b"]").startswith(b"HTTP/1.1 200 ")
        connection.send(good())
        assert connection.receive(b"null}").startswith(b"HTTP/1.1 200 ")


def test_more_connections_than_there_may_be() -> None:
    with served(Limits(connections=3)) as (port, _):
        open_ones = [Connection(port) for _ in range(3)]
        for one in open_ones:
            one.send(good())
            one.receive(b"null}")
        answer = Connection(port).receive()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        open_ones.pop().socket.close()
        eventually_posts(port)


def test_more_requests_at_once_than_may_wait() -> None:
    with served(Limits()) as (port, _):
        connection = Connection(port)
        connection.send(good() + b"GET /topics HTTP/1.1\r\n\r\n" * 1_000)
        assert connection.receive().startswith(b"HTTP/1.1 400 ")
        assert connection.closed()
        # As many as may wait are answered.
        connection = Connection(port)
        connection.send(good() * 17)
        found = b""
        while found.count(b"HTTP/1.1 200 OK") < 17 or not found.endswith(b"null}"):
            found += connection.receive(b"null}")


@pytest.mark.parametrize(("requests_", "head"), [(10, b""), (1, b"Connection: close\r\n")])
def test_answers_that_nobody_fetches(requests_: int, head: bytes) -> None:
    """More than buffers hold; or what is left of the last, of a connection that is being closed."""
    limits = Limits(connections=1, head_seconds=0.5)
    with served(limits, send_buffer=4_096) as (port, _), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", port))
        client.sendall((b"GET /openapi.json HTTP/1.1\r\n" + head + b"\r\n") * requests_)
        eventually_posts(port)  # on the one connection that there may be


def eventually_posts(port: int, key: str = "") -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            answer = requests.post(
                f"http://127.0.0.1:{port}{PIN}",
                data=records("1"),
                headers={"Content-Type": KAFKA, "x-api-key": key},
                timeout=20,
            )
            if answer.status_code == 200:
                return
        except requests.ConnectionError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def eventually_under_way(port: int) -> None:
    """Wait until some of a request's body has arrived."""
    deadline = time.monotonic() + 20
    url = f"http://127.0.0.1:{port}/metrics"
    while "gateway_in_flight_bytes 0.0" in requests.get(url, timeout=20).text:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_bodies_that_trickle_hold_up_nobody() -> None:
    with served(Limits(body_seconds=1.0, in_flight_requests=1)) as (port, gateway):
        slow = [Connection(port) for _ in range(20)]
        for connection in slow:
            connection.send(good()[:-1])
        eventually_posts(port)
        for connection in slow:
            answer = connection.receive(b"}")
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"connection: close" in answer.lower()
            assert connection.closed()
        assert len(gateway.kafka.records) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long(chunked: bool) -> None:
    body = b"x" * 3_000_000
    with served(Limits(request_bytes=1_000_000)) as (port, gateway):
        session = requests.Session()
        url = f"http://127.0.0.1:{port}"
        parts = (body[at : at + 50_000] for at in range(0, len(body), 50_000))
        answer = session.post(
            url + PIN,
            data=parts if chunked else body,
            headers={"Content-Type": KAFKA},
            timeout=20,
        )
        assert (answer.status_code, answer.json()["error_code"]) == (413, 413)
        headers = {"Content-Type": "application/json"}
        answer = session.put(url + STREAM + "/record", data=ONE, headers=headers, timeout=20)
        assert answer.status_code == 200
        assert gateway.kafka.records == []


def test_a_body_that_is_too_long_is_not_asked_for() -> None:
    with served(Limits(request_bytes=1_000)) as (port, _):
        connection = Connection(port)
        head = (HEAD % 1_001).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        connection.send(head)
        assert connection.receive().startswith(b"HTTP/1.1 413 ")
        connection = Connection(port)
        body = records("1")
        connection.send(
            (HEAD % len(body)).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        )
        assert connection.receive().startswith(b"HTTP/1.1 100 ")
        connection.send(body)
        assert connection.receive(b"null}").startswith(b"HTTP/1.1 200 ")


def test_a_body_that_goes_on_after_the_answer() -> None:
    with served(Limits(request_bytes=1_000, head_seconds=0.5)) as (port, _):
        connection = Connection(port)
        connection.send(HEAD % 10**9)
        assert connection.receive().startswith(b"HTTP/1.1 413 ")
        with pytest.raises(ConnectionError):
            connection.trickle(b"x" * 100)


@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST /topics/a HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /topics/a HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /topics/a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /topics/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http(request_: bytes) -> None:
    with served(Limits(head_seconds=0.5, body_seconds=0.5)) as (port, _):
        connection = Connection(port)
        connection.send(request_)
        status = connection.receive()[:12]
        assert status in (b"HTTP/1.1 400", b"HTTP/1.1 415", b"")
        answered(port)


def test_stopping_waits_for_as_long_as_a_request_may_take() -> None:
    limits = Limits(body_seconds=7, ack_seconds=4)
    # The body arrives; the topic is found; the records are acknowledged, or a second later not.
    assert (server(None, limits).config.timeout_graceful_shutdown or 0) > 7 + 4 + 4 + 1


def test_stopping_finishes_what_is_under_way() -> None:
    with served(Limits()) as (port, gateway):
        idle, late = Connection(port), Connection(port)
        idle.send(good())
        idle.receive(b"null}")
        late.send(good()[:-1])
        eventually_under_way(port)
        thread = threading.Timer(0.5, late.send, [b"}"])
        thread.start()
    answer = late.receive(b"null}")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert idle.closed()
    assert gateway.kafka.stopped
    assert len(gateway.kafka.records) == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionResetError(104, "reset by peer"), ["closing: [Errno 104] reset by peer"]),
        (KeyError("defect"), ["closing", "Traceback (most recent call last):"]),
    ],
)
def test_only_defects_are_logged_with_a_traceback(error: Exception, told: list[str]) -> None:
    try:
        raise error
    except type(error):
        record = logging.LogRecord("any", 40, "any.py", 1, "%s", ("closing",), sys.exc_info())
    lines = Plain("%(message)s").format(record).splitlines()
    assert lines[:2] == told
    assert "Traceback" in logging.Formatter().format(record)  # the record is as it was


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_it_has_begun_stops_it(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, late = uvicorn.Server.run, []

    def signalled(running: uvicorn.Server, sockets: list[socket.socket]) -> None:
        def end() -> None:
            late.append(True)
            running.should_exit = True

        timer = threading.Timer(10, end)
        timer.start()
        os.kill(os.getpid(), number)
        run(running, sockets)
        timer.cancel()

    monkeypatch.setattr(uvicorn.Server, "run", signalled)
    before = signal.getsignal(number)
    gateway = Asked(Limits())
    serve(gateway.app, bind("127.0.0.1", 0), Limits())
    assert gateway.kafka.stopped
    assert not late
    assert signal.getsignal(number) is before


def test_requests_made_up_from_the_description() -> None:
    """Valid ones and invalid ones; answers are of the statuses, types and forms described."""
    with served(Limits(), "right") as (port, gateway):
        # What schemathesis expects of a refusal, and the status of a body with too many records.
        expected = [400, 401, 403, 404, 405, 406, 409, 415, 422, 428, 429, "5xx"]
        refusals = {"expected-statuses": [*map(str, expected), "413"]}
        schema = schemathesis.openapi.from_url(
            f"http://127.0.0.1:{port}/openapi.json",
            config=schemathesis.Config.from_dict({"checks": {"negative_data_rejection": refusals}}),
        )
        statuses = {}
        for found in schema.get_all_operations():
            operation = found.ok()
            statuses[operation.label] = {
                status for mode in schemathesis.GenerationMode for status in asked(operation, mode)
            }
        assert statuses["GET /topics"] >= {200}
        assert statuses["POST /topics/{topic}"] >= {200, 422}
        assert statuses["PUT /streams/{stream}/record"] >= {200, 400}
        assert statuses["PUT /streams/{stream}/records"] >= {200, 400}
        assert gateway.kafka.records
        assert gateway.kinesis.records
        eventually_posts(port, "right")


def asked(operation: Any, mode: schemathesis.GenerationMode) -> set[int]:
    """The statuses of what made-up requests were answered."""
    statuses = set()

    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        answer = case.call_and_validate(headers={"x-api-key": "right"}, timeout=20)
        statuses.add(answer.status_code)
        assert answer.status_code < 500

    # Where nothing is sent nothing can be wrong.
    with suppress(Unsatisfiable):
        ask()
    return statuses
