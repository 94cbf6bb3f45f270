"""Upkeep of real Delta tables: what is read stays the same, whatever is merged and removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder

from ingestion import lake as lake_module
from ingestion import maintenance, merging
from ingestion.errors import LakeError
from ingestion.lake import Lake, Origin, Piece
from ingestion.maintenance import (
    KEPT_COMMITS,
    MANY_FILES,
    MERGED_BYTES,
    Maintained,
    days_to_merge,
    superseded,
)
from ingestion.merging import File, groups, merge_files
from ingestion.records import KINDS, decode
from tests.commands.test_ingest_command import ingest
from tests.unit.test_lake import GEO, ORIGIN, another, landed, piece, rows

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
DAY = NOON.date()
YESTERDAY = DAY - timedelta(days=1)


class Clock:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    # Its address as the engine has it is written otherwise.
    created = Lake(str(tmp_path / "a läke"), clock=Clock())
    created.create()
    return created


def land(lake: Lake, start: int, end: int) -> None:
    """A commit for each record."""
    for at in range(start, end):
        lake.append("geo", [piece(at, at + 1)])


def maintain(lake: Lake, **more: Any) -> Maintained:
    return maintenance.maintain("geo", lake.open("geo"), lake.engine_options, **more)


def everything(lake: Lake) -> list[tuple[Any, ...]]:
    return sorted(rows(lake, "geo"))


def files(lake: Lake) -> list[str]:
    return [unquote(uri) for uri in DeltaTable(lake.location("geo")).file_uris()]


def log(lake: Lake) -> list[Path]:
    return sorted(Path(lake.location("geo"), "_delta_log").iterdir())


def data(lake: Lake) -> list[Path]:
    return sorted(Path(lake.location("geo")).glob("_landed_on=*/*.parquet"))


def age(paths: list[Path], hours: float) -> None:
    for path in paths:
        os.utime(path, times=(time.time() - hours * 3600,) * 2)


# ---------------------------------------------------------------------------- what to do


def file(day: date, size: int) -> File:
    return File(f"{day}/{size}", day, size, 1, {}, {}, {})


def test_days_with_many_small_files_are_merged() -> None:
    few = [file(YESTERDAY, 10)] * (MANY_FILES - 1)
    many = [file(DAY, MERGED_BYTES // 2 - 1)] * MANY_FILES
    large = [file(date(2020, 1, 1), MERGED_BYTES // 2)] * 100
    assert days_to_merge([]) == []
    assert days_to_merge([*many, *few, *large]) == [DAY]
    assert days_to_merge([*many, *few, file(YESTERDAY, 10)]) == [YESTERDAY, DAY]


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [
        ([], []),
        ([1], []),
        ([50, 50], []),
        ([49, 49, 49], [[49, 49]]),
        ([1, 50, 2, 99, 3, 200, 4], [[1, 2, 3, 4]]),
        ([30] * 7, [[30] * 3, [30] * 3]),
        ([40, 40, 30, 40, 30], [[40, 40], [30, 40, 30]]),
    ],
)
def test_what_becomes_one_file(sizes: list[int], merged: list[list[int]]) -> None:
    """In their order, to a hundred bytes."""
    found = groups([file(DAY, size) for size in sizes], 100)
    assert [[each.size for each in group] for group in found] == merged


def commits(first: int, last: int) -> list[str]:
    return [f"{version:020}.json" for version in range(first, last + 1)]


def checkpoints(*versions: int) -> list[str]:
    return [f"{version:020}.checkpoint.parquet" for version in versions]


def test_a_log_keeps_what_a_version_needs() -> None:
    """Every version from the checkpoint before the last thousand commits on can be read."""
    assert superseded([]) == []
    assert superseded([*commits(0, 5000), "_last_checkpoint"]) == []
    young = [*commits(0, KEPT_COMMITS + 40), *checkpoints(50, KEPT_COMMITS + 40)]
    assert superseded(young) == []
    old = [*commits(0, 2100), *checkpoints(*range(50, 2101, 50)), "_last_checkpoint", "notes.txt"]
    assert superseded(old) == sorted([*commits(0, 1099), *checkpoints(*range(50, 1051, 50))])
    assert superseded(set(old) - set(superseded(old))) == []


# ------------------------------------------------------------------- what a lander does itself


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upkeep after few commits."""
    monkeypatch.setattr(lake_module, "_COMMITS_A_CHECKPOINT", 5)
    monkeypatch.setattr(lake_module, "_COMMITS_A_MERGE", 10)
    monkeypatch.setattr(maintenance, "KEPT_COMMITS", 10)


@pytest.mark.usefixtures("often")
def test_a_lander_keeps_its_tables_few_files_and_a_short_log(lake: Lake) -> None:
    land(lake, 0, 73)
    assert landed(lake) == list(range(73))
    assert len(files(lake)) <= 12
    assert len(log(lake)) <= 30
    assert DeltaTable(lake.location("geo")).version() > 73  # merges are commits, too
    stamps = rows(lake, "geo", "count(distinct _landed_at), count(distinct _landed_on)")
    assert stamps == [(73, 1)]


@pytest.mark.usefixtures("often")
def test_without_it_both_grow(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above is worth."""
    monkeypatch.setattr(Lake, "_keep_up", lambda *_, **__: None)
    land(lake, 0, 73)
    assert (len(files(lake)), len(log(lake))) == (73, 74)


@pytest.mark.usefixtures("often")
def test_several_landers_share_the_upkeep(lake: Lake) -> None:
    origins = [Origin("kafka", "t.geo", str(number)) for number in range(3)]

    def follow(origin: Origin) -> None:
        mine = another(lake)
        for at in range(30):
            assert mine.append("geo", [piece(at, at + 1, origin)]).num_rows == 1

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(follow, origins))
    for origin in origins:
        assert landed(lake, origin) == list(range(30))
    assert len(files(lake)) < 60
    assert len(log(lake)) < 60


@pytest.mark.usefixtures("often")
def test_failing_upkeep_does_not_keep_rows_from_landing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("the disk is on fire")

    monkeypatch.setattr(DeltaTable, "create_checkpoint", refuse)
    land(lake, 0, 21)
    assert landed(lake) == list(range(21))


def test_yesterday_s_and_today_s_files_are_merged_and_no_others(lake: Lake) -> None:
    for day in (YESTERDAY - timedelta(days=1), YESTERDAY, DAY):
        writer = Lake(lake.uri, clock=Clock(datetime(day.year, day.month, day.day, tzinfo=UTC)))
        land(writer, writer.offsets("geo", ORIGIN).end, writer.offsets("geo", ORIGIN).end + 3)
    before = everything(lake)
    lake._keep_up("geo", merging=True)
    days = Counter(Path(uri).parent.name.partition("=")[2] for uri in files(lake))
    assert days == {"2024-02-27": 3, "2024-02-28": 1, "2024-02-29": 1}
    assert everything(lake) == before


# ------------------------------------------------------------------------------- merging


def test_a_merge_is_no_change_of_data_and_no_landing(lake: Lake) -> None:
    land(lake, 0, 8)
    before, at = everything(lake), lake.offsets("geo", ORIGIN)
    assert merge_files(lake.open("geo"), None, DAY, 2**20) == (7, 0)
    actions = [json.loads(line) for line in log(lake)[-1].read_text().splitlines()]
    assert {key for action in actions for key in action} == {"commitInfo", "add", "remove"}
    changed = [
        action[key]["dataChange"] for action in actions for key in action if key != "commitInfo"
    ]
    assert changed == [False] * 9
    (add,) = [action["add"] for action in actions if "add" in action]
    assert set(json.loads(add["stats"])["minValues"]) == {"_landed_at", "_position", "ind"}
    assert everything(lake) == before
    assert another(lake).offsets("geo", ORIGIN) == at
    land(another(lake), 0, 9)
    assert landed(lake) == list(range(9))


def test_merged_files_are_written_as_landed_ones_are(lake: Lake) -> None:
    """Compression, dictionaries and statistics, column by column."""
    pins = [b'{"ind":%d,"title":"title %d","category":"art"}' % (at, at) for at in range(100)]
    for start in range(0, 100, 25):
        decoded = decode(KINDS["pin"], pins[start : start + 25]).rows
        offsets = pa.array(range(start, start + 25), pa.int64())
        lake.append("pin", [Piece(ORIGIN, start, start + 25, offsets, decoded)])

    def written() -> dict[str, Any]:
        path = sorted(Path(lake.location("pin")).glob("*/*.parquet"), key=os.path.getmtime)[-1]
        file = pq.ParquetFile(path)
        group = file.metadata.row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        return {
            column.path_in_schema: (
                file.schema.column(number).physical_type,
                file.schema.column(number).logical_type.to_json(),
                column.compression,
                column.dictionary_page_offset is not None,
                column.is_stats_set,
            )
            for number, column in enumerate(columns)
        }

    before = written()
    assert merge_files(lake.open("pin"), None, DAY, 2**20) == (3, 0)
    assert written() == before
    assert before["title"][2:] == ("ZSTD", False, False)
    assert before["category"][2:] == ("ZSTD", True, True)
    assert before["_position"][2:] == ("ZSTD", False, True)


def test_a_merge_reads_few_of_large_records_at_a_time(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of some kilobytes may hold gigabytes of text that repeats itself."""
    text = b"x" * 100_000
    for start in (0, 400):
        raws = [b'{"index": %d, "unique_id": "u", "title": "%s"}' % (at, text)
                for at in range(start, start + 400)]  # fmt: skip
        offsets = pa.array(range(start, start + 400), pa.int64())
        fit = decode(KINDS["pin"], raws).rows
        lake.append("pin", [Piece(ORIGIN, start, start + 400, offsets, fit)])
    before = sorted(rows(lake, "pin", "ind, title"))
    sizes: list[int] = []
    write = pq.ParquetWriter.write_batch

    def watched(self: pq.ParquetWriter, batch: pa.RecordBatch, *rest: Any) -> None:
        sizes.append(batch.nbytes)
        write(self, batch, *rest)

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", watched)
    assert merge_files(lake.open("pin"), lake.engine_options, DAY, MERGED_BYTES) == (1, 0)
    assert sum(sizes) > 80_000_000
    assert max(sizes) <= 20_000_000
    assert sorted(rows(lake, "pin", "ind, title")) == before


def test_folders_that_may_not_be_looked_into_are_passed_over(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a disk's lost+found; the lake itself may not be one."""
    Path(lake.uri, "lost+found").mkdir()
    listed, closed = maintenance._folders, {"lost+found"}

    def folders(storage: Any, folder: str) -> list[str]:
        if folder in closed:
            raise OSError("Generic LocalFileSystem error: Permission denied (os error 13)")
        return listed(storage, folder)

    monkeypatch.setattr(maintenance, "_folders", folders)
    found = maintenance.tables_under(lake.uri, lake.engine_options)
    assert found == ["bronze/geo", "bronze/pin", "bronze/rejected", "bronze/user"]
    closed.add("")
    with pytest.raises(OSError, match="Permission denied"):
        maintenance.tables_under(lake.uri, lake.engine_options)
    done = ingest("maintain", "--all", cwd=Path(lake.uri).parent, LAKE_URI=lake.uri)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {lake.uri} cannot be read or written by this user")


def test_files_of_the_merged_size_are_left_alone(lake: Lake) -> None:
    land(lake, 0, 3)
    assert merge_files(lake.open("geo"), None, DAY, 100) == (0, 0)
    assert len(files(lake)) == 3
    assert lake.open("geo").version() == 3


# ----------------------------------------------------------------------------- ingest maintain


def test_the_account_of_maintaining(lake: Lake) -> None:
    land(lake, 0, 8)
    before = everything(lake)
    done = maintain(lake)
    assert (done.merged, done.skipped, done.removed) == ([DAY], [], 0)
    assert (done.before.files, done.after.files) == (8, 1)
    assert (done.before.stored_files, done.after.stored_files) == (8, 9)
    assert done.after.stored_bytes == sum(path.stat().st_size for path in data(lake))
    assert done.after.bytes == sum(Path(uri).stat().st_size for uri in files(lake))
    assert done.after.log_files == len(log(lake))
    assert everything(lake) == before
    again = maintain(lake)
    assert (again.merged, again.removed) == ([], 0)
    assert again.after.files == 1


def test_a_dry_run_changes_nothing(lake: Lake) -> None:
    land(lake, 0, 8)
    maintain(lake, retention=timedelta(0))
    land(lake, 8, 16)
    stored = [*log(lake), *data(lake)]
    told = maintain(lake, dry_run=True)
    assert (told.merged, told.before, told.removed) == ([DAY], told.after, 0)
    merge_files(lake.open("geo"), None, DAY, 2**20)
    assert maintain(lake, retention=timedelta(0), dry_run=True).removed == 9
    assert set(stored) <= {*log(lake), *data(lake)}


def test_removed_is_what_is_out_of_use_for_long_enough(lake: Lake) -> None:
    """A file that was merged an hour ago stays, however old it is; one in use stays for ever."""
    land(lake, 0, 4)
    merge_files(lake.open("geo"), None, DAY, 2**20)
    land(lake, 4, 6)
    reader = DeltaTable(lake.location("geo"), version=4)
    orphan = data(lake)[0].with_name("part-00000-left-by-a-killed-writer.parquet")
    fresh = orphan.with_name("part-00000-about-to-be-committed.parquet")
    for path in (orphan, fresh):
        path.write_bytes(b"PAR1")
    age([path for path in data(lake) if path != fresh], hours=1000)
    kept = [path for path in data(lake) if path != orphan]
    done = maintain(lake, retention=timedelta(hours=24))
    assert done.removed == 1
    assert [path for path in data(lake) if path not in kept] == []
    assert set(kept) <= set(data(lake))
    assert len(list(QueryBuilder().register("t", reader).execute("select ind from t"))) > 0
    assert landed(lake) == list(range(6))


def left_half_written(lake: Lake) -> Path:
    """What a writer leaves that is killed as it writes a file, where the table lies in a folder."""
    code = f"""
import os, signal
from deltalake.fs import DeltaStorageHandler
storage = DeltaStorageHandler({lake.location("geo")!r})
file = storage.open_output_stream("_landed_on={DAY}/x.parquet")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (left,) = [path for path in Path(lake.location("geo")).rglob("*") if "#" in path.name]
    return left


@pytest.mark.parametrize("retention", [timedelta(hours=24), timedelta(0)])
def test_what_killed_writers_left_half_written_is_removed_after_a_day(
    lake: Lake, retention: timedelta
) -> None:
    """The engine itself sees no such file."""
    land(lake, 0, 2)
    left = left_half_written(lake)
    assert maintain(lake, retention=retention).removed == 0
    assert left.exists()
    age([left], hours=25)
    assert maintain(lake, retention=retention, dry_run=True).removed == 1
    assert left.exists()
    assert maintain(lake, retention=retention).removed == 1
    assert not left.exists()
    assert landed(lake) == [0, 1]


def test_a_short_retention_spares_what_a_writer_may_be_about_to_commit(lake: Lake) -> None:
    land(lake, 0, 4)
    merge_files(lake.open("geo"), None, DAY, 2**20)
    fresh = data(lake)[0].with_name("part-00000-about-to-be-committed.parquet")
    fresh.write_bytes(b"PAR1")
    age([fresh], hours=1000)
    done = maintain(lake, retention=timedelta(0))
    assert done.removed == 4
    assert fresh in data(lake)
    assert landed(lake) == list(range(4))


def test_two_at_once_and_landers_beside_them(lake: Lake) -> None:
    land(lake, 0, 30)

    def follow() -> None:
        land(another(lake), 30, 60)

    def keep_maintaining() -> None:
        for _ in range(4):
            maintain(Lake(lake.uri), retention=timedelta(hours=24))

    with ThreadPoolExecutor(3) as threads:
        for task in [threads.submit(work) for work in (follow, keep_maintaining, keep_maintaining)]:
            task.result()
    maintain(lake)
    assert landed(lake) == list(range(60))
    assert len(files(lake)) <= MANY_FILES


@pytest.mark.parametrize("when", ["_write", "_commit"])
def test_who_merges_too_late_leaves_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    land(lake, 0, 8)
    work = getattr(merging, when)

    def late(*given: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(merging, when, work)
            maintain(lake)
        return work(*given)

    monkeypatch.setattr(merging, when, late)
    done = maintain(lake)
    assert (done.merged, done.skipped, done.after.files) == ([DAY], [DAY], 1)
    assert landed(lake) == list(range(8))


def test_a_row_deleted_meanwhile_stays_deleted(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    land(lake, 0, 8)
    write = merging._write

    def meanwhile(*given: Any) -> File:
        written = write(*given)
        lake.open("geo").delete("ind = 103")
        land(lake, 8, 9)
        return written

    monkeypatch.setattr(merging, "_write", meanwhile)
    assert maintain(lake).skipped == [DAY]
    assert landed(lake) == [0, 1, 2, 4, 5, 6, 7, 8]


def test_appends_meanwhile_do_not_keep_files_from_being_merged(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every commit in between makes the merge's fail, and it is made again."""
    land(lake, 0, 8)
    commit, rest = DeltaTable.create_write_transaction, iter(range(8, 12))

    def after_another(*given: Any, **more: Any) -> None:
        for at in rest:
            land(lake, at, at + 1)
            break
        commit(*given, **more)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", after_another)
    assert merge_files(lake.open("geo"), None, DAY, 2**20) == (7, 0)
    assert landed(lake) == list(range(12))
    assert len(files(lake)) == 5


@pytest.mark.parametrize("who", ["the engine", "a commit that is not the newest"])
def test_otherwise_rows_are_there_twice(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """What the tests above are worth: two merge the same files, and both commit."""
    land(lake, 0, 8)
    handles = [lake.open("geo"), lake.open("geo")]
    retrying = merging.CommitProperties(max_commit_retries=15)
    monkeypatch.setattr(merging, "CommitProperties", lambda **_: retrying)
    monkeypatch.setattr(DeltaTable, "update_incremental", lambda _: None)
    for handle in handles:
        if who == "the engine":
            handle.optimize.compact()
        else:
            merge_files(handle, None, DAY, 2**20)
    assert landed(lake) == sorted([*range(8), *range(8)])


def test_a_table_with_deleted_rows_in_its_files_is_left_alone(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(lake, 0, 8)
    handle = lake.open("geo")
    marked = handle.protocol()._replace(min_reader_version=3)
    monkeypatch.setattr(DeltaTable, "protocol", lambda _: marked)
    assert merge_files(handle, None, DAY, 2**20) == (0, 0)


def test_a_damaged_file_is_named(lake: Lake) -> None:
    land(lake, 0, 8)
    data(lake)[3].write_bytes(b"PAR1 no more")
    with pytest.raises(LakeError, match=r"bronze/geo/_landed_on=.*parquet is damaged"):
        maintain(lake)


class Crash(BaseException):
    """The process ends here, as far as it can tell."""


@pytest.mark.parametrize("step", ["merge_files", "shorten_log", "measure"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_ended_anywhere_it_goes_on(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    land(lake, 0, 8)
    before = everything(lake)
    work: Callable[..., Any] = getattr(maintenance, step)

    def crashing(*given: Any) -> None:
        if after:
            work(*given)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(maintenance, step, crashing)
        with pytest.raises(Crash):
            maintain(lake)
    assert everything(lake) == before
    assert maintain(lake).after.files == 1
    assert everything(lake) == before


# ------------------------------------------------------------- landing while others keep up


def clean(lake: Lake) -> None:
    """Another process merges, writes a checkpoint and removes all of the log before it."""
    handle = lake.open("geo")
    merge_files(handle, None, DAY, 2**20)
    handle.create_checkpoint()
    for path in log(lake):
        if path.name[0] == "0" and int(path.name[:20]) < handle.version():
            path.unlink()


def test_a_lander_whose_handle_the_log_does_not_reach_back_to(lake: Lake) -> None:
    late, later = another(lake), another(lake)
    for mine in (late, later):
        assert mine.append("geo", [piece(0, 2)]).num_rows == (2 if mine is late else 0)
    land(lake, 2, 20)
    clean(lake)
    assert late.append("geo", [piece(15, 25)]).column("ind").to_pylist() == [*range(120, 125)]
    assert later.offsets("geo", ORIGIN).end in (2, 25)
    assert later.append("geo", [piece(0, 30)]).num_rows == 5
    assert landed(lake) == list(range(30))


def test_what_has_landed_is_known_from_a_checkpoint(lake: Lake) -> None:
    """Gaps and numbers of 186 bits, too, and for ever."""
    wide = Origin("kinesis", "s", "shard")
    lake.append("geo", [piece(2, 4), piece(9, 12)])
    number = 2**186 - 9
    offsets = pa.array([f"{number:056}"], pa.string())
    only = decode(GEO, [b'{"ind":1,"country":"x"}']).rows
    lake.append("geo", [Piece(wide, number, number + 1, offsets, only)])
    held = [lake.offsets("geo", origin) for origin in (ORIGIN, wide)]
    clean(lake)
    assert [another(lake).offsets("geo", origin) for origin in (ORIGIN, wide)] == held
    (path,) = [path for path in log(lake) if path.name.endswith(".checkpoint.parquet")]
    records = pq.ParquetFile(path).read(["txn"]).column("txn").to_pylist()
    assert {row["lastUpdated"] for row in records if row} == {None}
    assert another(lake).append("geo", [piece(0, 12)]).num_rows == 7
