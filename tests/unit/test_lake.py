"""Appends to real Delta tables: every offset once, whoever else is writing."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from ingestion import lake as lake_module
from ingestion.bucket import engine_options
from ingestion.errors import AddressError, LakeError, SourceError
from ingestion.lake import REJECTED, SCHEMAS, Lake, Origin, Piece, explained
from ingestion.offsets import Offsets
from ingestion.records import KINDS, decode

GEO = KINDS["geo"]
ORIGIN = Origin("s3", "t.geo", "0")
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    created = Lake(str(tmp_path / "lake"), clock=lambda: NOON)
    created.create()
    return created


def another(lake: Lake) -> Lake:
    """A second writer's view of the lake, opened now."""
    other = Lake(lake.uri, clock=lambda: NOON)
    other.create()
    return other


def piece(start: int, end: int, origin: Origin = ORIGIN) -> Piece:
    """Rows whose key is their offset and a hundred."""
    rows = decode(GEO, [b'{"ind": %d, "country": "x"}' % (at + 100) for at in range(start, end)])
    return Piece(origin, start, end, pa.array(range(start, end), pa.int64()), rows.rows)


def rows(lake: Lake | str, table: str, columns: str = "*", rest: str = "") -> list[tuple[Any, ...]]:
    """What another process would read of a bronze table now."""
    uri = lake if isinstance(lake, str) else lake.uri
    log = DeltaTable(f"{uri}/bronze/{table}", storage_options=engine_options(uri))
    builder = QueryBuilder().register(table, log)
    found: list[tuple[Any, ...]] = []
    for batch in builder.execute(f"select {columns} from {table} {rest}"):
        lists = [batch.column(name).to_pylist() for name in batch.schema.names]
        found += zip(*lists, strict=True)
    return found


def landed(lake: Lake, origin: Origin = ORIGIN) -> list[int]:
    """The offsets of an origin's rows, each as often as it is there."""
    found = rows(lake, "geo", "_source, _stream, _partition, _position, ind")
    mine = [row for row in found if row[:3] == (origin.source, origin.stream, origin.partition)]
    assert all(ind == int(position) + 100 for *_, position, ind in mine)
    return sorted(int(position) for *_, position, _ in mine)


# --------------------------------------------------------------------------- the tables


def test_a_new_lake_has_the_bronze_tables(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "new" / "lake"))
    assert not any(lake.exists(table) for table in SCHEMAS)
    assert lake.create() == ["pin", "geo", "user", "rejected"]
    assert lake.create() == []
    assert another(lake).create() == []
    for table, schema in SCHEMAS.items():
        assert lake.exists(table)
        assert pa.schema(lake.handle(table).schema().to_arrow()).names == schema.names
        assert lake.handle(table).metadata().partition_columns == ["_landed_on"]
        assert rows(lake, table) == []


def test_several_make_a_lake_at_once(tmp_path: Path) -> None:
    """Each of them, and each finds the tables and goes on, whoever was first."""
    for number in range(8):
        together = Barrier(4)

        def make(_: int, uri: str = str(tmp_path / str(number)), start: Barrier = together) -> None:
            lake = Lake(uri, clock=lambda: NOON)
            start.wait()
            lake.create()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(make, range(4)))
        assert all(Lake(str(tmp_path / str(number))).exists(table) for table in SCHEMAS)


def test_another_makes_a_table_and_lands_in_it_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path / "lake"), clock=lambda: NOON)
    other = Lake(lake.uri, clock=lambda: NOON)
    make = Lake._make_folder

    def late(self: Lake, table: str) -> None:
        if self is lake and table == "geo":
            other.create()
            other.append("geo", [piece(0, 1)])
        make(self, table)

    monkeypatch.setattr(Lake, "_make_folder", late)
    lake.create()
    assert landed(lake) == [0]


def test_a_row_says_where_it_comes_from_and_when_it_landed(lake: Lake) -> None:
    lake.append("geo", [piece(41, 42, Origin("kafka", "a.geo", "shardId-7"))])
    columns = "ind, country, latitude, _rescued, _source, _stream, _partition, _position"
    assert rows(lake, "geo", f"{columns}, _landed_on") == [
        (141, "x", None, None, "kafka", "a.geo", "shardId-7", "0" * 18 + "41", NOON.date())
    ]
    assert rows(lake, "geo", "cast(_landed_at as varchar)") == [("2024-02-29T12:00:00Z",)]


def test_the_day_a_row_landed_on_is_that_of_utc(tmp_path: Path) -> None:
    zone = timezone(timedelta(hours=14))
    lake = Lake(str(tmp_path), clock=lambda: datetime(2024, 3, 1, 1, tzinfo=zone))
    lake.create()
    lake.append("geo", [piece(0, 1)])
    assert rows(lake, "geo", "_landed_on") == [(NOON.date(),)]


def test_positions_compare_as_the_offsets_do(lake: Lake) -> None:
    for offset in (9, 10, 2**62):
        lake.append("geo", [piece(offset, offset + 1)])
    found = rows(lake, "geo", "ind", "order by _position")
    assert found == [(109,), (110,), (2**62 + 100,)]


# ---------------------------------------------------------------------- every offset once


def test_what_a_table_accounts_for_is_not_appended_again(lake: Lake) -> None:
    assert lake.append("geo", [piece(0, 5)]).num_rows == 5
    assert lake.append("geo", [piece(0, 5)]).num_rows == 0
    assert lake.append("geo", [piece(3, 8)]).column("ind").to_pylist() == [105, 106, 107]
    assert landed(lake) == list(range(8))
    assert lake.handle("geo").version() == 2


def test_pieces_of_one_commit_may_overlap(lake: Lake) -> None:
    appended = lake.append("geo", [piece(0, 3), piece(2, 5), piece(8, 9), piece(0, 9)])
    assert appended.num_rows == 9
    assert landed(lake) == list(range(9))
    assert lake.handle("geo").version() == 1


def test_gaps_are_kept_and_filled(lake: Lake) -> None:
    lake.append("geo", [piece(2, 4), piece(6, 8)])
    assert another(lake).offsets("geo", ORIGIN).gaps() == [(0, 2), (4, 6)]
    lake.append("geo", [piece(3, 7)])
    assert another(lake).offsets("geo", ORIGIN).gaps() == [(0, 2)]
    lake.append("geo", [piece(0, 9)])
    assert another(lake).offsets("geo", ORIGIN) == Offsets.of([(0, 9)])
    assert landed(lake) == list(range(9))


def test_offsets_without_a_row_are_accounted_for(lake: Lake) -> None:
    """A batch in which every record was rejected moves on all the same."""
    none = decode(GEO, []).rows
    lake.append("geo", [Piece(ORIGIN, 0, 50, pa.array([], pa.int64()), none)])
    assert another(lake).offsets("geo", ORIGIN) == Offsets.of([(0, 50)])
    assert landed(lake) == []


def test_partitions_streams_and_sources_are_counted_apart(lake: Lake) -> None:
    origins = [
        Origin(source, stream, partition)
        for source in ("s3", "kafka")
        for stream in ("a.geo", "b.geo")
        for partition in ("0", "1")
    ]
    for origin in origins:
        assert lake.append("geo", [piece(0, 2, origin)]).num_rows == 2
    assert lake.append("geo", [piece(0, 3, origin) for origin in origins]).num_rows == 8
    assert all(landed(lake, origin) == [0, 1, 2] for origin in origins)


def test_what_else_is_covered_is_recorded_with_the_rows(lake: Lake) -> None:
    lake.append("geo", [piece(4, 5)], {ORIGIN: Offsets.of([(0, 3), (4, 9)])})
    assert another(lake).offsets("geo", ORIGIN) == Offsets.of([(0, 3), (4, 9)])
    assert landed(lake) == [4]


def test_a_commit_that_adds_nothing_is_not_made(lake: Lake) -> None:
    lake.append("geo", [piece(0, 2)])
    assert lake.append("geo", []).num_rows == 0
    assert lake.append("geo", [piece(0, 2)], {ORIGIN: Offsets.of([(0, 9)])}).num_rows == 0
    assert another(lake).handle("geo").version() == 1


# ------------------------------------------------------------------------ other writers


def test_a_writer_that_is_late_leaves_out_what_another_landed(lake: Lake) -> None:
    late = another(lake)
    lake.append("geo", [piece(0, 5)])
    assert late.offsets("geo", ORIGIN) == Offsets()  # it does not know yet
    assert late.append("geo", [piece(3, 8)]).column("ind").to_pylist() == [105, 106, 107]
    assert landed(lake) == list(range(8))
    assert late.offsets("geo", ORIGIN) == Offsets.of([(0, 8)])


def test_a_late_writer_of_another_partition_loses_nothing(lake: Lake) -> None:
    other = Origin("s3", "t.geo", "1")
    late = another(lake)
    for start in range(3):
        lake.append("geo", [piece(start, start + 1)])
    assert late.append("geo", [piece(0, 2, other)]).num_rows == 2
    assert (landed(lake), landed(lake, other)) == ([0, 1, 2], [0, 1])


def test_many_threads_on_one_lake_and_on_their_own(lake: Lake) -> None:
    lakes = [lake, lake, another(lake), another(lake)]
    start = Barrier(len(lakes))

    def write(mine: Lake) -> int:
        start.wait()
        return sum(mine.append("geo", [piece(n, n + 3)]).num_rows for n in range(0, 20, 2))

    with ThreadPoolExecutor(len(lakes)) as threads:
        appended = list(threads.map(write, lakes))
    assert landed(lake) == list(range(21))
    assert sum(appended) == 21


def test_a_commit_of_another_thread_does_not_go_unnoticed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves forward the handle that both commit on, after the first has asked it."""
    asked, committed = Event(), Event()
    outstanding = Lake._outstanding

    def ask(mine: Lake, *rest: Any) -> Any:
        found = outstanding(mine, *rest)
        if not asked.is_set():
            asked.set()
            committed.wait(0.3)
        return found

    def second() -> None:
        asked.wait()
        lake.append("geo", [piece(0, 5)])
        committed.set()

    monkeypatch.setattr(Lake, "_outstanding", ask)
    with ThreadPoolExecutor(1) as other:
        ended = other.submit(second)
        lake.append("geo", [piece(0, 5)])
        ended.result()
    assert landed(lake) == list(range(5))


def test_a_handle_is_opened_anew_now_and_then(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows with every commit: memory must not grow with the input."""
    monkeypatch.setattr(lake_module, "_COMMITS_A_HANDLE", 3)
    handles = []
    for start in range(7):
        lake.append("geo", [piece(start, start + 2)])
        handles.append(lake.handle("geo"))
    assert len(set(map(id, handles))) == 3
    assert landed(lake) == list(range(8))


def test_without_the_check_two_writers_land_rows_twice(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above are worth: delta-rs alone does not keep the promise."""
    late = another(lake)
    lake.append("geo", [piece(0, 5)])
    monkeypatch.setattr(Lake, "offsets", lambda *_: Offsets())
    late.append("geo", [piece(3, 8)])
    assert Counter(landed(lake)) == Counter([*range(5), *range(3, 8)])


def test_a_writer_that_never_gets_through_gives_up(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise CommitFailedError("another writer")

    pauses: list[float] = []
    monkeypatch.setattr(Lake, "_commit", refuse)
    monkeypatch.setattr(lake_module.time, "sleep", pauses.append)
    with pytest.raises(LakeError, match=r"bronze/geo: 60 commits in a row .* nothing is lost"):
        lake.append("geo", [piece(0, 5)])
    assert len(pauses) == 59
    assert max(pauses) <= 1
    assert landed(lake) == []


# --------------------------------------------------------------------------- what is wrong


def test_a_lake_that_was_not_made(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=r"bronze/geo is not a Delta table; run 'ingest init'"):
        Lake(str(tmp_path / "nowhere")).append("geo", [piece(0, 1)])


def test_a_log_that_does_not_say_what_has_landed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: Any) -> Offsets:
        raise ValueError("s3/t/0: gap 0 is not described")

    monkeypatch.setattr(Offsets, "from_transactions", damaged)
    with pytest.raises(LakeError, match=r"gap 0 is not described.*into another lake"):
        lake.append("geo", [piece(0, 1)])


def other_columns() -> Iterator[tuple[pa.Schema, str]]:
    schema = SCHEMAS["geo"]
    latitude = schema.get_field_index("latitude")
    yield schema.remove(latitude), "lacks latitude"
    yield schema.append(pa.field("extra", pa.string())), "has extra"
    yield schema.set(latitude, pa.field("latitude", pa.string())), "latitude is .*string.*double"
    yield schema.set(0, pa.field("ind", pa.int32())), "ind is .*integer.*, not .*long"


@pytest.mark.parametrize(("schema", "said"), list(other_columns()))
def test_a_table_with_other_columns_is_refused(
    tmp_path: Path, schema: pa.Schema, said: str
) -> None:
    """Delta would cast 7.5 to 7 and say nothing."""
    write_deltalake(tmp_path / "bronze" / "geo", schema.empty_table())
    with pytest.raises(LakeError, match=f"bronze/geo has other columns.*{said}.*move the table"):
        Lake(str(tmp_path)).create()


def make_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("something else")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "is a file, not a folder; set LAKE_URI"),
        ("bronze", "bronze is a file, not a folder; set LAKE_URI"),
        ("bronze/pin", "bronze/pin is a file, not a folder; set LAKE_URI"),
        ("bronze/pin/notes.txt", "bronze/pin holds something else than a Delta table; move it"),
        ("bronze/rejected/x/y", "bronze/rejected holds something else than a Delta table"),
    ],
)
def test_a_lake_where_something_else_lies(tmp_path: Path, place: str, said: str) -> None:
    make_file(tmp_path / "lake" / place)
    with pytest.raises(LakeError, match=said):
        Lake(str(tmp_path / "lake")).create()
    assert (tmp_path / "lake" / place).read_text() == "something else"


@pytest.mark.parametrize("uri", ["s3a://b/lake", "S3://b/lake", "gs://b/lake", "az://b/lake"])
def test_a_place_where_nobody_knows_whether_commits_are_safe(uri: str) -> None:
    """The engine would write there, and no one has tried the store out."""
    with pytest.raises(AddressError, match=f"^{uri} is neither a path .*orrect LAKE_URI$"):
        Lake(uri)


def test_a_lake_by_its_file_address_is_the_folder(tmp_path: Path) -> None:
    Lake(f"file://{tmp_path}/lake/").create()
    assert Lake(str(tmp_path / "lake")).create() == []
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]


def test_a_lake_below_a_file(tmp_path: Path) -> None:
    make_file(tmp_path / "file")
    with pytest.raises(
        LakeError, match=r"file/lake/bronze/pin cannot be made: Not a directory; set"
    ):
        Lake(str(tmp_path / "file" / "lake")).create()


def test_a_creation_cut_short_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "bronze" / "pin" / "_delta_log").mkdir(parents=True)
    assert "pin" in Lake(str(tmp_path)).create()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk; free some"),
        (OSError("io error: Disk quota exceeded (os error 122)"), "no space left on the disk"),
        (DeltaError("Generic error\n  x (os error 28)"), "no space left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read or written by this"),
        (DeltaError("open: Permission denied (os error 13)"), "change its permissions or set"),
        (DeltaError("x: Os { code: 1, kind: PermissionDenied }"), "cannot be read or written by"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be read or written by this"),
        (DeltaError("first\n  \x1b[31m↳\x1b[0m second\n"), "^lake/pin: first: second$"),
        (DeltaError(""), "^lake/pin: unknown error$"),
        (Exception("External error: not there"), "^lake/pin: External error: not there$"),
    ],
)
def test_what_the_engine_says_is_explained(error: Exception, said: str) -> None:
    with pytest.raises(LakeError, match=said), explained("lake/pin"):
        raise error


@pytest.mark.parametrize("error", [ZeroDivisionError(), SourceError("ours"), KeyboardInterrupt()])
def test_what_is_not_the_engine_s_passes(error: BaseException) -> None:
    with pytest.raises(type(error)), explained("lake/pin"):
        raise error


def test_rejections_have_their_table(lake: Lake) -> None:
    assert SCHEMAS[REJECTED].names[:4] == ["kind", "reason", "detail", "raw"]
    write: Callable[..., Any] = lake.append
    given = pa.RecordBatch.from_pylist(
        [{"kind": "pin", "reason": "malformed", "detail": "d", "raw": b"\xff\x00"}],
        schema=lake_module.REJECTED_FIELDS,
    )
    write(REJECTED, [Piece(ORIGIN, 0, 1, pa.array([0], pa.int64()), given)])
    assert rows(lake, REJECTED, "kind, reason, detail, raw") == [
        ("pin", "malformed", "d", b"\xff\x00")
    ]
