"""What a dbt command costs before its first query, and what a build costs beside dbt-duckdb's."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import agreement
from benchmarks.engines import Sail, Step
from benchmarks.figures import Figure
from benchmarks.first_query import PHASES
from benchmarks.peer_project import DbtDuckDB
from benchmarks.process import run

INGEST = [sys.executable, "-m", "ingestion"]


def measure(work: Path, posts: int, runs: int) -> Iterator[Figure]:
    """Measure, figure by figure; medians.

    Args:
        work: a folder to write into.
        posts: posts of the lake.
        runs: runs of each, the peers in turn, after both projects were parsed.
    """
    lake = demo_lake(work, posts)
    sail = Sail(work)
    sail.parse(lake)
    yield from _builds(sail, work / "peer-project", lake, runs)
    yield from _phases(sail, lake, runs)


def demo_lake(work: Path, posts: int) -> Path:
    """A lake with the bronze tables of so many posts, landed as those of the demo; made once."""
    lake = work / f"demo-{posts}"
    if not lake.exists():
        partial = lake.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        sink = str(partial / "sink")
        run([*INGEST, "synth", "--posts", str(posts), "--out", sink])
        run([*INGEST, "s3", "--uri", sink, "--lake", str(partial / "lake")])
        (partial / "lake").rename(lake)
        shutil.rmtree(partial)
    return lake


def _phases(sail: Sail, lake: Path, runs: int) -> Iterator[Figure]:
    found = []
    for _ in range(runs):
        began = {"BEGAN": repr(time.time())}
        command = [sys.executable, "-m", "benchmarks.first_query"]
        cost = run(command, sail.environment(lake) | began)
        found.append(json.loads(cost.output.strip().splitlines()[-1]))
    ours = 0.0
    for phase, own in PHASES.items():
        seconds = statistics.median(phases[phase] for phases in found)
        ours += seconds if own else 0
        yield Figure(f"{phase}{' (ours)' if own else ''}", seconds, "{:.2f} s")
    total = statistics.median(sum(phases.values()) for phases in found)
    yield Figure("together", total, "{:.2f} s")
    yield Figure("our share", ours, "{:.2f} s")


def _builds(sail: Sail, folder: Path, lake: Path, runs: int) -> Iterator[Figure]:
    """A full `dbt build` of both, in turn; the start is what lies outside the nodes."""
    found: dict[str, list[Step]] = {sail.name: [], DbtDuckDB.name: []}
    peer: DbtDuckDB | None = None
    for _ in range(runs):
        found[sail.name].append(sail.run("build", lake))
        if peer is None:  # it is made from what the first build compiled
            peer = DbtDuckDB(folder, sail.target, lake)
            peer.parse(lake)
        found[peer.name].append(peer.run("build", lake))
        agreement.compare(peer.name, lake, agreement.database(peer.database))
    nodes = len(found[sail.name][0].nodes)
    for name, steps in found.items():
        if any(len(step.nodes) != nodes for step in steps):
            raise RuntimeError(f"{name} built {[len(step.nodes) for step in steps]} nodes")
    yield Figure("models and data tests", nodes)
    for name, steps in found.items():
        between = statistics.median(step.between for step in steps)
        start = statistics.median(step.seconds - step.between for step in steps)
        yield Figure(f"dbt build, {name}", _seconds(steps), "{:.1f} s")
        yield Figure(f"its start and end, {name}", start, "{:.2f} s")
        yield Figure(f"a node, {name}", between / nodes * 1000, "{:.0f} ms")
        cpu = statistics.median(step.cpu_seconds for step in steps)
        yield Figure(f"CPU of the process, {name}", cpu, "{:.1f} s")
    share = _seconds(found[sail.name]) / _seconds(found[DbtDuckDB.name])
    yield Figure(f"of {DbtDuckDB.name}'s time", share, "{:.2f}")


def _seconds(steps: Sequence[Step]) -> float:
    return statistics.median(step.seconds for step in steps)
