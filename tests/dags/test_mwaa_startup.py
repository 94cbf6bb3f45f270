"""The startup script of MWAA: what it exports, and the environment that it makes or does not."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.mwaa.startup import TEMPLATE, parse_settings, render
from tests.dags.mwaa import source
from tests.dbt.lakes import ROOT

#: Bash keeps no zero byte, and MWAA writes variables down as JSON.
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    """Make a package; the line of a lock for it."""
    found = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(found, "w") as archive:
        record = ""
        for path, content in files.items():
            archive.writestr(path, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode()
            record += f"{path},sha256={digest.rstrip('=')},{len(content.encode())}\n"
        archive.writestr(f"{about}/RECORD", f"{record}{about}/RECORD,,\n")
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(found.read_bytes()).hexdigest()}\n"


class Machine:
    """A worker without a network: the packages that there are lie in a folder.

    Args:
        folder: for all of it.
        ready: a virtual environment that is copied where one is to be made.
    """

    def __init__(self, folder: Path, ready: Path) -> None:
        self.folder = folder
        self.root = folder / "project"
        self.home = folder / "airflow"
        self.packages = folder / "packages"
        programs = folder / "programs"
        for path in (self.root / "requirements", self.home, self.packages, programs):
            path.mkdir(parents=True)
        python = programs / "python3"
        python.write_text(
            f"""#!/bin/sh
[ "$1 $2" = "-m venv" ] && exec cp -a {shlex.quote(str(ready))}/. "$3"
exec {shlex.quote(sys.executable)} "$@"
"""
        )
        python.chmod(0o755)
        build = wheel(self.packages, "setuptools", {"building.py": ""})
        (self.root / "requirements" / "bootstrap.txt").write_text(f"uv==1\n{build}")
        files = {"dbt/__init__.py": "", "dbt/cli/__init__.py": "", "dbt/cli/main.py": "MADE = 1\n"}
        self.dbt = wheel(self.packages, "dbt_core", files)
        self.lock(self.dbt)
        self.secrets: dict[str, str] = {}
        self.environ = {
            "AIRFLOW_HOME": str(self.home),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.packages),
            "MWAA_AIRFLOW_COMPONENT": "worker",
            # This machine may be slower than MWAA's.
            "PIPELINE_DBT_VENV_SECONDS": "3600",
        }

    def lock(self, lines: str) -> None:
        """Change the lock."""
        (self.root / "requirements" / "base.txt").write_text(lines)

    @property
    def script(self) -> Path:
        """The startup script that ran last."""
        return self.folder / "startup.sh"

    def start(self, *pairs: str, **environ: str) -> tuple[dict[str, str], str]:
        """Run the startup script of the settings; the variables afterwards, and what it said."""
        self.script.write_text(render(parse_settings(pairs), self.secrets, root=self.root))
        return source(self.script, self.folder, **self.environ | environ)

    @property
    def venv(self) -> Path:
        """Where the environment is to be."""
        return self.home / "dbt_venv"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip, compiled: making one takes longer than most tests here."""
    folder = tmp_path_factory.mktemp("ready") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True)
    return folder


@pytest.fixture
def machine(tmp_path: Path, ready: Path) -> Machine:
    return Machine(tmp_path, ready)


@pytest.mark.parametrize("script", [TEMPLATE.read_text(), render({"A": "it's"}, {"B": "c'd"})])
def test_bash_takes_it(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, check=True, text=True)


def test_the_script_has_the_project_s_locks() -> None:
    script = render({})
    for name in ("dbt-core", "dbt-spark", "pysail", "setuptools"):
        assert f"\n{name}==" in script
    lock = (ROOT / "requirements" / "base.txt").read_text()
    assert lock in script
    assert "#@" not in script
    # Every package of a lock has a digest, or pip would refuse it.
    assert "://" not in script


def test_requirements_leave_mwaa_its_constraints() -> None:
    """MWAA applies its own constraints unless it finds such an option, in a comment even."""
    text = (ROOT / "deploy" / "mwaa" / "requirements.txt").read_text()
    assert "-c " not in text
    assert "--constraint" not in text


@settings(deadline=None, max_examples=20)
@given(st.lists(values, min_size=8, max_size=8))
def test_values_arrive_as_they_are(strange: list[str]) -> None:
    given_ = {f"V{number}": value for number, value in enumerate(strange)}
    exports = render(given_).split("pinterest_say() {")[0]
    done = subprocess.run(
        ["bash", "-c", "source /dev/stdin; env -0"],
        input=exports.encode(),
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    found = dict(pair.split("=", 1) for pair in done.stdout.decode().split("\0") if pair)
    assert {name: found[name] for name in given_} == given_


def test_what_is_exported(machine: Machine) -> None:
    strange = "a b  'c' \"d\" $HOME `id` \\ \n e=f; #g !h ~ *"
    variables, _ = machine.start(
        "LAKE_URI=s3://b/lake", f"PIPELINE_NOTIFIER_ARGS={strange}", TMPDIR="/tmp/of mine"
    )
    assert variables["LAKE_URI"] == "s3://b/lake"
    assert variables["PIPELINE_NOTIFIER_ARGS"] == strange
    assert variables["PIPELINE_PYTHON"] == f"{machine.venv}/bin/python"
    assert Path(variables["PIPELINE_PYTHON"]).exists()  # on a worker
    assert variables["PIPELINE_DBT_MODE"] == "local"
    assert variables["AIRFLOW__COSMOS__ENABLE_TELEMETRY"] == "False"
    assert variables["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] == "False"
    assert variables["DBT_TARGET_PATH"] == "/tmp/of mine/pinterest/target"
    assert variables["DBT_LOG_PATH"] == "/tmp/of mine/pinterest/logs"
    # A setting goes before what the script would say.
    assert machine.start("PIPELINE_DBT_MODE=watcher")[0]["PIPELINE_DBT_MODE"] == "watcher"
    # Nothing else is left behind.
    assert not [name for name in variables if name.startswith(("pinterest", "BASH_FUNC"))]


def test_the_environment_is_made_once(machine: Machine) -> None:
    # By the interpreter itself, which the other tests spare.
    machine.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables, said = machine.start()
    assert f"making dbt's environment: {machine.venv}" in said
    assert "made in " in said
    program = "import dbt.cli.main, building; print(dbt.cli.main.MADE)"
    done = subprocess.run(
        [variables["PIPELINE_PYTHON"], "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "1\n"
    mark = machine.venv / "mark"
    mark.touch()
    _, said = machine.start("LAKE_URI=other")
    assert said == f"startup.sh: dbt's environment is there: {machine.venv}\n"
    assert mark.exists()


@pytest.mark.parametrize("component", ["scheduler", "webserver", "triggerer", "dag-processor"])
def test_only_workers_have_it(machine: Machine, component: str) -> None:
    variables, said = machine.start("A=b", MWAA_AIRFLOW_COMPONENT=component)
    assert said == f"startup.sh: {component} needs no dbt\n"
    assert not machine.venv.exists()
    # The DAG is the same to all of them.
    assert (variables["A"], variables["PIPELINE_PYTHON"]) == ("b", f"{machine.venv}/bin/python")


@pytest.mark.parametrize("component", ["hybrid", ""])
def test_what_runs_tasks_has_it_compiled(machine: Machine, component: str) -> None:
    """Whatever the image sets: each task would compile dbt again."""
    machine.start(MWAA_AIRFLOW_COMPONENT=component, PYTHONDONTWRITEBYTECODE="1", PIP_NO_COMPILE="1")
    assert (machine.venv / "bin" / "python").exists()
    compiled = {path.name.split(".")[0] for path in machine.venv.rglob("dbt/cli/**/*.pyc")}
    assert compiled == {"__init__", "main"}


@pytest.mark.parametrize(
    ("lock", "why"),
    [
        ("nothing==1.0 --hash=sha256:" + "0" * 64, "No matching distribution found for nothing"),
        ("dbt_core==1.0 --hash=sha256:" + "0" * 64, "DO NOT MATCH THE HASHES"),
        ("dbt_core==1.0", "Hashes are required"),
        ("dbt_core=1.0", "Invalid requirement"),
        ("# nothing at all", "No module named 'dbt'"),
    ],
)
def test_a_bad_lock_leaves_no_environment_and_lets_airflow_start(
    machine: Machine, lock: str, why: str
) -> None:
    machine.lock(f"{lock}\n")
    variables, said = machine.start("A=b")
    assert why in said
    assert "failed (exit code 1)" in said
    assert said.splitlines()[-1].startswith("startup.sh: error: no dbt after ")
    assert variables["A"] == "b"
    assert not Path(variables["PIPELINE_PYTHON"]).exists()
    assert not machine.venv.exists()


def test_an_environment_that_was_cut_short_or_has_another_lock_is_made_again(
    machine: Machine,
) -> None:
    machine.start()
    (machine.venv / ".digest").unlink()
    (machine.venv / "half").touch()
    _, said = machine.start()
    assert "made in " in said
    assert not (machine.venv / "half").exists()
    # A good environment does not outlive its lock.
    machine.lock("nothing==1.0 --hash=sha256:" + "0" * 64 + "\n")
    variables, _ = machine.start()
    assert not Path(variables["PIPELINE_PYTHON"]).exists()
    machine.lock(machine.dbt)
    assert "made in " in machine.start()[1]
    assert Path(variables["PIPELINE_PYTHON"]).exists()
    # Neither does it where the lock is another, and as good.
    machine.lock(machine.dbt + wheel(machine.packages, "more", {"more.py": ""}))
    variables, said = machine.start()
    assert "made in " in said
    subprocess.run([variables["PIPELINE_PYTHON"], "-c", "import more"], check=True)


def test_a_start_that_is_killed_leaves_nothing_that_is_taken_for_whole(machine: Machine) -> None:
    machine.start(MWAA_AIRFLOW_COMPONENT="scheduler")
    for moment in (0.2, 0.7, 1.5):
        script = subprocess.Popen(
            ["bash", "-c", 'source "$1"', "run", str(machine.script)],
            env=machine.environ,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moment)
        os.killpg(script.pid, 9)
        script.wait()
        whole = (machine.venv / ".digest").exists()
        assert not whole or (machine.venv / "lib").exists()
    variables, said = machine.start()
    assert "error" not in said
    subprocess.run([variables["PIPELINE_PYTHON"], "-c", "import dbt.cli.main"], check=True)


def test_a_folder_that_is_no_environment_is_left_alone(machine: Machine) -> None:
    machine.venv.mkdir()
    (machine.venv / "mine").touch()
    _, said = machine.start()
    assert f"{machine.venv} is no virtual environment; remove it or set PIPELINE_DBT_VENV" in said
    assert (machine.venv / "mine").exists()


def test_another_place_can_be_said(machine: Machine) -> None:
    place = machine.folder / "else where"
    variables, _ = machine.start(f"PIPELINE_DBT_VENV={place}")
    assert variables["PIPELINE_PYTHON"] == f"{place}/bin/python"
    assert (place / ".digest").exists()


def test_an_index_that_never_answers_is_given_up(machine: Machine) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        begun = time.monotonic()
        _, said = machine.start(
            PIP_NO_INDEX="0", PIP_INDEX_URL=address, PIPELINE_DBT_VENV_SECONDS="8"
        )
    assert "it took longer than 8 s altogether" in said
    assert time.monotonic() - begun < 30
    assert not machine.venv.exists()


def test_it_is_done_before_mwaa_gives_up(machine: Machine) -> None:
    """MWAA waits five minutes for a startup script; elsewhere there may be another limit."""
    tools = machine.folder / "tools"
    tools.mkdir()
    limits = machine.folder / "limits"
    program = tools / "timeout"
    program.write_text(f'#!/bin/sh\necho "$1" >>"{limits}"\nshift\nexec "$@"\n')
    program.chmod(0o755)
    path = f"{tools}:{machine.environ['PATH']}"
    del machine.environ["PIPELINE_DBT_VENV_SECONDS"]
    for given_, most in (({}, 240), ({"PIPELINE_DBT_VENV_SECONDS": "86400"}, 86400)):
        machine.start(PATH=path, **given_)
        seconds = [int(line) for line in limits.read_text().split()]
        assert seconds == sorted(seconds, reverse=True)  # what is left of it, at each step
        assert len(seconds) == 4
        assert most - 60 < seconds[0] <= most
        (machine.venv / ".digest").unlink()
        limits.unlink()


def test_no_python(machine: Machine) -> None:
    tools = machine.folder / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "env", "tail", "sed", "rm", "mkdir", "timeout"):
        (tools / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    variables, said = machine.start("A=b", PATH=str(tools))
    assert "startup.sh: error: python3 does not run" in said
    assert variables["A"] == "b"


class Secrets(BaseHTTPRequestHandler):
    """Secrets Manager, with one secret."""

    def do_POST(self) -> None:
        """Give the secret, or refuse."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = asked["SecretId"] == "pinterest/it's"
        answer: dict[str, Any] = (
            {"SecretString": "hunter2 $x 'y'"}
            if known
            else {"__type": "ResourceNotFoundException", "message": "can't find the secret"}
        )
        self.send_response(200 if known else 400)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def secrets() -> Iterator[dict[str, str]]:
    """The variables that lead to a Secrets Manager."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Secrets)
    Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
        # What Python says besides is no part of a secret.
        "PYTHONPROFILEIMPORTTIME": "1",
    }
    server.shutdown()
    server.server_close()


def test_workers_take_secrets_from_secrets_manager(
    machine: Machine, secrets: dict[str, str]
) -> None:
    machine.secrets = {"DATABRICKS_TOKEN": "pinterest/it's", "OTHER_TOKEN": "pinterest/none"}
    variables, said = machine.start(**secrets)
    assert variables["DATABRICKS_TOKEN"] == "hunter2 $x 'y'"
    assert "OTHER_TOKEN" not in variables
    assert "error: OTHER_TOKEN is not set, as the secret pinterest/none cannot be read" in said
    assert "hunter2" not in said + machine.script.read_text()
    variables, _ = machine.start(MWAA_AIRFLOW_COMPONENT="webserver", **secrets)
    assert "DATABRICKS_TOKEN" not in variables
