"""The engines that are measured: each builds, adds a day to and tests the same lake."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import psutil

from benchmarks.process import run
from stack import process, spark

ROOT = Path(__file__).parents[1]
DBT = [sys.executable, "-m", "dbt_lake"]
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


#: A full build, a build after a day, and every data test.
STEPS = ("full", "day", "test")


class Engine(Protocol):
    """What can be measured."""

    name: str

    def run(self, step: str, lake: Path) -> Step:
        """Take one of ``STEPS`` on a lake."""


@dataclass
class Server:
    """What a server cost besides the command, known when the command is over."""

    cpu_seconds: float = 0
    peak_mb: float = 0


class Sail:
    """The local target: the embedded engine."""

    name = "Sail"
    _commands: ClassVar = {
        "full": ["run", "--full-refresh"],
        "day": ["run"],
        "test": ["test", "--exclude-resource-type", "unit_test"],
    }

    def __init__(self, work: Path) -> None:
        self.target = work / "target-sail"
        self.profiles = work / "profiles"
        self.profiles.mkdir(exist_ok=True)
        shutil.copy(ROOT / "profiles.example.yml", self.profiles / "profiles.yml")

    def run(self, step: str, lake: Path) -> Step:
        """Take one of ``STEPS`` on a lake."""
        environment = {
            "LAKE_URI": str(lake.resolve()),
            "DBT_PROFILES_DIR": str(self.profiles),
            "DBT_TARGET_PATH": str(self.target),
            "DBT_LOG_PATH": str(self.target / "logs"),
            **self._settings(),
        }
        before = written_bytes(lake)
        with self._watched() as server:
            cost = run([*DBT, *self._commands[step], "--quiet"], environment)
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
    def _watched(self) -> Iterator[Server]:
        yield Server()


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
    def _watched(self) -> Iterator[Server]:
        server = psutil.Process(self.pid)
        spent, peak, ended = sum(server.cpu_times()[:2]), [0], threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                peak[0] = max(peak[0], server.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        cost = Server()
        try:
            yield cost
        finally:
            ended.set()
            watcher.join()
            cost.cpu_seconds = sum(server.cpu_times()[:2]) - spent
            cost.peak_mb = peak[0] / 2**20


class DuckDB:
    """The same SQL, translated, in a database of its own beside the lake's Parquet files.

    It runs what dbt compiled for the embedded engine, so that engine goes first at each step.
    """

    name = "DuckDB"

    def __init__(self, work: Path, compiled: Path) -> None:
        self.database = work / "peer.duckdb"
        self.compiled = compiled

    def run(self, step: str, lake: Path) -> Step:
        """Take one of ``STEPS`` on a lake."""
        if step == "full":
            self.database.unlink(missing_ok=True)
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
