"""The posting emulator: posts drawn as the published one draws them, sent to the gateway.

It sends at least once. A request whose answer was lost is sent again, and what it carried may
then be there twice, byte for byte; of a post the latest landed counts, so nothing changes by it.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Protocol

import numpy as np
import requests
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_before_delay,
    stop_when_event_set,
    wait_random_exponential,
)
from tenacity.nap import sleep_using_event

from ingestion.emulation import defects
from ingestion.emulation.posts import Plan, records
from ingestion.errors import PipelineError
from ingestion.records import KINDS

#: What the published emulator is seeded with, and the highest row number it draws.
SEED = 100
ROWS = 11_000

#: Rows looked up at once; the draws are known ahead.
_LOOKED_UP = 500
#: Seconds to connect, and to wait for an answer.
_TIMEOUT = (5.0, 30.0)
#: Seconds without a word about the progress.
_SHOWN_SECONDS = 0.5
_PAUSES = wait_random_exponential(multiplier=0.2, max=10)

#: The records of one post by kind; a table without that row has none.
Post = dict[str, dict[str, Any]]
#: A record, and what keeps it from being taken, where that may pass.
_Left = tuple[dict[str, Any], str]


class PostingError(PipelineError):
    """The gateway does not take records, and sending them again would not help."""


def draws(seed: int = SEED, rows: int = ROWS) -> Iterator[int]:
    """Row numbers from 0 to ``rows``, both included, in the order of the published emulator.

    Before each post it draws, from the same generator, whether to sleep for a second. How long
    this one pauses is another question, but the draw has to be made for the numbers to agree.
    """
    generator = random.Random(seed)
    while True:
        generator.randrange(0, 2)
        yield generator.randint(0, rows)


class Source(Protocol):
    """Where posts come from."""

    def posts(self, numbers: Sequence[int]) -> list[Post]:
        """The post of each row number."""


class SyntheticPosts:
    """Posts of a plan; a row's number is its key, as in a database filled with the plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def posts(self, numbers: Sequence[int]) -> list[Post]:
        """For each number the three records, by kind."""
        keys = np.array(numbers, np.int64)
        lines = {kind: records(self._plan, kind, keys) for kind in defects.KINDS}
        return [
            {kind: json.loads(lines[kind][place]) for kind in lines} for place in range(len(keys))
        ]


class Pacer:
    """Lets posts pass at a rate; what was missed of it is caught up for a second at the most.

    Args:
        rate: posts a second; 0 for as fast as they come.
        now: seconds of a clock that never goes back.
        pause: waits some seconds.
    """

    def __init__(
        self, rate: float, now: Callable[[], float], pause: Callable[[float], object]
    ) -> None:
        self._rate = rate
        self._now = now
        self._pause = pause
        self._due = now()

    def take(self, posts: int) -> None:
        """Wait until so many posts may go."""
        if not self._rate:
            return
        now = self._now()
        self._due = max(self._due, now - 1.0)
        if self._due > now:
            self._pause(self._due - now)
        self._due += posts / self._rate


# Requests


@dataclass(frozen=True)
class Request:
    """What is sent to the gateway."""

    method: str
    path: str
    media_type: str
    body: bytes


class Target(Protocol):
    """One of the gateway's two resources."""

    @property
    def name(self) -> str:
        """What people call it."""

    def request(self, kind: str, records: Sequence[Mapping[str, Any]]) -> Request:
        """The request that carries records of a kind."""

    def refusals(self, answer: Any) -> list[tuple[int, str, bool]]:
        """Of a request that was taken, the records that were not.

        Returns:
            The place of each, why, and whether that may pass.
        """


@dataclass(frozen=True)
class KafkaTarget:
    """The topics, as the REST proxy has them."""

    pipeline_id: str
    name: str = "kafka"

    def request(self, kind: str, records: Sequence[Mapping[str, Any]]) -> Request:
        """A produce request; a post's key is its records' key."""
        body = {"records": [{"key": _key(record), "value": record} for record in records]}
        path = f"/topics/{self.pipeline_id}.{kind}"
        return Request("POST", path, "application/vnd.kafka.json.v2+json", _body(body))

    def refusals(self, answer: Any) -> list[tuple[int, str, bool]]:
        """Records whose entry among the offsets has an error code; 2 means that it may pass."""
        return [
            (place, f"{entry.get('error')} (error {code})", code == 2)
            for place, entry in enumerate(answer["offsets"])
            if (code := entry.get("error_code")) is not None
        ]


@dataclass(frozen=True)
class KinesisTarget:
    """The streams, as the API Gateway's proxy has them."""

    pipeline_id: str
    name: str = "kinesis"

    def request(self, kind: str, records: Sequence[Mapping[str, Any]]) -> Request:
        """PutRecord for one record, PutRecords for several."""
        stream = f"streaming-{self.pipeline_id}-{kind}"
        entries = [{"Data": record, "PartitionKey": str(_key(record))} for record in records]
        if len(entries) == 1:
            body = _body({"StreamName": stream, **entries[0]})
            return Request("PUT", f"/streams/{stream}/record", "application/json", body)
        body = _body({"StreamName": stream, "Records": entries})
        return Request("PUT", f"/streams/{stream}/records", "application/json", body)

    def refusals(self, answer: Any) -> list[tuple[int, str, bool]]:
        """Records whose entry has an error code: the shard's limit, or a failure within."""
        entries = answer.get("Records", [answer])
        return [
            (place, f"{entry['ErrorCode']}: {entry.get('ErrorMessage')}", True)
            for place, entry in enumerate(entries)
            if "SequenceNumber" not in entry
        ]


def _key(record: Mapping[str, Any]) -> Any:
    return record["index"] if "index" in record else record["ind"]


def _body(value: Any) -> bytes:
    return json.dumps(value, default=str).encode()


# Sending


@dataclass
class Tally:
    """What came of it so far.

    Attributes:
        posts: posts sent, all their records to all targets.
        missing: records that no table had at the number drawn.
        records: records the gateway took, by target.
        retries: requests sent again.
        unconfirmed: records given up when it was stopped; they may have been taken.
    """

    posts: int = 0
    missing: int = 0
    records: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    unconfirmed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(
        self,
        posts: int = 0,
        missing: int = 0,
        taken: Mapping[str, int] | None = None,
        retries: int = 0,
        unconfirmed: int = 0,
    ) -> None:
        """Count, from any thread."""
        with self._lock:
            self.posts += posts
            self.missing += missing
            self.records.update(taken or {})
            self.retries += retries
            self.unconfirmed += unconfirmed


class _TryAgainError(Exception):
    """The gateway may take it later."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class Gateway:
    """Sends requests, again where that may help: waiting longer each time, by chance.

    Args:
        url: the address that `/topics` and `/streams` follow.
        tally: counts what was taken and what was sent again.
        stopping: ends waiting.
        api_key: sent as `x-api-key`.
        patience: seconds after which a request that fails is an error.

    Raises:
        PostingError: the key cannot be sent.
    """

    def __init__(
        self,
        url: str,
        tally: Tally,
        stopping: threading.Event,
        api_key: str | None = None,
        patience: float = 60.0,
    ) -> None:
        key = (api_key or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise PostingError("the API key has characters that no header carries; see --api-key")
        self._url = url.rstrip("/")
        self._shown = _without_user(self._url)
        self._tally = tally
        self._stopping = stopping
        self._headers = {"x-api-key": key} if key else {}
        self._patience = patience
        self._of_thread = threading.local()

    def send(self, target: Target, kind: str, records: Sequence[dict[str, Any]]) -> bool:
        """Send records of a kind until all are taken.

        Returns:
            False where it was stopped before.

        Raises:
            PostingError: the gateway refuses them, or was away for too long.
        """
        left = list(records)
        try:
            for attempt in self._attempts():
                with attempt:
                    if attempt.retry_state.attempt_number > 1:
                        self._tally.add(retries=1)
                    again = self._try(target, kind, left)
                    self._tally.add(taken={target.name: len(left) - len(again)})
                    left = [record for record, _ in again]
                    if again:
                        raise _TryAgainError(f"{len(again)} records refused: {again[0][1]}")
        except _TryAgainError as error:
            if self._stopping.is_set():
                self._tally.add(unconfirmed=len(left))
                return False
            raise PostingError(
                f"{self._shown} takes no records: {error}; tried again for up to "
                f"{self._patience:.0f} s; start what is away, or set GATEWAY_URL"
            ) from error
        return True

    def _attempts(self) -> Retrying:
        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.after if isinstance(error, _TryAgainError) else 0.0
            return max(asked, _PAUSES(state))

        return Retrying(
            retry=retry_if_exception_type(_TryAgainError),
            wait=pause,
            stop=stop_before_delay(self._patience) | stop_when_event_set(self._stopping),
            sleep=sleep_using_event(self._stopping),
            reraise=True,
        )

    def _try(self, target: Target, kind: str, records: Sequence[dict[str, Any]]) -> list[_Left]:
        """Send records once; those to be sent again, each with the reason."""
        request = target.request(kind, records)
        where = f"{self._shown}{request.path}"
        try:
            response = self._session().request(
                request.method,
                f"{self._url}{request.path}",
                data=request.body,
                headers={"Content-Type": request.media_type},
                timeout=_TIMEOUT,
                allow_redirects=False,
            )
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise _TryAgainError(_reason(error)) from error
        except (requests.RequestException, ValueError) as error:
            said = _without_user(str(error).replace(self._url, self._shown))
            raise PostingError(f"{where}: {said}; set GATEWAY_URL") from error
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _TryAgainError(
                f"{request.path} answered {response.status_code}: {_message(response)}",
                retry_after(response.headers.get("Retry-After"), datetime.now(UTC)),
            )
        if not response.ok or response.is_redirect:
            hint = "; give a key with --api-key" if response.status_code in (401, 403) else ""
            raise PostingError(
                f"{where} answered {response.status_code}: {_message(response)}{hint}"
            )
        try:
            refusals = target.refusals(response.json())
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            raise PostingError(
                f"{where} answered {response.status_code} with something that is no gateway's "
                f"answer: {_message(response)}; set GATEWAY_URL"
            ) from error
        for place, why, passing in refusals:
            if not passing:
                raise PostingError(f"{where} refused the record {_key(records[place])}: {why}")
        return [(records[place], why) for place, why, _ in refusals]

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._of_thread, "session", None)
        if session is None:
            session = self._of_thread.session = requests.Session()
            session.headers.update(self._headers)
        return session


def _without_user(text: str) -> str:
    """A text with an address that may hold a user and a password, without these."""
    return re.sub(r"""(^|[\s'"])([a-zA-Z][\w+.-]*://)?\S*@""", r"\1\2", text)


def retry_after(header: str | None, now: datetime) -> float:
    """The seconds that a `Retry-After` header asks for, which names seconds or a time."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())


def _message(response: requests.Response) -> str:
    """What the gateway says, in one line."""
    try:
        said = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        said = response.text
    return " ".join(str(said).split())[:300] or response.reason


def _reason(error: BaseException) -> str:
    """What is at the bottom of a failed request."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__


def emulate(
    source: Source,
    numbers: Iterable[int],
    gateway: Gateway,
    targets: Sequence[Target],
    tally: Tally,
    stopping: threading.Event,
    *,
    batch: int = 1,
    connections: int = 1,
    rate: float = 0.0,
    progress: Callable[[], None] = lambda: None,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Post what is drawn until the numbers end or it is stopped.

    Args:
        source: where the posts come from.
        numbers: the row numbers to post, in order.
        gateway: where to.
        targets: the resources each record is posted to.
        tally: counts.
        stopping: set from outside to stop; requests under way are finished, waiting ends.
        batch: posts whose records of one kind share a request.
        connections: requests under way at once; with more than one, posts overtake each other.
        rate: posts a second; 0 for as fast as the gateway takes them.
        progress: called now and then.
        now: seconds of a clock that never goes back.

    Raises:
        PostingError: the gateway does not take the records.
        SourceError: the posts cannot be read.
    """

    def pause(seconds: float) -> None:
        end = now() + seconds
        while (left := end - now()) > 0 and not stopping.wait(min(left, _SHOWN_SECONDS)):
            progress()

    pacer = Pacer(rate, now, pause)
    parcels = _parcels(source, iter(numbers), batch)
    under_way: set[Future[None]] = set()

    def deliver(parcel: Sequence[Post]) -> None:
        if stopping.is_set():
            return
        try:
            _deliver(parcel, gateway, targets, tally)
        except BaseException:
            stopping.set()  # those that wait do not begin
            raise

    with ThreadPoolExecutor(connections, thread_name_prefix="post") as pool:
        try:
            while not stopping.is_set():
                parcel = next(parcels, None)
                if parcel is None:
                    break
                pacer.take(len(parcel))
                # One more for each connection waits, so that none of them does.
                while len(under_way) >= 2 * connections:
                    under_way = _settled(under_way)
                    progress()
                under_way.add(pool.submit(deliver, parcel))
                progress()
            while under_way:
                under_way = _settled(under_way)
                progress()
        except BaseException:
            stopping.set()
            raise


def _parcels(source: Source, numbers: Iterator[int], batch: int) -> Iterator[list[Post]]:
    """Posts in their order, so many at a time."""
    at_once = max(1, _LOOKED_UP // batch) * batch
    while some := list(islice(numbers, at_once)):
        posts = source.posts(some)
        for start in range(0, len(posts), batch):
            yield posts[start : start + batch]


def _deliver(
    parcel: Sequence[Post], gateway: Gateway, targets: Sequence[Target], tally: Tally
) -> None:
    kinds = list(dict.fromkeys(kind for post in parcel for kind in post))
    sent = True
    for kind in kinds:
        records = [post[kind] for post in parcel if kind in post]
        for target in targets:
            sent = sent and gateway.send(target, kind, records)
    if sent:
        tally.add(posts=len(parcel), missing=sum(len(KINDS) - len(post) for post in parcel))


def _settled(under_way: set[Future[None]]) -> set[Future[None]]:
    """Wait for one, but not for long; those that are not done."""
    done, going = wait(under_way, _SHOWN_SECONDS, FIRST_COMPLETED)
    for future in done:
        future.result()
    return going
