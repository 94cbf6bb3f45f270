"""Records of Kinesis streams, from all their shards, from where the lake's tables stand.

A record's offset is its sequence number, an integer of up to 186 bits; a shard is a partition. Of
every shard one call at a time is under way; shards are read side by side, a child after its
parents (see :mod:`ingestion.sources.shards`). A stream's records are committed in the order in
which they are handed over, in one batch after another, so a child's never land before its
parents'. It takes leave to call DescribeStreamSummary, ListShards, GetShardIterator and GetRecords.

A record is landed as it is: one JSON object. Records that the Kinesis Producer Library has
aggregated (F3 89 9A C2 and protobuf) are not taken apart; they are rejected as malformed, with
their bytes, and so is a record without data.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

from ingestion.errors import SourceError
from ingestion.lake import Origin
from ingestion.landing import Chunk
from ingestion.sources.shards import (
    IDLE_SPACING,
    READ_SPACING,
    Cursor,
    Gap,
    Page,
    Shard,
    Stream,
    caught_up,
    retry_after,
)

SOURCE = "kinesis"

_PAGE_RECORDS = 10_000  # the most that Kinesis gives
_CALLS_AT_ONCE = 4
#: Seconds between two looks for shards that have come since.
_LIST_SPACING = 30.0
#: The same while a stream is not there.
_ABSENT_SPACING = 2.0
_NEVER = float("inf")
#: So many calls in a row may fail before `--once` gives up: about a minute.
_PATIENCE = 12
_CONNECT_SECONDS = 5
_READ_SECONDS = 10


class Trouble(Enum):
    """What a failed call means for reading."""

    EXPIRED = auto()  # the iterator: ask for another
    ABSENT = auto()  # the stream or the shard is not there
    BUSY = auto()  # try again later
    UNREACHABLE = auto()  # the same, once it has been reached at all
    UNKNOWN = auto()  # the sequence number that reading is to begin at
    REFUSED = auto()  # trying again does not help


_ABSENT_CODES = {"ResourceNotFoundException", "ResourceInUseException"}
_BUSY_CODES = {
    "ProvisionedThroughputExceededException",
    "LimitExceededException",
    "KMSThrottlingException",
    "Throttling",
    "ThrottlingException",
    "RequestThrottled",
    "RequestLimitExceeded",
    "ExpiredNextTokenException",
    "InternalFailure",
    "InternalFailureException",
    "ServiceUnavailable",
}


def trouble(error: Exception) -> Trouble | None:
    """What an error of the client means; None for one that is not the client's."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "ExpiredIteratorException":
            return Trouble.EXPIRED
        if code in _ABSENT_CODES:
            return Trouble.ABSENT
        if code in _BUSY_CODES or status >= 500 or status == 429:
            return Trouble.BUSY
        if code == "InvalidArgumentException" and error.operation_name == "GetShardIterator":
            return Trouble.UNKNOWN
        return Trouble.REFUSED
    if isinstance(error, ResponseParserError):
        return Trouble.BUSY
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        return Trouble.UNREACHABLE
    if isinstance(error, exceptions.BotoCoreError):
        return Trouble.REFUSED
    return None


def open_client(endpoint_url: str | None = None, region: str | None = None) -> Any:
    """A boto3 client that makes every call once; what fails is the reader's to try again.

    Raises:
        SourceError: no region is set, or the address is none.
    """
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        max_pool_connections=_CALLS_AT_ONCE,
    )
    try:
        session = botocore.session.get_session()
        parsers = session.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=_time)
        return boto3.Session(botocore_session=session).client(
            "kinesis", endpoint_url=endpoint_url or None, region_name=region, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise SourceError(
            f"Kinesis cannot be used: {str(error).rstrip('.')}; set AWS_REGION or --region, and "
            "--endpoint-url where it is not Amazon's"
        ) from error


def _time(value: Any) -> datetime:
    """A time in an answer; botocore's own parser takes most of what a record costs."""
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, UTC)
    from botocore.utils import parse_timestamp

    parsed: datetime = parse_timestamp(value)
    return parsed


@dataclass(frozen=True)
class _Listing:
    """What a stream is now; no shards where it is not there, or not yet or no longer active."""

    shards: Sequence[Shard]
    kept: float
    served: float | None


@dataclass
class _Watch:
    """When to look at a stream's shards, and what the last look has shown."""

    stream: Stream
    due: float = 0.0
    failures: int = 0
    busy: bool = False
    listed: bool = False
    absent: bool = False
    #: when the first look was, by the stream's clock and by ours that never goes back
    started: float = 0.0
    began: float = 0.0


class KinesisReader:
    """Hands over the records of some streams.

    Args:
        client: a boto3 Kinesis client.
        streams: the names of the streams.
        landed: one more than the last sequence number that has landed of a shard, 0 for none.
        follow: whether to read on for ever, and to wait for what is not there; otherwise every
            shard is read up to what it held at the start.
        accept_gap: whether to go on where records may have been lost.
        notice: told what a person should know; each thing once.
        now: seconds of a clock that never goes back.
        clock: seconds since 1970.
        draw: a random number from 0 to 1.
    """

    def __init__(
        self,
        client: Any,
        streams: Sequence[str],
        landed: Callable[[Origin], int],
        *,
        follow: bool = False,
        accept_gap: bool = False,
        notice: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._follow = follow
        self._accept_gap = accept_gap
        self._notice = notice
        self._now = now
        self._clock = clock
        self._draw = draw
        self._watches = {name: _Watch(Stream(name, _of(name, landed))) for name in streams}
        self._pool = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="kinesis")
        self._calls: dict[Future[Any], tuple[_Watch, Cursor | None]] = {}
        self._reached = False
        self._out = False
        self._fault: SourceError | None = None
        self._losing: set[Shard] = set()
        #: What may have been lost, by stream.
        self.gaps: dict[str, list[Gap]] = {name: [] for name in streams}

    # --- what landing asks for -----------------------------------------------------------------

    def read(self, timeout: float) -> list[Chunk]:
        """The next records of any shard; none where nothing came.

        Args:
            timeout: seconds to wait for the first of them.

        Raises:
            SourceError: the streams cannot be read, or records may have been lost.
        """
        deadline = self._now() + timeout
        while True:
            if self._fault is not None:
                raise self._fault
            self._call()
            chunks = self._answers(min(deadline, self._next_due()))
            if chunks or self.finished or self._now() >= deadline:
                return chunks

    @property
    def finished(self) -> bool:
        """Whether everything that was there when reading began has been handed over."""
        return (
            not self._follow
            and self._fault is None
            and all(
                watch.absent or (watch.listed and watch.stream.over)
                for watch in self._watches.values()
            )
        )

    def landed(self, ends: Mapping[Origin, int]) -> None:
        """Kinesis keeps no account of its readers: nothing to tell it."""

    @property
    def behind(self) -> Mapping[str, float]:
        """For each stream, the seconds by which reading is behind its newest record."""
        return {name: watch.stream.behind for name, watch in self._watches.items()}

    @property
    def absent(self) -> list[str]:
        """The streams that are not there."""
        return [name for name, watch in self._watches.items() if watch.absent]

    def close(self) -> None:
        """Leave calls under way to themselves; each ends within seconds."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- calls: in other threads, told all they need -----------------------------------------

    def _call(self) -> None:
        now = self._now()
        for watch in self._watches.values():
            if watch.due <= now and not watch.busy:
                watch.busy = True
                if not watch.listed:
                    watch.began = now
                self._calls[self._pool.submit(self._list, watch.stream.name)] = (watch, None)
        due = [(watch, cursor) for watch, cursor in self._waiting() if cursor.due <= now]
        due.sort(key=lambda pair: pair[1].due)
        for watch, cursor in due[: self._room]:
            stream = watch.stream
            cursor.busy = True
            call: Future[Any]
            if cursor.iterator is None:
                beginning = stream.beginning(cursor, self._clock())
                call = self._pool.submit(self._iterator, stream.name, cursor.shard.id, beginning)
            else:
                call = self._pool.submit(self._page, cursor.iterator)
            self._calls[call] = (watch, cursor)

    def _waiting(self) -> list[tuple[_Watch, Cursor]]:
        """The shards that are to be read, now or later."""
        return [
            (watch, cursor)
            for watch in self._watches.values()
            if not watch.absent
            for cursor in watch.stream.readable()
            if not cursor.busy
        ]

    @property
    def _room(self) -> int:
        """How many shards may be asked besides; a page has 10 MB, and a stream many shards."""
        asked = sum(cursor is not None for _, cursor in self._calls.values())
        return max(0, _CALLS_AT_ONCE - asked)

    def _list(self, name: str) -> _Listing:
        summary = self._client.describe_stream_summary(StreamName=name)
        described = summary["StreamDescriptionSummary"]
        kept = described["RetentionPeriodHours"] * 3600.0
        if described["StreamStatus"] not in ("ACTIVE", "UPDATING"):
            return _Listing([], kept, None)
        answer = self._client.list_shards(StreamName=name)
        served = _served(answer)
        shards = list(answer["Shards"])
        while token := answer.get("NextToken"):
            answer = self._client.list_shards(NextToken=token)
            shards += answer["Shards"]
        return _Listing([Shard.listed(entry) for entry in shards], kept, served)

    def _iterator(self, stream: str, shard: str, beginning: Mapping[str, str]) -> str:
        answer = self._client.get_shard_iterator(StreamName=stream, ShardId=shard, **beginning)
        return str(answer["ShardIterator"])

    def _page(self, iterator: str) -> Page:
        answer = self._client.get_records(ShardIterator=iterator, Limit=_PAGE_RECORDS)
        return Page.answered(answer)

    # --- answers: in the thread that reads -----------------------------------------------------

    def _next_due(self) -> float:
        """When the next call is due of those that are not under way and may be made."""
        dues = [watch.due for watch in self._watches.values() if not watch.busy]
        if self._room:
            dues += [cursor.due for _, cursor in self._waiting()]
        return min(dues, default=_NEVER)

    def _answers(self, until: float) -> list[Chunk]:
        seconds = max(0.0, until - self._now())
        if not self._calls:
            time.sleep(seconds)
            return []
        done, _ = wait(self._calls, seconds, FIRST_COMPLETED)
        chunks = []
        for call in done:
            watch, cursor = self._calls.pop(call)
            try:
                if cursor is None:
                    watch.busy = False
                    self._take_listing(watch, call)
                else:
                    cursor.busy = False
                    if watch.stream.cursors.get(cursor.shard.id) is cursor:
                        chunks += self._take_page(watch, cursor, call)
            except SourceError as error:
                # What was read besides is handed over first.
                self._fault = self._fault or error
        if self._fault is not None and not chunks:
            raise self._fault
        return chunks

    def _take_listing(self, watch: _Watch, call: Future[_Listing]) -> None:
        name = watch.stream.name
        try:
            listing = call.result()
        except Exception as error:
            kind = self._failed(error, f"the shards of {name}", watch.failures + 1)
            if kind is Trouble.ABSENT:
                self._take_absence(watch, "is not there")
                return
            watch.failures += 1
            watch.due = self._now() + retry_after(watch.failures, self._draw())
            return
        self._answered()
        watch.failures = 0
        if not listing.shards:
            self._take_absence(watch, "is not active yet, or no longer")
            return
        if watch.absent:
            self._notice(f"{name} is there now")
        if not watch.listed:
            # The header has whole seconds, cut off.
            watch.started = self._clock() if listing.served is None else listing.served + 1
        shards = listing.shards
        if watch.listed and not self._follow:  # a shard has gone; those that came are not due
            shards = [shard for shard in shards if shard.id in watch.stream.cursors]
        watch.listed, watch.absent = True, False
        watch.due = self._now() + _LIST_SPACING if self._follow else _NEVER
        watch.stream.kept = listing.kept
        if watch.stream.update(shards):
            what = (
                f"{name} is another stream than the one that was read before: it was deleted and "
                "created anew, or it is that of another account, region or endpoint. What the "
                "former held and had not landed is gone"
            )
            if not self._accept_gap:
                raise SourceError(f"{what}; --accept-gap lands the new one from its beginning")
            self._notice(f"{what}; landing the new one from its beginning")

    def _take_absence(self, watch: _Watch, what: str) -> None:
        name = watch.stream.name
        if watch.listed and not self._follow:
            raise SourceError(f"{name} was deleted while it was read; what was read has landed")
        if not watch.absent:
            self._notice(f"{name} {what}" + ("; waiting for it" if self._follow else ""))
        watch.absent = True
        watch.due = self._now() + _ABSENT_SPACING if self._follow else _NEVER
        if not self._follow and len(self.absent) == len(self._watches):
            raise SourceError(
                f"none of the streams is there: {', '.join(self._watches)} at "
                f"{self._endpoint}; create them, or check --pipeline-id, --region and "
                "--endpoint-url"
            )

    def _take_page(self, watch: _Watch, cursor: Cursor, call: Future[Page | str]) -> list[Chunk]:
        stream, shard = watch.stream, cursor.shard.id
        now = self._now()
        try:
            page = call.result()
        except Exception as error:
            self._take_failure(watch, cursor, error)
            return []
        self._answered()
        if isinstance(page, str):
            cursor.iterator = page
            return []
        before = cursor.position
        if cursor.foreign(page):
            raise SourceError(
                f"{stream.name}, {shard}: what has landed came from another stream of this name, "
                "whose sequence numbers do not come before this one's; land it into another lake: "
                "set LAKE_URI"
            )
        if cursor.losing(page, stream.kept) and cursor.shard not in self._losing:
            self._losing.add(cursor.shard)
            self._notice(
                f"{stream.name}, {shard}: reading is {page.behind / 3600:.1f} hours behind, and "
                f"records are kept {stream.kept / 3600:g}: some may expire before they are read"
            )
        new, gap = cursor.take(page, self._clock(), stream.kept)
        if gap is not None:
            self._take_gap(stream, gap)
        if cursor.over:
            stream.end(cursor)
            if self._follow:
                watch.due = now  # its children
        elif (
            not self._follow
            and not cursor.shard.closed
            and caught_up(page, watch.started, now - watch.began)
        ):
            cursor.over = True
        cursor.due = now + (READ_SPACING if page.numbers or page.behind else IDLE_SPACING)
        if new == len(page.numbers):
            return []
        origin = Origin(SOURCE, stream.name, shard)
        numbers, raws = page.numbers[new:], page.raws[new:]
        return [Chunk(origin, before, numbers[-1] + 1, numbers, raws)]

    def _take_gap(self, stream: Stream, gap: Gap) -> None:
        self.gaps[stream.name].append(gap)
        what = (
            f"{stream.name}, {gap.shard}: {gap.why} (records are kept {stream.kept / 3600:g} "
            f"hours): others may have expired unread before {gap.before}, the oldest there is"
        )
        if not self._accept_gap:
            raise SourceError(f"{what}; --accept-gap goes on there")
        self._notice(f"{what}; going on there")

    # --- failures ------------------------------------------------------------------------------

    def _take_failure(self, watch: _Watch, cursor: Cursor, error: Exception) -> None:
        name, shard = watch.stream.name, cursor.shard.id
        kind = self._failed(error, f"{name}, {shard}", cursor.failures + 1)
        now = self._now()
        if kind is Trouble.UNKNOWN:
            cursor.refuse(_message(error))
        if kind is Trouble.ABSENT:
            watch.due = now  # the stream or the shard: the list of shards says which
        if kind in (Trouble.ABSENT, Trouble.EXPIRED):
            cursor.iterator = None
        cursor.failures += 1
        cursor.due = now + retry_after(cursor.failures, self._draw())

    def _failed(self, error: Exception, what: str, failures: int) -> Trouble:
        """What a failed call means, where trying again may help.

        Args:
            error: what the client raised.
            what: the thing that was to be read.
            failures: how many calls for it have failed in a row.
        """
        kind = trouble(error)
        if kind is None:
            raise error
        if kind is Trouble.REFUSED:
            raise SourceError(
                f"{what} cannot be read at {self._endpoint}: {error}; check the credentials "
                "(AWS_*), their permissions, --region and --endpoint-url"
            ) from error
        lasting = kind is Trouble.UNREACHABLE and not self._reached
        if not self._follow and (lasting or failures >= _PATIENCE):
            raise SourceError(
                f"{what} cannot be read at {self._endpoint}: {error}; nothing is lost, run again"
            ) from error
        if (kind is Trouble.UNREACHABLE or failures > _PATIENCE // 2) and not self._out:
            self._out = True
            self._notice(f"{what} cannot be read at {self._endpoint}: {error}; trying again")
        return kind

    def _answered(self) -> None:
        self._reached = True
        if self._out:
            self._out = False
            self._notice(f"{self._endpoint} answers again")

    @property
    def _endpoint(self) -> str:
        return str(self._client.meta.endpoint_url)


def _of(stream: str, landed: Callable[[Origin], int]) -> Callable[[str], int]:
    return lambda shard: landed(Origin(SOURCE, stream, shard))


def _message(error: Exception) -> str:
    """What Kinesis itself says in an error."""
    response: Mapping[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Message") or error)


def _served(answer: Mapping[str, Any]) -> float | None:
    """The server's time in an answer, in seconds since 1970."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None
