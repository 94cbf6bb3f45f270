"""Rejected records through the rules again: each lands once, whoever replays it and how often."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from ingestion import bronze, landing, replay
from ingestion import lake as lake_module
from ingestion.bronze import rejected
from ingestion.lake import REJECTED, Lake, Origin, Piece, padded
from ingestion.landing import Account, Batches, Chunk
from ingestion.merging import merge_files
from ingestion.records import KINDS, Reason, Rejection
from tests import hostile, oracle
from tests.unit.test_lake import rows

PIN, GEO, USER = KINDS["pin"], KINDS["geo"], KINDS["user"]
ORIGIN = Origin("kafka", "t.user", "0")
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)

SOUND = b'{"ind":1,"first_name":"Ann"}'
MALFORMED = b"{"
A_PIN = b'{"index":2,"title":"x","category":"art"}'
A_PLACE = b'{"ind":3,"country":"Peru"}'
PIN_AND_PLACE = b'{"ind":4,"title":"y","country":"Peru"}'


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    created = Lake(str(tmp_path / "lake"), clock=lambda: NOON)
    created.create()
    return created


def reject(lake: Lake, raws: Mapping[int, bytes], origin: Origin = ORIGIN) -> None:
    """What earlier rules rejected, whatever those of today say."""
    lines = list(raws.values())
    items = [Rejection(index, Reason.MISROUTED, "once") for index in range(len(lines))]
    offsets = (
        pa.array([padded(offset) for offset in raws], pa.string())
        if max(raws) > 2**63
        else pa.array(raws, pa.int64())
    )
    given = landing._rejected_rows(USER, lines, items)
    lake.append(REJECTED, [Piece(origin, 0, max(raws) + 1, offsets, given)])


def run(lake: Lake, *, again: bool = True, into: Any = None, **more: Any) -> replay.Replayed:
    opened = Lake(lake.uri, clock=lambda: NOON) if again else lake
    return replay.replay(opened, rejected(lake.uri), into, **more)


def landed(lake: Lake, kind: str = "user") -> list[tuple[Any, ...]]:
    return sorted(rows(lake, kind, "_source, _stream, _partition, _position, ind"))


def test_what_the_rules_take_now_lands_once(lake: Lake) -> None:
    reject(lake, {7: SOUND, 9: MALFORMED, 11: b'{"ind":5,"age":3}'})
    first = run(lake)
    assert (first.chosen, first.landed, first.rejected) == (3, {"user": 2}, {"malformed": 1})
    assert (first.before, first.elsewhere) == (0, 0)
    for _ in range(2):
        again = run(lake)
        assert (again.chosen, again.landed, again.before) == (3, {}, 2)
        assert again.rejected == {"malformed": 1}
    assert landed(lake) == [
        ("replay", "t.user", "kafka/0", f"{7:020}", 1),
        ("replay", "t.user", "kafka/0", f"{11:020}", 5),
    ]


def test_it_lands_as_of_now_not_as_of_its_rejection(lake: Lake) -> None:
    reject(lake, {7: SOUND})
    later = NOON + timedelta(days=400)
    replay.replay(Lake(lake.uri, clock=lambda: later), rejected(lake.uri))
    assert rows(lake, "user", "_landed_at, _landed_on") == [(later, later.date())]


def test_a_dry_run_says_the_same_and_lands_nothing(lake: Lake) -> None:
    reject(lake, {7: SOUND, 8: A_PIN, 9: MALFORMED})
    versions = [lake.open(kind).version() for kind in KINDS]
    said = run(lake, into=PIN, dry_run=True)
    assert [lake.open(kind).version() for kind in KINDS] == versions
    assert run(lake, into=PIN) == said


def test_a_misrouted_record_goes_where_its_fields_say_if_told_to(lake: Lake) -> None:
    reject(lake, {0: A_PIN, 1: A_PLACE, 2: PIN_AND_PLACE, 3: SOUND})
    assert run(lake).landed == {"user": 1}
    assert run(lake, into=PIN).landed == {"pin": 1}
    assert run(lake, into=GEO).landed == {"geo": 1}
    for kind in (None, PIN, GEO, USER):
        account = run(lake, into=kind)
        assert (account.landed, account.before, account.rejected) == ({}, 3, {"misrouted": 1})
    assert [row[-1] for kind in KINDS for row in landed(lake, kind)] == [2, 3, 1]


def test_a_record_that_its_own_kind_takes_goes_nowhere_else(lake: Lake) -> None:
    """Otherwise two replays at once could land it in two tables."""
    reject(lake, {0: b'{"ind":6,"title":"x","age":3}'})
    assert run(lake, into=PIN).landed == {"user": 1}


def test_sequence_numbers_of_186_bits(lake: Lake) -> None:
    shard, number = Origin("kinesis", "s", "shardId-000000000001"), 2**186 - 5
    reject(lake, {number: SOUND, number + 2: SOUND}, shard)
    assert run(lake).landed == {"user": 2}
    assert run(lake).landed == {}
    assert [row[2:4] for row in landed(lake)] == [
        (f"kinesis/{shard.partition}", str(number)),
        (f"kinesis/{shard.partition}", str(number + 2)),
    ]
    assert [row.replayed_at for row in rejected(lake.uri)] == [NOON, NOON]


def test_equal_positions_of_other_origins_are_other_records(lake: Lake) -> None:
    origins = [
        Origin(source, stream, partition)
        for source in ("s3", "kafka")
        for stream in ("t.user", "u.user")
        for partition in ("0", "0/0")
    ]
    for origin in origins:
        reject(lake, {5: SOUND}, origin)
        assert run(lake).landed == {"user": 1}
    assert len(landed(lake)) == len(origins)
    places = {(row.source, row.stream, row.partition) for row in bronze.positions(lake.uri)}
    assert places == {(origin.source, origin.stream, origin.partition) for origin in origins}


def test_hostile_lines_are_replayed_as_the_oracle_lands_them(lake: Lake) -> None:
    raws = [raw for raw in hostile.hostile_lines(seed=11, posts=40)["user"] if raw.strip()]
    reject(lake, dict(enumerate(raws)))
    account = run(lake)
    due = {at: oracle.land("user", raw) for at, raw in enumerate(raws)}
    taken = [at for at, record in due.items() if isinstance(record, oracle.Landed)]
    reasons = [record.reason for record in due.values() if isinstance(record, oracle.Rejected)]
    assert [int(position) for *_, position, _ in landed(lake)] == taken
    assert account.rejected == Counter(reasons)


# ------------------------------------------------------------------------------- accounts


def test_received_is_landed_and_rejected_before_and_after(lake: Lake) -> None:
    """In each partition, whichever tables its records are in."""
    batches = Batches(lake, USER, Account(ORIGIN.stream, "user"))
    raws = [SOUND, A_PIN, MALFORMED, A_PLACE, PIN_AND_PLACE, SOUND]
    batches.add(Chunk(ORIGIN, 0, 6, range(6), raws))
    batches.close()

    def stands() -> list[tuple[Any, ...]]:
        found = bronze.positions(lake.uri)
        return [(row.source, row.partition, row.last_position, row.rows, row.rejected)
                for row in found]  # fmt: skip

    assert stands() == [("kafka", "0", f"{5:020}", 2, 4)]
    run(lake, into=PIN)
    assert stands() == [("kafka", "0", f"{5:020}", 3, 3)]
    run(lake, into=GEO)
    assert stands() == [("kafka", "0", f"{5:020}", 4, 2)]


def test_lists_say_what_was_replayed_and_keep_it(lake: Lake) -> None:
    reject(lake, {7: SOUND, 9: MALFORMED})
    assert all(row.replayed_at is None for row in rejected(lake.uri))
    run(lake)
    found = {row.id: (row.raw, row.replayed_at) for row in rejected(lake.uri, limit=9)}
    assert found == {"kafka/t.user/0/7": (SOUND, NOON), "kafka/t.user/0/9": (MALFORMED, None)}
    assert bronze.rejected_record(lake.uri, "kafka/t.user/0/7").replayed_at == NOON
    assert bronze.count_rejected(lake.uri) == 2


# ------------------------------------------------------------------------------- once


def test_who_is_late_leaves_out_what_another_replayed(lake: Lake) -> None:
    """Both asked the same version what it holds; the later one's commit fails and it asks again."""
    reject(lake, {7: SOUND, 8: SOUND})
    chosen = list(rejected(lake.uri))
    late = Lake(lake.uri, clock=lambda: NOON)
    late.handle("user")
    assert replay.replay(lake, chosen[:1]).landed == {"user": 1}
    account = replay.replay(late, chosen)
    assert (account.landed, account.elsewhere) == ({"user": 1}, 1)
    assert len(landed(lake)) == 2


def test_a_record_chosen_twice_lands_once(lake: Lake) -> None:
    reject(lake, {7: SOUND, 8: SOUND})
    chosen = list(rejected(lake.uri))
    assert replay.replay(lake, chosen + chosen).landed == {"user": 2}
    assert len(landed(lake)) == 2


def test_many_at_once(lake: Lake) -> None:
    """Each chooses its own part of the same records, in its own order."""
    reject(lake, dict.fromkeys(range(30), SOUND))
    start = Barrier(4)

    def replay_some(seed: int) -> int:
        draw = random.Random(seed)
        opened = Lake(lake.uri, clock=lambda: NOON)
        opened.handle("user")
        chosen = list(rejected(lake.uri))
        start.wait()
        total = 0
        for _ in range(6):
            some = draw.sample(chosen, 12)
            total += replay.replay(opened, some).landed.total()
        return total

    with ThreadPoolExecutor(4) as threads:
        told = sum(threads.map(replay_some, range(4)))
    positions = [row[3] for row in landed(lake)]
    assert len(positions) == len(set(positions)) == told
    assert run(lake).landed.total() == 30 - told


@pytest.mark.parametrize("lacking", ["replayed", "_record"])
def test_without_the_question_or_the_record_they_land_twice(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """What the tests above are worth."""
    reject(lake, {7: SOUND})
    chosen = list(rejected(lake.uri))
    late = Lake(lake.uri)
    late.handle("user")
    if lacking == "replayed":
        monkeypatch.setattr(lake_module, "replayed", lambda _: set())
    else:  # as if each replay had a record of its own
        commit = Lake._commit

        def its_own(mine: Lake, table: str, found: pa.Table, _: Any) -> None:
            commit(mine, table, found, {str(id(mine)): 1})

        monkeypatch.setattr(Lake, "_commit", its_own)
    replay.replay(lake, chosen)
    replay.replay(late, chosen)
    assert len(landed(lake)) == 2


class Crash(BaseException):
    """The process ends here, as far as it can tell."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("commit", [1, 2])
def test_a_crash_around_any_commit_loses_and_repeats_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, commit: int, after: bool
) -> None:
    monkeypatch.setattr(replay, "_RECORDS", 2)
    reject(lake, dict.fromkeys(range(5), SOUND))
    commits: list[int] = []

    def crashing(mine: Lake, *rest: Any) -> None:
        commits.append(1)
        if len(commits) == commit and not after:
            raise Crash
        committed(mine, *rest)
        if len(commits) == commit:
            raise Crash

    committed = Lake._commit
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "_commit", crashing)
        with pytest.raises(Crash):
            run(lake)
    partly = len(landed(lake))
    assert partly == 2 * (commit - 1 + after)
    assert run(lake).landed.total() == 5 - partly
    assert [int(row[3]) for row in landed(lake)] == [0, 1, 2, 3, 4]


def test_what_was_replayed_is_known_after_the_table_s_upkeep(lake: Lake) -> None:
    reject(lake, dict.fromkeys(range(4), SOUND))
    for row in rejected(lake.uri):
        replay.replay(lake, [row])
    handle = lake.open("user")
    assert merge_files(handle, None, NOON.date(), 2**20) == (3, 0)
    handle.create_checkpoint()
    log = Path(lake.location("user"), "_delta_log")
    for path in log.glob("*.json"):
        if int(path.stem) < handle.version():
            path.unlink()
    assert DeltaTable(lake.location("user")).transaction_version(lake_module.REPLAY) == 4
    assert run(lake).landed == {}
    assert run(lake, again=False).landed == {}
    assert len(landed(lake)) == 4
