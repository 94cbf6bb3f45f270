"""The dbt commands where there is no lake, or no server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.dbt import processes
from tests.dbt.lakes import ROOT, Built, profiles

#: So many tests look at nothing but what has landed.
OWN_TESTS = 16


def run(
    folder: Path, lake: Path, *command: str, new: bool = False, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a dbt command in the project's folder, its output in another.

    Args:
        folder: for the profile, the target folder and the logs.
        lake: LAKE_URI.
        command: its words.
        new: whether a new interpreter runs it; one that is forked has imported dbt already.
        settings: further environment variables.
    """
    environment = {
        **os.environ,
        "LAKE_URI": str(lake),
        "DBT_PROFILES_DIR": str(profiles(folder)),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        **settings,
    }
    if not new:
        return processes.run(command, environment, ROOT)
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_a_lake_without_bronze_is_an_error_of_one_line(tmp_path: Path) -> None:
    dbt = str(Path(sys.executable).with_name("dbt"))
    done = run(tmp_path, tmp_path / "nowhere", dbt, "build", new=True)
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
        new=True,
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


GATE = (sys.executable, "-m", "dbt_lake", "source", "freshness")
PIN, GEO, USER = (
    {"pin": [b'{"ind": 1, "category": "a"}']},
    {"geo": [b'{"ind": 1, "country": "b"}']},
    {"user": [b'{"ind": 1, "age": 20}']},
)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


def test_sources_that_are_late_are_told_in_plain_words(tmp_path: Path) -> None:
    """Fresh or late, late or stale; and what follows the gate runs only if it is open."""
    lake = Built(tmp_path)
    now = datetime.now(UTC)
    tests = (",", "test", "--select", "source:*", "--indirect-selection", "cautious")
    lake.land(PIN, now - timedelta(hours=30))
    lake.land(GEO, now)
    lake.land(USER, now)
    done = run(tmp_path, lake.uri, *GATE, *tests)
    assert done.returncode == 0, done.stdout + done.stderr
    at = now - timedelta(hours=30)
    counted, warned, tested = done.stderr.strip().splitlines()
    assert counted.startswith("dbt source freshness: 3 sources, ")
    assert counted.endswith(" s (1 with a warning)")
    assert warned == (
        f"warning: nothing has landed in bronze.pin since {at.day} {at:%B %Y %H:%M} UTC, 30 hours "
        "ago; more than 26 hours is too long. See why landing brings nothing new (ingest status), "
        "or change the freshness in dbt_project/models/staging/_sources.yml"
    )
    # The sources' own tests; what also looks at a model waits for that.
    assert tested.startswith(f"dbt test: {OWN_TESTS} tests, ")
    assert tested.endswith(" s")
    assert "not_null_bronze_pin_ind" in done.stdout
    assert "every_staged_post_has_landed" not in done.stdout
    lake.land(PIN, now)
    done = run(tmp_path, lake.uri, *GATE)
    assert done.returncode == 0
    assert re.fullmatch(r"dbt source freshness: 3 sources, \d+\.\d s\n", done.stderr)


def test_a_stale_source_stops_what_follows(tmp_path: Path) -> None:
    lake = Built(tmp_path)
    now = datetime.now(UTC)
    lake.land(PIN, datetime(2026, 3, 1, 10, tzinfo=UTC))
    lake.land(USER, now - timedelta(hours=30))
    done = run(tmp_path, lake.uri, *GATE, ",", "test", "--select", "source:*")
    assert done.returncode == 1
    counted, warned, said = done.stderr.strip().splitlines()
    assert counted.startswith("dbt source freshness: 3 sources, ")
    assert counted.endswith(" s (2 failed, 1 with a warning)")
    assert warned.startswith("warning: nothing has landed in bronze.user since ")
    assert said.startswith(
        "error: nothing has ever landed in bronze.geo, and nothing has landed in bronze.pin since "
        "1 March 2026 10:00 UTC, "
    )
    assert said.endswith(
        " days ago; more than 50 hours is too long. See why landing brings nothing new (ingest "
        "status), or change the freshness in dbt_project/models/staging/_sources.yml"
    )


def test_what_failed_is_the_last_line(tmp_path: Path) -> None:
    lake = Built(tmp_path)
    lake.land(PIN, datetime.now(UTC))
    dbt = (sys.executable, "-m", "dbt_lake")
    done = run(tmp_path, lake.uri, *dbt, "test", "--quiet", "--select", "not_null_stg_pin_ind")
    assert done.returncode == 1
    assert last_line(done).startswith("error: not_null_stg_pin_ind failed: Table not found: ")
    both = ("not_null_stg_pin_ind", "unique_stg_pin_ind")
    done = run(tmp_path, lake.uri, *dbt, "test", "--quiet", "--select", *both)
    assert done.returncode == 1
    assert last_line(done) == f"error: 2 of 2 tests failed: {', '.join(both)}"
    done = run(tmp_path, lake.uri, *dbt, "run", "--quiet", "--select", "int_users")
    assert done.returncode == 1
    assert last_line(done).startswith("error: int_users failed: ")
    assert " Error in model" not in last_line(done)


def test_what_failed_is_the_last_line_of_both_streams_together(tmp_path: Path) -> None:
    lake = Built(tmp_path)
    lake.land(PIN, datetime(2026, 3, 1, 10, tzinfo=UTC))
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        "LAKE_URI": str(lake.uri),
        "DBT_PROFILES_DIR": str(profiles(tmp_path)),
        "DBT_TARGET_PATH": str(tmp_path / "target"),
        "DBT_LOG_PATH": str(tmp_path / "logs"),
    }
    done = subprocess.run(
        GATE,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.strip().splitlines()[-1].startswith("error: nothing has ever landed in ")


def test_what_dbt_could_not_begin_is_one_line(tmp_path: Path) -> None:
    dbt = (sys.executable, "-m", "dbt_lake")
    done = run(tmp_path, tmp_path / "nowhere", *dbt, "run", "--quiet")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/nowhere holds no bronze tables; run 'ingest")
    assert done.stderr.count("\n") == 1
    done = run(tmp_path, tmp_path / "nowhere", *dbt, "run", "--nope")
    assert done.returncode == 2
    assert done.stderr == "error: No such option '--nope'.\n"
