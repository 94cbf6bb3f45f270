"""`python -m benchmarks`: measure, print, keep."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import (
    chart,
    commits,
    freshness,
    gateway,
    kafka_landing,
    landing,
    memory,
    orchestration,
    process,
    scale,
    starting,
)
from benchmarks.figures import Figure
from benchmarks.grown import Size
from benchmarks.sizes import FULL, SMALL, STEPS, Sizes
from stack import kafka, spark

console = Console(highlight=False, soft_wrap=True)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

#: Sizes that are one number, by name.
NUMBERS = [
    field.name for field in fields(Sizes) if not isinstance(getattr(FULL, field.name), tuple)
]
#: The largest lake on which a day that brings nothing is measured.
_LARGEST_FOR_THE_DAG = 5_000_000


@dataclass(frozen=True)
class Request:
    """What to measure, and where.

    Attributes:
        work: where inputs and lakes are written.
        sizes: how much of each.
        lakes: the sizes to build.
        engines: names of Sail's peers.
        spark_up_to: posts of the largest size for Spark.
    """

    work: Path
    sizes: Sizes
    lakes: Sequence[Size]
    engines: Sequence[str]
    spark_up_to: int


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        title: its heading.
        measure: gives its figures, one after another.
        missing: what it lacks on this machine, with the remedy; None if nothing.
    """

    title: str
    measure: Callable[[Request], Iterator[Figure]]
    missing: Callable[[], str | None] = lambda: None


def _no_airflow() -> str | None:
    if importlib.util.find_spec("airflow"):
        return None
    return "Airflow is not installed: make .venv/.bench"


def _landing(request: Request) -> Iterator[Figure]:
    return landing.measure(request.work, request.sizes.landing_posts, request.sizes.runs)


def _memory(request: Request) -> Iterator[Figure]:
    return memory.measure(request.work, request.sizes.memory_posts, request.sizes.runs)


def _kafka(request: Request) -> Iterator[Figure]:
    sizes, peer = request.sizes, "spark" in request.engines
    return kafka_landing.measure(request.work, sizes.kafka_posts, sizes.runs, peer=peer)


def _gateway(request: Request) -> Iterator[Figure]:
    sizes = request.sizes
    return gateway.measure(request.work, sizes.gateway_requests, sizes.gateway_seconds)


def _freshness(request: Request) -> Iterator[Figure]:
    return freshness.measure(request.work, request.sizes.fresh_rate, request.sizes.fresh_seconds)


def _commits(request: Request) -> Iterator[Figure]:
    sizes = request.sizes
    return commits.measure(
        request.work, sizes.commits, sizes.commits_without_upkeep, sizes.commits_around
    )


def _building(request: Request) -> Iterator[Figure]:
    engines = list(request.engines)
    if "spark" in engines and (reason := spark.missing()):
        console.print(f"  without Spark: {reason}")
        engines.remove("spark")
    results: list[scale.Result] = []
    for result in scale.measure(
        request.work, request.lakes, request.sizes.steps, engines, request.spark_up_to
    ):
        results.append(result)
        scale.keep(results, request.work / "building.json")
        what = f"{result.engine}, {chart.counted(result.posts)}: {chart.called(result)}"
        yield Figure(what, result.cost.seconds, "{:.1f} s")
        yield Figure(f"{what}, CPU", result.cost.cpu_seconds, "{:.1f} s")
        yield Figure(f"{what}, peak memory", result.cost.peak_mb, "{:,.0f} MB")
    yield from chart.ratios(results)
    chart.draw(results, request.work / "building.png")
    (request.work / "building.md").write_text("\n".join(chart.table(results)) + "\n")


def _starting(request: Request) -> Iterator[Figure]:
    return starting.measure(request.work, request.sizes.demo_posts, request.sizes.runs)


def _dag(request: Request) -> Iterator[Figure]:
    millions = [size for size in request.lakes if 1_000_000 <= size.total <= _LARGEST_FOR_THE_DAG]
    large = max(millions, key=lambda size: size.total, default=None)
    sizes = request.sizes
    return orchestration.measure(request.work, sizes.runs, sizes.demo_posts, large)


BENCHMARKS = {
    "landing": Benchmark("Landing", _landing),
    "memory": Benchmark("From memory to Delta", _memory),
    "kafka": Benchmark("From Kafka to Delta", _kafka, kafka.missing),
    "gateway": Benchmark("The gateway", _gateway, kafka.missing),
    "freshness": Benchmark("How fresh bronze is", _freshness, kafka.missing),
    "commits": Benchmark("Thousands of commits", _commits),
    "building": Benchmark("Building", _building),
    "starting": Benchmark("Starting", _starting),
    "dag": Benchmark("The daily DAG", _dag, _no_airflow),
}
#: Names for several benchmarks.
GROUPS = {"streams": ("memory", "kafka", "gateway", "freshness", "commits")}


@app.command()
def main(
    only: Annotated[str, typer.Option(help=f"Some of: {', '.join([*BENCHMARKS, *GROUPS])}.")] = "",
    small: Annotated[
        bool, typer.Option("--small", help="Everything once on tiny data, to see that it runs.")
    ] = False,
    sizes: Annotated[
        str, typer.Option(help="Sizes to build, in millions of posts.", show_default="1,5,20")
    ] = "",
    steps: Annotated[
        str, typer.Option(help="Steps of building.", show_default=",".join(STEPS))
    ] = "",
    engines: Annotated[str, typer.Option(help="Besides Sail, which always runs.")] = "duckdb,spark",
    spark_up_to: Annotated[
        float, typer.Option(help="The largest size for Spark, in millions of posts.")
    ] = 5,
    runs: Annotated[
        int | None, typer.Option(help="Runs, of which medians are given.", show_default="3")
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=NUMBER", help=f"Another size: {', '.join(NUMBERS)}."),
    ] = None,
    work: Annotated[Path, typer.Option(help="Where inputs and lakes are written.")] = Path(
        "benchmarks/data"
    ),
) -> None:
    """Measure on this machine; inputs are kept for the next time.

    Figures are printed, and kept in latest.md and latest.json of the folder --work.

    Examples: python -m benchmarks --only building --sizes 1,5,20,100 --engines duckdb;
    python -m benchmarks --only gateway --set gateway_seconds=300
    """
    given: dict[str, Any] = {
        "millions": tuple(_positive(size, "--sizes") for size in _names(sizes)),
        "steps": tuple(_known(steps, STEPS)),
        "runs": runs,
        **dict(map(_number, others or [])),
    }
    chosen = replace(
        SMALL if small else FULL, **{name: value for name, value in given.items() if value}
    )
    if chosen.steps[0] != STEPS[0]:
        raise typer.BadParameter(f"--steps is {steps!r}; the first step must be {STEPS[0]}")
    try:
        lakes = [Size.of(millions, chosen.days) for millions in chosen.millions]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    peers = _known(engines, ("duckdb", "spark"))
    # Absolute: some of the processes that are measured run in folders of their own.
    request = Request(work.resolve(), chosen, lakes, peers, round(spark_up_to * 1_000_000))
    wanted = _known(only, (*BENCHMARKS, *GROUPS))
    wanted = [name for each in wanted for name in GROUPS.get(each, (each,))] or list(BENCHMARKS)
    work.mkdir(parents=True, exist_ok=True)
    _measure(request, wanted)


def _number(text: str) -> tuple[str, float]:
    """A size's name and value.

    Raises:
        BadParameter: the name is unknown, or the value is no positive number.
    """
    name, _, value = text.partition("=")
    _known(name, NUMBERS)
    return name, type(getattr(FULL, name))(_positive(value, name))


def _positive(text: str, name: str) -> float:
    """The positive number in a text.

    Raises:
        BadParameter: it holds none.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise typer.BadParameter(f"{name} is {text!r}; give a positive number")
    return number


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _known(text: str, known: Sequence[str]) -> list[str]:
    """The names in a text.

    Raises:
        BadParameter: one of them is unknown.
    """
    names = _names(text)
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name} is unknown; the names are {', '.join(known)}")
    return names


def _measure(request: Request, wanted: Sequence[str]) -> None:
    machine = _machine()
    console.print(machine)
    lines, found = [machine], {}
    for name in dict.fromkeys(wanted):
        benchmark = BENCHMARKS[name]
        console.print(f"\n{benchmark.title}")
        if reason := benchmark.missing():
            console.print(f"  not measured: {reason}")
            continue
        lines += ["", f"## {benchmark.title}", "", "| what | figure |", "|---|---|"]
        figures: dict[str, float] = {}
        for figure in benchmark.measure(request):
            console.print(f"  {figure.name:<60} {figure.text}")
            lines.append(f"| {figure.name} | {figure.text} |")
            figures[figure.name] = figure.value
        found[name] = figures
        (request.work / "latest.md").write_text("\n".join(lines) + "\n")
        kept = {"machine": machine, "figures": found}
        (request.work / "latest.json").write_text(json.dumps(kept, indent=1) + "\n")
    console.print(f"\nkept in {request.work / 'latest.md'} and latest.json")


def _machine() -> str:
    """The machine, the interpreter, and whether measured processes find Python compiled."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    how = "compiled" if process.compiled() else "compiled again by each process"
    if os.environ.get(process.NOT_COMPILED):
        how += f" ({process.NOT_COMPILED} is set here and unset for what is measured)"
    return (
        f"{os.cpu_count()} cores, {memory_gb:.0f} GB of memory, "
        f"Python {platform.python_version()}, {how}"
    )


if __name__ == "__main__":
    app()
