"""Whatever lands in whatever order, a series of runs gives what one full refresh gives."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.dbt.lakes import Built, assert_oracle_agrees

#: Few keys, people and times of landing, so that they meet often.
KEYS = st.integers(-2, 5)
WORDS = st.sampled_from(["a", "b", "", None])
BEGIN = datetime(2024, 3, 1, tzinfo=UTC)

Line = tuple[str, bytes]
#: Lines that land together, and whether dbt runs after them.
Commit = tuple[list[Line], bool]


@st.composite
def a_line(draw: st.DrawFn) -> Line:
    kind = draw(st.sampled_from(["pin", "geo", "user"]))
    word = draw(WORDS)
    fields = {
        "pin": {
            "category": word,
            "poster_name": word,
            "follower_count": draw(st.sampled_from("129")),
        },
        "geo": {"country": word, "timestamp": f"20{draw(st.integers(17, 20))}-01-01 00:00:00"},
        "user": {
            "first_name": word,
            "age": draw(st.integers(17, 60)),
            "date_joined": f"20{draw(st.integers(15, 17))}-01-01 00:00:00",
        },
    }[kind]
    return kind, json.dumps({"ind": draw(KEYS), **fields}).encode()


COMMITS = st.lists(st.tuples(st.lists(a_line(), min_size=1, max_size=6), st.booleans()),
                   min_size=5, max_size=8)  # fmt: skip


@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    database=None,
    # A shrunk series would take hours to find; the whole one is printed.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(commits=COMMITS, order=st.randoms(use_true_random=False))
def test_a_series_of_runs_holds_what_a_full_refresh_gives(
    tmp_path_factory: pytest.TempPathFactory, commits: list[Commit], order: Random
) -> None:
    # Commits become readable in another order than they are stamped, within what models look back.
    stamps = [BEGIN + timedelta(hours=7 * number) for number in range(len(commits))]
    order.shuffle(stamps)
    lake = Built(tmp_path_factory.mktemp("series"))
    lake.land({}, BEGIN)
    with lake.dbt() as dbt:
        for (lines, then_run), stamp in zip(commits, stamps, strict=True):
            by_kind: dict[str, list[bytes]] = {}
            for kind, line in lines:
                by_kind.setdefault(kind, []).append(line)
            lake.land(by_kind, stamp)
            if then_run:
                dbt.succeed("run")
        dbt.succeed("run")
        assert_oracle_agrees(lake)
        by_series = lake.tables()
        dbt.succeed('run --full-refresh --vars {"rows_a_slice":3}')
        (compiled,) = (lake.folder / "target" / "compiled").rglob("int_posts.sql")
        assert ("1 slice of" in compiled.read_text()) == (len(lake.staged()["pin"]) > 3)
        assert lake.tables() == by_series
