"""`python -m benchmarks`: measure, print, keep."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import (
    chart,
    commits,
    daily,
    freshness,
    gateway,
    grown,
    kafka_landing,
    landing,
    memory,
    orchestration,
    scale,
    starting,
)
from benchmarks.engines import Sail
from stack import spark

console = Console(highlight=False, soft_wrap=True)


def main(
    sizes: Annotated[str, typer.Option(help="Sizes to build, in millions of posts.")] = "1,5,20",
    engines: Annotated[str, typer.Option(help="Besides Sail, which always runs.")] = "duckdb,spark",
    spark_up_to: Annotated[int, typer.Option(help="The largest size for Spark.")] = 5,
    landing_posts: Annotated[int, typer.Option(help="Posts to land.")] = 1_000_000,
    runs: Annotated[int, typer.Option(help="Runs of each landing, and of the start.")] = 3,
    work: Annotated[Path, typer.Option(help="Where inputs and lakes are written.")] = Path(
        "benchmarks/data"
    ),
    only: Annotated[str, typer.Option(help="landing, streams, building, starting or dag.")] = "",
) -> None:
    """Measure landing, building and starting on this machine; inputs are kept for the next time.

    Example: python -m benchmarks --only building --sizes 1,5,20,100 --engines duckdb
    """
    work.mkdir(parents=True, exist_ok=True)
    lines = [f"{os.cpu_count()} cores, {_memory()} of memory, Python {platform.python_version()}"]
    console.print(lines[0])
    if only in ("", "landing"):
        lines += _say("Landing", landing.measure(work, landing_posts, runs))
    if only in ("", "streams"):
        lines += _say("From memory to Delta", memory.measure(work, 200_000, runs))
        lines += _say("From Kafka to Delta", kafka_landing.measure(work, 300_000, runs))
        lines += _say("The gateway", gateway.measure(work, 4_000, 15))
        lines += _say("How fresh bronze is", freshness.measure(work, 5_000, 60))
        lines += _say("Thousands of commits", commits.measure(work))
    if only in ("", "building"):
        lines += _build(work, sizes, engines, spark_up_to)
    if only in ("", "starting"):
        lines += _say("Starting", _start(work, runs))
    if only in ("", "dag"):
        largest = max(size for size in map(int, sizes.split(",")) if size <= 5)
        lines += _say("The daily DAG", orchestration.measure(work, runs, largest))
    (work / "latest.md").write_text("\n".join(lines) + "\n")
    console.print(f"kept in {work / 'latest.md'}")


def _build(work: Path, sizes: str, engines: str, spark_up_to: int) -> list[str]:
    names = [name for name in engines.split(",") if name]
    if "spark" in names and (reason := spark.missing()):
        console.print(f"without Spark: {reason}")
        names.remove("spark")
    console.print("\nBuilding")
    results = []
    for result in scale.measure(work, [int(size) for size in sizes.split(",")], names, spark_up_to):
        results.append(result)
        console.print(
            f"  {result.millions:>4} million  {result.step:<5} {result.engine:<7}"
            f" {result.cost.seconds:8.1f} s  {result.cost.peak_mb:8,.0f} MB"
            f"  {result.cost.written_mb:8,.0f} MB written"
        )
        scale.keep(results, work / "building.json")
    chart.draw(results, work / "building.png")
    said = chart.ratios(results)
    for name, figure in said:
        console.print(f"  {name:<50} {figure}")
    rows = [f"| {name} | {figure} |" for name, figure in said]
    return [
        "",
        "## Building",
        "",
        *chart.table(results),
        "",
        "| what | figure |",
        "|---|---|",
        *rows,
    ]


def _start(work: Path, runs: int) -> Iterator[tuple[str, str]]:
    lake = work / "lake-to-start"
    if not lake.exists():
        grown.grow(grown.base(work), lake, 1, daily.DAYS - 1, daily.DAYS - 1)
        Sail(work).run("full", lake)
    yield from starting.measure(lake, work, runs)


def _say(title: str, figures: Iterator[tuple[str, str]]) -> list[str]:
    lines = ["", f"## {title}", "", "| what | figure |", "|---|---|"]
    console.print(f"\n{title}")
    for name, figure in figures:
        console.print(f"  {name:<50} {figure}")
        lines.append(f"| {name} | {figure} |")
    return lines


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"


if __name__ == "__main__":
    typer.run(main)
