"""The engines that are measured: each takes the same steps on the same lake."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

import psutil

from benchmarks.process import run
from stack import process, spark

ROOT = Path(__file__).parents[1]
DBT = [str(Path(sys.executable).with_name("dbt"))]
DUCK = [sys.executable, "-m", "benchmarks.duck"]
#: Unit tests check code, not data: the peers have none.
_DATA_TESTS = ("--exclude-resource-type", "unit_test")


@dataclass(frozen=True)
class Step:
    """One command of one engine.

    Attributes:
        seconds: of the whole process.
        between: seconds between the start of its first statement and the end of its last.
        cpu_seconds: of all its processes.
        peak_mb: the largest resident set, that of a server added.
        written_mb: what it added to the tables' folders.
        nodes: seconds of each model and data test.
        failures: rows that each data test found, by the test's id.
    """

    seconds: float
    between: float
    cpu_seconds: float
    peak_mb: float
    written_mb: float
    nodes: dict[str, float]
    failures: dict[str, int] = field(default_factory=dict)


class Engine(Protocol):
    """What can be measured."""

    name: str

    def run(self, step: str, lake: Path) -> Step:
        """Take one of `benchmarks.sizes.STEPS` on a lake."""


@dataclass
class Server:
    """What a server cost besides the command, known when the command is over."""

    cpu_seconds: float = 0
    peak_mb: float = 0


class Dbt:
    """A dbt project, of which every command is a process of its own.

    Args:
        target: the folder of dbt's artifacts.
        profiles: the folder of its profiles.
        project: the project's folder.
    """

    name = "dbt"
    _commands: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "full": ("run", "--full-refresh"),
        "day": ("run",),
        "test": ("test", *_DATA_TESTS),
        "daily": ("build", *_DATA_TESTS),
        "build": ("build", "--full-refresh", *_DATA_TESTS),
    }

    def __init__(self, target: Path, profiles: Path, project: Path) -> None:
        self.target = target
        self.profiles = profiles
        self._project = project

    def parse(self, lake: Path) -> None:
        """Read the project, so that later commands find it read."""
        run([*DBT, "parse", "--quiet"], self.environment(lake))

    def run(self, step: str, lake: Path) -> Step:
        """Take a step: one of `benchmarks.sizes.STEPS`, or a full ``build``."""
        before = written_bytes(lake)
        with self._watched() as server:
            cost = run([*DBT, *self._commands[step], "--quiet"], self.environment(lake))
        results = [
            result
            for result in json.loads((self.target / "run_results.json").read_text())["results"]
            if result["unique_id"].startswith(("model.", "test."))
        ]
        moments = [
            [datetime.fromisoformat(timing[end]) for end in ("started_at", "completed_at")]
            for result in results
            for timing in result["timing"]
        ]
        return Step(
            cost.seconds,
            (max(end for _, end in moments) - min(begun for begun, _ in moments)).total_seconds(),
            cost.cpu_seconds + server.cpu_seconds,
            cost.peak_mb + server.peak_mb,
            written_since(before, written_bytes(lake)),
            {
                str(result["unique_id"]).split(".")[2]: float(result["execution_time"])
                for result in results
            },
            {
                str(result["unique_id"]): int(result["failures"] or 0)
                for result in results
                if result["unique_id"].startswith("test.")
            },
        )

    def environment(self, lake: Path) -> dict[str, str]:
        """Variables of its commands."""
        return {
            "LAKE_URI": str(lake.resolve()),
            "DBT_PROJECT_DIR": str(self._project.resolve()),
            "DBT_PROFILES_DIR": str(self.profiles.resolve()),
            "DBT_TARGET_PATH": str(self.target.resolve()),
            "DBT_LOG_PATH": str(self.target.resolve() / "logs"),
        }

    @contextmanager
    def _watched(self) -> Iterator[Server]:
        yield Server()


class Sail(Dbt):
    """The local target: the embedded engine."""

    name = "Sail"

    def __init__(self, work: Path) -> None:
        super().__init__(work / "target-sail", work / "profiles", ROOT)
        self.profiles.mkdir(exist_ok=True)
        shutil.copy(ROOT / "profiles.example.yml", self.profiles / "profiles.yml")

    def environment(self, lake: Path) -> dict[str, str]:
        """Variables of its commands."""
        return {**super().environment(lake), "DBT_TARGET": "local"}


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

    def environment(self, lake: Path) -> dict[str, str]:
        """Variables of its commands."""
        remote = f"sc://127.0.0.1:{self.port}"
        return {**super().environment(lake), "DBT_TARGET": "spark", "SPARK_REMOTE": remote}

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
        self.database = work / "duckdb" / "peer.duckdb"
        self.compiled = compiled

    def run(self, step: str, lake: Path) -> Step:
        """Take one of `benchmarks.sizes.STEPS` on a lake."""
        if step == "full":
            self.remove()
            self.database.parent.mkdir(parents=True)
        before = _size(self.database)
        cost = run([*DUCK, step, str(lake), str(self.compiled), str(self.database)])
        said: dict[str, Any] = json.loads(cost.output.strip().splitlines()[-1])
        written = (_size(self.database) - before) / 1e6
        return Step(cost.seconds, said["seconds"], cost.cpu_seconds, cost.peak_mb, written,
                    said["nodes"], said["failures"])  # fmt: skip

    def remove(self) -> None:
        """Remove the database and what lies beside it."""
        shutil.rmtree(self.database.parent, ignore_errors=True)


def _size(database: Path) -> int:
    return database.stat().st_size if database.exists() else 0


def written_bytes(lake: Path) -> dict[Path, int]:
    """Every file that dbt's tables have, with its size."""
    found = {}
    for folder, _, names in os.walk(lake):
        if "bronze" not in Path(folder).relative_to(lake).parts[:1]:
            for name in names:
                path = Path(folder, name)
                found[path] = path.stat().st_size
    return found


def written_since(before: Mapping[Path, int], now: Mapping[Path, int]) -> float:
    """Megabytes of files that were not there, or had another size."""
    return sum(size for path, size in now.items() if before.get(path) != size) / 1e6
