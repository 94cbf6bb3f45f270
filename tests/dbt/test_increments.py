"""Builds that follow each other: an empty one, daily slices, commits that become readable late."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import hostile, oracle
from tests.dbt.lakes import MARTS, Built, Row, assert_oracle_agrees

HOSTILE = hostile.hostile_lines(seed=2, posts=150)
DAYS = 4
#: What repeats or corrects a line may come days later.
PARTS = hostile.parts(HOSTILE, DAYS)


@dataclass
class Series:
    """A lake that four daily landings went into, and what its tables held on the way."""

    lake: Built
    empty: dict[str, list[Row]] = field(default_factory=dict)
    freshness: list[str] = field(default_factory=list)
    daily: dict[str, list[Row]] = field(default_factory=dict)
    refreshed: dict[str, list[Row]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """Built empty, after each of four days, and from the beginning again."""
    lake = Built(tmp_path_factory.mktemp("daily"))
    result = Series(lake)
    lake.land({}, day(0))
    with lake.dbt() as dbt:
        dbt.succeed("build --exclude-resource-type unit_test")
        result.empty = lake.tables()
        assert dbt("source freshness") == 1
        freshness = json.loads((lake.folder / "target" / "sources.json").read_text())
        result.freshness = [entry["status"] for entry in freshness["results"]]
        for number in range(DAYS - 1):
            lake.land(PARTS[number], day(number))
            dbt.succeed("run")
            assert_oracle_agrees(lake)
    with lake.dbt() as dbt:
        lake.land(PARTS[-1], day(DAYS - 1))
        dbt.succeed("build --exclude-resource-type unit_test")
        result.daily = lake.tables()
        dbt.succeed("run --full-refresh")
        result.refreshed = lake.tables()
    return result


def day(number: int, hour: int = 0) -> datetime:
    return datetime(2024, 3, 1 + number, hour, tzinfo=UTC)


def test_an_empty_bronze_gives_empty_tables(series: Series) -> None:
    zeros = {"landed": 0, "posts": 0, "replays": 0, "rejected": 0}
    quality = series.empty["data_quality"]
    assert quality == [{"kind": kind, **zeros} for kind in sorted(oracle.KINDS)]
    assert {table for table, rows in series.empty.items() if rows} == {"data_quality"}
    assert set(MARTS) < series.empty.keys()


def test_an_empty_bronze_is_stale(series: Series) -> None:
    assert series.freshness == ["error"] * 3  # and no "runtime error"


def test_daily_slices_give_what_one_landing_gives(series: Series, tmp_path: Path) -> None:
    assert_oracle_agrees(series.lake)
    landed_at_once = Built(tmp_path)
    landed_at_once.know(HOSTILE, day(0))
    assert series.lake.staged() == landed_at_once.staged()


def test_a_full_refresh_gives_the_same_tables(series: Series) -> None:
    assert series.refreshed == series.daily


def sent(said: str, *inds: int) -> dict[str, list[bytes]]:
    """Records of posts, which tell them apart from the same posts' other records."""
    fields = {
        "pin": {"title": said, "category": said, "poster_name": said, "follower_count": "5"},
        "geo": {"country": said, "timestamp": "2020-01-01 00:00:00"},
        "user": {"first_name": said, "date_joined": "2016-01-01 00:00:00", "age": 20},
    }
    return {
        kind: [json.dumps({"ind": ind, **values}).encode() for ind in inds]
        for kind, values in fields.items()
    }


def shown(lake: Built) -> dict[int, list[str | None]]:
    """What each post shows of its three records."""
    return {
        row["ind"]: [row["category"], row["country"], row["user_name"]]
        for row in lake.rows("intermediate", "int_posts")
    }


def test_a_commit_that_becomes_readable_late_is_read(tmp_path: Path) -> None:
    lake = Built(tmp_path)
    lake.land(sent("first", 1, 2), day(10))
    lake.land(sent("second", 3), day(11))
    with lake.dbt() as dbt:
        dbt.succeed("run")
        # By another lander, which was slow: stamped between the two, and before both.
        lake.land(sent("between", 2, 3, 4), day(10, hour=12))
        lake.land(sent("before", 1, 4, 5), day(9))
        # One record of a post that is whole, and of one that is not.
        lake.land({"geo": sent("geo", 5)["geo"]}, day(10, hour=13))
        lake.land({"user": sent("user", 6)["user"]}, day(12))
        dbt.succeed("run")
        assert_oracle_agrees(lake)
        assert shown(lake) == {
            1: ["first"] * 3,
            2: ["between"] * 3,
            3: ["second"] * 3,
            4: ["between"] * 3,
            5: ["before", "geo", "before"],
            6: [None, None, "user"],
        }
        # Later than the models look back, unless they are told to; a test of the data notices.
        lake.land(sent("long ago", 1, 7), day(0))
        dbt.succeed("run")
        assert 7 not in shown(lake)
        assert dbt("test --select every_landed_row_is_a_post_or_superseded") == 1
        dbt.succeed('run --vars {"lookback_days":30}')
        assert_oracle_agrees(lake)
        assert shown(lake)[1] == ["first"] * 3
        assert shown(lake)[7] == ["long ago"] * 3
