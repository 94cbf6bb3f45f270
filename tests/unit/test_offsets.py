"""Sets of offsets, held against Python's own sets, and their way through a Delta log."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.offsets import Offsets

MOST = 40
ranges = st.lists(st.tuples(st.integers(0, MOST), st.integers(0, MOST)), max_size=6)
sets = ranges.map(Offsets.of)
offsets = st.integers(0, MOST)


def members(found: Offsets) -> set[int]:
    return covered(found.ranges)


def covered(parts: tuple[tuple[int, int], ...] | list[tuple[int, int]]) -> set[int]:
    return {offset for start, end in parts for offset in range(start, end)}


@given(ranges)
def test_a_union_of_ranges_holds_what_they_hold(given_ranges: list[tuple[int, int]]) -> None:
    assert members(Offsets.of(given_ranges)) == covered(given_ranges)


@given(ranges)
def test_one_set_has_one_form(given_ranges: list[tuple[int, int]]) -> None:
    found = Offsets.of(given_ranges)
    assert found == Offsets.of((offset, offset + 1) for offset in covered(given_ranges))
    assert all(start < end for start, end in found.ranges)
    assert all(end < start for (_, end), (start, _) in pairwise(found.ranges))


@given(sets, sets)
def test_union(one: Offsets, other: Offsets) -> None:
    assert members(one | other) == members(one) | members(other)


@given(sets, offsets, offsets)
def test_add(found: Offsets, start: int, end: int) -> None:
    assert members(found.add(start, end)) == members(found) | set(range(start, end))


@given(sets)
def test_length_and_end(found: Offsets) -> None:
    assert len(found) == len(members(found))
    assert found.end == max(members(found), default=-1) + 1


@given(sets, offsets, offsets)
def test_missing(found: Offsets, start: int, end: int) -> None:
    parts = found.missing(start, end)
    assert covered(parts) == set(range(start, end)) - members(found)
    assert parts == list(Offsets.of(parts).ranges)


@given(sets, offsets)
def test_what_is_missing_from_a_range_without_end(found: Offsets, start: int) -> None:
    *parts, last = found.missing(start, None)
    assert last == (max(start, found.end), 2**63)
    assert covered(parts) == set(range(start, found.end)) - members(found)


@given(sets)
def test_gaps_and_ranges_make_up_everything_below_the_end(found: Offsets) -> None:
    assert covered(found.gaps()) == set(range(found.end)) - members(found)


@given(sets, offsets, offsets)
def test_adding_what_is_missing_changes_nothing_else(found: Offsets, start: int, end: int) -> None:
    filled = found | Offsets.of(found.missing(start, end))
    assert filled == found.add(start, end)
    assert filled.missing(start, end) == []


# ----------------------------------------------------------------------- through a log


class Log(dict[str, int]):
    """A table's transactions: a later commit's version of an id replaces an earlier one's."""

    def commit(self, app_id: str, becomes: Offsets) -> None:
        before = Offsets.from_transactions(app_id, self.get)
        self.update(becomes.to_transactions(app_id, before))


@given(st.lists(sets, min_size=1, max_size=8))
def test_a_log_tells_the_last_set_however_gaps_come_and_go(states: list[Offsets]) -> None:
    log = Log()
    for state in states:
        log.commit("s3/t/0", state)
        assert Offsets.from_transactions("s3/t/0", log.get) == state


@given(st.lists(st.tuples(st.sampled_from(["s3/t/1", "s3/t/11", "s3/t/1#"]), sets), max_size=8))
def test_partitions_share_a_log(commits: list[tuple[str, Offsets]]) -> None:
    log = Log()
    last: dict[str, Offsets] = {}
    for app_id, state in commits:
        log.commit(app_id, state)
        last[app_id] = state
        found = {other: Offsets.from_transactions(other, log.get) for other in last}
        assert found == last


@given(sets, sets)
def test_every_commit_names_the_partition_itself(before: Offsets, now: Offsets) -> None:
    """Two writers conflict only if both commit a version of one id."""
    assert now.to_transactions("s3/t/0", before)["s3/t/0"] == now.end


def test_the_ordinary_commit_records_one_number() -> None:
    before, now = Offsets.of([(0, 10)]), Offsets.of([(0, 20)])
    assert now.to_transactions("s3/t/0", before) == {"s3/t/0": 20}
    assert before.to_transactions("s3/t/0", Offsets()) == {"s3/t/0": 10}


def test_a_gap_appears_and_closes() -> None:
    log = Log()
    log.commit("a", Offsets.of([(0, 5), (8, 10)]))
    assert log == {"a": 10, "a#gaps": 1, "a#gap0.start": 5, "a#gap0.end": 8}
    assert Offsets.from_transactions("a", log.get).gaps() == [(5, 8)]
    log.commit("a", Offsets.of([(0, 10)]))
    assert Offsets.from_transactions("a", log.get) == Offsets.of([(0, 10)])


def test_a_partition_that_no_commit_named_holds_nothing() -> None:
    assert Offsets.from_transactions("a", {}.get) == Offsets()


def test_offsets_as_large_as_a_broker_counts() -> None:
    log = Log()
    state = Offsets.of([(2**62, 2**63 - 1)])
    log.commit("a", state)
    assert Offsets.from_transactions("a", log.get) == state
    assert max(log.values()) < 2**63


def test_a_gap_that_is_not_described() -> None:
    with pytest.raises(ValueError, match="a: gap 0 is not described"):
        Offsets.from_transactions("a", {"a": 10, "a#gaps": 1}.get)
