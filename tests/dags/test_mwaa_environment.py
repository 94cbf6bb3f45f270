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
from tests.dbt.lakes import MARTS, PIPELINE, ROOT, Built, InBucket, without_stamps
from tests.servers import client, skip

ID = "0a60b9a8a831"
DAG = f"{ID}_dag"
#: Seconds that the run may take beside everything else that this machine does.
PATIENCE = 1200
#: The tasks that are run of a day: each of what is no model, and of every layer some models, whose
#: tables change by the records of people.
RUN = {
    *("land", "freshness", "report", "docs", "maintain"),
    # A model waits for the tests of those before it: with these a chain has no gap.
    *(
        f"dbt.{model}.{what}"
        for model in (
            "staging.stg_user",
            "intermediate.int_posts",
            "intermediate.int_users",
            "marts.median_followers_by_join_year",
        )
        for what in ("run", "test")
    ),
    "dbt.every_staged_post_has_landed_test",
}


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
        variables: of its workers, besides those that lead to the bucket.
    """

    airflow: airflow.Client
    home: Path
    bucket: str
    folder: Path
    said: str
    store: dict[str, str]
    synced: set[str]
    variables: dict[str, str]

    def deliver(self, kind: str) -> None:
        """Put the objects of a kind into the bucket."""
        s3, sink = client("s3", self.store), self.folder / "sink"
        for path in sink.glob(f"topics/{PIPELINE}.{kind}/**/*.json"):
            key = path.relative_to(sink).as_posix()
            s3.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())

    def run(self, command: str) -> None:
        """Run a command of the project as a worker does: arguments of dbt's interpreter."""
        project = self.home / "dags" / ID
        subprocess.run(
            [self.variables["PIPELINE_PYTHON"], *command.split()],
            cwd=project,
            env={**self.variables, **self.store, "PYTHONPATH": str(project)},
            check=True,
        )


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
        yield Environment(asking, home, bucket, folder, said, store, synced, variables)
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
    """Two kinds of records have been landed and built before by the same environment of dbt."""
    for kind in ("pin", "geo"):
        environment.deliver(kind)
    environment.run(f"-m ingestion s3 --uri s3://{environment.bucket}")
    environment.run("-m dbt_lake run --quiet")
    environment.deliver("user")

    asking = environment.airflow
    asking.wait_for_dag(DAG)
    assert asking.ask("GET", f"dags/{DAG}/details")["max_active_tasks"] == 2
    run = asking.run_now(DAG)
    every = {task["task_id"] for task in asking.tasks(DAG, run)}
    assert len(every) == 49
    assert every > RUN
    # Each of the others starts two interpreters to do what one of those does.
    for task in sorted(every - RUN):
        path = f"dags/{DAG}/dagRuns/{run}/taskInstances/{task}"
        asking.ask("PATCH", path, json={"new_state": "success"})
    assert asking.wait(DAG, run, PATIENCE) == "success"
    tasks = {task["task_id"]: task for task in asking.tasks(DAG, run)}
    assert {name for name, task in tasks.items() if task["state"] != "success"} == set()
    assert all(tasks[name]["duration"] for name in RUN)

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
        dbt.succeed("run")
    for name, value in environment.store.items():
        monkeypatch.setenv(name, value)
    here = InBucket(environment.folder, address=f"s3://{environment.bucket}/lake")
    for schema, table in (name.split(".")[1:3] for name in RUN if name.endswith(".run")):
        assert here.rows(schema, table)
        built = [without_stamps(lake.rows(schema, table)) for lake in (here, plain)]
        assert built[0] == built[1], table
    for page in ("index.html", "docs.html"):
        published = client("s3", environment.store).get_object(
            Bucket=environment.bucket, Key=f"published/{page}"
        )
        assert published["Body"].read().rstrip().endswith(b"</html>")
    # What the day did not build is built, and everything is tested, as on a worker's command line.
    environment.run("-m dbt_lake build --quiet --exclude-resource-type unit_test")
    assert here.tables() == plain.tables()
    assert all(here.rows("marts", mart) for mart in MARTS)
    # The project's folder, which belongs to the bucket, is as it was.
    assert files(environment.home) == environment.synced
