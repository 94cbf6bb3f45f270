"""How fast `ingest s3` lands a folder, and what malformed lines cost."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.process import Cost, run

INGEST = [sys.executable, "-m", "ingestion"]


def measure(work: Path, posts: int, runs: int) -> Iterator[Figure]:
    """Measure, figure by figure.

    Args:
        work: a folder to write into.
        posts: new posts of the input; about 3.2 records each.
        runs: runs of each, in turn; medians are given.
    """
    sound, malformed = work / f"sound-{posts}", work / f"malformed-{posts}"
    if not malformed.exists():
        shutil.rmtree(sound, ignore_errors=True)
        run([*INGEST, "synth", "--clean", "--posts", str(posts), "--out", str(sound)])
        partial = malformed.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        _break_every_hundredth(sound, partial)
        partial.rename(malformed)
    costs: dict[Path, list[Cost]] = {sound: [], malformed: []}
    for _ in range(runs):
        for source, found in costs.items():
            shutil.rmtree(work / "lake", ignore_errors=True)
            found.append(
                run([*INGEST, "s3", "--json", "--uri", str(source), "--lake", str(work / "lake")])
            )
    received = {
        source: sum(stream["received"] for stream in json.loads(found[0].output)["streams"])
        for source, found in costs.items()
    }
    rates = {
        source: statistics.median(received[source] / cost.seconds for cost in found)
        for source, found in costs.items()
    }
    yield Figure("records landed a run", received[sound])
    yield Figure("records a second, whole process", rates[sound])
    yield Figure("the same with 1 % malformed lines", rates[malformed])
    yield Figure("what 1 % malformed lines cost", 1 - rates[malformed] / rates[sound], "{:.0%}")
    yield Figure("peak memory", max(cost.peak_mb for cost in costs[sound]), "{:.0f} MB")
    shutil.rmtree(work / "lake", ignore_errors=True)


def _break_every_hundredth(source: Path, target: Path) -> None:
    for path in source.rglob("*.json"):
        lines = path.read_bytes().split(b"\n")
        for number in range(0, len(lines) - 1, 100):
            lines[number] = lines[number][:-2]
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"\n".join(lines))
