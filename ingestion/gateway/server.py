"""The gateway's HTTP server: uvicorn, with bounds on what a connection may hold."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import signal
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingestion.errors import PipelineError
from ingestion.gateway.limits import Limits

#: Seconds for which a connection may be open without a request.
_IDLE_SECONDS = 30
#: Requests of a connection that may wait behind the one that is answered.
_WAITING = 16

_HEAD_TOO_LARGE = b"431 Request Header Fields Too Large"


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        PipelineError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise PipelineError(
            f"port {port} of {host} cannot be had: {why}; choose another with --port"
        ) from error


def serve(app: Any, listener: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way and return.

    Args:
        app: the ASGI application.
        listener: where clients connect.
        limits: of connections and requests.
    """
    # What has been imported stays until the end: the collector need not look at it again and again,
    # for which every request would wait a tenth of a second every few seconds.
    gc.collect()
    gc.freeze()
    running = server(app, limits)
    # Signals stop it from now on, not only when it has begun; and the one that stopped it, which it
    # raises once more when it is done, does nothing else.
    stop = running.handle_exit
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        running.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def server(app: Any, limits: Limits) -> uvicorn.Server:
    """A server of an application, within limits."""
    config = uvicorn.Config(
        app,
        http=type("Protocol", (_Bounded,), {"limits": limits}),
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        # The body; then finding the topic; then the acknowledgement, and its grace.
        timeout_graceful_shutdown=round(limits.body_seconds + 2 * limits.ack_seconds + 3),
    )
    return uvicorn.Server(config)


class _Bounded(HttpToolsProtocol):
    """Closes connections that hold more than they may, or for longer.

    The application bounds the bodies that it reads. Here is the rest: how many connections there
    are, a request's line and headers, requests sent before the answers to others, what stands
    between and behind the chunks of a body, bodies that go on after the answer, and answers that
    nobody fetches.
    """

    limits: Limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        self._in_head = True
        self._head_bytes = 0
        self._refusal = b""
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(b"503 Service Unavailable\r\nretry-after: 1")
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_timer()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on what came, if it was not too much."""
        if self.transport.is_closing():
            return
        if self._in_head or self.cycle.response_complete:
            self._start_timer()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > self.limits.head_bytes:
            self._refuse(_HEAD_TOO_LARGE)
        if self.transport.is_closing():
            self._wait_for_reader()

    def on_message_begin(self) -> None:
        """Begin to wait for the last header.

        Raises:
            ValueError: too many requests wait; the parser makes an answer of 400 of it.
        """
        if len(self.pipeline) >= _WAITING:
            raise ValueError(f"more than {_WAITING} requests wait for their turn")
        self._start_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, but none that comes behind the body."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Leave the body's time to the application.

        Raises:
            ValueError: the request is refused.
        """
        # All of it may have come at once.
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.head_bytes:
            self._refusal = _HEAD_TOO_LARGE
        elif self.parser.should_upgrade() and _has_body(self.headers):
            # The parser takes what follows for another protocol, and then for another request.
            self._refusal = b"A request with a body is not taken with Connection: Upgrade."
        if self._refusal:
            raise ValueError(self._refusal.decode())
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take what comes next for another request."""
        self._in_head = True
        self._head_bytes = 0
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, or close."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._wait_for_reader()

    def pause_writing(self) -> None:
        """Begin to wait for the client to fetch its answers."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Take notice that it does."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_waiting_for_reader()

    def send_400_response(self, msg: str) -> None:
        """Refuse the request: for what was found, or for being no HTTP."""
        if self._refusal == _HEAD_TOO_LARGE:
            self._refuse(_HEAD_TOO_LARGE)
        else:
            super().send_400_response(self._refusal.decode() or msg)

    def timeout_keep_alive_handler(self) -> None:
        """Close: no further request came."""
        self._end()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.head_seconds, self._end)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_for_reader(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(self.limits.head_seconds, self._end)

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _end(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # the client does not fetch its answer
        else:
            self.transport.close()

    def _refuse(self, status: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()


def _has_body(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )


def log_to_stderr(access: bool) -> None:
    """Warnings on standard error, the same one once a minute; and, if wanted, every request.

    Args:
        access: whether each request has its line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Plain("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(Sparing())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    # Of bad requests; they are counted.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("ingestion.gateway").setLevel(logging.INFO)
    logging.getLogger("ingestion.gateway.access").setLevel(
        logging.INFO if access else logging.WARNING
    )


class Plain(logging.Formatter):
    """What the network does to a connection is said in a line; a defect keeps its traceback.

    Clients log a connection that was reset with all that led there.
    """

    def format(self, record: logging.LogRecord) -> str:
        """A record as text."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OSError):
            record = copy.copy(record)  # which other handlers format in their own way
            record.msg, record.args = f"{record.getMessage()}: {error}", None
            record.exc_info = record.exc_text = None
        return super().format(record)


class Sparing(logging.Filter):
    """Lets a warning of one place in the code through once a minute.

    Clients warn with every attempt to reach a server that is gone.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to let a record through."""
        if record.levelno <= logging.INFO:
            return True
        place = record.pathname, record.lineno
        due = record.created - self._last.get(place, 0.0) >= self._seconds
        if due:
            self._last[place] = record.created
        return due
