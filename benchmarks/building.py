"""How fast `dbt build` is on the embedded engine: from empty, after a day, and beside DuckDB."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import daily
from benchmarks.process import Cost, run

DBT = [sys.executable, "-m", "dbt_lake"]


def measure(work: Path, posts: int) -> Iterator[tuple[str, str]]:
    """Measure and say, figure by figure.

    Args:
        work: a folder to write into.
        posts: posts of the full build; the day after brings a hundredth of them.
    """
    sink, lake, target = work / f"days-{posts}", work / f"lake-{posts}", work / "target"
    if not sink.exists():
        daily.prepare(sink, posts)
    shutil.rmtree(lake, ignore_errors=True)
    land = [sys.executable, "-m", "benchmarks.daily", str(sink), str(lake)]
    run([*land, "0", str(daily.DAYS - 1)])

    full, full_results = _build(lake, target)
    yield f"dbt build of {posts:,} posts, whole process", _seconds(full)
    yield "the same, between first and last query", f"{full_results['elapsed_time']:.1f} s"

    peer = run([sys.executable, "-m", "benchmarks.duck", str(lake), str(target), str(work)])
    duck = json.loads(peer.output.strip().splitlines()[-1])
    yield "DuckDB, same SQL and files, whole process", _seconds(peer)
    yield "the same, between first and last query", f"{duck['seconds']:.1f} s"
    yield "Sail to DuckDB, whole process", f"{full.seconds / peer.seconds:.2f}"
    yield (
        "Sail to DuckDB, between first and last query",
        f"{full_results['elapsed_time'] / duck['seconds']:.2f}",
    )
    yield "rows that differ in the answers", str(duck["differing_rows"] or "none")

    run([*land, str(daily.DAYS), str(daily.DAYS)])
    day, day_results = _build(lake, target)
    yield "dbt build after a day of 1 %, whole process", _seconds(day)
    yield "the same, between first and last query", f"{day_results['elapsed_time']:.1f} s"
    idle, idle_results = _build(lake, target)
    yield "dbt build after nothing, whole process", _seconds(idle)
    yield "the same, between first and last query", f"{idle_results['elapsed_time']:.1f} s"
    yield "a day to the full build, whole process", f"{day.seconds / full.seconds:.2f}"
    yield (
        "a day to the full build, models alone",
        f"{_models(day_results) / _models(full_results):.2f}"
        f" ({_models(day_results):.1f} s to {_models(full_results):.1f} s, threads added up)",
    )


def _build(lake: Path, target: Path) -> tuple[Cost, dict[str, Any]]:
    cost = run(
        [*DBT, "build", "--quiet", "--target-path", str(target)], {"LAKE_URI": str(lake.resolve())}
    )
    return cost, json.loads((target / "run_results.json").read_text())


def _models(results: dict[str, Any]) -> float:
    return sum(
        float(result["execution_time"])
        for result in results["results"]
        if result["unique_id"].startswith("model.")
    )


def _seconds(cost: Cost) -> str:
    return f"{cost.seconds:.1f} s ({cost.cpu_seconds:.0f} s of CPU, {cost.peak_mb:,.0f} MB)"
