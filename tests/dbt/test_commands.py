"""The dbt commands where there is no lake, or no server."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.dbt.lakes import ROOT, Built, profiles


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


def test_a_server_that_is_not_there_is_named_at_once(tmp_path: Path) -> None:
    lake = Built(tmp_path)
    lake.land({}, datetime.now(UTC))
    dbt = str(Path(sys.executable).with_name("dbt"))
    server = {"DBT_TARGET": "spark", "SPARK_REMOTE": "sc://127.0.0.1:1"}
    done = run(tmp_path, lake.uri, dbt, "run", **server)
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert "no Spark Connect server answers at sc://127.0.0.1:1: Connection refused" in said
    assert "make spark" in said


def test_a_stale_source_is_told_in_plain_words(tmp_path: Path) -> None:
    lake = Built(tmp_path)
    lines = {"pin": [b'{"ind": 1, "category": "a"}'], "user": [b'{"ind": 1, "age": 20}']}
    lake.land(lines, datetime(2026, 3, 1, 10, tzinfo=UTC))
    gate = (sys.executable, "-m", "dbt_lake", "source", "freshness")
    done = run(tmp_path, lake.uri, *gate)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: nothing has landed in bronze.geo ever, ")
    assert "bronze.pin since 2026-03-01 10:00 UTC, " in said
    assert "days ago (50 hours are allowed) and bronze.user since" in said
    assert "ingest status" in said
    lake.land({**lines, "geo": [b'{"ind": 1, "country": "b"}']}, datetime.now(UTC))
    tests = (",", "test", "--select", "source:*", "--indirect-selection", "cautious")
    done = run(tmp_path, lake.uri, *gate, *tests)
    assert done.returncode == 0, done.stdout + done.stderr
    (tested,) = [line for line in done.stdout.splitlines() if line.startswith("dbt test")]
    assert " pass in " in tested
    assert "not_null_bronze_pin_ind" in done.stdout
    # What also looks at a model waits for that.
    assert "every_staged_post_has_landed" not in done.stdout


def test_what_failed_is_the_last_line(tmp_path: Path) -> None:
    lake = Built(tmp_path)
    lake.land({"pin": [b'{"ind": 1, "category": "a"}']}, datetime.now(UTC))
    test = (sys.executable, "-m", "dbt_lake", "test", "--quiet", "--select")
    done = run(tmp_path, lake.uri, *test, "not_null_stg_pin_ind")
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: not_null_stg_pin_ind failed: ")
    done = run(tmp_path, lake.uri, *test, "not_null_stg_pin_ind", "unique_stg_pin_ind")
    said = done.stderr.strip().splitlines()[-1]
    assert said == "error: 2 of 2 failed: not_null_stg_pin_ind and unique_stg_pin_ind"
