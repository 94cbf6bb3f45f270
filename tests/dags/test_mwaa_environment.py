"""What is uploaded for MWAA, in MWAA's Airflow: from the bucket to the answers."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from stack import airflow, process
from tests import oracle
from tests.dags import mwaa
from tests.dags.deployments import PRELOADED, posts
from tests.dbt.lakes import (
    MARTS,
    PIPELINE,
    ROOT,
    InBucket,
    Row,
    assert_accounts_agree,
    assert_oracle_agrees,
    assert_same,
)
from tests.servers import client, skip

ID = "0a60b9a8a831"
DAG = f"{ID}_dag"
#: Seconds that the run may take beside everything else that this machine does.
PATIENCE = 1200
#: The tasks that are run of a day: each of what is no model, and one model of the first layer and
#: one of the last, whose tables change by the records of people. The one grows; the other is built
#: anew under a contract, and its tests update an asset.
RUN = {
    *("land", "freshness", "report", "docs", "maintain"),
    # A model waits for the tests of those before it: with these a chain has no gap.
    *(
        f"dbt.{model}.{what}"
        for model in ("staging.stg_user", "marts.data_quality")
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
        lake: below the bucket's address, with what the oracle says has landed in it.
        lines: records of each kind, to be delivered.
        said: what the startup script said.
        store: the variables that lead to the bucket.
        synced: the files of the DAGs folder, as paths in Airflow's home.
        variables: of its workers, besides those that lead to the bucket.
    """

    airflow: airflow.Client
    home: Path
    bucket: str
    folder: Path
    lake: InBucket
    lines: dict[str, list[bytes]]
    said: str
    store: dict[str, str]
    synced: set[str]
    variables: dict[str, str]

    def deliver(self, kind: str) -> None:
        """Put the records of a kind into the bucket, as three objects of a partition."""
        s3, lines = client("s3", self.store), self.lines[kind]
        topic, size = f"{PIPELINE}.{kind}", -(-len(lines) // 3)
        for begin in range(0, len(lines), size):
            some = lines[begin : begin + size]
            name = f"{topic}+0+{self.lake.offsets[kind]:010}.json"
            s3.put_object(
                Bucket=self.bucket,
                Key=f"topics/{topic}/partition=0/{name}",
                Body=b"".join(line + b"\n" for line in some),
            )
            # The order of offsets alone decides what is the latest.
            self.lake.know({kind: some}, at=datetime(2026, 1, 1, tzinfo=UTC))

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
    subprocess.run(
        [
            sys.executable, "-m", "deploy.mwaa.upload", bucket, "--id", ID,
            "--set", "PIPELINE_RETRIES=1", "--set", "PIPELINE_RETRY_SECONDS=1",
            "--set", "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG=2",
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
        # As on MWAA: at five looks a second a busy machine spends 16 CPU seconds of a run on them.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
        # As on MWAA.
        "AIRFLOW__CORE__EXECUTE_TASKS_NEW_PYTHON_INTERPRETER": "True",
    }
    # Its tasks are forked from the scheduler, whatever that setting says; the DAG processor alone
    # shows that the file's imports are there.
    (home / "config").mkdir()
    (home / "config" / "airflow_local_settings.py").write_text(PRELOADED)
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
        lake = InBucket(folder, address=f"s3://{bucket}/lake")
        lines = posts(300, 1, folder / "sink")
        # `data_quality` counts the unfit ones in a table that the day does not build.
        lines["user"] = [
            line for line in lines["user"] if isinstance(oracle.land("user", line), oracle.Landed)
        ]
        yield Environment(asking, home, bucket, folder, lake, lines, said, store, synced, variables)
    finally:
        running = process.find(state)
        children = running.children(recursive=True) if running else []
        airflow.stop(state)
        process.kill([child for child in children if psutil.pid_exists(child.pid)])


def files(home: Path) -> set[str]:
    """What lies in the DAGs folder; without what an interpreter keeps where it may."""
    found = (path.relative_to(home) for path in (home / "dags").rglob("*") if path.is_file())
    return {str(path) for path in found if path.suffix != ".pyc"}


def below(task: str, downstream: Mapping[str, list[str]]) -> set[str]:
    """Every task that waits for a task, with or without others in between."""
    return set(downstream[task]).union(*(below(name, downstream) for name in downstream[task]))


def assert_posts_agree(lake: InBucket) -> None:
    """`int_posts` holds the staged records of every post, side by side."""
    staged = lake.staged()
    rows = lake.rows("intermediate", "int_posts")
    found = {row["ind"]: row for row in rows}
    assert len(found) == len(rows), "int_posts holds a post twice"
    assert_same(
        "int_posts", found, {ind: post(ind, staged) for ind in set().union(*staged.values())}
    )


def post(ind: int, staged: dict[str, dict[int, Row]]) -> Row:
    """The row of a post, but for the times when its records landed."""
    nothing: Row = {}
    pin, geo, user = (staged[kind].get(ind, nothing) for kind in ("pin", "geo", "user"))
    moment = geo.get("timestamp")
    return {
        "ind": ind,
        **{name: pin.get(name) for name in ("category", "poster_name", "follower_count")},
        "country": geo.get("country"),
        "post_year": moment.year if moment else None,
        **{name: user.get(name) for name in ("user_name", "date_joined", "age")},
        "age_group": oracle.age_group(user.get("age")),
    }


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
    # Each of the others starts interpreters to do what one of those does. What is downstream comes
    # first: Airflow starts a task as soon as all before it are marked.
    downstream = {
        task["task_id"]: task["downstream_task_ids"]
        for task in asking.ask("GET", f"dags/{DAG}/tasks")["tasks"]
    }
    for task in sorted(every - RUN, key=lambda task: len(below(task, downstream))):
        path = f"dags/{DAG}/dagRuns/{run}/taskInstances/{task}"
        asking.ask("PATCH", path, json={"new_state": "success"})
    assert asking.wait(DAG, run, PATIENCE) == "success"
    tasks = {task["task_id"]: task for task in asking.tasks(DAG, run)}
    assert {name for name, task in tasks.items() if task["state"] != "success"} == set()
    assert all(tasks[name]["duration"] for name in RUN)

    for name, value in environment.store.items():
        monkeypatch.setenv(name, value)
    lake = environment.lake
    rows = lake.rows("staging", "stg_user")
    users = {row["ind"]: row for row in rows}
    assert len(users) == len(rows) > 0
    assert_same("stg_user", users, lake.staged()["user"])
    assert_accounts_agree(lake)
    for page in ("index.html", "docs.html"):
        published = client("s3", environment.store).get_object(
            Bucket=environment.bucket, Key=f"published/{page}"
        )
        assert published["Body"].read().rstrip().endswith(b"</html>")
    # What the day did not build is built, and everything is tested, as on a worker's command line.
    environment.run("-m dbt_lake build --quiet --exclude-resource-type unit_test")
    assert_oracle_agrees(lake)
    assert_posts_agree(lake)
    assert all(lake.rows("marts", mart) for mart in MARTS)
    # The project's folder, which belongs to the bucket, is as it was.
    assert files(environment.home) == environment.synced
