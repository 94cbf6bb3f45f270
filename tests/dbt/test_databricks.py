"""What of the databricks target needs no warehouse: parsing, compiling, the daily job's bundle."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from databricks.bundles.core import Variable
from databricks.bundles.jobs import Job

from ingestion.lake import Lake
from tests.dbt import processes
from tests.dbt.lakes import ROOT, profiles

BUNDLE = ROOT / "deploy" / "databricks"
INCREMENTAL = {"stg_pin", "stg_geo", "stg_user", "int_posts"}
#: What lies below these has a name of one's own.
NAMED = {("variables",), ("targets",), ("targets", "*", "variables")}
#: The keys that the bundle's own file may have, by the path to them. Resources are checked by type.
KEYS = {
    (): {"bundle", "include", "sync", "variables", "targets"},
    ("bundle",): {"name"},
    ("sync",): {"paths"},
    ("variables", "*"): {"description", "type", "default"},
    ("targets", "*"): {"mode", "default", "variables", "workspace", "run_as"},
    ("targets", "*", "workspace"): {"root_path"},
    ("targets", "*", "run_as"): {"service_principal_name"},
}


def dbt(folder: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A dbt command on the databricks target, where nothing says how to connect."""
    environment = {
        **{name: value for name, value in os.environ.items() if "DATABRICKS" not in name},
        "LAKE_URI": str(folder / "lake"),
        "DBT_TARGET": "databricks",
        "DBT_PROFILES_DIR": str(profiles(folder)),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        "DBT_WARN_ERROR_OPTIONS": '{"error": ["Deprecations"]}',
        **settings,
    }
    return processes.run([processes.DBT, *command], environment, ROOT)


def manifest(folder: Path) -> Any:
    """What dbt made of the project."""
    return json.loads((folder / "target" / "manifest.json").read_text())


def configs(folder: Path) -> dict[str, Any]:
    """The configuration of each model."""
    nodes = manifest(folder)["nodes"].values()
    return {n["name"]: n["config"] for n in nodes if n["resource_type"] == "model"}


def test_no_override_for_spark_reaches_databricks() -> None:
    """dbt takes the project's macros before any adapter's, those for Spark too."""
    macros = "".join(path.read_text() for path in (ROOT / "dbt_project/macros").glob("*.sql"))
    named = {of: set(re.findall(rf"macro {of}__(\w+)", macros)) for of in ("spark", "databricks")}
    assert named["spark"] <= named["databricks"]


def test_other_targets_grant_nothing(tmp_path: Path) -> None:
    done = dbt(tmp_path, "parse", "--target", "local", "--vars", '{"readers": ["analysts"]}')
    assert done.returncode == 0, done.stdout
    assert all(config["grants"] == {} for config in configs(tmp_path).values())


def test_all_but_incremental_models_compile_without_a_workspace(tmp_path: Path) -> None:
    done = dbt(
        tmp_path,
        *("compile", "--no-introspect", "--no-populate-cache"),
        *("--exclude", "config.materialized:incremental", "resource_type:unit_test"),
    )
    assert done.returncode == 0, done.stdout
    known = configs(tmp_path)
    clustered = {name for name, config in known.items() if config.get("liquid_clustered_by")}
    assert clustered == INCREMENTAL
    assert all(config["grants"] == {} for config in known.values())
    models = tmp_path / "target" / "compiled" / "pinterest" / "dbt_project" / "models"
    compiled = {path.stem for path in models.glob("*/*.sql")}
    assert compiled == known.keys() - INCREMENTAL
    said = dbt(tmp_path, "compile")
    assert said.returncode != 0
    assert "'host' is required to connect to Databricks" in said.stdout


def test_other_targets_do_not_register_bronze(tmp_path: Path) -> None:
    Lake(str(tmp_path / "lake")).create()
    arguments = ("run-operation", "register_bronze", "--args", '{"lake": "x"}')
    done = dbt(tmp_path, *arguments, "--target", "local")
    assert done.returncode == 1
    assert "register_bronze is for the databricks target" in done.stdout


@pytest.fixture(scope="module")
def bundle() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((BUNDLE / "databricks.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def jobs(bundle: dict[str, Any]) -> dict[str, Any]:
    """The bundle's jobs; other resources there are none."""
    files = [path for pattern in bundle["include"] for path in BUNDLE.glob(pattern)]
    assert files
    found: dict[str, Any] = {}
    for path in files:
        resources = yaml.safe_load(path.read_text())
        assert resources.keys() == {"resources"}
        assert resources["resources"].keys() == {"jobs"}
        found |= resources["resources"]["jobs"]
    return found


def test_the_bundle_has_no_unknown_keys(bundle: dict[str, Any]) -> None:
    def check(node: Any, path: tuple[str, ...] = ()) -> None:
        if not isinstance(node, dict):
            return
        assert node.keys() <= KEYS.get(path, node.keys()), path
        for key, below in node.items():
            check(below, (*path, "*" if path in NAMED else key))

    check(bundle)
    modes = {name: target["mode"] for name, target in bundle["targets"].items()}
    assert modes == {"dev": "development", "prod": "production"}


def test_every_job_is_one_that_databricks_knows(jobs: dict[str, Any]) -> None:
    daily = Job.from_dict(jobs["daily"])  # unknown keys and values are errors
    assert daily.max_concurrent_runs == 1
    [task] = daily.tasks
    assert not isinstance(task, Variable)
    assert task.environment_key == daily.environments[0].environment_key  # type: ignore[union-attr]
    assert task.timeout_seconds
    assert task.max_retries


@pytest.mark.parametrize("place", ["job", "task", "command"])
def test_an_unknown_key_of_a_job_is_noticed(jobs: dict[str, Any], place: str) -> None:
    job = json.loads(json.dumps(jobs["daily"]))
    within = {"job": job, "task": job["tasks"][0], "command": job["tasks"][0]["dbt_task"]}
    within[place]["timeout_second"] = 1
    with pytest.raises(ValueError, match="Unexpected field 'timeout_second'"):
        Job.from_dict(job)


def test_every_variable_is_declared_and_used(bundle: dict[str, Any], jobs: dict[str, Any]) -> None:
    used = set(re.findall(r"\$\{var\.(\w+)\}", json.dumps([bundle, jobs])))
    assert used == bundle["variables"].keys()


def test_the_job_runs_what_is_locked(jobs: dict[str, Any]) -> None:
    locked = (ROOT / "requirements" / "databricks.txt").read_text()
    for requirement in jobs["daily"]["environments"][0]["spec"]["dependencies"]:
        assert re.search(rf"^{re.escape(requirement)}( ;.*)? \\$", locked, re.MULTILINE), (
            requirement
        )


def test_the_jobs_command_is_one_of_dbt(
    bundle: dict[str, Any], jobs: dict[str, Any], tmp_path: Path
) -> None:
    task = jobs["daily"]["tasks"][0]["dbt_task"]
    assert (BUNDLE / "resources" / task["project_directory"]).resolve() == ROOT
    values = {name: variable.get("default") for name, variable in bundle["variables"].items()}
    values |= {"warehouse_id": "abc123", "readers": "analysts, the others"}
    for command in task["commands"]:
        words = shlex.split(re.sub(r"\$\{var\.(\w+)\}", lambda m: str(values[m[1]]), command))
        assert words[:2] == ["dbt", "build"]
        done = dbt(
            tmp_path,
            *("ls", *words[2:]),
            DBT_PROFILES_DIR=str(ROOT / task["profiles_directory"]),
            DBT_HOST="adb.example",
            DBT_ACCESS_TOKEN="any",
        )
        assert done.returncode == 0, done.stdout
    parsed = manifest(tmp_path)
    assert parsed["metadata"]["adapter_type"] == "databricks"
    assert (
        parsed["nodes"]["model.pinterest.stg_pin"]["relation_name"] == "`main`.`staging`.`stg_pin`"
    )
    granted = [config["grants"] for config in configs(tmp_path).values()]
    assert granted == [{"select": ["analysts", "the others"]}] * len(granted)
