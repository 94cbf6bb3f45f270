"""Waiting for Airflow: as long as it works, and no longer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from stack import airflow

DAG = "zoo"


class Machine:
    """An Airflow whose clock is turned by waiting.

    Attributes:
        now: seconds since it started.
        working: whether it makes progress, at a time.
        answer: to a request, by its method and path.
        asked: the requests so far.
    """

    def __init__(self, answer: Callable[[str, str], Any]) -> None:
        self.now = 0.0
        self.working: Callable[[float], bool] = lambda _: True
        self.answer = answer
        self.asked: list[str] = []
        self.client = airflow.Client(
            "http://127.0.0.1:1",
            "secret",
            lambda: self.now if self.working(self.now) else None,
            clock=lambda: self.now,
            sleep=self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def ask(self, method: str, path: str, **_: Any) -> Any:
        """What the client is answered."""
        self.asked.append(f"{method} {path}")
        return self.answer(method, path)


def machine(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, str], Any]) -> Machine:
    made = Machine(answer)
    monkeypatch.setattr(made.client, "ask", made.ask)
    return made


def test_a_dag_is_waited_for_while_airflow_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: str) -> Any:
        known = [{"dag_id": DAG}] if here.now > 500 else []
        return {"import_errors": [], "dags": known}

    here = machine(monkeypatch, answer)
    here.client.wait_for_dag(DAG)
    assert here.now > 500


def test_a_dag_is_not_waited_for_when_airflow_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = machine(monkeypatch, lambda *_: {"import_errors": [], "dags": []})
    here.working = lambda now: now < 50
    with pytest.raises(airflow.AirflowError, match="found the DAG zoo: no progress for 120 s"):
        here.client.wait_for_dag(DAG)
    assert 165 < here.now < 185
    here.working = lambda _: True
    with pytest.raises(airflow.AirflowError, match="found the DAG zoo: not done after 900 s"):
        here.client.wait_for_dag(DAG)


def unpaused(here: Machine, starts: float | None, due: timedelta | None) -> Callable[..., Any]:
    """A DAG whose next run is due, and started by the scheduler, at some time."""

    def answer(method: str, path: str) -> Any:
        started = starts is not None and here.now >= starts
        if path == f"dags/{DAG}/dagRuns":
            if method == "POST":
                return {"dag_run_id": "manual"}
            return {"dag_runs": [{"dag_run_id": "scheduled", "state": "running"}] * started}
        at = None if due is None else datetime.now(UTC) + due
        if started:
            at = datetime.now(UTC) + timedelta(days=1)
        return {"next_dagrun_run_after": at and at.isoformat().replace("+00:00", "Z")}

    return answer


def test_a_slow_scheduler_s_run_is_not_started_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(monkeypatch, lambda *_: None)
    here.answer = unpaused(here, 60, timedelta(hours=-3))
    assert here.client.run_now(DAG) == "scheduled"
    assert here.now >= 60
    assert f"POST dags/{DAG}/dagRuns" not in here.asked


@pytest.mark.parametrize("due", [timedelta(hours=3), None])
def test_a_run_that_the_schedule_does_not_start_is_started(
    monkeypatch: pytest.MonkeyPatch, due: timedelta | None
) -> None:
    here = machine(monkeypatch, lambda *_: None)
    here.answer = unpaused(here, None, due)
    assert here.client.run_now(DAG) == "manual"
    assert here.now == 0


def states(here: Machine, *changes: tuple[float, str, str]) -> Callable[..., Any]:
    """A run whose state, and whose task's state, change at some times."""

    def answer(_: str, path: str) -> Any:
        _at, run, task = [change for change in changes if change[0] <= here.now][-1]
        if path.endswith("taskInstances"):
            return {"task_instances": [{"task_id": "land", "state": task}]}
        return {"state": run}

    return answer


def test_a_run_is_waited_for_while_a_task_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(monkeypatch, lambda *_: None)
    here.answer = states(
        here, (0, "running", "scheduled"), (50, "running", "running"), (7000, "success", "success")
    )
    assert here.client.wait(DAG, "r", patience=100) == "success"
    assert here.now >= 7000


def test_a_run_in_which_nothing_happens_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(monkeypatch, lambda *_: None)
    here.answer = states(here, (0, "running", "scheduled"), (50, "running", "queued"))
    why = r"^r is not over, no progress for 100 s: land queued$"
    with pytest.raises(airflow.AirflowError, match=why):
        here.client.wait(DAG, "r", patience=100)
    assert 145 < here.now < 160


def response(status: int) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made._content = b'{"access_token": "t"}'
    made.request = requests.Request("GET", "http://127.0.0.1:1/x").prepare()
    return made


def test_a_busy_database_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Machine(lambda *_: None)
    codes = [200, *[503] * 400, 200]
    session = here.client._session
    monkeypatch.setattr(session, "request", lambda *_, **__: response(codes.pop(0)))
    assert here.client.ask("GET", "dags") == {"access_token": "t"}
    assert here.now == 400
    codes[:] = [503] * 1000
    here.working = lambda _: False
    with pytest.raises(airflow.AirflowError, match="answers 503"):
        here.client.ask("GET", "dags")
    assert len(codes) > 850


def test_an_airflow_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Machine(lambda *_: None)

    def away(*_: Any, **__: Any) -> None:
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(here.client._session, "request", away)
    with pytest.raises(airflow.AirflowError, match=r"does not answer at .*auth/token: refused"):
        here.client.ask("GET", "dags")


def test_what_leads_to_another_airflow_is_not_inherited(tmp_path: Any) -> None:
    environ = {
        "AIRFLOW__CORE__DAGS_FOLDER": "/opt/other/dags",
        "AIRFLOW__API__PORT": "8080",
        "AIRFLOW__CORE__PARALLELISM": "2",
    }
    made = airflow.environment(1234, tmp_path, environ)
    assert made["AIRFLOW__CORE__DAGS_FOLDER"] == str(airflow.PROJECT / "dags")
    assert made["AIRFLOW__API__PORT"] == "1234"
    assert made["AIRFLOW__CORE__PARALLELISM"] == "2"
