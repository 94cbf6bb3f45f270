"""The engines that are measured: each builds, adds a day to and tests the same lake."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.process import Cost, run
from stack import process, spark

ROOT = Path(__file__).parents[1]
DUCK = [sys.executable, "-m", "benchmarks.duck"]


@dataclass(frozen=True)
class Step:
    """One command of one engine.

    Attributes:
        seconds: of the whole process.
        between: seconds between its first statement and its last.
        cpu_seconds: of all its processes.
        peak_mb: the largest resident set, that of a server added.
        written_mb: what it added to the tables' folders.
        nodes: seconds of each model, where the engine tells.
    """

    seconds: float
    between: float
    cpu_seconds: float
    peak_mb: float
    written_mb: float
    nodes: dict[str, float]


class Engine(Protocol):
    """What can be measured."""

    name: str

    def full(self, lake: Path) -> Step:
        """Build every model from the beginning."""

    def day(self, lake: Path) -> Step:
        """Build what a day changed."""

    def test(self, lake: Path) -> Step:
        """Run every data test."""


class Sail:
    """The local target: the embedded engine."""

    name = "Sail"

    def __init__(self, work: Path) -> None:
        self.target = work / "target-sail"
        self.profiles = _profiles(work)

    def full(self, lake: Path) -> Step:
        """Build every model from the beginning."""
        return self._dbt(lake, "run", "--full-refresh")

    def day(self, lake: Path) -> Step:
        """Build what a day changed."""
        return self._dbt(lake, "run")

    def test(self, lake: Path) -> Step:
        """Run every data test."""
        return self._dbt(lake, "test", "--exclude-resource-type", "unit_test")

    def _dbt(self, lake: Path, *arguments: str) -> Step:
        environment = {
            "LAKE_URI": str(lake.resolve()),
            "DBT_PROFILES_DIR": str(self.profiles),
            "DBT_TARGET_PATH": str(self.target),
            "DBT_LOG_PATH": str(self.target / "logs"),
            **self._settings(),
        }
        before = written_bytes(lake)
        with self._server_memory() as server:
            cost = run([sys.executable, "-m", "dbt_lake", *arguments, "--quiet"], environment)
        results: dict[str, Any] = json.loads((self.target / "run_results.json").read_text())
        return Step(
            cost.seconds,
            float(results["elapsed_time"]),
            cost.cpu_seconds + server.cpu_seconds,
            cost.peak_mb + server.peak_mb,
            written_since(lake, before),
            {
                str(result["unique_id"]).split(".")[2]: float(result["execution_time"])
                for result in results["results"]
            },
        )

    def _settings(self) -> dict[str, str]:
        return {"DBT_TARGET": "local"}

    @contextmanager
    def _server_memory(self) -> Iterator[Cost]:
        yield Cost(0, 0, 0, "")


class Spark(Sail):
    """The spark target: a server of this machine, as `make spark` starts it."""

    name = "Spark"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.target = work / "target-spark"
        self.folder = work / "spark"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.port = process.free_port()
        self.pid = process.start(spark.connect_server(self.port, self.folder))

    def stop(self) -> None:
        """End the server."""
        process.stop(self.folder)

    def _settings(self) -> dict[str, str]:
        return {"DBT_TARGET": "spark", "SPARK_REMOTE": f"sc://127.0.0.1:{self.port}"}

    @contextmanager
    def _server_memory(self) -> Iterator[Cost]:
        server = psutil.Process(self.pid)
        spent, peak, ended = sum(server.cpu_times()[:2]), [0], threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                peak[0] = max(peak[0], server.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        cost = _Later()
        try:
            yield cost  # type: ignore[misc]
        finally:
            ended.set()
            watcher.join()
            cost.cpu_seconds = sum(server.cpu_times()[:2]) - spent
            cost.peak_mb = peak[0] / 2**20


@dataclass
class _Later:
    """A server's cost, known when the command is over."""

    cpu_seconds: float = 0
    peak_mb: float = 0


class DuckDB:
    """The same SQL, translated, in a database of its own beside the lake's Parquet files.

    It runs what dbt compiled for the embedded engine, so that engine goes first at each step.
    """

    name = "DuckDB"

    def __init__(self, work: Path, compiled: Path) -> None:
        self.database = work / "peer.duckdb"
        self.compiled = compiled

    def full(self, lake: Path) -> Step:
        """Build every model from the beginning."""
        self.database.unlink(missing_ok=True)
        return self._run(lake, "full")

    def day(self, lake: Path) -> Step:
        """Build what a day changed."""
        return self._run(lake, "day")

    def test(self, lake: Path) -> Step:
        """Run every data test."""
        return self._run(lake, "test")

    def _run(self, lake: Path, step: str) -> Step:
        before = self.database.stat().st_size if self.database.exists() else 0
        cost = run([*DUCK, step, str(lake), str(self.compiled), str(self.database)])
        said = json.loads(cost.output.strip().splitlines()[-1])
        if said["differing_rows"]:
            raise RuntimeError(f"DuckDB's answers differ: {said['differing_rows']}")
        written = (self.database.stat().st_size - before) / 1e6
        return Step(cost.seconds, said["seconds"], cost.cpu_seconds, cost.peak_mb, written,
                    said["nodes"])  # fmt: skip


def written_bytes(lake: Path) -> dict[Path, int]:
    """Every file that dbt's tables have, with its size."""
    found = {}
    for folder, _, names in os.walk(lake):
        if "bronze" not in Path(folder).relative_to(lake).parts[:1]:
            for name in names:
                path = Path(folder, name)
                found[path] = path.stat().st_size
    return found


def written_since(lake: Path, before: dict[Path, int]) -> float:
    """Megabytes of files that were not there, or had another size."""
    now = written_bytes(lake)
    return sum(size for path, size in now.items() if before.get(path) != size) / 1e6


def _profiles(work: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=work, prefix="profiles-"))
    shutil.copy(ROOT / "profiles.example.yml", folder / "profiles.yml")
    return folder
