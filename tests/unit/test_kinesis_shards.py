"""Which shards may be read, from where, and what may have been lost: against a model of a stream.

The model keeps records for a time, splits and merges its shards, and answers as Kinesis does; runs
of a reader are drawn at random and none of its decisions waits for anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingestion.lake import SEQUENCE_DIGITS, Origin, padded
from ingestion.landing import _positions
from ingestion.offsets import Offsets
from ingestion.sources.shards import (
    RETRY_FIRST,
    RETRY_MOST,
    Cursor,
    Gap,
    Page,
    Shard,
    Stream,
    caught_up,
    retry_after,
)

KEPT = 24 * 3600.0


@dataclass
class Held:
    """A shard of the model; its records with their numbers and when they came."""

    id: str
    parents: tuple[str, ...]
    first: int
    records: list[tuple[int, float]] = field(default_factory=list)
    closed: float | None = None


@dataclass
class Model:
    """A stream as Kinesis keeps it.

    Attributes:
        expired: what an iterator at a record that has expired does; all has been seen.
    """

    page: int = 3
    expired: Literal["goes on", "stalls", "is refused"] = "goes on"
    now: float = 1_700_000_000.0
    shards: dict[str, Held] = field(default_factory=dict)
    last: int = 2**184

    def number(self) -> int:
        self.last += 2**40 + 7
        return self.last

    def open(self, *parents: str) -> str:
        id_ = f"shardId-{len(self.shards):012}"
        self.shards[id_] = Held(id_, parents, self.number())
        return id_

    def close(self, *ids: str) -> None:
        for id_ in ids:
            self.shards[id_].closed = self.now

    def split(self, id_: str) -> list[str]:
        self.close(id_)
        return [self.open(id_), self.open(id_)]

    def merge(self, one: str, other: str) -> str:
        self.close(one, other)
        return self.open(one, other)

    def put(self, id_: str, count: int = 1) -> list[int]:
        numbers = [self.number() for _ in range(count)]
        self.shards[id_].records += [(number, self.now) for number in numbers]
        return numbers

    @property
    def opened(self) -> list[str]:
        return [id_ for id_, shard in self.shards.items() if shard.closed is None]

    def there(self, id_: str) -> list[int]:
        return [n for n, came in self.shards[id_].records if self.now - came < KEPT]

    def listed(self) -> list[Shard]:
        return [
            Shard(shard.id, shard.parents, shard.first, shard.closed is not None)
            for shard in self.shards.values()
            if shard.closed is None or self.now - shard.closed < KEPT
        ]

    def iterator(self, id_: str, beginning: dict[str, str]) -> str:
        kind = beginning["ShardIteratorType"]
        if kind == "TRIM_HORIZON":
            return f"{id_} 0"
        number = int(beginning["StartingSequenceNumber"])
        gone = [n for n, came in self.shards[id_].records if self.now - came >= KEPT]
        expired = self.expired if number in gone else "goes on"
        if expired == "is refused" or not self.shards[id_].first <= number <= self.last:
            raise ValueError("no such number")
        number += kind == "AFTER_SEQUENCE_NUMBER"
        return f"{id_} {'stalled' if expired == 'stalls' else number}"

    def get(self, iterator: str) -> Page:
        id_, at, *seen = iterator.split()
        if at == "stalled":
            return Page([], [], 0.0, KEPT, iterator)
        found = [n for n in self.there(id_) if n >= int(at)]
        numbers, rest = found[: self.page], found[self.page :]
        came = dict(self.shards[id_].records)
        follows: str | None = f"{id_} {numbers[-1] + 1 if numbers else at}"
        if not numbers and self.shards[id_].closed is not None:
            # That a closed shard has ended is seen at the second look.
            follows = None if seen else f"{follows} empty"
        return Page(
            numbers,
            [b"%d" % n for n in numbers],
            came[numbers[-1]] if numbers else 0.0,
            self.now - came[rest[0]] if rest else 0.0,
            follows,
        )


class Run:
    """A reader's life: it knows where the table stands and nothing else."""

    def __init__(self, model: Model, landed: dict[str, int]) -> None:
        self.model = model
        self.landed = landed
        self.handed: list[tuple[str, int]] = []
        self.gaps: list[Gap] = []
        self.stream = Stream("s", lambda id_: landed.get(id_, 0), KEPT)
        self.another = self.stream.update(model.listed())

    def read(self, cursor: Cursor) -> None:
        model, id_ = self.model, cursor.shard.id
        if cursor.iterator is None:
            try:
                cursor.iterator = model.iterator(id_, self.stream.beginning(cursor, model.now))
            except ValueError as error:
                cursor.refuse(str(error))
                return
        page = model.get(cursor.iterator)
        assert not cursor.foreign(page)
        new, gap = cursor.take(page, model.now, KEPT)
        self.handed += [(id_, number) for number in page.numbers[new:]]
        self.gaps += [gap] if gap else []
        self.landed[id_] = cursor.position
        if cursor.over:
            self.stream.end(cursor)

    def drain(self, choose: Callable[[list[Cursor]], Cursor] = lambda found: found[0]) -> Run:
        """Read until every shard has ended or has nothing more."""
        for _ in range(10_000):
            waiting = [
                cursor
                for cursor in self.stream.readable()
                if cursor.shard.closed
                or cursor.iterator is None
                or self.model.get(cursor.iterator).numbers
            ]
            if not waiting:
                return self
            self.read(choose(waiting))
        raise AssertionError("reading does not end")

    def numbers(self, id_: str) -> list[int]:
        return [number for shard, number in self.handed if shard == id_]


# ------------------------------------------------------------------ splits, merges, new readers


class Resharding(RuleBasedStateMachine):
    """Records put, shards split and merged, readers ended and begun anew, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.ids = [self.model.open(), self.model.open()]
        self.landed: dict[str, int] = {}
        self.handed: list[tuple[str, int]] = []
        self.run = Run(self.model, self.landed)

    def pick(self, data: Any, count: int = 1) -> list[str]:
        return data.draw(st.permutations(self.model.opened).map(lambda ids: ids[:count]))

    @rule(data=st.data(), count=st.integers(1, 8))
    def put(self, data: Any, count: int) -> None:
        self.model.put(self.pick(data)[0], count)

    @rule(data=st.data())
    def split(self, data: Any) -> None:
        if len(self.model.shards) < 12:
            self.model.split(self.pick(data)[0])

    @rule(data=st.data())
    def merge(self, data: Any) -> None:
        if len(self.model.opened) > 1:
            self.model.merge(*self.pick(data, 2))

    @rule(data=st.data(), pages=st.integers(1, 6))
    def read(self, data: Any, pages: int) -> None:
        for _ in range(pages):
            if found := self.run.stream.readable():
                self.run.read(data.draw(st.sampled_from(found)))

    @rule()
    def look_for_shards(self) -> None:
        assert not self.run.stream.update(self.model.listed())

    @rule()
    def iterators_expire(self) -> None:
        for cursor in self.run.stream.cursors.values():
            cursor.iterator = None

    @rule()
    def begin_anew(self) -> None:
        self.handed += self.run.handed
        self.run = Run(self.model, self.landed)

    @invariant()
    def a_child_comes_after_all_of_its_parents(self) -> None:
        handed = self.handed + self.run.handed
        begun = {id_: place for place, (id_, _) in reversed(list(enumerate(handed)))}
        ended = {id_: place for place, (id_, _) in enumerate(handed)}
        for id_ in begun:
            for parent in self.model.shards[id_].parents:
                held = self.model.shards[parent].records
                assert [n for shard, n in handed if shard == parent] == [n for n, _ in held]
                assert not held or ended[parent] < begun[id_]

    def teardown(self) -> None:
        self.begin_anew()
        self.run.drain()
        handed = self.handed + self.run.handed
        for id_, shard in self.model.shards.items():
            assert [n for at, n in handed if at == id_] == [n for n, _ in shard.records]
        assert not self.run.gaps


TestResharding = Resharding.TestCase
TestResharding.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)


def test_a_merged_shard_waits_for_both_parents() -> None:
    model = Model()
    one, other = model.open(), model.open()
    model.put(one, 2)
    model.put(other, 2)
    child = model.merge(one, other)
    model.put(child, 2)
    run = Run(model, {})
    ready = [[cursor.shard.id for cursor in run.stream.readable()]]
    for id_ in (one, other):
        while not run.stream.cursors[id_].over:
            run.read(run.stream.cursors[id_])
        ready.append([cursor.shard.id for cursor in run.stream.readable()])
    assert ready == [[one, other], [other], [child]]


# --------------------------------------------------------------------- records that have expired

hours = st.floats(0.01, 60)
acts = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 5)),
    st.tuples(st.just("wait"), hours),
    st.tuples(st.just("run"), st.just(0)),
)


@settings(deadline=None)
@given(st.lists(acts, max_size=25), st.sampled_from(["goes on", "stalls", "is refused"]))
def test_no_record_is_lost_in_silence_and_none_is_mourned_in_vain(
    history: list[tuple[str, Any]], expired: Any
) -> None:
    model = Model(expired=expired)
    id_ = model.open()
    landed: dict[str, int] = {}
    handed: list[int] = []
    for act, amount in [*history, ("run", 0)]:
        if act == "put":
            model.put(id_, amount)
        elif act == "wait":
            model.now += amount * 3600
        else:
            there = model.there(id_)
            due = [n for n in there if not handed or n > handed[-1]]
            run = Run(model, landed).drain()
            assert run.numbers(id_) == due
            if due and handed:
                lost = [n for n, _ in model.shards[id_].records if handed[-1] < n < due[0]]
                assert len(run.gaps) <= 1
                assert run.gaps if lost else (not run.gaps or handed[-1] not in there)
            else:
                assert not run.gaps
            handed += due


@pytest.mark.parametrize(
    ("expired", "why"),
    [
        ("goes on", "has expired"),
        ("stalls", "has expired"),
        ("is refused", "is not known (no such number)"),
    ],
)
def test_a_gap_is_named(expired: Any, why: str) -> None:
    model = Model(expired=expired)
    id_ = model.open()
    (last,) = model.put(id_)
    landed: dict[str, int] = {}
    Run(model, landed).drain()
    assert landed == {id_: last + 1}
    model.put(id_)
    model.now += KEPT
    (oldest,) = model.put(id_)
    run = Run(model, landed).drain()
    assert run.gaps == [Gap(id_, last, oldest, f"its last record that landed {why}")]
    assert Run(model, landed).drain().gaps == []


def test_an_idle_shard_that_is_read_all_the_time_has_no_gap() -> None:
    """Its last record expires, and its iterator later; but it was known to be empty until then."""
    model = Model()
    id_ = model.open()
    model.put(id_)
    run = Run(model, {}).drain()
    for _ in range(10):
        model.now += KEPT / 2
        run.read(run.stream.cursors[id_])
    run.stream.cursors[id_].iterator = None
    model.put(id_)
    assert run.drain().gaps == []
    model.now += KEPT
    model.put(id_)
    run.stream.cursors[id_].iterator = None  # nobody read for a whole day
    assert len(run.drain().gaps) == 1


def test_a_child_whose_parent_expired_before_its_end_was_read() -> None:
    model = Model()
    parent = model.open()
    model.put(parent)
    landed: dict[str, int] = {}
    Run(model, landed).drain()
    model.put(parent)
    child, other = model.split(parent)
    model.put(child)
    model.now += KEPT
    (oldest,) = model.put(child)
    run = Run(model, landed).drain()
    why = f"{parent}, which it came from, has expired before it was read"
    assert run.gaps == [Gap(child, None, oldest, why)]
    assert run.numbers(child) == [oldest]
    model.put(other)
    assert [gap.shard for gap in Run(model, landed).drain().gaps] == [other]


def test_a_shard_and_its_parent_came_and_expired_while_nobody_read() -> None:
    """Of the child's own parent nothing has landed, but of that one's."""
    model = Model()
    first, aside = model.open(), model.open()
    model.put(first)
    landed: dict[str, int] = {}
    Run(model, landed).drain()
    model.put(first, 2)
    parent, _ = model.split(first)
    model.put(parent, 2)
    child, other = model.split(parent)
    model.now += KEPT
    (oldest,) = model.put(child)
    model.put(aside)
    run = Run(model, landed).drain()
    why = f"{parent}, which it came from, has expired before it was read"
    assert run.gaps == [Gap(child, None, oldest, why)]
    model.put(other)
    assert [gap.shard for gap in Run(model, landed).drain().gaps] == [other]


def test_shards_that_are_there_were_not_before_one_that_has_expired() -> None:
    model = Model()
    read, parent = model.open(), model.open()
    child, _ = model.split(parent)
    model.now += KEPT
    model.put(read)
    landed: dict[str, int] = {}
    Run(model, landed).drain()
    assert landed[read]
    model.put(child)
    assert Run(model, landed).drain().gaps == []


def test_shards_with_names_of_another_kind_have_their_parents_only() -> None:
    asked: list[str] = []
    stream = Stream("s", lambda id_: asked.append(id_) or 0, KEPT)
    stream.update([Shard("green", ("blue",), 1, closed=False)])
    (cursor,) = stream.readable()
    stream.beginning(cursor, 0.0)
    assert (cursor.whole, asked) == (True, ["green", "blue"])


@pytest.mark.parametrize("page", [1, 3])
@pytest.mark.parametrize("iterator", ["goes on", "expires"])
@pytest.mark.parametrize("expired", ["goes on", "stalls", "is refused"])
def test_what_expires_while_reading_is_almost_a_retention_behind_is_a_gap(
    expired: Any, iterator: str, page: int
) -> None:
    """However little was read, and whether Kinesis goes on behind what has expired or not."""
    model = Model(expired=expired, page=page)
    id_ = model.open()
    model.put(id_, 3)
    model.now += 60
    lost = model.put(id_, 4)
    model.now += 0.95 * KEPT
    (oldest,) = model.put(id_)
    run = Run(model, {})
    (cursor,) = run.stream.readable()
    while not run.handed:
        run.read(cursor)
    model.now += 0.05 * KEPT
    if iterator == "expires":
        cursor.iterator = None
    run.drain()
    assert [gap.before for gap in run.gaps] == [oldest]
    assert run.handed[-1] == (id_, oldest)
    assert not {number for _, number in run.handed} & set(lost)


@pytest.mark.parametrize("page", [1, 2, 3])
def test_reading_that_far_behind_comes_to_its_end(page: int) -> None:
    model = Model(page=page)
    id_ = model.open()
    numbers = model.put(id_, 10)
    model.now += 0.95 * KEPT
    numbers += model.put(id_)
    run = Run(model, {}).drain()
    assert (run.numbers(id_), run.gaps) == (numbers, [])


def test_a_page_that_had_nothing_new_proves_nothing_for_long() -> None:
    """Far behind, the last record was seen, and its iterator expires before the next read."""
    model = Model(page=1)
    id_ = model.open()
    model.put(id_, 2)
    model.now += 60
    model.put(id_, 2)
    model.now += 0.95 * KEPT
    (oldest,) = model.put(id_)
    run = Run(model, {})
    (cursor,) = run.stream.readable()
    while len(run.handed) < 2:
        run.read(cursor)
    run.read(cursor)
    assert (len(run.handed), cursor.whole) == (2, True)
    model.now += 0.05 * KEPT
    cursor.iterator = None
    assert [gap.before for gap in run.drain().gaps] == [oldest]


def test_what_expired_before_the_first_run_is_no_gap() -> None:
    model = Model()
    parent = model.open()
    model.put(parent, 3)
    child, _ = model.split(parent)
    model.now += KEPT
    numbers = model.put(child, 3)
    run = Run(model, {}).drain()
    assert (run.numbers(child), run.gaps) == (numbers, [])


# ------------------------------------------------------------------------ another stream


def anew(former: Model) -> Model:
    """A stream of the same name, made later."""
    return Model(now=former.now, last=former.last)


def test_another_stream_of_the_same_name() -> None:
    former = Model()
    for _ in range(2):
        former.put(former.open(), 2)
    landed: dict[str, int] = {}
    Run(former, landed).drain()
    model = anew(former)
    one, other, third = (model.open() for _ in range(3))
    assert Run(model, landed).another
    model.put(third)
    model.put(one, 4)
    run = Run(model, landed)
    assert run.another
    run.drain()
    assert (len(run.handed), run.gaps) == (5, [])
    # Records of it have landed: it has been accepted, also where none has landed yet.
    model.put(other, 2)
    run = Run(model, landed)
    assert not run.another
    assert (len(run.drain().handed), run.gaps) == (2, [])


def test_another_stream_while_it_is_read() -> None:
    former = Model()
    id_ = former.open()
    former.put(id_)
    run = Run(former, {}).drain()
    run.model = anew(former)
    run.model.open()
    numbers = run.model.put(id_, 4)
    assert run.stream.update(run.model.listed())
    assert run.drain().numbers(id_)[1:] == numbers
    assert not run.stream.update(run.model.listed())


def test_a_stream_of_which_nothing_was_read_may_be_made_anew() -> None:
    former = Model()
    id_ = former.open()
    run = Run(former, {}).drain()
    run.model = anew(former)
    run.model.open()
    numbers = run.model.put(id_, 2)
    assert not run.stream.update(run.model.listed())
    assert run.drain().numbers(id_) == numbers


# --------------------------------------------------------------------------- small decisions


@pytest.mark.parametrize(
    ("numbers", "arrived", "behind", "over"),
    [
        ([], 0, 0, True),
        ([], 0, 4, True),  # no further behind than reading has taken: past the start
        ([], 0, 6, False),
        ([7], 99.0, 0, False),
        ([7], 100.0, 0, False),
        ([7], 100.1, 60, True),
    ],
)
def test_reading_once_ends_at_what_came_after_it_began(
    numbers: list[int], arrived: float, behind: float, over: bool
) -> None:
    page = Page(numbers, [b""] * len(numbers), arrived, behind, "next")
    assert caught_up(page, started=100.0, elapsed=5.0) is over


@settings(deadline=None)
@given(st.integers(1, 10_000), st.floats(0, 1))
def test_retries_wait_longer_but_not_for_ever(failures: int, draw: float) -> None:
    waits = retry_after(failures, draw)
    assert RETRY_FIRST / 2 <= waits <= RETRY_MOST
    assert retry_after(failures + 1, draw) >= waits


def test_reading_that_falls_behind_is_told_before_records_expire() -> None:
    cursor = Cursor(Shard("a", (), 1, False), 0)

    def behind(seconds: float) -> Page:
        return Page([5], [b""], 0.0, seconds, "next")

    assert not cursor.losing(behind(0.95 * KEPT), KEPT)  # the first read of an old stream
    cursor.take(behind(0.95 * KEPT), 0.0, KEPT)
    assert not cursor.losing(behind(0.5 * KEPT), KEPT)
    assert cursor.losing(behind(0.95 * KEPT), KEPT)


def test_what_kinesis_says_of_a_shard_and_a_page() -> None:
    number = 49568899439180730612345678901234567890123456789012345678
    shard = Shard.listed(
        {
            "ShardId": "shardId-000000000002",
            "ParentShardId": "shardId-000000000000",
            "AdjacentParentShardId": "shardId-000000000001",
            "SequenceNumberRange": {
                "StartingSequenceNumber": str(number),
                "EndingSequenceNumber": str(number + 5),
            },
        }
    )
    parents = ("shardId-000000000000", "shardId-000000000001")
    assert shard == Shard("shardId-000000000002", parents, number, closed=True)
    came = datetime(2026, 11, 23, 12, tzinfo=UTC)
    record = {
        "SequenceNumber": str(number),
        "Data": b"{}",
        "ApproximateArrivalTimestamp": came,
        "PartitionKey": "a",
    }
    page = Page.answered({"Records": [record], "MillisBehindLatest": 1500})
    assert page == Page([number], [b"{}"], came.timestamp(), 1.5, None)


# ------------------------------------------------- sequence numbers in the log and in positions

sequence_numbers = st.integers(0, 2**186 - 1)


@settings(deadline=None)
@given(st.lists(sequence_numbers, min_size=1, max_size=6))
def test_a_log_tells_where_a_shard_stands(numbers: list[int]) -> None:
    app_id = Origin("kinesis", "s", "shardId-000000000000").app_id
    log: dict[str, int] = {}
    held = Offsets()
    for number in sorted(numbers):
        becomes = held.add(held.end, number + 1)
        changed = becomes.to_transactions(app_id, held)
        assert all(0 <= version < 2**63 for version in changed.values())
        log |= changed
        held = Offsets.from_transactions(app_id, log.get)
        assert held == becomes == Offsets.of([(0, number + 1)])


@settings(deadline=None)
@given(sequence_numbers, sequence_numbers)
def test_positions_compare_as_the_numbers_do(one: int, other: int) -> None:
    assert (padded(one) < padded(other)) is (one < other)
    assert len(padded(one)) == SEQUENCE_DIGITS == len(str(2**186 - 1))
    (position,) = _positions([one], 2**63).to_pylist()
    assert int(position) == one
