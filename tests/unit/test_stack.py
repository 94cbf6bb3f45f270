"""Servers as processes: started once, found again, named when they fail, ended by their own id."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from kafka.errors import TopicAuthorizationFailedError
from rich.console import Console
from typer.testing import CliRunner

from stack import demo, local, process, spark
from stack.__main__ import app as stack_command
from stack.progress import Patience
from stack.steps import Steps
from tests.servers import eventually

LISTEN = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
"""

WAIT_FOR_ANOTHER = """
import socket, sys, time
while socket.socket().connect_ex(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(0.05)
"""


def server(folder: Path, script: str = LISTEN, port: int = 0) -> process.Server:
    port = port or process.free_port()
    return process.Server("The server", [sys.executable, "-c", script, str(port)], port, folder)


@pytest.fixture
def folder(tmp_path: Path) -> object:
    yield tmp_path / "run"
    process.stop(tmp_path / "run")


def test_a_server_is_ready_when_its_port_is_open(folder: Path) -> None:
    listens = server(folder)
    pid = process.start(listens)
    assert process.listening(listens.port)
    assert process.start(listens) == pid  # the same, not another
    assert process.stop(folder)
    assert not process.listening(listens.port)
    assert not process.stop(folder)


def test_a_port_that_is_taken_is_named(folder: Path, tmp_path: Path) -> None:
    other = server(tmp_path / "other")
    process.start(other)
    try:
        with pytest.raises(process.ServerError, match=rf"port {other.port} .* is taken"):
            process.start(server(folder, port=other.port))
    finally:
        process.stop(tmp_path / "other")


def test_a_port_that_is_taken_meanwhile_is_not_its_own(folder: Path, tmp_path: Path) -> None:
    """Another program listens there before the server does, and the server cannot."""
    late = server(folder, WAIT_FOR_ANOTHER + LISTEN)
    other = server(tmp_path / "other", port=late.port)
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(process.start, late)
        eventually(lambda: process.find(folder).pid)  # type: ignore[union-attr]
        try:
            process.start(other)
            with pytest.raises(process.PortTakenError, match=rf"port {late.port} .* is taken"):
                starting.result(timeout=60)
        finally:
            process.stop(other.folder)


def test_a_server_may_listen_by_one_that_it_starts(folder: Path) -> None:
    script = f"import subprocess as s, sys; s.run([sys.executable, '-c', {LISTEN!r}, sys.argv[1]])"
    process.start(server(folder, script))


def test_a_server_that_ends_is_quoted(folder: Path) -> None:
    with pytest.raises(process.ServerError, match=r"ended: no more room; see .*server\.log"):
        process.start(server(folder, "raise SystemExit('no more room')"))
    assert process.find(folder) is None


def test_a_server_without_progress_is_ended(folder: Path) -> None:
    idle = server(folder, "import time; time.sleep(60)")
    with pytest.raises(process.ServerError) as failed:
        process.start(idle, patience=2)
    assert str(failed.value) == (
        f"The server is not ready, no progress for 2 s: it does not listen at port {idle.port}; "
        f"see {idle.log}"
    )
    assert process.find(folder) is None


@pytest.mark.parametrize(
    "work",
    [
        "print('one more', flush=True); time.sleep(0.1)",
        "sum(range(100_000))",
        # By another process, which it waits for.
        "subprocess.run([sys.executable, '-c', 'sum(range(20_000_000))'])",
    ],
    ids=["log", "cpu", "child"],
)
def test_a_slow_server_is_waited_for_while_it_works(folder: Path, work: str) -> None:
    script = f"""
import subprocess, sys, time
end = time.monotonic() + 3
while time.monotonic() < end:
    {work}
{LISTEN}"""
    begun = time.monotonic()
    process.start(server(folder, script), patience=1.5)
    assert time.monotonic() - begun > 3


def test_a_server_that_works_for_ever_is_ended(folder: Path) -> None:
    with pytest.raises(process.ServerError, match="is not ready, not done after 2 s: it does not"):
        process.start(server(folder, "while True: print('one more')"), patience=1.5, total=2)
    assert process.find(folder) is None


def test_a_server_is_ready_when_it_answers(folder: Path) -> None:
    tries = []

    def ready() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("not yet")

    process.start(server(folder), ready)
    assert len(tries) == 3


def test_a_server_that_listens_and_never_answers_is_named(folder: Path) -> None:
    def never() -> None:
        raise TimeoutError("the read operation\ntimed out")

    mute = server(folder)
    why = r"no progress for 2 s: it does not answer \(the read operation timed out\)"
    with pytest.raises(process.ServerError, match=why):
        process.start(mute, never, patience=2)
    assert process.find(folder) is None
    # One that another command started is not ended.
    pid = process.start(mute)
    with pytest.raises(process.ServerError, match=rf"timed out\); process {pid} still runs; see"):
        process.start(mute, never, patience=2)
    assert process.find(folder) is not None


def test_a_server_that_ends_after_it_listened_is_quoted(folder: Path) -> None:
    script = LISTEN.replace("time.sleep(60)", "time.sleep(1); sys.exit('no more room')")

    def never() -> None:
        raise ConnectionError("not yet")

    with pytest.raises(process.ServerError, match=r"ended: no more room; see .*server\.log"):
        process.start(server(folder, script), never)


class Clock:
    """Seconds, and how much has been done by then."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done = 0.0
        self.wait = Patience(lambda: self.done, quiet=30, total=100, clock=lambda: self.now)

    def at(self, now: float) -> str | None:
        """Why the wait has failed at a time."""
        self.now = now
        return self.wait.exhausted()


def test_patience_lasts_as_long_as_there_is_progress() -> None:
    clock = Clock()
    assert [clock.at(now) for now in (10, 20, 29)] == [None] * 3
    clock.done = 1
    assert [clock.at(now) for now in (29.9, 31, 59)] == [None] * 3
    assert [clock.at(now) for now in (61, 62)] == ["no progress for 30 s"] * 2


def test_patience_ends_in_spite_of_progress() -> None:
    clock = Clock()
    for clock.done in range(100):
        assert clock.at(clock.done) is None
    assert clock.at(100) == "not done after 100 s"


def test_a_busy_process_is_given_the_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    work = "end = time.monotonic() + 1.5\n    while time.monotonic() < end: pass\n    sys.exit(7)"
    idle = "time.sleep(60)"
    codes = []
    for what in (work, idle):
        script = f"""
import signal, sys, time
def finish(*_):
    {what}
signal.signal(signal.SIGTERM, finish)
print("ready", flush=True)
time.sleep(60)
"""
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        process.end([psutil.Process(child.pid)])
        codes.append(child.wait(20))
    assert codes == [7, -signal.SIGKILL]


def test_a_server_gets_the_variables_it_is_to_have(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STAYS", "GOES", "CHANGES"):
        monkeypatch.setenv(name, "before")
    script = "import os; print(*(os.environ.get(n) for n in ('STAYS', 'GOES', 'CHANGES')))"
    env = {"GOES": None, "CHANGES": "now"}
    with pytest.raises(process.ServerError, match="ended: before None now; see"):
        process.start(replace(server(folder, script), env=env))


def test_a_server_does_not_inherit_what_is_meant_for_other_programs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ZOO_REMOTE", "PYTHONDONTWRITEBYTECODE", "STAYS"):
        monkeypatch.setenv(name, "1")
    script = (
        "import os; print(sorted({'ZOO_HOME', 'ZOO_REMOTE', 'PYTHONDONTWRITEBYTECODE', 'STAYS'}"
    )
    script += " & os.environ.keys()))"
    env = {"ZOO_HOME": "here"}
    with pytest.raises(process.ServerError, match=r"ended: \['STAYS', 'ZOO_HOME'\]; see"):
        process.start(replace(server(folder, script), env=env, drop=("ZOO_",)))


def test_nobody_is_given_a_port_twice() -> None:
    """Not even one that its owner does not use at the moment."""
    script = (
        "from stack.process import free_port\n"
        "print(*(free_port() for _ in range(500)), flush=True)\n"
        "input()\n"
    )
    askers = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    given = []
    for asker in askers:
        assert asker.stdout is not None
        given += asker.stdout.readline().split()
    for asker in askers:
        asker.communicate("\n", timeout=30)
    assert len(given) == len(set(given)) == 1_000


def test_what_a_part_of_it_starts_while_it_ends_is_ended_too(folder: Path) -> None:
    supervisor = """
import os, signal, subprocess, sys
def again(*_):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print("started", child.pid, flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, again)
"""
    words = f"[sys.executable, '-c', {supervisor + LISTEN!r}, sys.argv[1]]"
    process.start(server(folder, f"import subprocess, sys; subprocess.run({words})"))
    assert process.stop(folder)
    started = re.search(r"started (\d+)", (folder / "server.log").read_text())
    assert started
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(started[1])).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("seconds", [-2.0, 1.0])
def test_a_server_is_found_again_after_the_clock_was_corrected(
    folder: Path, seconds: float
) -> None:
    pid = process.start(server(folder))
    record = folder / "process.json"
    said = json.loads(record.read_text())
    record.write_text(json.dumps({**said, "created": said["created"] + seconds}))
    found = process.find(folder)
    assert found is not None
    assert found.pid == pid
    assert process.stop(folder)


def test_a_process_with_the_same_id_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "process.json").write_text(json.dumps({"pid": os.getpid(), "created": 1.0}))
    assert process.find(folder) is None
    assert not process.stop(folder)


def test_a_spark_that_an_earlier_version_started_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data lay inside its installation."""
    monkeypatch.setattr(spark, "HOME", tmp_path / "spark")
    earlier = server(tmp_path / "spark" / "run")
    process.start(earlier)
    assert local.servers()["spark"].folder == earlier.folder
    assert local.servers()["spark"].down()
    assert local.servers()["spark"].folder == local.RUN / "spark"


def test_what_spark_lacks_is_said_with_the_way_out(tmp_path: Path) -> None:
    assert "make spark-install" in str(spark.missing(tmp_path)) or "Java" in str(
        spark.missing(tmp_path)
    )
    with pytest.raises(process.ServerError):
        spark.connect_server(1, tmp_path, home=tmp_path)


def test_the_command_tells_what_runs(tmp_path: Path) -> None:
    elsewhere = {"SPARK_REMOTE": "sc://cluster:15002"}
    environment = {**os.environ, "STACK_HOME": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-m", "stack", *arguments],
            env=environment | more,
            capture_output=True,
            text=True,
            check=False,
        )
        for arguments, more in (
            (["status"], {}),
            (["up", "zoo"], {}),
            (["up", "spark"], {}),
            (["up", "spark"], elsewhere),
            (["down", "spark"], {}),
        )
    ]
    assert [line.split(maxsplit=1) for line in said[0].stdout.splitlines()] == [
        [name, "not running"] for name in local.servers()
    ]
    assert "'zoo' is not one of" in said[1].stderr
    assert "error: Spark" in said[2].stderr
    assert "SPARK_REMOTE names a server on cluster" in said[3].stderr
    assert said[4].stdout.split(maxsplit=1) == ["spark", "was not running\n"]
    assert [run.returncode for run in said] == [0, 2, 1, 1, 0]


def test_what_is_not_of_the_pipeline_goes_on_running(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    known = {
        name: SimpleNamespace(down=lambda name=name: not ended.append(name))
        for name in (*local.PIPELINE, "spark")
    }
    monkeypatch.setattr(local, "servers", lambda: known)
    assert CliRunner().invoke(stack_command, ["down"]).exit_code == 0
    assert ended == [*reversed(local.PIPELINE)]
    assert CliRunner().invoke(stack_command, ["down", "spark"]).exit_code == 0
    assert ended[-1] == "spark"


def test_a_port_that_is_taken_is_chosen_anew(folder: Path, tmp_path: Path) -> None:
    other = server(tmp_path / "other")
    process.start(other)
    wanted = local.Local("s3", folder, lambda: server(folder, port=other.port), lambda: "there")
    try:
        with pytest.raises(process.ServerError, match=r"choose another .* with STACK_S3_PORT$"):
            wanted.up()
    finally:
        process.stop(tmp_path / "other")


def env_of(**variables: str) -> subprocess.CompletedProcess[str]:
    """What `python -m stack env` says where variables are set."""
    return subprocess.run(
        [sys.executable, "-m", "stack", "env"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_shell_is_led_to_the_chosen_ports() -> None:
    said = env_of(STACK_KAFKA_PORT="19092", STACK_S3_PORT="").stdout.splitlines()
    assert "export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:19092" in said
    assert "export AWS_ENDPOINT_URL=http://127.0.0.1:8333" in said
    for wrong in ("0", "65536", "http"):
        refused = env_of(STACK_GATEWAY_PORT=wrong)
        assert refused.stderr == f"error: STACK_GATEWAY_PORT is {wrong}, not a port's number\n"
        assert (refused.returncode, refused.stdout) == (1, "")


def test_what_leads_a_shell_elsewhere_goes() -> None:
    elsewhere = {
        "AWS_PROFILE": "work",
        "AWS_SESSION_TOKEN": "of the real account",
        "AWS_ENDPOINT_URL_S3": "https://s3.example",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "GATEWAY_API_KEYS": "key",
        "AWS_ACCESS_KEY_ID": "real",
    }
    said = env_of(**elsewhere).stdout.splitlines()
    gone = {line.removeprefix("unset ") for line in said if line.startswith("unset ")}
    assert gone >= elsewhere.keys() - {"AWS_ACCESS_KEY_ID"}
    assert "export AWS_ACCESS_KEY_ID=local" in said
    led = local.led_here({**elsewhere, "PATH": "/bin"})
    assert led == {"PATH": "/bin", **local.environment()}


def lake(folder: Path, posts: dict[str, list[object]]) -> Path:
    for table in ("staging/stg_pin", "intermediate/int_posts", "marts/popular_category_by_year"):
        write_deltalake(str(folder / table), pa.table(posts))
    write_deltalake(str(folder / "marts/data_quality"), pa.table({"of": [folder.name]}))
    return folder


def test_servers_that_refuse_what_the_demo_needs_are_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: str) -> None:
        raise TopicAuthorizationFailedError("not\nyours")

    there = SimpleNamespace(up=lambda: 1, address=lambda: "there")
    monkeypatch.setattr(local, "servers", lambda: dict.fromkeys(local.PIPELINE, there))
    monkeypatch.setattr(demo, "make_streams", refuse)
    with pytest.raises(demo.DemoError, match=r"bucket cannot be made: .*not yours$"):
        demo.run(1, "p", Steps(Console(file=StringIO())))


def test_the_demo_says_what_it_does_before_and_how_long_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    clock = SimpleNamespace(now=0.0)
    said = StringIO()
    printed_before: list[str] = []
    environments: list[dict[str, str]] = []

    def up() -> None:
        clock.now += 2

    def run(_: list[str], *, env: dict[str, str], check: bool) -> SimpleNamespace:
        printed_before.append(said.getvalue().splitlines()[-1])
        environments.append(env)
        clock.now += 3
        return SimpleNamespace(returncode=check)

    there = SimpleNamespace(up=up, address=lambda: "there")
    monkeypatch.setattr(local, "servers", lambda: dict.fromkeys(local.PIPELINE, there))
    monkeypatch.setattr(demo, "make_streams", lambda _: None)
    monkeypatch.setattr(demo, "compare", lambda *_: [])
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=run))
    steps = Steps(Console(file=said, soft_wrap=True), clock=lambda: clock.now)
    assert demo.run(500, "p", steps) == []
    lines = said.getvalue().splitlines()
    assert lines[:2] == [
        "starting mysql, kafka, kinesis, s3, gateway (20 s to 2 min)",
        "  mysql listens on there (2.0 s)",
    ]
    assert lines.count("  3.0 s") == len(printed_before) == 7
    for line in printed_before:
        assert re.search(r", about \d+ s: python -m (ingestion|dbt_lake) ", line)
    # Each dbt process would compile its packages.
    assert not any("PYTHONDONTWRITEBYTECODE" in env for env in environments)


def test_the_two_paths_are_compared_row_by_row(tmp_path: Path) -> None:
    posts: dict[str, list[object]] = {"ind": [1, 2], "landed_at": [1, 2]}
    batch = lake(tmp_path / "batch", posts)
    later = lake(tmp_path / "stream", {"ind": [2, 1], "landed_at": [3, 4]})
    assert demo.compare(batch, later) == [
        ("staging/stg_pin", 2),
        ("intermediate/int_posts", 2),
        ("marts/popular_category_by_year", 2),
    ]
    other = lake(tmp_path / "other", posts)
    shutil.rmtree(other / "marts/popular_category_by_year")
    write_deltalake(str(other / "staging/stg_pin"), pa.table(posts), mode="append")
    with pytest.raises(demo.DemoError, match=r"marts/popular_category_by_year, staging/stg_pin;"):
        demo.compare(batch, other)
    with pytest.raises(demo.DemoError, match="differ in marts/popular_category_by_year, staging"):
        demo.compare(other, batch)


def test_two_paths_by_which_nothing_came_do_not_agree(tmp_path: Path) -> None:
    schema = pa.schema([("ind", pa.int64()), ("landed_at", pa.int64())])
    for name in ("batch", "stream"):
        for table in ("staging/stg_pin", "intermediate/int_posts", "marts/one"):
            write_deltalake(str(tmp_path / name / table), schema.empty_table())
    with pytest.raises(demo.DemoError, match="no post arrived"):
        demo.compare(tmp_path / "batch", tmp_path / "stream")
