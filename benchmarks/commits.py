"""Whether commits stay as fast as they were: thousands of small ones by one following lander."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa

from benchmarks.figures import Figure
from ingestion import lake as landing_lake
from ingestion.lake import Lake, Origin, Piece
from ingestion.records import KINDS, decode

RECORDS = 50
KIND = KINDS["geo"]
ORIGIN = Origin("kafka", "benchmark.geo", "0")


def measure(work: Path, commits: int, without_upkeep: int, around: int) -> Iterator[Figure]:
    """Measure, figure by figure.

    Args:
        work: a folder to write into.
        commits: how many to make.
        without_upkeep: how many to make without checkpoints and merged files.
        around: commits before and after the one whose time is given.
    """
    folder = work / "commits"
    kept = _commit(folder, commits + around)
    yield Figure(f"commits of {RECORDS} records", len(kept))
    yield from _times(f"around the {around:,}th", kept, around, around)
    yield from _times(f"around the {commits:,}th", kept, commits, around)
    log = len(list((folder / "bronze/geo/_delta_log").iterdir()))
    yield Figure("files of the table then", len(Lake(str(folder)).open("geo").file_uris()))
    yield Figure("files of its log then", log)
    shutil.rmtree(folder)
    with patch.multiple(
        landing_lake,
        _COMMITS_A_CHECKPOINT=commits * 10,
        _COMMITS_A_HANDLE=commits * 10,
    ):
        left = _commit(folder, without_upkeep + around)
    shutil.rmtree(folder)
    yield from _times(f"without upkeep, around the {around:,}th", left, around, around)
    yield from _times(
        f"without upkeep, around the {without_upkeep:,}th", left, without_upkeep, around
    )


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


def _times(name: str, took: Sequence[float], commit: int, around: int) -> Iterator[Figure]:
    near = took[commit - around : commit + around]
    milliseconds = "{:.0f} ms"
    slowest = statistics.quantiles(near, n=100, method="inclusive")[-1]
    yield Figure(f"{name}, median", statistics.median(near) * 1e3, milliseconds)
    yield Figure(f"{name}, p99", slowest * 1e3, milliseconds)
    yield Figure(f"{name}, longest", max(near) * 1e3, milliseconds)
