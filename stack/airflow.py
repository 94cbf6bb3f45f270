"""Airflow on this machine: its scheduler, its pages and its tasks, one server to start and end.

``airflow standalone`` runs the four processes that make up Airflow. Its state is a SQLite file in
the server's folder, or the database that ``AIRFLOW__DATABASE__SQL_ALCHEMY_CONN`` names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psutil
import requests

from stack import process
from stack.progress import TOTAL, Patience, activity

PROJECT = Path(__file__).resolve().parent.parent
USER = "admin"
#: Seconds that a request may take: a request that is repeated may start a second run.
_TIMEOUT = 300.0
#: Seconds without progress after which a wait for Airflow has failed.
_PATIENCE = 120.0
#: Seconds that a run may go on: more than the DAG's own limits, which end it with a reason.
_RUN = 24 * 3600.0
#: Beginnings of variables that lead to another Airflow's files, server or DAGs, or to TLS.
_FOREIGN = (
    "AIRFLOW_CONFIG",
    "_AIRFLOW_",
    "AIRFLOW__API__SSL_",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST",
)
#: Seconds between two looks at a run: each makes Airflow read all of its tasks.
_LOOK = 2.0
#: A run in one of these states goes on by itself.
_GOING = ("queued", "running")


class AirflowError(process.ServerError):
    """Airflow did not do what it was asked for; the message says what and where to look."""


def environment(port: int, folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of an Airflow that runs this project's DAGs.

    Args:
        port: of 127.0.0.1, for its pages.
        folder: its own; absolute afterwards.
        environ: what is set there goes before the settings here, except for where the DAGs are,
            where Airflow listens and who may sign in.

    Returns:
        Variables to add to those of the process.
    """
    home = folder.resolve()
    settings = {
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "16",
        # Airflow's own limits are for servers, and this machine may be busy. It stops reading a DAG
        # after 30 s and 50 s, tasks wait 5 s for its API, and of several API workers uvicorn kills
        # each that does not answer for 5 s: starting, none does, and that goes on for ever.
        "CORE__DAGBAG_IMPORT_TIMEOUT": "600",
        "DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "660",
        "WORKERS__EXECUTION_API_TIMEOUT": "60",
        "API__WORKERS": "1",
        # A day is some fifteen tasks one after another, and each would wait for half a second.
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "LOGGING__WORKER_LOG_SERVER_PORT": str(process.free_port()),
        "LOGGING__TRIGGER_LOG_SERVER_PORT": str(process.free_port()),
        # Nothing is told to anyone.
        "COSMOS__ENABLE_TELEMETRY": "False",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
        "COSMOS__CACHE_DIR": str(home / "cosmos"),
        # Otherwise each of a build's thousand messages is written twice, once for the case that the
        # building task is killed; its models are then built one by one, and need none of them.
        "COSMOS__ENABLE_WATCHER_RELIABLE_RETRY": "False",
    }
    fixed = {
        "CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": f"http://127.0.0.1:{port}",
    }
    named = {f"AIRFLOW__{name}": value for name, value in settings.items()}
    programs = str(Path(sys.executable).parent)
    return (
        named
        | {name: environ[name] for name in named if name in environ}
        | {f"AIRFLOW__{name}": value for name, value in fixed.items()}
        | {
            "AIRFLOW_HOME": str(home),
            "PATH": os.pathsep.join([programs, environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(PROJECT),
        }
    )


def server(port: int, folder: Path) -> process.Server:
    """What it takes to run Airflow.

    Args:
        port: of 127.0.0.1, for its pages.
        folder: its own.

    Raises:
        AirflowError: it is not installed, or the project has not been parsed.
    """
    if importlib.util.find_spec("airflow") is None:
        raise AirflowError("Airflow is not installed; 'make airflow' installs and starts it")
    folder.mkdir(parents=True, exist_ok=True)
    passwords = folder / "passwords.json"
    if not passwords.exists():
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({USER: secrets.token_urlsafe(12)}))
    program = str(Path(sys.executable).parent / "airflow")
    return process.Server(
        "Airflow", [program, "standalone"], port, folder, environment(port, folder), _FOREIGN
    )


def password(folder: Path) -> str:
    """The password of the user ``admin``."""
    return str(json.loads((folder / "passwords.json").read_text())[USER])


def progress(folder: Path) -> Callable[[], object]:
    """Make a measure of progress for a client of the Airflow that runs in a folder."""

    def running() -> list[psutil.Process]:
        found = process.find(folder)
        return [found] if found else []

    return activity(running, _PATIENCE, folder / "server.log")


def stop(folder: Path) -> bool:
    """End Airflow and what it runs.

    Tasks that run are given the time to end; those that do not are killed, and run again when
    Airflow does.

    Returns:
        Whether it was running.
    """
    running = process.find(folder)
    if running is not None:
        # The scheduler first, while the others are there for its tasks to report to.
        parts = sorted(running.children(), key=lambda part: "scheduler" not in part.cmdline())
        for part in parts:
            its = part.children(recursive=True)
            process.end([part], total=process.PATIENCE)
            process.kill(its)
    return process.stop(folder)


class Client:
    """Asks an Airflow by its REST interface.

    Args:
        address: ``http://host:port``.
        secret: the password of ``admin``.
        progress: returns a value that changes while Airflow works; waits go on as long.
        clock: monotonic seconds.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        address: str,
        secret: str,
        progress: Callable[[], object] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.address = address
        self._secret = secret
        self._progress = progress
        self._clock = clock
        self._sleep = sleep
        self._session = requests.Session()
        # Not those of the environment: it is on this machine.
        self._session.trust_env = False

    def ready(self) -> None:
        """Raise an OSError unless all of its parts run."""
        answer = self._session.get(f"{self.address}/api/v2/monitor/health", timeout=30)
        answer.raise_for_status()
        health = answer.json()
        for part in ("metadatabase", "scheduler", "dag_processor", "triggerer"):
            if (health.get(part) or {}).get("status") != "healthy":
                raise OSError(f"its {part.replace('_', ' ')} is not ready")

    def ask(self, method: str, path: str, **what: Any) -> Any:
        """Send a request, signed in.

        Args:
            method: of HTTP.
            path: below ``/api/v2``.
            what: ``json`` or ``params``, as `requests` takes them.

        Raises:
            AirflowError: Airflow does not answer, or the answer is no success.
        """
        if "Authorization" not in self._session.headers:
            sign_in = {"username": USER, "password": self._secret}
            signed = self._send("POST", "auth/token", json=sign_in)
            self._check(signed)
            self._session.headers["Authorization"] = f"Bearer {signed.json()['access_token']}"
        wait = self._patience()
        while True:
            answer = self._send(method, f"api/v2/{path}", **what)
            # It could not get at its database, which one writes to at a time, and did nothing.
            busy = answer.status_code == requests.codes.service_unavailable
            if not busy or wait.exhausted() is not None:
                break
            self._sleep(1)
        self._check(answer)
        return answer.json() if answer.content else None

    def _send(self, method: str, path: str, **what: Any) -> requests.Response:
        url = f"{self.address}/{path}"
        try:
            return self._session.request(method, url, timeout=_TIMEOUT, **what)
        except requests.RequestException as error:
            raise AirflowError(
                f"Airflow does not answer at {url}: {error}; see server.log in its folder"
            ) from error

    def _patience(self, patience: float = _PATIENCE, total: float = TOTAL) -> Patience:
        return Patience(self._progress, patience, total, self._clock)

    def _check(self, answer: requests.Response) -> None:
        if not answer.ok:
            said = " ".join(answer.text.split())[:300]
            raise AirflowError(f"{answer.request.url} answers {answer.status_code}: {said}")

    def wait_for_dag(self, dag: str, patience: float = _PATIENCE, total: float = TOTAL) -> None:
        """Wait until the scheduler knows a DAG.

        Args:
            dag: its id.
            patience: seconds without progress after which the wait has failed.
            total: seconds after which it has failed whatever the progress.

        Raises:
            AirflowError: the DAG's file has an error, or the wait has failed.
        """
        wait = self._patience(patience, total)
        while True:
            for error in self.ask("GET", "importErrors")["import_errors"]:
                last = error["stack_trace"].strip().splitlines()[-1]
                raise AirflowError(f"{error['filename']}: {last}")
            known = self.ask("GET", "dags", params={"dag_id_pattern": dag})["dags"]
            if any(found["dag_id"] == dag for found in known):
                return
            if (reason := wait.exhausted()) is not None:
                raise AirflowError(f"Airflow has not found the DAG {dag}: {reason}")
            self._sleep(0.5)

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """A DAG's runs, the newest first."""
        found = self.ask("GET", f"dags/{dag}/dagRuns", params={"order_by": "-run_after"})
        return list(found["dag_runs"])

    def trigger(self, dag: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run now.

        Args:
            dag: its id.
            conf: values of the DAG's parameters.

        Returns:
            The run's id.
        """
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self.ask("POST", f"dags/{dag}/dagRuns", json=body)["dag_run_id"])

    def run_now(self, dag: str) -> str:
        """Take the DAG out of its pause, and see that one run goes on.

        The schedule starts today's run by itself, once; where it has done so before, this starts
        another.

        Returns:
            The run's id.
        """
        before = self.runs(dag)
        self.ask("PATCH", f"dags/{dag}", json={"is_paused": False})
        wait = self._patience()
        while not before and self._due(dag) and not self.runs(dag):
            if wait.exhausted() is not None:
                break
            self._sleep(0.5)
        for run in self.runs(dag):
            if run["state"] in _GOING:
                return str(run["dag_run_id"])
        return self.trigger(dag)

    def _due(self, dag: str) -> bool:
        """Whether the scheduler is about to start a run of a DAG."""
        at = self.ask("GET", f"dags/{dag}")["next_dagrun_run_after"]
        return at is not None and datetime.fromisoformat(at) <= datetime.now(UTC)

    def wait(self, dag: str, run: str, patience: float, total: float = _RUN) -> str:
        """Wait until a run is over.

        Args:
            dag: its id.
            run: the run's id.
            patience: seconds in which no task runs and none changes its state after which the
                wait has failed; a task that runs has a limit of its own.
            total: seconds after which it has failed whatever the progress.

        Returns:
            ``success`` or ``failed``.

        Raises:
            AirflowError: the wait has failed.
        """
        seen: list[Any] = []

        def progress() -> object:
            seen[:] = [(task["task_id"], task["state"]) for task in self.tasks(dag, run)]
            going = any(state == "running" for _, state in seen)
            return self._clock() if going else tuple(sorted(seen, key=repr))

        wait = Patience(progress, patience, total, self._clock)
        while True:
            state = str(self.ask("GET", f"dags/{dag}/dagRuns/{run}")["state"])
            if state not in _GOING:
                return state
            if (reason := wait.exhausted()) is not None:
                left = [f"{task} {at}" for task, at in seen if at not in ("success", "skipped")]
                raise AirflowError(f"{run} is not over, {reason}: {', '.join(left)}")
            self._sleep(_LOOK)

    def tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        found = self.ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances", params={"limit": 500})
        return list(found["task_instances"])

    def clear(self, dag: str, run: str, task: str, *, downstream: bool) -> None:
        """Have a task of a run, which may be over, run again.

        Args:
            dag: the DAG's id.
            run: the run's id.
            task: the task's id.
            downstream: also all that follow it.
        """
        body = {
            "dag_run_id": run,
            "task_ids": [task],
            "include_downstream": downstream,
            "only_failed": False,
            "reset_dag_runs": True,
            "dry_run": False,
        }
        self.ask("POST", f"dags/{dag}/clearTaskInstances", json=body)

    def backfill(self, dag: str, first: date, last: date) -> list[str]:
        """Run a DAG for days that are past, one after another.

        Args:
            dag: its id.
            first: the first day.
            last: the last day, which is run as well.

        Returns:
            The runs' ids, in the order of the days.
        """
        body = {
            "dag_id": dag,
            "from_date": f"{first}T00:00:00Z",
            "to_date": f"{last}T00:00:00Z",
            "max_active_runs": 1,
            "dag_run_conf": {},
        }
        self.ask("POST", "backfills", json=body)
        found = [str(run["dag_run_id"]) for run in self.runs(dag)]
        return sorted(run for run in found if run.startswith("backfill__"))

    def log(self, dag: str, run: str, task: str) -> str:
        """What the last try of a task said."""
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}"
        tried = self.ask("GET", path)["try_number"]
        pages = self.ask("GET", f"{path}/logs/{tried}", params={"full_content": True})
        return "\n".join(str(line.get("event", line)) for line in pages["content"])
