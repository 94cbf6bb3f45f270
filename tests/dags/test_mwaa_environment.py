"""What is uploaded for MWAA, in MWAA's Airflow: from the bucket to the answers."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from stack import airflow, process
from tests.dags import mwaa
from tests.dbt.lakes import MARTS, ROOT, Built, InBucket
from tests.servers import client, skip

ID = "0a60b9a8a831"
DAG = f"{ID}_dag"
#: Seconds that the run may take beside everything else that this machine does.
PATIENCE = 1200


@dataclass
class Environment:
    """An MWAA environment.

    Attributes:
        airflow: asks its Airflow.
        home: Airflow's home.
        bucket: where the posts and the DAGs lie.
        folder: for the test's own files.
        said: what the startup script said.
        store: the variables that lead to the bucket.
        synced: the files of the DAGs folder, as paths in Airflow's home.
    """

    airflow: airflow.Client
    home: Path
    bucket: str
    folder: Path
    said: str
    store: dict[str, str]
    synced: set[str]


@pytest.fixture(scope="module")
def environment(
    store: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    skip(mwaa.missing())
    folder = tmp_path_factory.mktemp("mwaa")
    bucket = f"mwaa-{uuid.uuid4().hex[:12]}"
    s3 = client("s3", store)
    s3.create_bucket(Bucket=bucket)
    invent(folder / "sink")
    for path in (folder / "sink").rglob("*.json"):
        key = path.relative_to(folder / "sink").as_posix()
        s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    subprocess.run(
        [
            sys.executable, "-m", "deploy.mwaa.upload", bucket, "--id", ID,
            "--set", "PIPELINE_RETRIES=1", "--set", "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG=2",
        ],
        cwd=ROOT, env={**os.environ, **store}, check=True,
    )  # fmt: skip

    home = folder / "airflow"
    mwaa.sync(s3, bucket, home)
    programs = (mwaa.HOME / "airflow" / "bin").resolve()
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    variables, said = mwaa.source(
        home / "startup" / "startup.sh",
        folder,
        PATH=path,
        AIRFLOW_HOME=str(home),
        HOME=str(home),
        TMPDIR=str(folder / "tmp"),
        MWAA_AIRFLOW_COMPONENT="worker",
        PIPELINE_DBT_VENV=str((mwaa.HOME / "dbt_venv").resolve()),
        # It is there; if it is not, the test says so at once.
        PIP_NO_INDEX="1",
    )
    (folder / "tmp").mkdir()
    synced = files(home)
    for read_only in [home / "dags", *(home / "dags").rglob("*")]:
        read_only.chmod(0o555 if read_only.is_dir() else 0o444)

    port = process.free_port()
    state = folder / "state"
    settings = airflow.environment(port, home, {})
    settings |= {
        "PATH": path,
        "PYTHONPATH": "",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3600",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
        # As on MWAA.
        "AIRFLOW__CORE__EXECUTE_TASKS_NEW_PYTHON_INTERPRETER": "True",
    }
    (home / "passwords.json").write_text(f'{{"{airflow.USER}": "only-here"}}')
    server = process.Server(
        "MWAA's Airflow",
        [str(programs / "airflow"), "standalone"],
        port,
        state,
        # Nothing of this process: what the startup script left, and the way to the store.
        {**dict.fromkeys(os.environ), **variables, **settings, **store},
    )
    asking = airflow.Client(f"http://127.0.0.1:{port}", "only-here", airflow.progress(state))
    process.start(server, asking.ready, patience=120)
    try:
        yield Environment(asking, home, bucket, folder, said, store, synced)
    finally:
        running = process.find(state)
        children = running.children(recursive=True) if running else []
        airflow.stop(state)
        process.kill([child for child in children if psutil.pid_exists(child.pid)])


def invent(folder: Path) -> None:
    """Write invented posts as objects of a sink."""
    subprocess.run(
        [
            sys.executable, "-m", "ingestion", "synth", "--posts", "300", "--people", "200",
            "--out", str(folder),
        ],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def files(home: Path) -> set[str]:
    """What lies in the DAGs folder; without what an interpreter keeps where it may."""
    found = (path.relative_to(home) for path in (home / "dags").rglob("*") if path.is_file())
    return {str(path) for path in found if path.suffix != ".pyc"}


def test_the_startup_script_finds_what_it_made_earlier(environment: Environment) -> None:
    assert environment.said.startswith("startup.sh: dbt's environment is there: "), environment.said
    assert environment.said.count("\n") == 1


def test_its_airflow_looks_for_dags_in_the_dag_file_alone(environment: Environment) -> None:
    program = (
        "import sys; from airflow.utils.file import list_py_file_paths; "
        "print(list_py_file_paths(sys.argv[1], safe_mode=False))"
    )
    dags = environment.home / "dags"
    done = subprocess.run(
        [mwaa.HOME / "airflow" / "bin" / "python", "-c", program, dags],
        env={"AIRFLOW_HOME": str(environment.folder / "other"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == str([str(dags / f"{DAG}.py")])


def test_a_day_lands_builds_tests_and_publishes_as_elsewhere(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = environment.airflow
    asking.wait_for_dag(DAG)
    assert asking.ask("GET", f"dags/{DAG}/details")["max_active_tasks"] == 2
    run = asking.run_now(DAG)
    outcome = asking.wait(DAG, run, PATIENCE)
    tasks = asking.tasks(DAG, run)
    assert ({task["task_id"]: task["state"] for task in tasks if task["state"] != "success"}) == {}
    assert (outcome, len(tasks)) == ("success", 49)

    plain = Built(environment.folder / "plain")
    plain.folder.mkdir()
    subprocess.run(
        [
            sys.executable, "-m", "ingestion", "s3", "--uri", str(environment.folder / "sink"),
            "--lake", str(plain.uri),
        ],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with plain.dbt() as dbt:
        dbt.succeed("build")
    for name, value in environment.store.items():
        monkeypatch.setenv(name, value)
    here = InBucket(environment.folder, address=f"s3://{environment.bucket}/lake")
    assert here.tables() == plain.tables()
    assert all(here.rows("marts", mart) for mart in MARTS)
    for page in ("index.html", "docs.html"):
        published = client("s3", environment.store).get_object(
            Bucket=environment.bucket, Key=f"published/{page}"
        )
        assert published["Body"].read().rstrip().endswith(b"</html>")
    # The project's folder, which belongs to the bucket, is as it was.
    assert files(environment.home) == environment.synced
