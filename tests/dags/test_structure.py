"""The daily DAG as Airflow reads it: what it holds, what waits for what, what reading it costs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from deploy.mwaa.project import Deployment, files
from tests.dbt import processes
from tests.dbt.lakes import MARTS, ROOT

FILE = ROOT / "dags" / "pinterest_daily.py"

#: Prints what is opened, run or asked for while the file is read; all that it imports is there.
WATCHED = """
import importlib.util, json, sys
seen = []
def watch(event, arguments):
    if event == "open" and not isinstance(arguments[0], int):
        seen.append([event, str(arguments[0])])
    elif event in ("socket.connect", "subprocess.Popen", "os.listdir", "os.scandir"):
        seen.append([event, str(arguments[0])])
spec = importlib.util.spec_from_file_location("pinterest_daily", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.addaudithook(watch)
spec.loader.exec_module(module)
found, seen = seen, []
print("SEEN", json.dumps(found))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with a manifest; that of the working copy may be another version's."""
    home = tmp_path_factory.mktemp("project")
    (home / "profiles.yml").write_text((ROOT / "profiles.example.yml").read_text())
    (home / "dbt_project.yml").write_text((ROOT / "dbt_project.yml").read_text())
    done = processes.run(
        [
            processes.DBT, "parse", "--quiet", "--profiles-dir", str(home),
            "--target-path", str(home / "target"), "--log-path", str(home / "logs"),
        ],
        os.environ,
        ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return home


def settings(home: Path, **variables: str) -> dict[str, str]:
    """An environment that leads to a project, with nothing from elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
    return kept | {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
        "PIPELINE_HOME": str(home),
        **variables,
    }


def read(home: Path, monkeypatch: pytest.MonkeyPatch, file: Path = FILE, **said: str) -> ModuleType:
    """The file, read as a module of its own."""
    for name in list(os.environ):
        if name.startswith("PIPELINE_"):
            monkeypatch.delenv(name)
    for name, value in settings(home, **said).items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["watcher", "local"])
def dag(home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    return read(home, monkeypatch, PIPELINE_DBT_MODE=request.param).dag


def ancestors(dag: Any, name: str) -> set[str]:
    """Every task that has to end before one begins."""
    return {task.task_id for task in dag.get_task(name).get_flat_relatives(upstream=True)}


def test_every_model_has_a_task_and_its_tests(dag: Any) -> None:
    layers = {
        "staging": ["stg_pin", "stg_geo", "stg_user"],
        "intermediate": ["int_posts", "int_users"],
        "marts": list(MARTS),
    }
    for layer, models in layers.items():
        for model in models:
            name = f"dbt.{layer}.{model}"
            assert f"{name}.run" in ancestors(dag, f"{name}.test")
            assert "freshness" in ancestors(dag, f"{name}.run")
            assert f"{name}.test" in ancestors(dag, "report")
    models = json.loads(Path(os.environ["PIPELINE_HOME"], "target", "manifest.json").read_text())
    known = [name for name in models["nodes"] if name.startswith("model.")]
    assert len(known) == sum(map(len, layers.values()))


def test_the_day_goes_from_landing_to_what_is_published(dag: Any) -> None:
    assert ancestors(dag, "freshness") == {"land"}
    assert dag.get_task("maintain").trigger_rule == "all_done"
    # Whose failure may have been mended since.
    assert not {name for name in ancestors(dag, "report") if "producer" in name}
    for last in ("report", "docs", "maintain"):
        assert ancestors(dag, last) >= {"land", "freshness"}
    assert "dbt.staging.stg_pin.test" in ancestors(dag, "dbt.marts.top_user_by_country.run")
    assert "dbt.staging.stg_pin.test" not in ancestors(dag, "dbt.marts.rejected_by_reason.run")


def test_what_waits_for_a_test_of_several_models_is_what_dbt_makes_wait(dag: Any) -> None:
    across = "dbt.every_staged_post_has_landed_test"
    assert across in ancestors(dag, "dbt.intermediate.int_posts.run")
    assert across in ancestors(dag, "dbt.marts.users_joined_by_year.run")
    assert across not in ancestors(dag, "dbt.marts.rejected_by_reason.run")


def test_every_task_has_an_owner_retries_and_a_time_limit(dag: Any) -> None:
    assert (dag.max_active_runs, dag.catchup, dag.schedule) == (1, False, "@daily")
    assert dag.dagrun_timeout is not None
    for task in dag.tasks:
        assert task.owner == "pinterest", task.task_id
        assert task.retries == 2, task.task_id
        assert task.retry_exponential_backoff == 2, task.task_id
        assert task.execution_timeout is not None, task.task_id
        assert task.on_failure_callback, task.task_id
    for name in ("land", "freshness", "report", "docs", "maintain"):
        assert dag.get_task(name).doc_md, name


def test_no_task_runs_the_unit_tests(dag: Any) -> None:
    found = {
        task.env.get("DBT_EXCLUDE_RESOURCE_TYPES") for task in dag.tasks if hasattr(task, "env")
    }
    assert found == {"unit_test"}


def test_the_dag_says_that_it_can_be_run_again(dag: Any) -> None:
    assert "What has landed does not land again" in " ".join(dag.doc_md.split())


def test_every_mart_updates_an_asset_once_its_tests_passed(dag: Any) -> None:
    found = {
        (task.task_id, outlet.uri) for task in dag.tasks for outlet in getattr(task, "outlets", [])
    }
    assert found == {
        (f"dbt.marts.{mart}.test", f"dbt://pinterest_daily/marts/{mart}") for mart in MARTS
    }


def test_it_is_called_as_its_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "0a60b9a8a831_dag.py"
    named.write_text(FILE.read_text())
    module = read(home, monkeypatch, named)
    assert module.dag.dag_id == "0a60b9a8a831_dag"
    found = module.environment(home, {}, "0a60b9a8a831_dag")
    assert found == {
        "LAKE_URI": str(home / "lake"), "PYTHONPATH": str(home), "PIPELINE_ID": "0a60b9a8a831",
    }  # fmt: skip
    assert "PIPELINE_ID" not in module.environment(home, {"PIPELINE_ID": "x"}, "y_dag")
    for address in ("s3://b/l", "s3//b/l", "S3:/b/l", "s3a:b", "s3n://b", "file:///l", " s3://b"):
        assert module.environment(home, {"LAKE_URI": address}, "d")["LAKE_URI"] == address
    for path in ("s3", "s3/b", "a//b", "a:b", "/l"):
        lake = module.environment(home, {"LAKE_URI": path}, "d")["LAKE_URI"]
        assert lake == str(home / path)


def test_airflow_looks_for_dags_in_the_dag_file_alone(tmp_path: Path) -> None:
    """Of what is uploaded for MWAA."""
    from airflow.utils.file import list_py_file_paths

    deployment = Deployment("0a60b9a8a831")
    for key, file in files(deployment, "", b"{}").items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(file.body)
    dags = tmp_path / "dags"
    assert list_py_file_paths(dags, safe_mode=False) == [str(tmp_path / deployment.dag_key)]
    (tmp_path / deployment.folder / ".airflowignore").unlink()
    assert len(list_py_file_paths(dags, safe_mode=False)) > 20


def test_reading_it_opens_the_project_and_its_manifest_and_nothing_else(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, FILE],
        env=settings(home),
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    installed = [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), FILE.parent]
    seen = {
        (event, what)
        for event, what in json.loads(line.removeprefix("SEEN "))
        if not any(Path(what).resolve().is_relative_to(folder) for folder in installed)
    }
    # Cosmos looks up in the project's own file where its packages would be.
    expected = [home / "target" / "manifest.json", home / "dbt_project.yml"]
    assert seen == {("open", str(file)) for file in expected}


class Told:
    """A notifier: made with arguments, then called."""

    said: ClassVar[list[str]] = []

    def __init__(self, channel: str) -> None:
        self.channel = channel

    def __call__(self, context: Any) -> None:
        self.said.append(f"{self.channel}: {context['exception']}")


@pytest.fixture
def told() -> Iterator[list[str]]:
    Told.said.clear()
    yield Told.said
    Told.said.clear()


def test_a_failure_is_said_in_a_sentence_and_to_the_notifier(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = read(
        home,
        monkeypatch,
        PIPELINE_NOTIFIER="tests.dags.test_structure.Told",
        PIPELINE_NOTIFIER_ARGS='{"channel": "#data"}',
    )
    context = {
        "run_id": "today",
        "task_instance": SimpleNamespace(task_id="land", map_index=1, try_number=3),
        "exception": "no such folder",
    }
    module.notify(context)
    sentence = "pinterest_daily, today: land[1] failed after 3 tries: no such folder"
    assert sentence in caplog.text
    assert told == ["#data: no such folder"]
    module.notify_of_run({"run_id": "today", "reason": "task_failure"})
    assert len(told) == 1


def test_a_source_that_was_not_asked_for_is_skipped(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = read(home, monkeypatch, PIPELINE_SOURCES="s3 --uri sink; mysql ;")
    assert module.SOURCES == ["s3 --uri sink", "mysql"]
    assert module.dag.params["sources"] == ["s3 --uri sink", "mysql"]
    operator = module.LandOperator(source="mysql", task_id="one")
    with pytest.raises(Exception, match="was started without mysql"):
        operator.execute({"params": {"sources": ["s3 --uri sink"]}})


def test_a_command_that_fails_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = read(home, monkeypatch)
    operator = module.PipelineOperator(
        task_id="fails",
        commands=["-c 'print(1)'", "-c 'raise SystemExit(\"error: no such thing\")'"],
    )
    with pytest.raises(Exception, match=r"error: no such thing \(exit code 1\)"):
        operator.execute({})


@pytest.mark.parametrize(
    ("first", "ended", "same", "passed", "way"),
    [
        # A day as it goes: told while the build goes on, and after it.
        (True, False, True, False, "read"),
        (True, True, True, True, "read"),
        (True, True, True, False, "read"),  # that it failed
        # Tried again with a build that goes on, or has come past it.
        (False, False, True, False, "read"),
        (False, True, True, True, "read"),
        # It failed, and nobody builds any more.
        (False, True, True, False, "run"),
        # Cleared alone, or what it depends on was: the build was before that.
        (False, True, False, True, "run"),
        (True, True, False, False, "run"),
        # Cleared with the building task, which has not begun again.
        (False, False, False, True, "wait"),
        # Another task was cleared while the build went on.
        (True, False, False, True, "read"),
    ],
)
def test_what_a_watching_task_does(
    home: Path, monkeypatch: pytest.MonkeyPatch, first: bool, ended: bool, same: bool,
    passed: bool, way: str,
) -> None:  # fmt: skip
    module = read(home, monkeypatch)
    assert module.course(first=first, ended=ended, same=same, passed=passed) == way
