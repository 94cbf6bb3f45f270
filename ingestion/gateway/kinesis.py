"""Records to Kinesis, in calls of a bounded number of threads."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ingestion.gateway.answers import Placed, Reason, Refused
from ingestion.gateway.bodies import KinesisRecord
from ingestion.gateway.health import CONNECTED, UNREACHABLE, UNUSED, Pulse

#: What one call of PutRecords takes.
_CALL_RECORDS = 500
_CALL_BYTES = 5 * 2**20

_THREADS = 16
_ATTEMPTS = 4
_BACKOFF_SECONDS = 0.1
_CHECK_TIMEOUT = 3.0
_RETRY_AFTER = 1.0
_UNSAID = "Kinesis did not say where the record is; it may have been written"

_THROTTLED = {
    "ProvisionedThroughputExceededException",
    "LimitExceededException",
    "KMSThrottlingException",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
}
_INVALID = {"ValidationException", "InvalidArgumentException", "SerializationException"}

log = logging.getLogger(__name__)
_T = TypeVar("_T")


def open_client() -> Any:
    """A boto3 client with the address, the region and the credentials that boto3 finds."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=2,
        read_timeout=5,
        max_pool_connections=_THREADS,
        # What is worth another attempt is decided here, record by record.
        retries={"mode": "standard", "total_max_attempts": 1},
    )
    # Of the two variables in use boto3 knows AWS_DEFAULT_REGION alone.
    region = os.environ.get("AWS_REGION")
    return boto3.session.Session().client("kinesis", region_name=region, config=config)


class KinesisSink:
    """Sends records to streams.

    Args:
        ack_seconds: that a request's records may take to be acknowledged.
        open_client: makes the boto3 client when the first record comes.
        sleep: waits for seconds.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        ack_seconds: float,
        open_client: Callable[[], Any] = open_client,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ack_seconds = ack_seconds
        self._open_client = open_client
        self._sleep = sleep
        self._client: Any = None
        self._opening = asyncio.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, "kinesis")
        self._pulse = Pulse(self._check, now)
        self._watcher: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """``connected`` or ``unreachable``; ``unused`` before the first record."""
        if self._client is None:
            return UNUSED
        return UNREACHABLE if self._pulse.gone else CONNECTED

    async def stop(self) -> None:
        """Wait for the calls that are under way."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)
        if self._client is not None:
            self._client.close()

    async def put(self, stream: str, record: KinesisRecord) -> Placed:
        """Send one record.

        Raises:
            Refused: it is not in the stream.
        """
        client, late = await self._ready(), self._deadline()
        return await self._in_time(lambda: put_one(client, stream, record, self._sleep, late))

    async def put_many(self, stream: str, records: Sequence[KinesisRecord]) -> list[Placed]:
        """Send several records.

        Returns:
            For each its place in the stream, or why it has none.

        Raises:
            Refused: none of them is in the stream.
        """
        client, late = await self._ready(), self._deadline()
        return await self._in_time(lambda: put_all(client, stream, records, self._sleep, late))

    async def _ready(self) -> Any:
        async with self._opening:
            if self._client is None:
                try:
                    self._client = await asyncio.to_thread(self._open_client)
                except Exception as error:  # boto3's are of many kinds
                    raise refusal(error) from error
                self._pulse.heard()
                self._watcher = asyncio.create_task(self._pulse.watch())
            return self._client

    async def _check(self) -> None:
        url = self._client.meta.endpoint_url
        await asyncio.get_running_loop().run_in_executor(self._threads, speaks_http, url)

    def _deadline(self) -> Callable[[], bool]:
        """What tells whether a request's time is over.

        Nobody waits for its thread then, and its share of what may be under way is given back.
        """
        end = time.monotonic() + self._ack_seconds
        return lambda: time.monotonic() >= end

    async def _in_time(self, work: Callable[[], _T]) -> _T:
        try:
            async with asyncio.timeout(self._ack_seconds):
                done = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            raise _too_late() from None
        self._pulse.heard()
        return done


def speaks_http(url: str) -> None:
    """See that a server answers at an address, whatever it says; no credentials are needed.

    Raises:
        OSError: it does not.
    """
    try:
        urlopen(Request(url, method="HEAD"), timeout=_CHECK_TIMEOUT).close()
    except HTTPError:
        pass
    except URLError as error:
        # Its certificate may be one that only the client knows.
        if not isinstance(error.reason, ssl.SSLError):
            raise


def put_one(
    client: Any,
    stream: str,
    record: KinesisRecord,
    sleep: Callable[[float], None],
    late: Callable[[], bool] = lambda: False,
) -> Placed:
    """Put one record, again if it is throttled.

    Args:
        client: of boto3.
        stream: its name.
        record: what to put.
        sleep: waits for seconds.
        late: whether no call is to be begun any more.

    Raises:
        Refused: it is not in the stream, or Kinesis did not say so.
    """
    for wait in _waits():
        if late():
            raise _too_late()
        try:
            found = client.put_record(
                StreamName=stream, Data=record.data, PartitionKey=record.partition_key
            )
        except Exception as error:  # the client's are of many kinds
            refused = refusal(error)
            if wait is None or refused.kind not in _THROTTLED:
                raise refused from error
            sleep(wait)
        else:
            placed = _placed(found)
            if placed.ErrorCode:
                raise Refused(Reason.UNAVAILABLE, _UNSAID, _RETRY_AFTER)
            return placed
    raise AssertionError("the last attempt returns or raises")


def put_all(
    client: Any,
    stream: str,
    records: Sequence[KinesisRecord],
    sleep: Callable[[float], None],
    late: Callable[[], bool] = lambda: False,
) -> list[Placed]:
    """Put records, again those that fail.

    Args:
        client: of boto3.
        stream: its name.
        records: what to put.
        sleep: waits for seconds.
        late: whether no call is to be begun any more.

    Returns:
        For each its place in the stream, or why it has none.

    Raises:
        Refused: none of them is in the stream.
    """
    found: list[Placed] = []
    for part in calls(records):
        placed: list[Placed] = [Placed()] * len(part)
        left = list(range(len(part)))
        for wait in _waits():
            try:
                if late():
                    raise _too_late()
                answers = _call(client, stream, [part[at] for at in left])
            except Refused as refused:
                if wait is None or refused.kind not in _THROTTLED:
                    if not _any_placed(found) and not _any_placed(placed):
                        raise
                    kind = refused.kind or refused.reason.value[1][1]
                    for at in left:
                        placed[at] = Placed(ErrorCode=kind, ErrorMessage=refused.message)
                    break
            else:
                for at, answer in zip(left, answers, strict=True):
                    placed[at] = answer
                left = [at for at in left if placed[at].ErrorCode]
            if not left or wait is None:
                break
            sleep(wait)
        found += placed
    if not _any_placed(found):
        first = found[0]
        raise Refused(
            Reason.UNAVAILABLE,
            f"Kinesis took none of the records: {first.ErrorMessage}",
            _RETRY_AFTER,
            first.ErrorCode or "",
        )
    return found


def _call(client: Any, stream: str, records: Sequence[KinesisRecord]) -> list[Placed]:
    """What one call of PutRecords says of each record.

    Raises:
        Refused: it says nothing.
    """
    entries = [{"Data": one.data, "PartitionKey": one.partition_key} for one in records]
    try:
        answers = client.put_records(StreamName=stream, Records=entries).get("Records")
    except Exception as error:  # the client's are of many kinds
        raise refusal(error) from error
    if not isinstance(answers, list) or len(answers) != len(records):
        raise Refused(Reason.UNAVAILABLE, _UNSAID, _RETRY_AFTER)
    return [_placed(answer) for answer in answers]


def calls(records: Sequence[KinesisRecord]) -> Iterator[list[KinesisRecord]]:
    """The records as they fit into calls of PutRecords."""
    part: list[KinesisRecord] = []
    size = 0
    for record in records:
        more = len(record.data) + len(record.partition_key.encode())
        if part and (len(part) == _CALL_RECORDS or size + more > _CALL_BYTES):
            yield part
            part, size = [], 0
        part.append(record)
        size += more
    if part:
        yield part


def refusal(error: Exception) -> Refused:
    """What an error of boto3 means to the client that posted."""
    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    message = str(response.get("Error", {}).get("Message", "")) or str(error)
    if code == "ResourceNotFoundException":
        return Refused(Reason.UNKNOWN, message)
    if code in _INVALID:
        return Refused(Reason.INVALID, message, kind=code)
    if code in _THROTTLED:
        return Refused(Reason.UNAVAILABLE, message, _RETRY_AFTER, code)
    log.warning("Kinesis does not take records: %s", message)
    return Refused(Reason.UNAVAILABLE, "Kinesis does not take records now", _RETRY_AFTER)


def _waits() -> Iterator[float | None]:
    """The seconds to wait after each attempt; None after the last."""
    for attempt in range(_ATTEMPTS - 1):
        yield _BACKOFF_SECONDS * 2**attempt
    yield None


def _placed(answer: Any) -> Placed:
    """What an answer says of a record; botocore makes an empty one of any 200."""
    said = answer if isinstance(answer, dict) else {}
    if not said.get("SequenceNumber") and not said.get("ErrorCode"):
        return Placed(ErrorCode="InternalFailure", ErrorMessage=_UNSAID)
    return Placed(**{name: said.get(name) for name in Placed.__struct_fields__})


def _too_late() -> Refused:
    return Refused(
        Reason.UNAVAILABLE,
        "Kinesis did not answer in time; the records may have been written",
        _RETRY_AFTER,
    )


def _any_placed(found: Sequence[Placed]) -> bool:
    return any(placed.SequenceNumber for placed in found)
