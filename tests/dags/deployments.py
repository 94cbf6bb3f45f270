"""Deployments of the daily DAG in one Airflow: a copy of the project each, and posts of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil

from ingestion.records import KINDS
from stack import airflow, process
from tests.dbt import processes
from tests.dbt.lakes import PIPELINE, Built

ROOT = Path(__file__).parents[2]

#: What a deployment's folder holds of the project.
PROJECT = ("dbt_project.yml", "dbt_lake.py", "dbt_project", "ingestion", "reporting", "runner")

#: What would lead a deployment elsewhere than into its own folder.
FOREIGN = ("LAKE_URI", "PIPELINE_ID", "PIPELINE_HOME", "DBT_TARGET", "DBT_TARGET_PATH",
           "DBT_LOG_PATH", "PIPELINE_NOTIFIER")  # fmt: skip


#: What the DAG's file imports, imported by Airflow's processes when they start.
PRELOADED = """
import sys
if "scheduler" in sys.argv:
    import airflow.providers.standard.hooks.subprocess
    import airflow.sdk.execution_time.task_runner
    import cosmos.airflow.graph
    import cosmos.airflow.task_group
    import cosmos.operators.watcher
"""


@dataclass
class Deployment:
    """The DAG ``{name}_dag``, its project beside it, and what the oracle says has landed."""

    dags: Path
    name: str
    built: Built = field(init=False)

    def __post_init__(self) -> None:
        self.built = Built(self.home)

    @property
    def home(self) -> Path:
        """Its project's folder; the lake lies in it."""
        return self.dags / self.name

    @property
    def dag(self) -> str:
        """The DAG's id."""
        return f"{self.name}_dag"

    def install(self, change: Callable[[Path], None] | None = None) -> None:
        """Copy the project, change the copy, parse it, and show the DAG to Airflow.

        Args:
            change: is given the copy's folder.
        """
        self.home.mkdir(parents=True)
        for part in PROJECT:
            source = ROOT / part
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, self.home / part, ignore=ignored)
            else:
                shutil.copy(source, self.home / part)
        shutil.copy(ROOT / "profiles.example.yml", self.home / "profiles.yml")
        (self.home / ".airflowignore").write_text("**\n")
        if change is not None:
            change(self.home)
        done = processes.run([processes.DBT, "parse", "--quiet"], os.environ, self.home)
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.copy(ROOT / "dags" / "pinterest_daily.py", self.dags / f"{self.dag}.py")

    def deliver(self, lines: dict[str, list[bytes]], *folders: str) -> None:
        """Put records where the DAG lands them from.

        Args:
            lines: of each kind.
            folders: below the project's, each of which gets them; ``sink`` where none is named.
        """
        for kind in KINDS:
            topic = f"{self.name}.{kind}"
            name = f"{topic}+0+{self.built.offsets[kind]:010}.json"
            for folder in folders or ("sink",):
                path = self.home / folder / "topics" / topic / "partition=0"
                path.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(b"".join(line + b"\n" for line in lines[kind]))
        # The order of offsets alone decides what is the latest.
        self.built.know(lines, at=datetime(2026, 1, 1, tzinfo=UTC))


def in_days(
    lines: dict[str, list[bytes]], first: date, days: int
) -> Iterator[tuple[date, dict[str, list[bytes]]]]:
    """Lines in as many parts, each with its day; a part may have none of a kind."""
    for day in range(days):
        yield (
            first + timedelta(days=day),
            {
                kind: found[len(found) * day // days : len(found) * (day + 1) // days]
                for kind, found in lines.items()
            },
        )


def posts(count: int, seed: int, folder: Path) -> dict[str, list[bytes]]:
    """The lines of invented posts, some of them unfit, by kind.

    Args:
        count: of posts.
        seed: the same gives the same.
        folder: an empty one.
    """
    subprocess.run(
        [
            sys.executable, "-m", "ingestion", "synth", "--posts", str(count),
            "--people", str(max(count // 2, 1)), "--seed", str(seed), "--out", str(folder),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return {
        kind: [
            line
            for path in sorted(folder.glob(f"topics/{PIPELINE}.{kind}/*/*.json"))
            for line in path.read_bytes().splitlines()
        ]
        for kind in KINDS
    }


@contextmanager
def running(folder: Path, dags: Path, **settings: str) -> Iterator[airflow.Client]:
    """An Airflow that runs the DAGs of a folder.

    Args:
        folder: its own.
        dags: theirs.
        settings: further environment variables.
    """
    port = process.free_port()
    server = airflow.server(port, folder)
    env = {
        **server.env,
        **dict.fromkeys(FOREIGN),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        # The files are there from the beginning, and stay as they are.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3600",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "PIPELINE_RETRY_SECONDS": "1",
        **settings,
    }
    # Tasks are forked from the scheduler: what it has imported they need not.
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "config" / "airflow_local_settings.py").write_text(PRELOADED)
    secret = airflow.password(folder)
    client = airflow.Client(f"http://127.0.0.1:{port}", secret, airflow.progress(folder))
    process.start(replace(server, env=env), client.ready, patience=120)
    try:
        yield client
    finally:
        airflow.stop(folder)


def kill(pid: int) -> None:
    """Kill a process and all that it started, at once."""
    victim = psutil.Process(pid)
    process.kill([victim, *victim.children(recursive=True)])
