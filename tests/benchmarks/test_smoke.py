"""Every benchmark that needs no server, once, on tiny data: figures come out, and peers agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.first_query import PHASES
from tests.benchmarks.conftest import Measure

STEPS = ("full build", "a day of 33 % with data tests")


def test_landing(measure: Measure) -> None:
    figures = measure("landing")
    share = figures.pop("what 1 % malformed lines cost")
    assert share < 1
    assert 2_000 * 3 < figures.pop("records landed a run") < 2_000 * 4
    assert figures.pop("peak memory") > 50
    assert set(figures) == {
        "records a second, whole process",
        "the same with 1 % malformed lines",
    }
    assert min(figures.values()) > 0


def test_memory_beside_dlt(measure: Measure) -> None:
    figures = measure("memory")
    ways = [
        "memory to Delta",
        "the same, 1 % malformed",
        "decode and Parquet alone, one core",
        "dlt, dictionaries",
    ]
    assert set(figures) == {
        *(f"records a second, {way}" for way in ways),
        *(f"CPU a record, {way}" for way in ways),
        "of decode and Parquet alone",
        "of decode and Parquet alone, in CPU",
        "times dlt",
    }
    assert min(figures.values()) > 0


def test_commits(measure: Measure) -> None:
    figures = measure("commits")
    assert figures.pop("commits of 50 records") == 70
    # One commit a file, or fewer files where some were merged; the log has the commits at least.
    assert 0 < figures.pop("files of the table then") <= 70
    assert figures.pop("files of its log then") > 70
    numbers = ["around the 10th", "around the 60th"]
    numbers += [f"without upkeep, around the {number}th" for number in (10, 20)]
    assert set(figures) == {
        f"{number}, {which}" for number in numbers for which in ("median", "p99", "longest")
    }
    for number in numbers:
        median, p99, longest = (figures[f"{number}, {of}"] for of in ("median", "p99", "longest"))
        assert 0 < median <= p99 <= longest


def test_building_beside_duckdb(measure: Measure, work: Path) -> None:
    """Each peer's answers and test results are those of the embedded engine, or it fails."""
    figures = measure("building", "--engines", "duckdb")
    for engine in ("Sail", "DuckDB"):
        for step in STEPS:
            what = f"{engine}, 2,000 posts: {step}"
            assert figures[what] > 0
            assert figures[f"{what}, CPU"] > 0
            assert figures[f"{what}, peak memory"] > 50
        of = f"{engine}, 2,000 posts: {STEPS[1]} to the full build"
        assert figures[f"{of}, CPU seconds"] > 0
    results = json.loads((work / "building.json").read_text())
    assert [(result["engine"], result["step"]) for result in results] == [
        (engine, step) for step in ("full", "daily") for engine in ("Sail", "DuckDB")
    ]
    full, full_duck, daily, daily_duck = (result["cost"] for result in results)
    assert set(full["nodes"]) == set(full_duck["nodes"])
    assert "rejected_by_reason" in full["nodes"]
    assert not full["failures"]
    assert len(daily["nodes"]) == len(daily_duck["nodes"]) > 100
    assert daily["failures"] == daily_duck["failures"]
    assert len(daily["failures"]) == len(daily["nodes"]) - len(full["nodes"])
    for cost in (full, full_duck, daily, daily_duck):
        assert 0 < cost["between"] < cost["seconds"]
    assert full["written_mb"] > 0
    assert (work / "building.png").read_bytes().startswith(b"\x89PNG")
    assert len((work / "building.md").read_text().splitlines()) == 2 + len(results)


def test_starting_beside_dbt_duckdb(measure: Measure) -> None:
    figures = measure("starting")
    assert figures.pop("models and data tests") > 100
    phases = [f"{phase}{' (ours)' if own else ''}" for phase, own in PHASES.items()]
    assert figures["together"] == pytest.approx(sum(figures[phase] for phase in phases))
    of_each = ("dbt build", "its start and end", "a node", "CPU of the process")
    assert set(figures) == {
        *phases,
        "together",
        "our share",
        "of dbt-duckdb's time",
        *(f"{what}, {engine}" for what in of_each for engine in ("Sail", "dbt-duckdb")),
    }
    assert min(figures.values()) > 0
    for engine in ("Sail", "dbt-duckdb"):
        assert figures[f"its start and end, {engine}"] < figures[f"dbt build, {engine}"]
    assert figures["of dbt-duckdb's time"] == pytest.approx(
        figures["dbt build, Sail"] / figures["dbt build, dbt-duckdb"]
    )
