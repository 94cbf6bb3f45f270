"""What a client may ask for, and how much is under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ingestion.gateway.answers import Disconnected, Reason, Refused

#: What a record on its way costs in memory besides its bytes.
RECORD_BYTES = 1024
#: Seconds after which a request may be sent again when too much was under way.
BUSY_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """The bounds of a gateway.

    Attributes:
        request_bytes: of a body.
        records: of a request.
        in_flight_bytes: of all requests that are being read or answered.
        in_flight_requests: that wait for Kafka or Kinesis.
        connections: open at once.
        rate: requests a second of one API key; 0 for any number.
        burst: requests of one API key at once.
        head_bytes: of a request line and its headers.
        head_seconds: from a request's first byte, or a connection's start, to its last header;
            and for a client to fetch answers that no longer fit into buffers.
        body_seconds: from there to the body's last byte.
        ack_seconds: that records may take to be acknowledged.
    """

    request_bytes: int = 4 * 2**20
    records: int = 5_000
    in_flight_bytes: int = 64 * 2**20
    in_flight_requests: int = 1_000
    connections: int = 2_000
    rate: float = 0.0
    burst: int = 100
    head_bytes: int = 32 * 1024
    head_seconds: float = 10.0
    body_seconds: float = 15.0
    ack_seconds: float = 10.0


class Budget:
    """What is under way, of all requests together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.bytes = 0
        self.requests = 0

    def hold(self) -> Hold:
        """A share for one request, given back when the block is left."""
        return Hold(self, self._limits)


class Hold:
    """The share of one request."""

    def __init__(self, budget: Budget, limits: Limits) -> None:
        self._budget = budget
        self._limits = limits
        self._bytes = 0
        self._slots = 0

    def __enter__(self) -> Hold:
        """Begin with nothing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give all of it back."""
        self._budget.bytes -= self._bytes
        self._budget.requests -= self._slots

    def take(self, size: int) -> None:
        """Take bytes.

        Raises:
            Refused: too many are under way.
        """
        if self._budget.bytes + size > self._limits.in_flight_bytes:
            raise _busy()
        self._budget.bytes += size
        self._bytes += size

    def start(self) -> None:
        """Take a place among the requests that wait for Kafka or Kinesis.

        Raises:
            Refused: all are taken.
        """
        if self._budget.requests >= self._limits.in_flight_requests:
            raise _busy()
        self._budget.requests += 1
        self._slots += 1


def _busy() -> Refused:
    return Refused(
        Reason.UNAVAILABLE, "too much is under way; send the request again", BUSY_SECONDS
    )


class Rates:
    """A token bucket for each client: a steady rate, and some more at once.

    Args:
        limits: give rate and burst.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self._rate = limits.rate
        self._burst = float(max(1, limits.burst))
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}

    def spend(self, client: str) -> None:
        """Count one request of a client.

        Raises:
            Refused: it has sent too many.
        """
        if not self._rate:
            return
        now = self._now()
        tokens, since = self._buckets.get(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        if tokens < 1:
            self._buckets[client] = tokens, now
            raise Refused(
                Reason.TOO_OFTEN,
                f"this API key may send {self._rate:g} requests a second",
                (1 - tokens) / self._rate,
            )
        self._buckets[client] = tokens - 1, now


async def read_body(
    receive: Callable[[], Awaitable[Any]], declared: str | None, limits: Limits, hold: Hold
) -> bytes:
    """A request's body, as far as it may be long and slow.

    Args:
        receive: gives the ASGI server's next message.
        declared: the Content-Length.
        limits: of its size and time.
        hold: what it takes is counted here as it comes.

    Raises:
        Refused: it is too long or too slow, or too much is under way.
        Disconnected: the client went away.
    """
    if declared is not None and declared.isdecimal() and int(declared) > limits.request_bytes:
        raise _too_large(limits)
    whole: bytes | bytearray = b""
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Disconnected
                part = message.get("body", b"")
                if len(whole) + len(part) > limits.request_bytes:
                    raise _too_large(limits)
                hold.take(len(part))
                last = not message.get("more_body", False)
                if not whole:
                    whole = part if last else bytearray(part)
                else:
                    whole += part
                if last:
                    return bytes(whole)
    except TimeoutError:
        raise Refused(
            Reason.TOO_SLOW, f"the body did not arrive within {limits.body_seconds:g} s"
        ) from None


def _too_large(limits: Limits) -> Refused:
    return Refused(
        Reason.TOO_LARGE,
        f"the body has more than {limits.request_bytes:,} bytes: send the records in parts",
    )
