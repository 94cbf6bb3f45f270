"""Whether commits stay as fast as they were: thousands of small ones by one following lander."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa

from ingestion import lake as landing_lake
from ingestion.lake import Lake, Origin, Piece
from ingestion.records import KINDS, decode

COMMITS = 10_000
#: Without upkeep each commit costs more than the one before: fewer tell as much.
COMMITS_WITHOUT = 1_000
#: Commits on both sides of the one that is looked at.
AROUND = 100
RECORDS = 50
KIND = KINDS["geo"]
ORIGIN = Origin("kafka", "benchmark.geo", "0")


def measure(work: Path, commits: int = COMMITS) -> Iterator[tuple[str, str]]:
    """Measure and say, figure by figure.

    Args:
        work: a folder to write into.
        commits: how many to make.
    """
    kept = _commit(work / "commits", commits + AROUND)
    early, late = _around(kept, AROUND), _around(kept, commits)
    log = len(list((work / "commits/bronze/geo/_delta_log").iterdir()))
    files = len(Lake(str(work / "commits")).open("geo").file_uris())
    yield f"commits of {RECORDS} records", f"{len(kept):,}"
    yield f"around the {AROUND}th: median, p99, longest", _said(early)
    yield f"around the {commits:,}th: median, p99, longest", _said(late)
    yield "p99 there to p99 here", f"{_p99(late) / _p99(early):.2f}"
    yield "files of the table and of its log then", f"{files:,} and {log:,}"
    shutil.rmtree(work / "commits")
    with patch.multiple(
        landing_lake,
        _COMMITS_A_CHECKPOINT=commits * 10,
        _COMMITS_A_HANDLE=commits * 10,
    ):
        left = _commit(work / "commits", COMMITS_WITHOUT + AROUND)
    shutil.rmtree(work / "commits")
    yield f"without upkeep, around the {AROUND}th", _said(_around(left, AROUND))
    yield f"without upkeep, around the {COMMITS_WITHOUT:,}th", _said(_around(left, COMMITS_WITHOUT))


def _commit(folder: Path, commits: int) -> list[float]:
    """Append to a new lake; how long each commit took, in seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    lake = Lake(str(folder))
    lake.create()
    line = b'{"ind":%d,"timestamp":"2020-01-01T00:00:00","latitude":%d.5,"country":"Norway"}'
    rows = decode(KIND, [line % (number, number) for number in range(RECORDS)]).rows
    took = []
    for start in range(0, commits * RECORDS, RECORDS):
        end = start + RECORDS
        piece = Piece(ORIGIN, start, end, pa.array(range(start, end), pa.int64()), rows, True)
        begun = time.perf_counter()
        lake.append(KIND.name, [piece])
        took.append(time.perf_counter() - begun)
    return took


def _around(took: Sequence[float], commit: int) -> Sequence[float]:
    return took[commit - AROUND : commit + AROUND]


def _p99(took: Sequence[float]) -> float:
    return statistics.quantiles(took, n=100, method="inclusive")[-1]


def _said(took: Sequence[float]) -> str:
    median = statistics.median(took)
    return f"{median * 1e3:.0f}, {_p99(took) * 1e3:.0f}, {max(took) * 1e3:.0f} ms"
