"""The dbt commands as users meet them: errors, freshness, docs, commands that need no lake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.dbt.conftest import Rebuilt
from tests.dbt.lakes import ROOT, profiles


def run(
    folder: Path, lake: Path, *command: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder, its output in another."""
    environment = {
        "LAKE_URI": str(lake),
        "DBT_PROFILES_DIR": str(profiles(folder)),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        **settings,
    }
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_a_lake_without_bronze_is_an_error_of_one_line(tmp_path: Path) -> None:
    dbt = str(Path(sys.executable).with_name("dbt"))
    done = run(tmp_path, tmp_path / "nowhere", dbt, "build")
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert f"{tmp_path}/nowhere holds no bronze tables; run 'ingest init'" in said
    assert "Traceback" not in said
    assert not (tmp_path / "nowhere").exists()


def test_commands_that_read_no_table_start_no_engine(tmp_path: Path) -> None:
    engine = tmp_path / "modules" / "pysail" / "__init__.py"
    engine.parent.mkdir(parents=True)
    engine.write_text("raise RuntimeError('the engine was started')")
    done = run(
        tmp_path,
        tmp_path / "nowhere",
        *(sys.executable, "-m", "dbt_lake"),
        *("parse", "--warn-error-options", '{"error": ["Deprecations"]}'),
        *(",", "ls", "--resource-type", "model", "--output", "name"),
        PYTHONPATH=str(engine.parents[1]),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    models = {path.stem for path in (ROOT / "dbt_project" / "models").rglob("*.sql")}
    assert models <= set(done.stdout.split())


def test_what_has_just_landed_is_fresh(rebuilt: Rebuilt) -> None:
    freshness = _read(rebuilt.lake.folder / "target" / "sources.json")
    assert {entry["unique_id"]: entry["status"] for entry in freshness["results"]} == {
        f"source.pinterest.bronze.{kind}": "pass" for kind in ("pin", "geo", "user")
    }


def test_docs_tell_every_column_and_its_type(rebuilt: Rebuilt) -> None:
    target = rebuilt.lake.folder / "target"
    catalog, manifest = _read(target / "catalog.json"), _read(target / "manifest.json")
    described = {
        unique_id: {name: column["description"] for name, column in node["columns"].items()}
        for unique_id, node in {**manifest["nodes"], **manifest["sources"]}.items()
        if node["resource_type"] in ("model", "source")
    }
    found = {
        unique_id: {name: column["type"] for name, column in node["columns"].items()}
        for unique_id, node in {**catalog["nodes"], **catalog["sources"]}.items()
    }
    assert {unique_id: list(columns) for unique_id, columns in found.items()} == {
        unique_id: list(columns) for unique_id, columns in described.items()
    }
    assert all(all(columns.values()) for columns in described.values())
    assert found["model.pinterest.stg_geo"]["coordinates"] == "array<double>"
    assert found["model.pinterest.median_followers_by_age_group"] == {
        "age_group": "string",
        "median_follower_count": "double",
        "number_users": "bigint",
    }
    assert (target / "static_index.html").stat().st_size > 500_000


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
