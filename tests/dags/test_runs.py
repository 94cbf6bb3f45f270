"""The daily DAG in a real Airflow: a day, it again, past days, killed tasks, a failing test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from stack import airflow
from tests.dags import postgres
from tests.dags.deployments import Deployment, in_days, kill, posts, running
from tests.dbt.lakes import MARTS, assert_oracle_agrees

FAILING = Path("dbt_project", "tests", "no_country_has_a_top_user.sql")
#: Seconds that a run may take beside everything else that this machine does.
PATIENCE = 900
#: The tasks of a shortened run: the build makes every table, these watch some of them.
CHAIN = {
    *("land", "freshness", "report", "dbt.dbt_producer_watcher", "dbt.dbt_producer_watcher_done"),
    *(
        f"dbt.{model}.{what}"
        for model in ("staging.stg_user", "intermediate.int_users", "marts.users_joined_by_year")
        for what in ("run", "test")
    ),
}
#: A day of the past.
FIRST = date(2026, 3, 1)


@dataclass
class Deployed:
    """An Airflow and the deployments that it runs.

    Attributes:
        client: asks the Airflow.
        day: nothing is wrong with it; a day of the past waits for it.
        failing: a test in it fails.
        first: the id of the first run of ``day``, and its outcome.
        past: a day that nothing has been run for, with its records.
    """

    client: airflow.Client
    day: Deployment
    failing: Deployment
    first: tuple[str, str] = ("", "")
    past: tuple[date, dict[str, list[bytes]]] = (FIRST, {})

    def run(self, deployment: Deployment) -> tuple[str, str]:
        """Run a deployment's DAG; the run's id and its outcome."""
        run = self.begin(deployment)
        return run, self.client.wait(deployment.dag, run, PATIENCE)

    def begin(self, deployment: Deployment) -> str:
        """Start a run; its id."""
        self.client.wait_for_dag(deployment.dag)
        return self.client.run_now(deployment.dag)

    def states(self, deployment: Deployment, run: str) -> dict[str, str]:
        """The state of every task of a run."""
        return {task["task_id"]: task["state"] for task in self.client.tasks(deployment.dag, run)}

    def shorten(self, deployment: Deployment, run: str) -> None:
        """Mark the tasks of a run that has just begun as successful, except those of `CHAIN`."""
        every = self.states(deployment, run).keys()
        assert every > CHAIN
        entities = [{"task_id": task, "new_state": "success"} for task in sorted(every - CHAIN)]
        path = f"dags/{deployment.dag}/dagRuns/{run}/taskInstances"
        marked = self.client.ask(
            "PATCH", path, json={"actions": [{"action": "update", "entities": entities}]}
        )
        assert len(marked["update"]["success"]) == len(entities), marked

    def tries(self, deployment: Deployment, run: str) -> dict[str, int]:
        """How often every task of a run was tried."""
        return {
            task["task_id"]: task["try_number"] for task in self.client.tasks(deployment.dag, run)
        }


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The first day of ``day`` has been run; the schedule begins with today."""
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    day, failing = (Deployment(dags, name) for name in ("day", "failing"))
    # The runs of today may begin after midnight.
    today = datetime.now(UTC).date()
    now = [f"days/{today}", f"days/{today + timedelta(days=1)}"]
    day.install()
    past, (_, newest) = in_days(posts(400, 1, folder / "day"), FIRST, 2)
    day.deliver(newest, *now)
    failing.install(add_failing_test)
    failing.deliver(posts(100, 3, folder / "failing"), *now)
    # A run that was triggered by hand has no logical date.
    of = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"
    settings = {"PIPELINE_RETRIES": "1", "PIPELINE_SOURCES": f"s3 --uri days/{of}"}
    with postgres.serving(folder / "postgres") as database:
        settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database
        with running(folder / "home", dags, **settings) as client:
            deployed = Deployed(client, day, failing)
            deployed.first = deployed.run(day)
            # Not before: `day` holds what has landed, and these have not.
            deployed.past = past
            yield deployed


def add_failing_test(home: Path) -> None:
    """A test of one table that fails whenever the table has a row."""
    (home / FAILING).write_text("select country from {{ ref('top_user_by_country') }}\n")


def mend(home: Path) -> None:
    """Now it passes."""
    (home / FAILING).write_text(
        "select country from {{ ref('top_user_by_country') }} where false\n"
    )


def test_a_day_lands_builds_tests_and_publishes(deployed: Deployed) -> None:
    day = deployed.day
    run, outcome = deployed.first
    assert (outcome, set(deployed.states(day, run).values())) == ("success", {"success"})
    assert_oracle_agrees(day.built)
    assert "<html" in (day.home / "report" / "index.html").read_text()[:500]
    assert "dbt Docs" in (day.home / "report" / "docs.html").read_text()
    events = deployed.client.ask("GET", "assets/events", params={"limit": 100})["asset_events"]
    assert {event["uri"] for event in events} == {f"dbt://day_dag/marts/{mart}" for mart in MARTS}


def test_a_model_or_its_tests_can_be_run_again_alone(deployed: Deployed) -> None:
    day = deployed.day
    run, _ = deployed.first
    tables = day.built.tables()
    model = "dbt.marts.users_joined_by_year.run"
    for again in ("dbt.staging.stg_geo.test", model):
        deployed.client.clear(day.dag, run, again, downstream=False)
        assert deployed.client.wait(day.dag, run, PATIENCE) == "success", again
        assert deployed.tries(day, run)[again] == 2
        assert day.built.tables() == tables, again
        # A dbt process of its own builds a model that is run alone; otherwise one builds all.
        assert ("1 of 1 START" in deployed.client.log(day.dag, run, model)) == (again == model)


def test_a_whole_day_can_be_run_again_though_its_tasks_are_killed(deployed: Deployed) -> None:
    day = deployed.day
    run, _ = deployed.first
    tables, before = day.built.tables(), day.built.version("marts", "data_quality")
    deployed.client.clear(day.dag, run, "land", downstream=True)
    _kill_task("-m ingestion s3", str(day.home), lambda: True)
    deployed.shorten(day, run)
    _kill_task(
        "dbt build", str(day.home), lambda: day.built.version("marts", "data_quality") > before
    )
    assert deployed.client.wait(day.dag, run, PATIENCE) == "success"
    tries = deployed.tries(day, run)
    assert (tries["land"], tries["dbt.dbt_producer_watcher"]) == (3, 3)
    assert tries["dbt.marts.users_joined_by_year.run"] == 3  # the one that was run alone
    for kind, records in day.built.records.items():
        assert len(day.built.rows("bronze", kind)) == len(records)
    assert day.built.tables() == tables
    model = deployed.client.log(day.dag, run, "dbt.marts.users_joined_by_year.run")
    assert "1 of 1 START" not in model


def test_a_backfill_lands_the_day_s_records_and_builds(deployed: Deployed) -> None:
    day = deployed.day
    past, lines = deployed.past
    day.deliver(lines, f"days/{past}")
    (run,) = deployed.client.backfill(day.dag, past, past)
    deployed.shorten(day, run)
    assert deployed.client.wait(day.dag, run, PATIENCE) == "success"
    assert run[:20] == f"backfill__{past}"
    assert set(deployed.states(day, run).values()) == {"success"}
    assert_oracle_agrees(day.built)


def test_a_failing_test_stops_what_depends_on_its_model_and_nothing_else(
    deployed: Deployed,
) -> None:
    failing = deployed.failing
    run, outcome = deployed.run(failing)
    assert outcome == "failed"
    states = deployed.states(failing, run)
    ended = {state: {name for name in states if states[name] == state} for state in states.values()}
    assert ended.pop("failed") == {"dbt.marts.top_user_by_country.test", "dbt.dbt_producer_watcher"}
    assert ended.pop("success") >= {
        "land",
        "freshness",
        "dbt.intermediate.int_posts.test",
        "dbt.marts.rejected_by_reason.test",
        "dbt.marts.top_user_by_country.run",
        "dbt.marts.users_joined_by_year.test",
        "maintain",
    }
    assert ended.pop("upstream_failed") >= {
        "dbt.marts.country_of_top_user.run",
        "dbt.marts.country_of_top_user.test",
        "report",
        "docs",
    }
    assert not ended
    assert not (failing.built.uri / "marts" / "country_of_top_user").exists()
    said = deployed.client.log(failing.dag, run, "dbt.marts.top_user_by_country.test")
    assert "failing_dag, " in said
    assert "dbt.marts.top_user_by_country.test failed" in said


def test_what_failed_is_mended_and_run_with_what_depends_on_it(deployed: Deployed) -> None:
    failing = deployed.failing
    run = deployed.client.runs(failing.dag)[0]["dag_run_id"]
    before = deployed.states(failing, run)
    assert before["dbt.marts.top_user_by_country.test"] == "failed"
    mend(failing.home)
    deployed.client.clear(failing.dag, run, "dbt.marts.top_user_by_country.test", downstream=True)
    outcome = deployed.client.wait(failing.dag, run, PATIENCE)
    after = deployed.states(failing, run)
    assert {name for name in after if after[name] != "success"} == {
        "dbt.dbt_producer_watcher",
        "dbt.dbt_producer_watcher_done",
    }
    assert outcome == "success"
    assert_oracle_agrees(failing.built)
    assert (failing.home / "report" / "index.html").exists()


def _kill_task(command: str, home: str, begun: Callable[[], bool]) -> None:
    """Kill the task, with all that it runs, whose command is at work in a project's folder."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for one in psutil.process_iter():
            try:
                words = one.cmdline()
                if command not in " ".join(words):
                    continue
                task = one.parent()
                here = home in (*words, one.cwd(), one.environ().get("PYTHONPATH"))
            except psutil.Error:
                continue
            if here and task is not None and begun():
                kill(task.pid)
                return
        time.sleep(0.05)
    raise AssertionError(f"no process ran {command}")
