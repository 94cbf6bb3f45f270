"""Records to Kafka: acknowledged by all in-sync replicas, or reported as not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaAdminClient, KafkaProducer
from kafka import errors as kafka_errors
from kafka.errors import KafkaTimeoutError, RetriableError
from kafka.net.compat import KafkaNetClient

from ingestion.gateway.answers import NOT_RETRIABLE, RETRIABLE, Offset, Reason, Refused
from ingestion.gateway.bodies import KafkaRecord
from ingestion.gateway.health import CONNECTED, FAILING, UNREACHABLE, UNUSED, Pulse
from ingestion.gateway.topics import FRESH_SECONDS, Topic, Topics, describe

#: Records are handed over in parts of this size, so that other requests have their turn.
_PART = 256
#: What a record takes in a batch of its own, besides key and value.
_BATCH_OVERHEAD = 100
#: What the producer takes, of a record as of a request, whatever the topic takes.
_REQUEST_BYTES = 8 * 2**20
#: The producer may hold up its caller, which is the event loop, for this long at the most.
_BLOCK_MS = 50
_CONNECT_SECONDS = 1.0
_LEARN_SECONDS = 0.05
#: Seconds for which nothing may be acknowledged, from the first records that were not, before the
#: clients are made anew: a producer whose records timed out may never send again.
_STUCK_SECONDS = 5.0
#: Seconds without an answer, besides those that records may take, before the clients are replaced.
_LOST_SECONDS = 10.0
#: Seconds that the producer has to say that a record's time is over.
_GRACE_SECONDS = 1.0

_RETRY_AFTER = 2.0

# Anything else that is not retriable leaves an idempotent producer unable to go on.
_NOT_FATAL = (
    RetriableError,
    kafka_errors.OutOfOrderSequenceNumberError,
    kafka_errors.UnknownProducerIdError,
    kafka_errors.InvalidProducerEpochError,
)

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Producer(KafkaProducer):  # type: ignore[misc]
    """A producer that can be closed whatever is left to send, which then fails."""

    def flush(self, timeout: float | None = None) -> None:
        """Send what is left, as far as that is possible in time."""
        with contextlib.suppress(KafkaTimeoutError):
            super().flush(timeout)

    def look_again(self) -> None:
        """Begin to ask the brokers which partitions the topics have."""
        self._metadata.request_update()
        self._sender.wakeup()


class Clients(NamedTuple):
    """What talks to one Kafka cluster."""

    producer: Any
    admin: Any


def connect(settings: Mapping[str, Any], ack_seconds: float) -> Clients:
    """Connect to a cluster.

    Args:
        settings: of a client: servers, security.
        ack_seconds: that records may take to be acknowledged.

    Raises:
        KafkaError: no broker answers.
    """
    opened: list[KafkaNetClient] = []

    def open_client(**configs: Any) -> KafkaNetClient:
        opened.append(KafkaNetClient(**configs))
        return opened[-1]

    common = {
        **settings,
        "client_id": "ingest-gateway",
        "kafka_client": open_client,
        "bootstrap_timeout_ms": 3_000,
        "reconnect_backoff_max_ms": 1_000,
        "metadata_max_age_ms": 60_000,
    }
    try:
        admin = KafkaAdminClient(**common, request_timeout_ms=5_000)
        producer = Producer(
            **common,
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=round(ack_seconds * 1000),
            request_timeout_ms=round(ack_seconds * 500),
            linger_ms=0,
            # One batch of a partition is under way at a time; the next one grows meanwhile.
            batch_size=256 * 1024,
            max_request_size=_REQUEST_BYTES,
            max_block_ms=_BLOCK_MS,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
    except BaseException:
        for client in opened:  # which nobody else would close
            client.close()
        raise
    return Clients(producer, admin)


class KafkaSink:
    """Sends records to topics; while no broker answers, every request is refused.

    Args:
        settings: of a client: servers, security.
        ack_seconds: that records may take to be acknowledged.
        connect: makes the clients.
        now: seconds of a clock that never goes back.
        expected: whether brokers that were never reached are missed.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        ack_seconds: float,
        connect: Callable[[Mapping[str, Any], float], Clients] = connect,
        now: Callable[[], float] = time.monotonic,
        expected: bool = True,
    ) -> None:
        self._servers = settings.get("bootstrap_servers", "the brokers")
        self._connect = lambda: connect(settings, ack_seconds)
        self._ack_seconds = ack_seconds
        self._now = now
        self._expected = expected
        self._threads = ThreadPoolExecutor(4, "kafka")
        self._clients: Clients | None = None
        self._topics = Topics(self._describe, now)
        self._warm: dict[str, tuple[int, ...]] = {}
        self._denied: dict[str, float] = {}
        self._turn = 0
        self._failing_since: float | None = None
        self._given_up = asyncio.Event()
        self._pulse = Pulse(self._check, now)
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def state(self) -> str:
        """Whether the brokers answer.

        ``connected``, ``failing`` while they answer and acknowledge nothing, ``unreachable``, or
        ``unused`` where none was found and none is expected.
        """
        if self._clients is None:
            return UNREACHABLE if self._expected else UNUSED
        if self._pulse.gone:
            return UNREACHABLE
        return CONNECTED if self._failing_since is None else FAILING

    async def start(self) -> None:
        """Begin to connect, and to stay connected."""
        self._keepers = [
            asyncio.create_task(self._keep_connected()),
            asyncio.create_task(self._pulse.watch()),
        ]

    async def stop(self) -> None:
        """Send what is left and close."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        clients, self._clients = self._clients, None
        if clients is not None:
            await self._run(lambda: _close(clients, self._ack_seconds))
        await asyncio.to_thread(self._threads.shutdown)

    async def names(self) -> list[str]:
        """The names of all topics.

        Raises:
            Refused: no broker answers.
        """
        return await self._in_time(self._topics.names())

    async def send(self, name: str, records: Sequence[KafkaRecord]) -> list[Offset]:
        """Send records to a topic, those of one partition in their order.

        Records without a key or a partition go to one partition, another one each time.

        Returns:
            For each record its offset, once acknowledged, or why it failed.

        Raises:
            Refused: there is no such topic or partition, or no broker answers; nothing was sent.
        """
        asked = {record.partition for record in records if record.partition is not None}
        topic = await self._in_time(self._find(name, asked))
        clients = self._clients
        if clients is None:
            raise self._unreachable()
        if self._now() < self._denied.get(name, 0.0):
            denied = Offset(None, None, NOT_RETRIABLE, f"the topic {name} may not be written")
            return [denied] * len(records)
        self._turn += 1
        partition = topic.partitions[self._turn % len(topic.partitions)]
        offsets: list[Offset | None] = [None] * len(records)
        sent: list[tuple[int, Any]] = []
        for at, record in enumerate(records):
            if at % _PART == _PART - 1:
                await asyncio.sleep(0)
            offsets[at] = unfit(record, topic)
            if offsets[at] is not None:
                continue
            chosen = record.partition
            if chosen is None and record.key is None:
                chosen = partition
            try:
                future = clients.producer.send(name, record.value, record.key, None, chosen)
            except Exception as error:
                # The producer no longer knows the topic or the partition, or was given up: closed
                # by another thread while it is used, it fails in ways of many kinds.
                self._warm.pop(name, None)
                failed = Offset(None, None, RETRIABLE, _said(error))
                offsets[at:] = [failed] * (len(records) - at)
                break
            sent.append((at, future))
        await settled([future for _, future in sent], self._ack_seconds + _GRACE_SECONDS)
        for at, future in sent:
            offsets[at] = outcome(future, topic)
        self._watch(clients, name, [future for _, future in sent])
        return offsets  # type: ignore[return-value]

    async def _find(self, name: str, partitions: set[int]) -> Topic:
        topic = await self._topics.find(name, partitions)
        if topic is None:
            raise Refused(Reason.UNKNOWN, "Topic not found.")
        if not partitions.issubset(topic.partitions):
            raise Refused(Reason.UNKNOWN_PARTITION, "Partition not found.")
        clients = self._clients
        if self._warm.get(name) != topic.partitions and clients is not None:
            await self._run(lambda: _warm(clients.producer, topic, self._ack_seconds))
            self._warm[name] = topic.partitions
        return topic

    async def _in_time(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What some work with the brokers gives, unless they are too slow."""
        if self._clients is None:
            work.close()
            raise self._unreachable()
        try:
            async with asyncio.timeout(self._ack_seconds):
                return await work
        except Refused:
            raise
        except Exception as error:  # of many kinds where another thread closes the clients
            log.warning("Kafka at %s does not answer: %s", self._servers, _said(error))
            raise self._unreachable() from error

    def _unreachable(self) -> Refused:
        return Refused(
            Reason.UNAVAILABLE, "Kafka does not answer; send the request again", _RETRY_AFTER
        )

    async def _describe(self, wanted: Collection[str]) -> tuple[list[str], dict[str, Topic]]:
        clients = self._clients
        if clients is None:
            raise kafka_errors.KafkaConnectionError
        return await self._run(lambda: describe(clients.admin, wanted))

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _watch(self, clients: Clients, name: str, futures: Sequence[Any]) -> None:
        """See from what became of records whether the clients still work."""
        errors = [future.exception for future in futures if future.is_done]
        if clients is self._clients:  # what was sent with others says nothing about these
            if None in errors:
                self._failing_since = None
                self._pulse.heard()
            elif futures and self._failing_since is None:
                self._failing_since = self._now()
        for error in errors:
            if error is not None and not isinstance(error, _NOT_FATAL):
                if _is_denied(error, name):
                    # Every further attempt would cost the other topics the producer as well.
                    self._denied[name] = self._now() + FRESH_SECONDS
                self._give_up(clients, _said(error))
                break

    async def _check(self) -> None:
        """Ask the brokers something that costs little and needs no right.

        Raises:
            KafkaError: none of them answers.
        """
        clients = self._clients
        if clients is None:
            raise kafka_errors.KafkaConnectionError
        try:
            await self._run(clients.admin.describe_cluster)
        except kafka_errors.BrokerResponseError as error:
            if isinstance(error, RetriableError):  # the client says of a time-out that it is one
                raise
        if clients is not self._clients:
            raise kafka_errors.KafkaConnectionError

    def _give_up(self, clients: Clients, why: str) -> None:
        if self._clients is clients:
            log.warning("connecting to Kafka anew: %s", why)
            self._clients = None
            self._given_up.set()
            self._threads.submit(_close, clients, 0)

    async def _keep_connected(self) -> None:
        silent = False
        while True:
            if self._clients is None:
                try:
                    self._clients = await self._run(self._connect)
                except Exception as error:  # the library's are of many kinds
                    if not silent:
                        log.warning(
                            "Kafka at %s does not answer, requests are answered 503 until it does:"
                            " %s", self._servers, _said(error),
                        )  # fmt: skip
                    silent = True
                    await asyncio.sleep(_CONNECT_SECONDS)
                    continue
                silent = False
                self._expected = True
                self._warm.clear()
                self._failing_since = None
                self._pulse.heard()
                self._given_up.clear()
                log.info("connected to Kafka at %s", self._servers)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await self._given_up.wait()
            since = self._failing_since
            if since is not None and self._now() - since > _STUCK_SECONDS and self._clients:
                self._give_up(self._clients, f"nothing was acknowledged for {_STUCK_SECONDS:g} s")
            # No record can be under way any more, and the brokers may have other addresses now.
            elif self._clients and self._pulse.silence > self._ack_seconds + _LOST_SECONDS:
                self._give_up(self._clients, f"no broker answered for {self._pulse.silence:.0f} s")


def unfit(record: KafkaRecord, topic: Topic) -> Offset | None:
    """Why a topic cannot take a record; None if it can.

    Such a record must not reach the producer: the broker's refusal would stop it for all others.
    """
    size = len(record.value or b"") + len(record.key or b"") + _BATCH_OVERHEAD
    if size > topic.max_bytes:
        error = f"the record has {size:,} bytes, the topic takes {topic.max_bytes:,}"
    elif size > _REQUEST_BYTES:
        error = f"the record has {size:,} bytes, the gateway sends on {_REQUEST_BYTES:,}"
    elif topic.keyed and record.key is None:
        error = "the topic is compacted and takes no record without a key"
    else:
        return None
    return Offset(None, None, NOT_RETRIABLE, error)


def outcome(future: Any, topic: Topic) -> Offset:
    """What became of a record that was handed to the producer."""
    if not future.is_done:
        return Offset(None, None, RETRIABLE, "not acknowledged in time; it may have been written")
    error = future.exception
    if error is None:
        found = future.value
        # A batch that arrived twice is acknowledged without an offset.
        return Offset(found.partition, found.offset if found.offset >= 0 else None)
    code = NOT_RETRIABLE if _is_denied(error, topic.name) else RETRIABLE
    return Offset(None, None, code, _said(error))


def _is_denied(error: Exception | None, name: str) -> bool:
    """Whether an error says that this very topic may not be written."""
    return isinstance(error, kafka_errors.TopicAuthorizationFailedError) and error.args[:1] == (
        name,
    )


async def settled(futures: Sequence[Any], seconds: float) -> None:
    """Wait until all records are acknowledged or have failed, or the time is over.

    The last one is usually the last to be done: only it is watched, and then the last of those
    that are still open, if any.
    """
    loop = asyncio.get_running_loop()
    left = list(futures)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                while left and left[-1].is_done:
                    left.pop()
                if not left:
                    return
                done = loop.create_future()
                left[-1].add_both(_waker(loop, done))
                await done


def _waker(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]
) -> Callable[[object], object]:
    def settle() -> None:
        if not done.done():
            done.set_result(None)

    return lambda _: loop.call_soon_threadsafe(settle)


def _warm(producer: Any, topic: Topic, seconds: float) -> None:
    """Let the producer learn where a topic is, so that sending to it does not wait for that.

    What it has learnt it keeps for a minute: partitions that have come since it has to ask for.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if producer.partitions_for(topic.name).issuperset(topic.partitions):
                return
            producer.look_again()
            time.sleep(_LEARN_SECONDS)
        except KafkaTimeoutError:
            pass
        if time.monotonic() > deadline:
            raise KafkaTimeoutError(f"the brokers do not tell of all partitions of {topic.name}")


def _close(clients: Clients, seconds: float) -> None:
    for close in (lambda: clients.producer.close(timeout=seconds), clients.admin.close):
        try:
            close()
        except Exception as error:
            log.warning("closing a Kafka client: %s", _said(error))


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
