"""The reader of streams against a client that fails as Kinesis does."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError

from ingestion.errors import SourceError
from ingestion.lake import Origin
from ingestion.landing import Chunk
from ingestion.sources import kinesis
from ingestion.sources.kinesis import KinesisReader, Trouble, open_client, trouble
from tests.unit.test_kinesis_shards import KEPT, Model, anew


def refusal(code: str, operation: str = "GetRecords", status: int = 400) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)


class Client:
    """A boto3 client of some models; `fail` may raise instead of any answer."""

    def __init__(self, **streams: Model) -> None:
        self.streams = streams
        self.fail: Callable[[str, str], None] = lambda *_: None
        self.calls: list[str] = []
        self.kept_hours = 24
        self.meta = SimpleNamespace(endpoint_url="http://kinesis")

    def _model(self, operation: str, stream: str) -> Model:
        self.calls.append(f"{operation} {stream}")
        self.fail(operation, stream)
        if stream not in self.streams:
            raise refusal("ResourceNotFoundException", operation)
        return self.streams[stream]

    def describe_stream_summary(self, *, StreamName: str) -> Any:
        self._model("DescribeStreamSummary", StreamName)
        summary = {"RetentionPeriodHours": self.kept_hours, "StreamStatus": "ACTIVE"}
        return {"StreamDescriptionSummary": summary}

    def list_shards(self, **asked: str) -> Any:
        stream, _, start = (asked.get("StreamName") or asked["NextToken"]).partition("+")
        model = self._model("ListShards", stream)
        entries = [
            {
                "ShardId": shard.id,
                **dict(
                    zip(("ParentShardId", "AdjacentParentShardId"), shard.parents, strict=False)
                ),
                "SequenceNumberRange": {
                    "StartingSequenceNumber": str(shard.first),
                    **({"EndingSequenceNumber": str(2**185)} if shard.closed else {}),
                },
            }
            for shard in model.listed()
        ]
        begin = int(start or 0)
        answer = {"Shards": entries[begin : begin + 2]}
        if begin + 2 < len(entries):
            answer["NextToken"] = f"{stream}+{begin + 2}"
        date = datetime.fromtimestamp(model.now, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return answer | {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}

    def get_shard_iterator(self, *, StreamName: str, ShardId: str, **beginning: str) -> Any:
        model = self._model("GetShardIterator", StreamName)
        try:
            return {"ShardIterator": f"{StreamName}/{model.iterator(ShardId, beginning)}"}
        except ValueError:
            raise refusal("InvalidArgumentException", "GetShardIterator") from None

    def get_records(self, *, ShardIterator: str, Limit: int) -> Any:
        stream, _, iterator = ShardIterator.partition("/")
        model = self._model("GetRecords", stream)
        model.page = min(model.page, Limit)
        page = model.get(iterator)
        came = datetime.fromtimestamp(page.arrived, UTC)
        return {
            "Records": [
                {"SequenceNumber": str(n), "Data": raw, "ApproximateArrivalTimestamp": came}
                for n, raw in zip(page.numbers, page.raws, strict=True)
            ],
            "MillisBehindLatest": round(page.behind * 1000),
            **({"NextShardIterator": f"{stream}/{page.iterator}"} if page.iterator else {}),
        }


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("READ_SPACING", "IDLE_SPACING", "_ABSENT_SPACING"):
        monkeypatch.setattr(kinesis, name, 0.001)
    monkeypatch.setattr(kinesis, "_LIST_SPACING", 0.05)
    monkeypatch.setattr(kinesis, "retry_after", lambda *_: 0.001)


class Reading:
    """A reader, what it handed over and what it said."""

    def __init__(self, client: Client, landed: dict[str, int] | None = None, **more: Any) -> None:
        self.landed = landed or {}
        self.chunks: list[Chunk] = []
        self.notices: list[str] = []
        first = next(iter(client.streams.values()))  # time goes on where it is deleted
        self.reader = KinesisReader(
            client,
            list(client.streams),
            lambda origin: self.landed.get(origin.app_id, 0),
            notice=self.notices.append,
            clock=lambda: first.now,
            **more,
        )

    def until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not ready():
            assert time.monotonic() < deadline, "it takes too long"
            for chunk in self.reader.read(0.05):
                self.chunks.append(chunk)
                self.landed[chunk.origin.app_id] = chunk.end

    def finish(self) -> Reading:
        self.until(lambda: self.reader.finished)
        return self

    @property
    def numbers(self) -> list[int]:
        return [number for chunk in self.chunks for number in chunk.offsets]

    @property
    def raws(self) -> list[bytes]:
        return [raw for chunk in self.chunks for raw in chunk.raws]


@contextmanager
def reading(client: Client, landed: dict[str, int] | None = None, **more: Any) -> Iterator[Reading]:
    made = Reading(client, landed, **more)
    try:
        yield made
    finally:
        made.reader.close()


def filled(count: int = 7) -> tuple[Model, str, list[int]]:
    model = Model()
    id_ = model.open()
    return model, id_, model.put(id_, count)


def test_chunks_follow_each_other_from_where_the_table_stands() -> None:
    model, id_, numbers = filled(8)
    origin = Origin("kinesis", "s", id_)
    with reading(Client(s=model), {origin.app_id: numbers[2] + 1}) as run:
        run.finish()
    assert run.raws == [b"%d" % number for number in numbers[3:]]
    start = numbers[2] + 1
    for chunk in run.chunks:
        assert (chunk.origin, chunk.start) == (origin, start)
        assert chunk.follows
        start = chunk.end
    assert start == numbers[-1] + 1
    with reading(Client(s=model), {origin.app_id: start}) as run:
        assert run.finish().chunks == []
    with reading(Client(s=model)) as run:
        assert run.finish().chunks[0].start == 0


def test_all_shards_of_several_streams() -> None:
    models = {name: Model() for name in ("a", "b")}
    numbers = []
    for model in models.values():
        ids = [model.open() for _ in range(3)]
        for id_ in ids:
            numbers += model.put(id_, 4)
        for id_ in model.split(ids[0]):
            numbers += model.put(id_, 4)
    with reading(Client(**models)) as run:
        assert sorted(run.finish().numbers) == sorted(numbers)
    assert run.notices == []


@pytest.mark.parametrize(
    "error",
    [
        refusal("ProvisionedThroughputExceededException"),
        refusal("LimitExceededException", "ListShards"),
        refusal("InternalFailure", status=500),
        refusal("SlowDown", status=503),
        refusal("ExpiredIteratorException"),
        exceptions.ReadTimeoutError(endpoint_url="http://kinesis"),
        exceptions.ConnectionClosedError(endpoint_url="http://kinesis"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_what_passes_is_waited_for(error: Exception) -> None:
    model, _, numbers = filled(20)
    client = Client(s=model)

    draw = random.Random(1)

    def fail(*_: str) -> None:
        if len(client.calls) > 2 and draw.random() < 0.3:
            raise error

    client.fail = fail
    with reading(client) as run:
        assert run.finish().numbers == numbers


def test_an_expired_iterator_goes_on_where_reading_stood() -> None:
    model, _, numbers = filled(9)
    client = Client(s=model)
    expired = iter([False, False, True, False, True, True])

    def fail(operation: str, _: str) -> None:
        if operation == "GetRecords" and next(expired, False):
            raise refusal("ExpiredIteratorException")

    client.fail = fail
    with reading(client) as run:
        assert run.finish().numbers == numbers
    assert client.calls.count("GetShardIterator s") == 4


class Inline(Executor):
    """Makes every call at once: what is asked together is answered together."""

    def submit(self, call: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def test_what_one_stream_has_is_handed_over_before_another_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kinesis, "ThreadPoolExecutor", lambda *_, **__: Inline())
    model, _, numbers = filled(3)
    client = Client(a=model, b=model)

    def fail(operation: str, stream: str) -> None:
        if (operation, stream) == ("GetRecords", "b"):
            raise refusal("AccessDeniedException")

    client.fail = fail
    with reading(client) as run, pytest.raises(SourceError, match=r"^b, shardId-0"):
        run.finish()
    assert run.numbers == numbers


def test_no_more_pages_wait_than_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shards there are, and each of them comes to its turn."""
    monkeypatch.setattr(kinesis, "ThreadPoolExecutor", lambda *_, **__: Inline())
    model = Model()
    numbers = {id_: model.put(id_, 7) for id_ in [model.open() for _ in range(30)]}
    with reading(Client(s=model)) as run:
        found: dict[str, list[int]] = {id_: [] for id_ in numbers}
        while not run.reader.finished:
            chunks = run.reader.read(0.05)
            assert len(chunks) <= kinesis._CALLS_AT_ONCE
            for chunk in chunks:
                found[chunk.origin.partition] += chunk.offsets
                counts = [len(of) for of in found.values()]
                assert max(counts) - min(counts) <= 6  # two pages
    assert found == numbers


def test_what_lasts_ends_reading_once_with_what_was_read_handed_over() -> None:
    model, _, numbers = filled(9)
    client = Client(s=model)

    def fail(operation: str, _: str) -> None:
        if client.calls.count("GetRecords s") > 2:
            raise refusal("InternalFailure", operation, 500)

    client.fail = fail
    with (
        reading(client) as run,
        pytest.raises(
            SourceError, match=r"s, shardId-0+ cannot be read at http://kinesis: .*again"
        ),
    ):
        run.finish()
    assert run.numbers == numbers[:6]


@pytest.mark.parametrize(
    "error",
    [
        refusal("AccessDeniedException"),
        refusal("UnrecognizedClientException"),
        refusal("ExpiredTokenException"),
        exceptions.NoCredentialsError(),
        exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
    ],
    ids=lambda error: type(error).__name__ + str(error)[:40],
)
@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("operation", ["DescribeStreamSummary", "GetRecords"])
def test_no_access_is_said_at_once(error: Exception, follow: bool, operation: str) -> None:
    client = Client(s=filled()[0])

    def fail(called: str, _: str) -> None:
        if called == operation:
            raise error

    client.fail = fail
    said = r"s.* cannot be read at http://kinesis: .*; check the credentials \(AWS_\*\)"
    with reading(client, follow=follow) as run, pytest.raises(SourceError, match=said):
        run.finish() if not follow else run.until(lambda: False)
    assert run.chunks == []


UNREACHABLE = exceptions.EndpointConnectionError(endpoint_url="http://kinesis")


def test_an_unreachable_endpoint() -> None:
    client = Client(s=filled()[0])
    client.fail = lambda *_: _raise(UNREACHABLE)
    with reading(client) as run, pytest.raises(SourceError, match="http://kinesis: Could not conn"):
        run.finish()
    assert len(client.calls) == 1


def test_following_waits_for_an_endpoint_and_says_so_once() -> None:
    model, _, numbers = filled()
    client = Client(s=model)
    client.fail = lambda *_: _raise(UNREACHABLE)
    with reading(client, follow=True) as run:
        run.until(lambda: len(client.calls) > 20)
        assert [re.sub(r":.*;", ";", text, count=1) for text in run.notices] == [
            "the shards of s cannot be read at http; trying again"
        ]
        client.fail = lambda *_: None
        run.until(lambda: run.numbers == numbers)
        assert run.notices[1:] == ["http://kinesis answers again"]


def _raise(error: Exception) -> None:
    raise error


def test_a_defect_is_no_source_error() -> None:
    client = Client(s=filled()[0])
    client.fail = lambda *_: _raise(KeyError("a defect"))
    with reading(client) as run, pytest.raises(KeyError):
        run.finish()


def test_streams_that_are_not_there() -> None:
    model, _, numbers = filled()
    client = Client(gone=model, s=model)
    with reading(client) as run:
        del client.streams["gone"]
        assert run.finish().numbers == numbers
    assert run.notices == ["gone is not there"]
    assert run.reader.absent == ["gone"]
    with reading(client) as run:
        client.streams.clear()
        said = "none of the streams is there: s at http://kinesis; create them, or check"
        with pytest.raises(SourceError, match=said):
            run.finish()


def test_following_waits_for_a_stream_and_finds_new_shards() -> None:
    model, id_, numbers = filled()
    client = Client(s=model)
    with reading(client, follow=True) as run:
        del client.streams["s"]
        run.until(lambda: run.notices == ["s is not there; waiting for it"])
        client.streams["s"] = model
        run.until(lambda: run.numbers == numbers)
        assert run.notices[1:] == ["s is there now"]
        child, other = model.split(id_)
        numbers += model.put(child, 2)
        run.until(lambda: run.numbers == numbers)
        numbers += model.put(model.merge(child, other), 5)
        run.until(lambda: run.numbers == numbers)


def test_reading_once_does_not_chase_a_live_stream() -> None:
    model, id_, numbers = filled(4)
    client = Client(s=model)

    def fail(operation: str, _: str) -> None:
        if operation == "GetRecords":  # more comes with every read than a page holds
            model.now += 2
            model.put(id_, 5)

    client.fail = fail
    with reading(client) as run:
        run.finish()
    assert set(numbers) < set(run.numbers)
    assert client.calls.count("GetRecords s") == 2


def test_shards_that_come_while_reading_once_are_left_to_the_next_run() -> None:
    model, id_, numbers = filled(4)
    client = Client(s=model)
    later: list[int] = []

    def fail(operation: str, _: str) -> None:
        if operation == "GetRecords" and not later:
            later.extend(model.put(model.split(id_)[0], 2))
            raise refusal("ResourceNotFoundException")  # it has the shards listed again

    client.fail = fail
    with reading(client) as run:
        assert run.finish().numbers == numbers
        with reading(client, run.landed) as again:
            assert again.finish().numbers == later


def test_a_shard_that_expires_while_it_is_to_be_read_is_left_out() -> None:
    model, id_, _ = filled(4)
    numbers = model.put(model.split(id_)[0], 2)
    client = Client(s=model)

    def fail(operation: str, _: str) -> None:
        if operation == "GetShardIterator" and id_ in model.shards:
            del model.shards[id_]
            raise refusal("ResourceNotFoundException", operation)

    client.fail = fail
    with reading(client) as run:
        assert run.finish().numbers == numbers


def expired() -> tuple[Client, dict[str, int], int]:
    """A stream whose last landed record is no longer there, and one that is all right."""
    model, id_, numbers = filled(2)
    landed = {f"kinesis/s/{id_}": numbers[0] + 1}
    model.now += KEPT
    (oldest,) = model.put(id_)
    return Client(s=model), landed, oldest


def test_a_gap_ends_reading_unless_it_is_accepted() -> None:
    client, landed, oldest = expired()
    said = (
        rf"s, shardId-0+: its last record that landed has expired \(records are kept 24 hours\): "
        rf"others may have expired unread before {oldest}, .*; --accept-gap goes on there"
    )
    for follow in (False, True):
        with (
            reading(client, landed, follow=follow) as run,
            pytest.raises(SourceError, match=said),
        ):
            run.until(lambda: False)
        assert run.chunks == []
    with reading(client, landed, accept_gap=True) as run:
        before = landed["kinesis/s/shardId-000000000000"]
        run.finish()
    assert [(chunk.start, chunk.end) for chunk in run.chunks] == [(before, oldest + 1)]
    assert run.notices[0].endswith("the oldest there is; going on there")
    assert [gap.before for gap in run.reader.gaps["s"]] == [oldest]
    with reading(client, run.landed) as run:
        assert run.finish().chunks == []


def test_another_stream_ends_reading_unless_it_is_accepted() -> None:
    model, id_, numbers = filled(2)
    later = anew(model)
    later.open()
    fresh = later.put(id_, 4)
    landed = {f"kinesis/s/{id_}": numbers[-1] + 1}
    said = "s is another stream than the one that was read before: .*; --accept-gap lands the new"
    with reading(Client(s=later), landed) as run, pytest.raises(SourceError, match=said):
        run.finish()
    with reading(Client(s=later), landed, accept_gap=True) as run:
        assert run.finish().numbers == fresh
    assert (run.chunks[0].start, run.landed[f"kinesis/s/{id_}"]) == (numbers[-1] + 1, fresh[-1] + 1)
    with reading(Client(s=later), run.landed) as run:
        assert run.finish().chunks == []


def test_what_landed_from_a_younger_stream_cannot_be_gone_on_with() -> None:
    model, id_, numbers = filled(2)
    landed = {f"kinesis/s/{id_}": numbers[-1] + 2**60}
    said = "what has landed came from another stream of this name, .*: set LAKE_URI"
    for accept_gap in (False, True):
        with (
            reading(Client(s=model), landed, accept_gap=accept_gap) as run,
            pytest.raises(SourceError, match=said),
        ):
            run.finish()
        assert run.chunks == []


def test_a_stream_deleted_while_it_is_read() -> None:
    model, _, numbers = filled(9)
    client = Client(s=model)

    def fail(*_: str) -> None:
        if client.calls.count("GetRecords s") > 1:
            client.streams.clear()

    client.fail = fail
    with (
        reading(client) as run,
        pytest.raises(SourceError, match="s was deleted while it was read; what was read has lan"),
    ):
        run.finish()
    assert run.numbers == numbers[:3]


def test_what_errors_mean() -> None:
    assert trouble(refusal("InvalidArgumentException", "GetShardIterator")) is Trouble.UNKNOWN
    assert trouble(refusal("InvalidArgumentException", "GetRecords")) is Trouble.REFUSED
    assert trouble(refusal("KMSAccessDeniedException")) is Trouble.REFUSED
    assert trouble(refusal("Unheard", status=502)) is Trouble.BUSY
    assert trouble(exceptions.ConnectTimeoutError(endpoint_url="")) is Trouble.UNREACHABLE
    assert trouble(ValueError()) is None


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, "You must specify a region; set AWS_REGION or --region"),
        ({"endpoint_url": "nowhere", "region": "eu-west-1"}, "Invalid endpoint: nowhere"),
    ],
)
def test_a_client_that_cannot_be_made(
    where: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "none")
    with pytest.raises(SourceError, match=said):
        open_client(**where)
