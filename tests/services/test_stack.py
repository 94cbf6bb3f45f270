"""The servers of `make stack`: starting them again, and what is left when that is cut short."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from sqlalchemy import create_engine, text

from stack import demo, kafka, kinesis, local, mysql, process, s3, spark
from tests.dbt.lakes import ROOT, profiles
from tests.services.conftest import client, eventually, folder_of


def test_all_of_it_from_the_first_server_to_the_last(tmp_path: Path) -> None:
    """Both paths agree, a shell is led to the servers, and in the end they are gone, they alone."""
    for reason in (mysql.missing(), kafka.missing(), kinesis.missing(), s3.missing()):
        if reason:
            pytest.skip(reason)
    home = folder_of(tmp_path, "stack")
    for service in (kafka, kinesis, s3):
        (home / service.HOME.name).symlink_to(service.HOME.resolve())
    names = ("MYSQL", "KAFKA", "KINESIS", "S3", "GATEWAY")
    environment = {
        **os.environ,
        "STACK_HOME": str(home),
        **{f"STACK_{name}_PORT": str(process.free_port()) for name in names},
        "DBT_PROFILES_DIR": str(profiles(tmp_path)),
        "DBT_TARGET_PATH": str(tmp_path / "target"),
        "DBT_LOG_PATH": str(tmp_path / "logs"),
        # Somebody else's, who works with the real ones.
        "AWS_SESSION_TOKEN": "of an account",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{process.free_port()}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "GATEWAY_API_KEYS": "a-key",
        # What is meant for other programs of the servers' languages.
        "NODE_OPTIONS": "--require ./a-module-of-theirs.js",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    stack = (sys.executable, "-m", "stack")
    other = subprocess.Popen(["sleep", "600"], cwd=home, start_new_session=True)
    try:
        said = run(*stack, "demo", "--posts", "20")
        assert "the batch path and the stream path agree in 14 tables" in said
        assert re.search(r"intermediate.int_posts +20 *$", said, re.MULTILINE)
        gateway = process.find(home / "run" / "gateway")
        assert gateway is not None
        assert "PYTHONDONTWRITEBYTECODE" not in gateway.environ()
        assert len(re.findall("process [0-9]+", run(*stack, "status"))) == len(names)
        lake = f"--lake {shlex.quote(str(tmp_path / 'lake'))}"
        python = shlex.quote(sys.executable)
        for command in ("kafka", "kinesis", "mysql", "s3 --uri s3://pinterest/msk"):
            script = f'eval "$({python} -m stack env)"; {python} -m ingestion {command} {lake}'
            told = run("sh", "-c", script)
            assert len(re.findall("landed (20|11,001) ", told)) == len(demo.KINDS)
    finally:
        pids = [record.parent.name for record in home.glob("run/*/process.json")]
        assert sorted(run(*stack, "down").split()[::2]) == sorted(pids)
        assert other.poll() is None
        other.kill()
        other.wait(20)
    assert len(pids) == len(names)
    assert "process" not in run(*stack, "status")
    assert not [pid for pid in psutil.process_iter(["cmdline"]) if str(home) in str(pid.info)]


def test_spark_starts_where_a_client_is_led_to_it(tmp_path: Path) -> None:
    """SPARK_REMOTE names its port, and would make Spark's launcher refuse to start."""
    if reason := spark.missing():
        pytest.skip(reason)
    home = folder_of(tmp_path, "stack")
    (home / "spark").symlink_to(spark.HOME.resolve())
    address = f"sc://127.0.0.1:{process.free_port()}"
    environment = {
        **os.environ,
        "STACK_HOME": str(home),
        "SPARK_REMOTE": address,
        # Another Spark's.
        "SPARK_LOCAL_DIRS": "/nowhere",
        "PYSPARK_SUBMIT_ARGS": "--master yarn",
        # Of every JVM of the machine, which says that it has read it.
        "JAVA_TOOL_OPTIONS": "-Dsome=thing",
    }
    said = []
    for command in ("up", "status", "down"):
        done = subprocess.run(
            [sys.executable, "-m", "stack", command, *(["spark"] if command != "status" else [])],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert f"spark    listens on {address} (process " in said[0]
    assert re.search("spark    process [0-9]+", said[1])
    assert said[2] == "spark    ended\n"
    # Its data outlives its installation.
    assert (home / "run" / "spark" / "server.log").exists()
    assert not (spark.HOME / "run").exists()


def test_the_store_lets_in_its_own_credentials_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those that the shell has for another account."""
    if reason := s3.missing():
        pytest.skip(reason)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-an-account")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-it")
    folder, port = folder_of(tmp_path, "s3"), process.free_port()
    process.start(s3.server(port, folder))
    environment = s3.environment(port)
    try:
        eventually(lambda: client("s3", environment).list_buckets())
        environment["AWS_ACCESS_KEY_ID"] = "of-an-account"
        environment["AWS_SECRET_ACCESS_KEY"] = "secret-of-it"
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            client("s3", environment).list_buckets()
    finally:
        if found := process.find(folder):
            found.kill()  # asked to end, it takes a quarter of a minute
        process.stop(folder)


def test_what_is_there_is_not_made_again(
    broker: str, kinesis_url: str, store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": broker,
        "AWS_ENDPOINT_URL_KINESIS": kinesis_url,
        **store,
    }
    monkeypatch.setattr(local, "environment", lambda: environment)
    pipeline = f"p{uuid.uuid4().hex[:11]}"
    admin = KafkaAdminClient(bootstrap_servers=broker)
    # Some of it is there, as after a kill; then all of it.
    admin.create_topics([NewTopic(f"{pipeline}.geo", demo.PARTITIONS, 1)])
    for _ in range(2):
        demo.make_streams(pipeline)
        topics = admin.describe_topics([f"{pipeline}.{kind}" for kind in demo.KINDS])
        assert [len(topic["partitions"]) for topic in topics] == [demo.PARTITIONS] * 3
    admin.close()
    streams = client("kinesis", {"AWS_ENDPOINT_URL": kinesis_url})
    for kind in demo.KINDS:
        shards = streams.list_shards(StreamName=f"streaming-{pipeline}-{kind}")["Shards"]
        assert len(shards) == demo.SHARDS
    client("s3", store).head_bucket(Bucket=demo.BUCKET)


def test_a_database_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    if reason := mysql.missing():
        pytest.skip(reason)
    folder, port = folder_of(tmp_path, "mysql"), process.free_port()
    script = "import sys; from pathlib import Path; from stack import mysql; "
    script += f"mysql.server({port}, Path({str(folder)!r}))"
    making = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/mysql/*")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    # All of it, as the keyboard's interrupt is for the whole group.
    os.killpg(making.pid, signal.SIGKILL)
    making.wait(20)
    process.start(mysql.server(port, folder))
    try:
        with create_engine(mysql.url(port)).connect() as connection:
            assert connection.execute(text("select database()")).scalar() == mysql.DATABASE
    finally:
        process.stop(folder)
