"""Landing objects into real Delta tables: every record once, whatever happens meanwhile."""

from __future__ import annotations

import gzip
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from ingestion import bronze, landing
from ingestion.errors import LakeError
from ingestion.lake import REJECTED, Lake, Origin, Piece
from ingestion.landing import Account, Chunk, land_objects
from ingestion.offsets import Offsets
from ingestion.records import KINDS, decode
from ingestion.sources.s3 import Folder, SinkObject, parse_name
from ingestion.streams import land_stream
from tests import hostile, oracle
from tests.forking import forkserver
from tests.unit.test_lake import rows

GEO = KINDS["geo"]
TOPIC = "t.geo"


class Sink:
    """A folder of the S3 sink's layout, and a lake beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "sink"
        self.lake = str(folder / "lake")
        (self.folder / "topics").mkdir(parents=True)

    def put(
        self, start: int, lines: Iterable[bytes], partition: int = 0, zipped: bool = False
    ) -> Path:
        """Write an object; its lines begin at the offset `start`."""
        data = b"".join(line + b"\n" for line in lines)
        name = f"{TOPIC}+{partition}+{start:010}.json"
        path = self.folder / "topics" / TOPIC / f"partition={partition}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.with_name(f"{name}.gz") if zipped else path
        path.write_bytes(gzip.compress(data) if zipped else data)
        return path

    def objects(self) -> list[SinkObject]:
        found = [parse_name(key, size) for key, size in Folder(str(self.folder)).list()]
        return [item for item in found if item is not None]

    def land(self, **more: Any) -> Account:
        lake = Lake(self.lake)
        lake.create()
        return land_objects(
            lake, Folder(str(self.folder)), GEO, TOPIC, self.objects(), now=lambda: 0, **more
        )

    def offsets(self, table: str = GEO.name) -> dict[str, list[int]]:
        """The offsets of a table's rows by partition, each as often as it is there."""
        found: dict[str, list[int]] = {}
        for partition, position in sorted(rows(self.lake, table, "_partition, _position")):
            found.setdefault(partition, []).append(int(position))
        return found

    def commits(self, table: str = GEO.name) -> int:
        return Lake(self.lake).handle(table).version()


@pytest.fixture
def sink(tmp_path: Path) -> Sink:
    return Sink(tmp_path)


def line(offset: int) -> bytes:
    """A record that tells its offset; every seventh cannot land."""
    return b"malformed %d" % offset if offset % 7 == 3 else b'{"ind":%d,"country":"x"}' % offset


def lines(start: int, end: int) -> list[bytes]:
    return [line(offset) for offset in range(start, end)]


def good(start: int, end: int) -> list[int]:
    return [offset for offset in range(start, end) if offset % 7 != 3]


def bad(start: int, end: int) -> list[int]:
    return [offset for offset in range(start, end) if offset % 7 == 3]


def assert_exactly_once(sink: Sink, ends: dict[int, int], start: int = 0) -> None:
    """Every offset of every partition has its own record, once, landed or rejected."""
    assert sink.offsets() == {str(p): good(start, end) for p, end in ends.items()}
    assert sink.offsets(REJECTED) == {str(p): bad(start, end) for p, end in ends.items()}
    assert all(int(at) == ind for at, ind in rows(sink.lake, "geo", "_position, ind"))
    assert all(raw == line(int(at)) for at, raw in rows(sink.lake, REJECTED, "_position, raw"))


# ---------------------------------------------------------------------------- one lander


def test_records_land_or_are_rejected_and_are_accounted_for(sink: Sink) -> None:
    sink.put(0, lines(0, 50))
    sink.put(50, lines(50, 80))
    sink.put(0, lines(0, 20), partition=3)
    account = sink.land()
    assert_exactly_once(sink, {0: 80, 3: 20})
    assert (account.stream, account.kind, account.objects) == (TOPIC, "geo", 3)
    assert (account.received, account.landed) == (100, 86)
    assert account.rejected == {"malformed": 14}
    assert (account.elsewhere, account.overlapping) == (0, 0)
    assert (account.gaps, account.failures) == ([], [])


def test_landing_again_lands_nothing(sink: Sink) -> None:
    sink.put(0, lines(0, 50))
    sink.put(50, lines(50, 60))
    sink.land()
    commits = sink.commits(), sink.commits(REJECTED)
    again = sink.land()
    assert again == Account(TOPIC, "geo")
    assert (sink.commits(), sink.commits(REJECTED)) == commits
    assert_exactly_once(sink, {0: 60})


def test_nothing_to_land(sink: Sink) -> None:
    assert sink.land() == Account(TOPIC, "geo")
    sink.put(0, [])
    assert sink.land() == Account(TOPIC, "geo")


def test_hostile_lines_land_as_the_oracle_says(tmp_path: Path) -> None:
    """From objects to Delta and back: every value, reason and raw byte."""
    raws = [raw for raw in hostile.hostile_lines(seed=3, posts=60)["geo"] if raw.strip()]
    sink = Sink(tmp_path)
    sink.put(0, raws[:400])
    sink.put(400, raws[400:], zipped=True)
    account = sink.land()
    due = {offset: oracle.land("geo", raw) for offset, raw in enumerate(raws)}
    columns = ["_position", "ind", *GEO.fields, "_rescued"]
    found: dict[int, Any] = {
        int(at): oracle.Landed(
            "geo", ind, dict(zip(GEO.fields, values, strict=True)), rest and oracle.parse(rest)
        )
        for at, ind, *values, rest in rows(sink.lake, "geo", ", ".join(map(quoted, columns)))
    }
    for at, *values in rows(sink.lake, REJECTED, "_position, kind, reason, raw"):
        found[int(at)] = oracle.Rejected(*values)
    assert found == due
    assert account.landed + account.rejected.total() == account.received == len(raws)


def quoted(name: str) -> str:
    return f'"{name}"'


def test_received_is_landed_and_rejected_in_every_partition(sink: Sink) -> None:
    draw = random.Random(5)
    ends = {partition: draw.randrange(1, 400) for partition in range(5)}
    for partition, end in ends.items():
        cuts = sorted({0, *(draw.randrange(end) for _ in range(4)), end})
        for start, stop in pairwise(cuts):
            sink.put(start, lines(start, stop), partition, zipped=draw.random() < 0.5)
    account = sink.land()
    assert_exactly_once(sink, ends)
    assert account.received == account.landed + account.rejected.total() == sum(ends.values())


def test_empty_lines_take_no_offset(sink: Sink) -> None:
    path = sink.put(0, [])
    path.write_bytes(b"\n" + line(0) + b"\r\n\r\n  \n" + line(1) + b"\n\n" + line(2))
    sink.put(3, [line(3)])
    assert sink.land().received == 4
    assert sink.offsets() == {"0": [0, 1, 2]}
    assert sink.offsets(REJECTED) == {"0": [3]}


def test_many_small_objects_make_few_commits(sink: Sink) -> None:
    for start in range(0, 600, 3):
        sink.put(start, lines(start, start + 3), partition=start // 3 % 2)
    account = sink.land()
    assert account.objects == 200
    assert account.received == 600
    assert (sink.commits(), sink.commits(REJECTED)) == (1, 1)


def test_a_batch_ends_at_its_records_and_at_its_bytes(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "BATCH_RECORDS", 40)
    monkeypatch.setattr(landing, "DECODED_RECORDS", 20)
    sink.put(0, lines(0, 200))
    sink.land()
    assert sink.commits() == 5
    monkeypatch.setattr(landing, "BATCH_BYTES", 1)
    sink.put(200, lines(200, 260))
    sink.land()
    assert sink.commits() == 8
    assert_exactly_once(sink, {0: 260})


def test_what_is_recorded_of_rejections_stays_as_short_as_of_rows(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches without a rejection leave no gaps in it."""
    monkeypatch.setattr(landing, "BATCH_RECORDS", 10)
    monkeypatch.setattr(landing, "DECODED_RECORDS", 10)
    sink.put(0, [b"malformed", *[line(0)] * 80, b"malformed", *[line(0)] * 18])
    sink.land()
    assert sink.offsets(REJECTED) == {"0": [0, 81]}
    assert (sink.commits(), sink.commits(REJECTED)) == (10, 2)
    held = Lake(sink.lake).offsets(REJECTED, Origin("s3", TOPIC, "0"))
    assert held == Offsets.of([(0, 90)])


def test_progress_adds_up_to_the_bytes_stored(sink: Sink) -> None:
    sink.put(0, lines(0, 50))
    sink.put(50, lines(50, 90), zipped=True)
    total = sum(item.size for item in sink.objects())
    for _ in range(2):
        told: list[int] = []
        sink.land(advance=told.append)
        assert sum(told) == total


# -------------------------------------------------------------- objects that come as they like


def test_a_late_object_fills_the_gap(sink: Sink) -> None:
    sink.put(0, lines(0, 10))
    sink.put(30, lines(30, 40))
    assert sink.land().gaps == [(0, 10, 29)]
    assert sink.land().gaps == [(0, 10, 29)]
    sink.put(20, lines(20, 30))
    assert sink.land().gaps == [(0, 10, 19)]
    sink.put(10, lines(10, 20))
    last = sink.land()
    assert (last.gaps, last.received, last.objects) == ([], 10, 1)
    assert_exactly_once(sink, {0: 40})
    assert sink.land() == Account(TOPIC, "geo")


def test_a_partition_may_begin_anywhere(sink: Sink) -> None:
    """Retention may have removed what came before: it is named, the rest lands."""
    sink.put(1_000_000, lines(1_000_000, 1_000_020))
    account = sink.land()
    assert account.gaps == [(0, 0, 999_999)]
    assert sink.land().received == 0
    assert_exactly_once(sink, {0: 1_000_020}, start=1_000_000)


def test_objects_may_overlap(sink: Sink) -> None:
    sink.put(0, lines(0, 30))
    sink.put(20, lines(20, 50))
    sink.put(20, lines(20, 50), zipped=True)
    account = sink.land()
    assert account.received == 50
    assert account.overlapping == 10 + 30
    assert_exactly_once(sink, {0: 50})
    sink.put(45, lines(45, 60))
    assert sink.land().received == 10
    assert_exactly_once(sink, {0: 60})


def test_an_object_that_grew_goes_on_where_it_ended(sink: Sink) -> None:
    for end in (10, 25, 25, 60):
        sink.put(0, lines(0, end))
        sink.land()
        assert_exactly_once(sink, {0: end})


def test_an_object_replaced_by_a_compressed_one_lands_nothing(sink: Sink) -> None:
    plain = sink.put(0, lines(0, 10))
    sink.land()
    plain.unlink()
    sink.put(0, lines(0, 10), zipped=True)
    assert sink.land().received == 0
    assert_exactly_once(sink, {0: 10})


def test_objects_in_any_order_over_many_runs(sink: Sink) -> None:
    draw = random.Random(9)
    cuts = sorted({0, 300, *(draw.randrange(300) for _ in range(15))})
    pieces = list(pairwise(cuts))
    draw.shuffle(pieces)
    came = Offsets()
    for start, end in pieces:
        sink.put(start, lines(start, end))
        came = came.add(start, end)
        if draw.random() < 0.6:
            account = sink.land()
            assert account.gaps == [(0, low, high - 1) for low, high in came.gaps()]
    sink.land()
    assert_exactly_once(sink, {0: 300})


# ------------------------------------------------------------------ looking at what landed


def test_where_each_partition_stands(sink: Sink) -> None:
    sink.put(0, lines(0, 3))
    sink.put(0, lines(0, 30), partition=1)
    sink.put(0, lines(0, 4), partition=2)
    sink.land()
    found = [
        (row.source, row.stream, row.partition, int(row.last_position), row.rows, row.rejected)
        for row in bronze.positions(sink.lake)
    ]
    assert found == [
        ("s3", TOPIC, "0", 2, 3, 0),
        ("s3", TOPIC, "1", 29, 26, 4),
        ("s3", TOPIC, "2", 3, 3, 1),
    ]


def test_rejected_records_are_found_by_reason_kind_and_age(sink: Sink) -> None:
    sink.put(0, [b"{", b"7", b'{"ind": 1, "age": 3}'])
    sink.land()
    sink.put(3, [b"]", b'{"ind": 1, "country": "x"}'])
    sink.land()
    everything = [row.raw for row in bronze.rejected(sink.lake)]
    assert sorted(everything) == sorted([b"{", b"7", b'{"ind": 1, "age": 3}', b"]"])
    newest = [row.id for row in bronze.rejected(sink.lake, limit=3)]
    assert newest == [f"s3/{TOPIC}/0/{position}" for position in (3, 0, 1)]
    malformed = [row.raw for row in bronze.rejected(sink.lake, "malformed", "geo", 10)]
    assert malformed == [b"]", b"{"]
    assert list(bronze.rejected(sink.lake, kind="pin")) == []
    assert bronze.count_rejected(sink.lake) == 4
    assert bronze.count_rejected(sink.lake, "misrouted", "geo") == 1
    assert bronze.count_rejected(sink.lake, "it's", "geo") == 0


@pytest.mark.parametrize("stream", [TOPIC, "it's", "a/b/c", "' or '1'='1", '"'])
def test_a_rejected_record_is_found_by_its_id(tmp_path: Path, stream: str) -> None:
    lake = Lake(str(tmp_path))
    lake.create()
    for partition in ("0", "shardId-000"):
        raws = [b"{%d" % offset for offset in range(11)]
        origin = Origin("s3", stream, partition)
        rejected = decode(GEO, raws).rejected
        rows = landing._rejected_rows(GEO, raws, rejected)
        offsets = pa.array([item.index for item in rejected], pa.int64())
        lake.append(REJECTED, [Piece(origin, 0, len(raws), offsets, rows)])
    for offset in (0, 1, 10):
        identity = f"s3/{stream}/shardId-000/{offset}"
        found = bronze.rejected_record(lake.uri, identity)
        assert (found.id, found.raw, found.kind) == (identity, b"{%d" % offset, "geo")
        padded = f"s3/{stream}/shardId-000/{offset:020}"
        assert bronze.rejected_record(lake.uri, padded) == found


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "/",
        "0",
        f"s3/{TOPIC}/0",
        f"s3/{TOPIC}/0/9",
        f"{TOPIC}/0/0",
        "' or true --",
        "s3/' or/0/0",
    ],
)
def test_no_rejected_record_has_such_an_id(sink: Sink, identity: str) -> None:
    sink.put(0, [b"{"])
    sink.land()
    with pytest.raises(LakeError, match="'ingest rejected list' shows the ids"):
        bronze.rejected_record(sink.lake, identity)


# ---------------------------------------------------------------------------- a crash


class Crash(BaseException):
    """The process ends here, as far as landing can tell."""


def crash_when(monkeypatch: pytest.MonkeyPatch, table: str, commit: int, after: bool) -> None:
    """Crash before or after the n-th append to a table."""
    append = Lake.append
    seen = Counter[str]()

    def crashing(lake: Lake, to: str, *rest: Any) -> Any:
        seen[to] += 1
        due = to == table and seen[to] == commit
        if due and not after:
            raise Crash
        appended = append(lake, to, *rest)
        if due:
            raise Crash
        return appended

    monkeypatch.setattr(Lake, "append", crashing)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("commit", [1, 2])
@pytest.mark.parametrize("table", [REJECTED, "geo"])
def test_a_crash_around_any_commit_loses_and_repeats_nothing(
    sink: Sink, table: str, commit: int, after: bool
) -> None:
    """Between the rejected rows' commit and the good rows' is one of these places."""
    for start in range(0, 90, 30):
        sink.put(start, lines(start, start + 30), partition=start // 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landing, "BATCH_RECORDS", 30)
        patch.setattr(landing, "DECODED_RECORDS", 10)
        crash_when(patch, table, commit, after)
        with pytest.raises(Crash):
            sink.land()
    partly = sum(map(len, [*sink.offsets().values(), *sink.offsets(REJECTED).values()]))
    account = sink.land()
    assert sink.offsets() == {"0": good(0, 60), "1": good(60, 90)}
    assert sink.offsets(REJECTED) == {"0": bad(0, 60), "1": bad(60, 90)}
    assert account.landed + account.rejected.total() == 90 - partly
    assert account.landed + account.rejected.total() + account.elsewhere == account.received
    assert sink.land().received == 0


def test_what_was_rejected_before_a_crash_is_not_counted_again(sink: Sink) -> None:
    sink.put(0, lines(0, 30))
    with pytest.MonkeyPatch.context() as patch:
        crash_when(patch, REJECTED, 1, after=True)
        with pytest.raises(Crash):
            sink.land()
    account = sink.land()
    assert (account.received, account.landed, account.rejected) == (30, 26, Counter())
    assert account.elsewhere == 4


def test_a_lake_that_fails_midway_keeps_what_was_committed(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "BATCH_RECORDS", 30)
    monkeypatch.setattr(landing, "DECODED_RECORDS", 10)
    sink.put(0, lines(0, 120))
    append, calls = Lake.append, []

    def failing(lake: Lake, table: str, *rest: Any) -> Any:
        calls.append(table)
        if len(calls) > 4:
            raise LakeError("the lake is gone")
        return append(lake, table, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lake, "append", failing)
        with pytest.raises(LakeError, match="the lake is gone"):
            sink.land()
    assert sink.offsets() == {"0": good(0, 60)}
    sink.land()
    assert_exactly_once(sink, {0: 120})


def test_a_follower_ends_with_a_commit_that_fails_though_nothing_more_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    lake.create()
    waiting = [Chunk(Origin("kafka", "t.geo", "0"), 0, 1, [0], [b'{"ind":1,"country":"x"}'])]

    def read(_: float) -> list[Chunk]:
        time.sleep(0.01)
        return [waiting.pop()] if waiting else []

    def append(*_: Any) -> None:
        raise LakeError("no space left")

    monkeypatch.setattr(Lake, "append", append)
    reader = SimpleNamespace(read=read, finished=False, landed=lambda _: None)
    deadline = time.monotonic() + 20
    with pytest.raises(LakeError, match="no space left"):
        land_stream(
            lake,
            reader,
            {"t.geo": KINDS["geo"]},
            max_latency=0.05,
            stopping=lambda: time.monotonic() > deadline,
        )
    assert time.monotonic() < deadline


# ---------------------------------------------------------------- several landers, killed

OBJECT = 800


def land_in_process(folder: Path, started: Any, go: Any, without_check: bool) -> None:
    """What a process of the tests below does: land everything in small batches."""
    landing.BATCH_RECORDS = 200
    landing.DECODED_RECORDS = 50
    if without_check:
        forget_what_has_landed()
    sink = Sink.__new__(Sink)
    sink.folder, sink.lake = folder / "sink", str(folder / "lake")
    Lake(sink.lake).create()
    started.set()
    go.wait()
    sink.land()


def forget_what_has_landed() -> None:
    """Append without asking the table, as if delta-rs kept the promise by itself."""
    outstanding = Lake._outstanding

    def everything(lake: Lake, *rest: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Lake, "offsets", lambda *_: Offsets())
            return outstanding(lake, *rest)

    setattr(Lake, "_outstanding", everything)  # noqa: B010


def start_landers(sink: Sink, count: int, without_check: bool = False) -> list[BaseProcess]:
    """Start landers that begin at the same moment."""
    go = forkserver.Event()
    all_started = [forkserver.Event() for _ in range(count)]
    landers = [
        forkserver.Process(
            target=land_in_process, args=(sink.folder.parent, started, go, without_check)
        )
        for started in all_started
    ]
    for lander in landers:
        lander.start()
    for started in all_started:
        assert started.wait(60)
    go.set()
    return landers


def wait_for(landers: Iterable[BaseProcess]) -> None:
    for lander in landers:
        lander.join(120)
        assert lander.exitcode == 0


def fill(sink: Sink) -> dict[int, int]:
    ends = {0: 4 * OBJECT, 1: 2 * OBJECT}
    for partition, end in ends.items():
        for start in range(0, end, OBJECT):
            sink.put(start, lines(start, start + OBJECT), partition)
    return ends


def test_landers_at_the_same_time_land_everything_once(sink: Sink) -> None:
    ends = fill(sink)
    wait_for(start_landers(sink, 3))
    assert_exactly_once(sink, ends)
    assert sink.land().received == 0


def test_without_the_check_landers_at_the_same_time_land_records_twice(sink: Sink) -> None:
    """What the test above is worth."""
    ends = fill(sink)
    wait_for(start_landers(sink, 2, without_check=True))
    with pytest.raises(AssertionError):
        assert_exactly_once(sink, ends)
    found = Counter(sink.offsets()["0"])
    assert found.keys() == set(good(0, ends[0]))  # nothing is lost even so
    assert max(found.values()) > 1


def test_killed_at_any_moment_the_last_run_completes_what_is_missing(sink: Sink) -> None:
    ends = fill(sink)
    draw = random.Random()
    killed = 0
    progress = [0]
    for _ in range(6):
        landers = start_landers(sink, 2)
        wait_until(lambda: sink.commits() > progress[-1])
        time.sleep(draw.uniform(0, 0.06))
        for lander in landers:
            killed += lander.exitcode is None
            lander.kill()
            lander.join()
        progress.append(sink.commits())
        if sum(map(len, sink.offsets().values())) == sum(len(good(0, e)) for e in ends.values()):
            break
    assert killed > 2
    sink.land()
    assert_exactly_once(sink, ends)
    assert sink.land().received == 0


def wait_until(reached: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.005)
