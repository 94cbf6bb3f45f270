"""`ingest kinesis` against a server with the shards and the sequence numbers of Kinesis."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingestion import cli
from ingestion.errors import SourceError
from ingestion.lake import REJECTED, Lake, Origin, padded
from ingestion.landing import Account
from ingestion.records import KINDS
from ingestion.sources import kinesis
from ingestion.sources.kinesis import KinesisReader
from ingestion.streams import land_stream
from tests import oracle
from tests.services.conftest import client, eventually
from tests.unit.test_kinesis_reader import refusal
from tests.unit.test_lake import rows

DATA = Path(__file__).parents[3] / "shared" / "data" / "polygonwindow_kinesis_850"

#: A record as it was put: its shard, its sequence number and its bytes.
Put = tuple[str, int, bytes]


class Streams:
    """The streams of a pipeline of its own, and a lake."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.pipeline = uuid4().hex[:12]
        self.lake = str(folder / "lake")
        self.client = client("kinesis", {"AWS_ENDPOINT_URL": url})
        self.kinds = {self.name(kind): KINDS[kind] for kind in KINDS}
        self.put: dict[str, list[Put]] = {kind: [] for kind in KINDS}

    def name(self, kind: str) -> str:
        return f"streaming-{self.pipeline}-{kind}"

    def create(self, *kinds: str, shards: int = 1) -> None:
        for kind in kinds or KINDS:
            self.client.create_stream(StreamName=self.name(kind), ShardCount=shards)
        for kind in kinds or KINDS:
            self.active(kind)

    def active(self, kind: str) -> list[dict[str, Any]]:
        """The stream's shards, once it is ready."""
        eventually(lambda: self._check(kind))
        return list(self.client.list_shards(StreamName=self.name(kind))["Shards"])

    def _check(self, kind: str) -> None:
        described = self.client.describe_stream_summary(StreamName=self.name(kind))
        assert described["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"

    def open(self, kind: str) -> list[dict[str, Any]]:
        return [
            shard
            for shard in self.active(kind)
            if "EndingSequenceNumber" not in shard["SequenceNumberRange"]
        ]

    def split(self, kind: str) -> None:
        shard = self.open(kind)[0]
        low, high = (int(shard["HashKeyRange"][f"{end}HashKey"]) for end in ("Starting", "Ending"))
        self.client.split_shard(
            StreamName=self.name(kind),
            ShardToSplit=shard["ShardId"],
            NewStartingHashKey=str((low + high) // 2),
        )
        self.active(kind)

    def merge(self, kind: str) -> None:
        one, other = sorted(
            self.open(kind), key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"])
        )[:2]
        self.client.merge_shards(
            StreamName=self.name(kind),
            ShardToMerge=one["ShardId"],
            AdjacentShardToMerge=other["ShardId"],
        )
        self.active(kind)

    def send(self, kind: str, raws: Iterable[bytes]) -> None:
        """Put records, spread over the shards."""
        waiting = list(raws)
        for first in range(0, len(waiting), 500):
            part = waiting[first : first + 500]
            answer = self.client.put_records(
                StreamName=self.name(kind),
                Records=[{"Data": raw, "PartitionKey": uuid4().hex} for raw in part],
            )
            assert answer["FailedRecordCount"] == 0
            self.put[kind] += [
                (record["ShardId"], int(record["SequenceNumber"]), raw)
                for raw, record in zip(part, answer["Records"], strict=True)
            ]

    def send_numbers(self, start: int, end: int, kinds: Iterable[str] = KINDS) -> None:
        for kind in kinds:
            self.send(kind, [line(kind, number) for number in range(start, end)])

    # --- landing --------------------------------------------------------------------------

    def land(
        self, client: Any = None, after: Callable[[], object] = lambda: None, **more: Any
    ) -> dict[str, Account]:
        """Land in this process, as the command does; `after` is called after every read."""
        lake = Lake(self.lake)
        lake.create()
        stop = more.pop("stop", None)
        reader = KinesisReader(
            client or self.client,
            list(self.kinds),
            lambda origin: lake.offsets(self.kinds[origin.stream].name, origin).end,
            follow=stop is not None,
            **more,
        )
        with closing(reader):
            accounts = land_stream(
                lake,
                reader,
                self.kinds,
                max_latency=None if stop is None else 0.05,
                stopping=stop or (lambda: False),
                progress=lambda _: after() and None,
            )
        return {account.kind: account for account in accounts}

    def command(self, *more: str) -> list[str]:
        return ["kinesis", "--lake", self.lake, "--pipeline-id", self.pipeline, *more]

    def held(self) -> int:
        """How many records the lake holds, landed or rejected."""
        return sum(len(rows(self.lake, table, "_position")) for table in (*KINDS, REJECTED))

    @property
    def sent(self) -> int:
        return sum(map(len, self.put.values()))

    def assert_exactly_once(self) -> None:
        """Every record that was put is there once, where it belongs, with its sequence number."""
        for kind, put in self.put.items():
            due = {(shard, number): oracle.land(kind, raw) for shard, number, raw in put}
            assert len(due) == len(put)
            columns = ["_stream", "_partition", "_position", "ind", *KINDS[kind].fields]
            quoted = ", ".join(f'"{name}"' for name in (*columns, "_rescued"))
            found: dict[tuple[str, int], Any] = {}
            for stream, shard, position, ind, *values, rest in rows(self.lake, kind, quoted):
                assert (stream, len(position)) == (self.name(kind), 56)
                assert (shard, int(position)) not in found
                fields = dict(zip(KINDS[kind].fields, values, strict=True))
                found[shard, int(position)] = oracle.Landed(
                    kind, ind, fields, rest and oracle.parse(rest)
                )
            columns = ["_partition", "_position", "kind", "reason", "raw"]
            for shard, position, of, *said in rows(self.lake, REJECTED, ", ".join(columns)):
                if of == kind:
                    assert (shard, int(position)) not in found
                    found[shard, int(position)] = oracle.Rejected(of, *said)
            assert found == due

    def assert_accounts(self, told: list[dict[str, Any]]) -> None:
        """The command says of every stream what became of all that was put."""
        assert [account["stream"] for account in told] == list(self.kinds)
        for account in told:
            put = self.put[account["kind"]]
            verdicts = [oracle.land(account["kind"], raw) for _, _, raw in put]
            reasons = Counter(of.reason for of in verdicts if isinstance(of, oracle.Rejected))
            assert account["rejected"] == reasons
            assert account["received"] == len(put) == account["landed"] + reasons.total()

    def assert_parents_first(self, kind: str) -> None:
        """No record of a shard was committed before the last one of its parents."""
        times: dict[str, list[Any]] = {}
        for shard, at in rows(self.lake, kind, "_partition, _landed_at"):
            times.setdefault(shard, []).append(at)
        for shard in self.active(kind):
            for name in ("ParentShardId", "AdjacentParentShardId"):
                if (parent := shard.get(name)) in times and shard["ShardId"] in times:
                    assert max(times[parent]) <= min(times[shard["ShardId"]])


def line(kind: str, number: int) -> bytes:
    """A record of a kind; every seventh cannot land."""
    if number % 7 == 3:
        return [b"malformed %d" % number, b"\xf3\x89\x9a\xc2\n\x02ab", b"[%d]" % number][number % 3]
    field = {"pin": "title", "geo": "country", "user": "first_name"}[kind]
    return json.dumps({"index": number, field: f"é {number}"}).encode()


@pytest.fixture
def streams(kinesis_url: str, tmp_path: Path) -> Iterator[Streams]:
    made = Streams(kinesis_url, tmp_path)
    yield made
    for kind in KINDS:  # the server holds a limited number of shards
        try:
            made.client.delete_stream(StreamName=made.name(kind))
        except made.client.exceptions.ResourceNotFoundException:
            continue


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("READ_SPACING", "IDLE_SPACING", "_ABSENT_SPACING"):
        monkeypatch.setattr(kinesis, name, 0.01)


@pytest.fixture
def ingest(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on the streams."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", streams.url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")

    def run(*more: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ingest", *streams.command(*more)])
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


# ------------------------------------------------------------------------------- reading once


def test_every_record_of_every_shard_lands_once(
    streams: Streams, ingest: Callable[..., tuple[int, str, str]]
) -> None:
    streams.create(shards=3)
    streams.send_numbers(0, 200)
    code, out, err = ingest("--json")
    assert (code, err) == (0, "")
    streams.assert_accounts(json.loads(out)["streams"])
    streams.assert_exactly_once()
    assert len({shard for shard, *_ in streams.put["pin"]}) == 3
    code, out, err = ingest()
    assert (code, out.count("landed 0  rejected 0"), err) == (0, 3, "")
    streams.send_numbers(200, 230)
    assert ingest()[0] == 0
    streams.assert_exactly_once()


def test_real_records_of_a_broken_producer(
    streams: Streams, ingest: Callable[..., tuple[int, str, str]]
) -> None:
    if not DATA.is_dir():
        pytest.skip("../shared/data missing")
    streams.create(shards=2)
    for kind in KINDS:
        streams.send(kind, (DATA / f"kinesis_raw_{kind}.jsonl").read_bytes().splitlines())
    code, out, _ = ingest("--json")
    assert code == 0
    streams.assert_accounts(json.loads(out)["streams"])
    streams.assert_exactly_once()


def test_pages_follow_each_other(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinesis, "_PAGE_RECORDS", 40)
    streams.create("geo", "user", shards=2)
    streams.send_numbers(0, 300, ["geo"])
    accounts = streams.land()
    assert accounts["geo"].received == 300
    monkeypatch.setattr(kinesis, "_PAGE_RECORDS", 1)  # nothing but the record that landed last
    streams.send_numbers(300, 305, ["geo"])
    assert streams.land()["geo"].received == 5
    streams.assert_exactly_once()


def test_the_table_stands_after_the_last_sequence_number(streams: Streams) -> None:
    streams.create("geo")
    streams.send(
        "geo", [b'{"ind": 1, "country": "x"}', b"malformed", b'{"ind": 2, "country": "y"}']
    )
    streams.land()
    shard, numbers = streams.put["geo"][0][0], [number for _, number, _ in streams.put["geo"]]
    origin = Origin("kinesis", streams.name("geo"), shard)
    assert Lake(streams.lake).offsets("geo", origin).ranges == ((0, numbers[-1] + 1),)
    positions = sorted(position for (position,) in rows(streams.lake, "geo", "_position"))
    assert positions == [padded(numbers[0]), padded(numbers[2])]
    assert positions == sorted(positions, key=int)


def test_streams_that_are_not_there(
    streams: Streams, ingest: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = ingest()
    assert code == 1
    *_, last = err.splitlines()
    assert last.startswith("error: none of the streams is there: streaming-")
    streams.create("pin", "user")
    streams.send_numbers(0, 20, ["pin", "user"])
    code, out, err = ingest("--json")
    assert code == 0
    assert err == f"warning: {streams.name('geo')} is not there\n"
    assert json.loads(out)["absent"] == [streams.name("geo")]
    streams.assert_exactly_once()


def test_nobody_listens(
    streams: Streams, ingest: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", "http://127.0.0.1:9")
    code, _, err = ingest()
    assert code == 1
    assert err.startswith(f"error: the shards of streaming-{streams.pipeline}-")
    assert "cannot be read at http://127.0.0.1:9: Could not connect" in err
    assert "run again" in err


# ------------------------------------------------------------------- shards split and merged


def test_splits_and_merges_between_runs(streams: Streams) -> None:
    streams.create("geo", shards=2)
    streams.send_numbers(0, 40, ["geo"])
    streams.land()
    streams.send_numbers(40, 80, ["geo"])
    streams.split("geo")
    streams.send_numbers(80, 120, ["geo"])
    streams.merge("geo")
    streams.send_numbers(120, 160, ["geo"])
    streams.land()
    streams.assert_exactly_once()
    assert len({shard for shard, *_ in streams.put["geo"]}) >= 4
    streams.assert_parents_first("geo")
    assert streams.land()["geo"].received == 0


def test_splits_and_merges_while_following(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinesis, "_PAGE_RECORDS", 7)
    streams.create("geo", "pin")  # no user stream: it is waited for
    deadline = time.monotonic() + 40
    acts = iter(
        [
            lambda: streams.split("geo"),
            lambda: streams.merge("geo"),
            lambda: streams.create("user"),
            lambda: streams.split("pin"),
        ]
    )
    count = 0

    def stop() -> bool:
        """Called before every read: put more, change the shards, and stop when all has landed."""
        nonlocal count
        assert time.monotonic() < deadline
        if count < 80:
            kinds = ["geo", "pin"] if count <= 60 else ["geo", "pin", "user"]
            streams.send_numbers(count, count + 10, kinds)
            count += 10
            if count % 20 == 0:
                next(acts)()
            return False
        return streams.held() == streams.sent

    notices: list[str] = []
    streams.land(stop=stop, notice=notices.append)
    user = streams.name("user")
    assert notices == [f"{user} is not there; waiting for it", f"{user} is there now"]
    streams.assert_exactly_once()
    streams.assert_parents_first("geo")
    assert all(account.received == 0 for account in streams.land().values())


def test_following_ends_when_it_is_told_to(streams: Streams, tmp_path: Path) -> None:
    streams.create()
    streams.send_numbers(0, 30)
    Lake(streams.lake).create()
    options = ["--follow", "--max-latency", "0.1", "--endpoint-url", streams.url]
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "any")
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "ingestion", *streams.command(*options)],
            env={**os.environ, **keys, "AWS_REGION": "us-east-1"},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            eventually(lambda: _equal(streams.held(), streams.sent))
            streams.send_numbers(30, 60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        assert said.read().count("rejected") == 3
    streams.land()
    streams.assert_exactly_once()


def _equal(one: int, other: int) -> None:
    assert one == other


# ------------------------------------------------------------------------------ what goes wrong


class Faulty:
    """A client some of whose calls fail; the others reach the server."""

    def __init__(self, client: Any, codes: list[str], seed: int) -> None:
        self._client = client
        self._codes = codes
        self._draw = random.Random(seed)
        self.failed = Counter[str]()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        if name not in ("get_records", "get_shard_iterator", "list_shards"):
            return call

        def made(**arguments: Any) -> Any:
            if self._draw.random() < 0.4:
                code = self._draw.choice(self._codes)
                # The call may have been answered, and the answer lost.
                if self._draw.random() < 0.5:
                    call(**arguments)
                if code != "ExpiredIteratorException" or name == "get_records":
                    self.failed[code] += 1
                    raise refusal(code, name, 500 if code == "InternalFailure" else 400)
            return call(**arguments)

        return made


def test_throttling_and_expired_iterators(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinesis, "retry_after", lambda *_: 0.001)
    monkeypatch.setattr(kinesis, "_PAGE_RECORDS", 10)
    monkeypatch.setattr(kinesis, "_PATIENCE", 50)
    streams.create("geo", shards=2)
    codes = [
        "ProvisionedThroughputExceededException",
        "ExpiredIteratorException",
        "InternalFailure",
        "LimitExceededException",
    ]
    faulty = Faulty(streams.client, codes, seed=4)
    for start in range(0, 150, 50):
        streams.send_numbers(start, start + 50, ["geo"])
        streams.land(faulty)
    assert min(faulty.failed[code] for code in codes) > 0
    streams.assert_exactly_once()


class Expiring:
    """A client of a stream whose records have expired up to a sequence number."""

    def __init__(self, client: Any, until: int) -> None:
        self._client = client
        self._until = until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_records(self, **arguments: Any) -> Any:
        answer = self._client.get_records(**arguments)
        kept = [item for item in answer["Records"] if int(item["SequenceNumber"]) > self._until]
        return answer | {"Records": kept}


def test_records_that_expired_before_they_were_read(streams: Streams) -> None:
    streams.create("geo")
    streams.send_numbers(10, 13, ["geo"])
    streams.land()
    streams.send_numbers(15, 18, ["geo"])
    lost = streams.put["geo"].pop(3)
    expiring = Expiring(streams.client, lost[1])
    with pytest.raises(SourceError, match="its last record that landed has expired"):
        streams.land(expiring)
    notices: list[str] = []
    streams.land(expiring, accept_gap=True, notice=notices.append)
    assert sum("going on there" in notice for notice in notices) == 1
    streams.assert_exactly_once()


def test_a_stream_made_anew(streams: Streams) -> None:
    streams.create("geo")
    streams.send_numbers(0, 20, ["geo"])
    streams.land()
    (former,) = streams.active("geo")

    def make_anew() -> None:
        """Sequence numbers begin with the second in which a shard was made."""
        streams.client.delete_stream(StreamName=streams.name("geo"))
        eventually(lambda: streams.create("geo"))
        (shard,) = streams.active("geo")
        first, before = (
            int(of["SequenceNumberRange"]["StartingSequenceNumber"]) for of in (shard, former)
        )
        assert first > before

    eventually(make_anew)
    streams.send_numbers(20, 40, ["geo"])
    with pytest.raises(SourceError, match=f"{streams.name('geo')} is another stream than the one"):
        streams.land()
    assert streams.land(accept_gap=True)["geo"].received == 20
    streams.assert_exactly_once()
    streams.send_numbers(40, 50, ["geo"])
    assert streams.land()["geo"].received == 10
    streams.assert_exactly_once()


def test_two_landers_at_once(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinesis, "_PAGE_RECORDS", 25)
    streams.create("geo", "user", shards=2)
    streams.send_numbers(0, 100, ["geo", "user"])
    Lake(streams.lake).create()
    deadline = time.monotonic() + 40
    total: list[int] = []
    accounts: list[Account] = []
    failures: list[BaseException] = []

    def stop() -> bool:
        if failures or time.monotonic() > deadline:
            return True
        return bool(total) and streams.held() >= total[0]

    def follow() -> None:
        try:
            accounts.extend(streams.land(stop=stop).values())
        except BaseException as error:
            failures.append(error)

    landers = [threading.Thread(target=follow) for _ in range(2)]
    for lander in landers:
        lander.start()
    for start in range(100, 300, 50):
        streams.send_numbers(start, start + 50, ["geo", "user"])
    streams.split("geo")
    streams.send_numbers(300, 320, ["geo", "user"])
    total.append(streams.sent)
    for lander in landers:
        lander.join()
    assert not failures
    streams.assert_exactly_once()
    assert sum(a.landed + a.rejected.total() for a in accounts) == total[0]
