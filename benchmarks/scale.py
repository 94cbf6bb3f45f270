"""How building grows with the number of posts, on each engine and at each step."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import agreement, grown
from benchmarks.engines import DuckDB, Engine, Sail, Spark, Step
from benchmarks.grown import Size
from benchmarks.process import run


@dataclass(frozen=True)
class Result:
    """What one step cost.

    Attributes:
        engine: its name.
        posts: posts of the full build.
        days: over which they landed; a later day brings as many as one of them.
        step: one of `benchmarks.sizes.STEPS`.
        cost: the figures.
    """

    engine: str
    posts: int
    days: int
    step: str
    cost: Step


def measure(
    work: Path,
    sizes: Sequence[Size],
    steps: Sequence[str],
    names: Sequence[str],
    spark_up_to: int,
) -> Iterator[Result]:
    """Measure every engine at every size, smallest first, the embedded one before its peers.

    Args:
        work: a folder to write into; inputs stay, lakes go.
        sizes: sizes of lakes.
        steps: which steps, in order.
        names: of the engines.
        spark_up_to: posts of the largest size for Spark, which takes minutes where others take
            seconds.

    Raises:
        RuntimeError: a step failed, or a peer's answers or test results differ.
    """
    for size in sorted(sizes, key=lambda size: size.total):
        yield from _measure(work, size, steps, names, size.total <= spark_up_to)


def _measure(
    work: Path, size: Size, steps: Sequence[str], names: Sequence[str], with_spark: bool
) -> Iterator[Result]:
    base = grown.base(work, size)
    lake = work / "lake"
    shutil.rmtree(lake, ignore_errors=True)
    shutil.rmtree(_beside(lake), ignore_errors=True)
    _grow(base, lake, size.copies, 0, size.days - 1)
    landed = size.days
    sail = Sail(work)
    duck = DuckDB(work, sail.target)
    engines: list[Engine] = [sail]
    spark: Spark | None = None
    if "duckdb" in names:
        engines.append(duck)
    try:
        if "spark" in names and with_spark:
            spark = Spark(work)
            engines.append(spark)
        for step in steps:
            if step in ("day", "daily"):
                _grow(base, lake, size.copies, landed, landed)
                landed += 1
            ours: Step | None = None
            for engine in engines:
                cost = engine.run(step, _of(engine, lake))
                ours = ours or cost
                agree(engine, step, lake, ours, cost)
                yield Result(engine.name, size.total, size.days, step, cost)
    finally:
        if spark is not None:
            spark.stop()
        shutil.rmtree(lake, ignore_errors=True)
        shutil.rmtree(_beside(lake), ignore_errors=True)
        duck.remove()


def agree(engine: Engine, step: str, lake: Path, ours: Step, theirs: Step) -> None:
    """Refuse a peer's step whose tests or answers differ from those of the embedded engine."""
    if ours.failures != theirs.failures:
        found = set(ours.failures.items()) ^ set(theirs.failures.items())
        raise RuntimeError(f"{engine.name}: these tests found other rows: {sorted(found)}")
    if step == "test":
        return
    if isinstance(engine, DuckDB):
        agreement.compare(engine.name, lake, agreement.database(engine.database))
    elif isinstance(engine, Spark):
        agreement.compare(engine.name, lake, agreement.delta(_beside(lake)))


def _of(engine: Engine, lake: Path) -> Path:
    """The lake an engine builds in: Spark's has the same bronze files, and tables of its own."""
    if not isinstance(engine, Spark):
        return lake
    other = _beside(lake)
    for path in sorted((lake / "bronze").rglob("*")):
        link = other / path.relative_to(lake)
        if path.is_dir():
            link.mkdir(parents=True, exist_ok=True)
        elif not link.exists():
            link.hardlink_to(path)
    return other


def _beside(lake: Path) -> Path:
    return lake.with_name("lake-of-spark")


def _grow(base: Path, lake: Path, copies: int, first: int, last: int) -> None:
    days = [str(copies), str(first), str(last)]
    run([sys.executable, "-m", "benchmarks.grown", str(base), str(lake), *days])


def keep(results: Sequence[Result], path: Path) -> None:
    """Write every figure, those of single models too, as JSON."""
    path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
