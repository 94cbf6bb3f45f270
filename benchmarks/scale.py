"""How building grows with the number of posts, on each engine: a full build, a day, the tests."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import daily, grown
from benchmarks.engines import STEPS, DuckDB, Engine, Sail, Spark, Step
from benchmarks.process import run


@dataclass(frozen=True)
class Result:
    """What one step cost.

    Attributes:
        engine: its name.
        millions: posts of the full build, in millions; the day after brings a hundredth more.
        step: full, day or test.
        cost: the figures.
    """

    engine: str
    millions: int
    step: str
    cost: Step


def measure(
    work: Path, millions: Sequence[int], names: Sequence[str], spark_up_to: int
) -> Iterator[Result]:
    """Measure every engine at every size, smallest first, the embedded one before its peers.

    Args:
        work: a folder to write into; inputs stay, lakes go.
        millions: sizes, in millions of posts.
        names: of the engines.
        spark_up_to: the largest size for Spark, which takes minutes where others take seconds.
    """
    base = grown.base(work)
    for size in sorted(millions):
        lake = work / "lake"
        shutil.rmtree(lake, ignore_errors=True)
        _grow(base, lake, size, 0, daily.DAYS - 1)
        sail = Sail(work)
        duck = DuckDB(work, sail.target)
        engines: list[Engine] = [sail]
        spark: Spark | None = None
        if "duckdb" in names:
            engines.append(duck)
        if "spark" in names and size <= spark_up_to:
            spark = Spark(work)
            engines.append(spark)
        try:
            for step in STEPS:
                if step == "day":
                    _grow(base, lake, size, daily.DAYS, daily.DAYS)
                for engine in engines:
                    cost = engine.run(step, _of(engine, lake))
                    yield Result(engine.name, size, step, cost)
        finally:
            if spark is not None:
                spark.stop()
            shutil.rmtree(lake, ignore_errors=True)
            shutil.rmtree(_beside(lake), ignore_errors=True)
            duck.database.unlink(missing_ok=True)


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
