"""Uploads to MWAA's bucket: a real S3 store, this project."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import botocore.loaders
import botocore.session
import pytest

from deploy.mwaa import upload
from deploy.mwaa.errors import UploadError
from deploy.mwaa.plan import Stage
from deploy.mwaa.project import PROJECT, Deployment, File, files, parse
from deploy.mwaa.store import AT_ONCE, Bucket, SupersededError
from tests.dbt.lakes import ROOT
from tests.servers import client

ID = "0a60b9a8a831"
DAG, FOLDER = f"dags/{ID}_dag.py", f"dags/{ID}/"
STATE = f"{FOLDER}.uploaded.json"


#: Makes the reader of boto3's descriptions of services, once.
one_loader = functools.cache(botocore.loaders.create_loader)


@pytest.fixture(scope="module")
def manifest() -> bytes:
    return parse()


@pytest.fixture
def s3(store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the store, to which the variables lead as well."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        if not name.endswith("BUNDLE"):
            monkeypatch.delenv(name)
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    return client("s3", store)


@pytest.fixture
def bucket(s3: Any) -> Iterator[str]:
    """A bucket of the test's own; a store on one machine has room for few at a time."""
    name = f"mwaa-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    yield name
    found = [{"Key": key} for key in keys(s3, name)]
    for begin in range(0, len(found), 1000):
        s3.delete_objects(Bucket=name, Delete={"Objects": found[begin : begin + 1000]})
    s3.delete_bucket(Bucket=name)


@dataclass
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def uploaded(self) -> list[str]:
        """The keys that it says it uploaded, in their order."""
        return [line.split()[1] for line in self.out.splitlines() if line.startswith("uploaded ")]

    @property
    def removed(self) -> list[str]:
        """The keys that it says it removed."""
        return [line.split()[1] for line in self.out.splitlines() if line.startswith("removed ")]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A copy of what is uploaded, to change."""
    root = tmp_path / "project"
    root.mkdir()
    for part in (*PROJECT, "dags", "requirements", "deploy", "profiles.example.yml"):
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, root / part)
        else:
            shutil.copy(ROOT / part, root / part)
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The same with a file or two of each folder: a file takes 5 ms of CPU at each upload."""
    root = tmp_path / "project"
    for name in (
        "dbt_project.yml",
        "dbt_lake.py",
        "dbt_project/models/exposures.yml",
        "ingestion/__init__.py",
        "ingestion/records.py",
        "reporting/winners.py",
        "runner/__init__.py",
        "deploy/mwaa/requirements.txt",
        "dags/pinterest_daily.py",
        "profiles.example.yml",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    return root


def commanded(
    project: Path,
    manifest: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Said]:
    """The command on a project, in this process; dbt takes its time and has parsed before."""
    # Each command is a session of boto3's own, which reads its description of S3 for 70 ms.
    monkeypatch.setattr(botocore.session, "create_loader", one_loader)
    monkeypatch.setattr(upload, "parse", lambda: manifest)
    monkeypatch.setattr(upload, "files", functools.partial(files, root=project))

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["upload", *arguments])
        capsys.readouterr()
        try:
            upload.main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def command(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """The command on a few files."""
    return commanded(project, b"{}", monkeypatch, capsys)


@pytest.fixture
def command_on_all(
    whole: Path,
    manifest: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Said]:
    """The command on the whole project."""
    return commanded(whole, manifest, monkeypatch, capsys)


def keys(s3: Any, bucket: str) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def body(s3: Any, bucket: str, key: str) -> bytes:
    content: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    return content


def bodies(s3: Any, bucket: str) -> dict[str, bytes]:
    """All objects but the record of uploads."""
    return {key: body(s3, bucket, key) for key in keys(s3, bucket) if key != STATE}


def test_the_project_its_dag_and_the_files_of_mwaa_are_uploaded(
    s3: Any, bucket: str, command_on_all: Callable[..., Said], whole: Path, manifest: bytes
) -> None:
    (whole / "reporting" / "__pycache__").mkdir(exist_ok=True)
    (whole / "reporting" / "__pycache__" / "page.cpython-311.pyc").write_bytes(b"x")
    (whole / "dbt_project" / ".DS_Store").write_bytes(b"x")
    said = command_on_all(bucket, "--id", ID)
    assert (said.code, said.err) == (0, "")
    found = bodies(s3, bucket)
    tracked = subprocess.run(
        ["git", "ls-files", *PROJECT], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert set(found) == {FOLDER + name for name in tracked} | {
        f"{FOLDER}profiles.yml",
        f"{FOLDER}target/manifest.json",
        f"{FOLDER}.airflowignore",
        DAG,
        "startup.sh",
        "requirements.txt",
    }
    for name in tracked:
        assert found[FOLDER + name] == (ROOT / name).read_bytes(), name
    assert found[DAG] == (ROOT / "dags" / "pinterest_daily.py").read_bytes()
    assert found[f"{FOLDER}profiles.yml"] == (ROOT / "profiles.example.yml").read_bytes()
    assert found[f"{FOLDER}target/manifest.json"] == manifest
    assert found[f"{FOLDER}.airflowignore"] == b"**\n"
    # Whoever looks in between finds no DAG without its project.
    assert said.uploaded[-4:] == [
        f"{FOLDER}target/manifest.json",
        "requirements.txt",
        "startup.sh",
        DAG,
    ]
    assert sorted(said.uploaded) == sorted(found)
    assert f"{len(found)} files uploaded" in said.out
    assert f"s3://{bucket}/startup.sh" in said.out


def test_the_second_upload_writes_nothing(
    s3: Any, bucket: str, command: Callable[..., Said]
) -> None:
    command(bucket, "--id", ID)
    before = s3.list_objects_v2(Bucket=bucket)["Contents"]
    said = command(bucket, "--id", ID)
    assert (said.code, said.uploaded) == (0, [])
    assert " 0 files uploaded" in said.out
    assert s3.list_objects_v2(Bucket=bucket)["Contents"] == before
    assert "is new" not in said.out


def test_only_a_changed_file_is_uploaded(
    s3: Any, bucket: str, command: Callable[..., Said], project: Path
) -> None:
    command(bucket, "--id", ID)
    changed = project / "ingestion" / "records.py"
    changed.write_text(changed.read_text() + "\n# changed\n")
    said = command(bucket, "--id", ID)
    assert said.uploaded == [f"{FOLDER}ingestion/records.py"]
    assert body(s3, bucket, said.uploaded[0]) == changed.read_bytes()
    assert command(bucket, "--id", ID).uploaded == []


def test_what_changed_in_the_bucket_is_uploaded_again(
    s3: Any, bucket: str, command: Callable[..., Said]
) -> None:
    command(bucket, "--id", ID)
    key = f"{FOLDER}dbt_lake.py"
    s3.put_object(Bucket=bucket, Key=key, Body=b"broken")
    assert command(bucket, "--id", ID).uploaded == [key]
    assert body(s3, bucket, key) == (ROOT / "dbt_lake.py").read_bytes()


def test_a_file_that_is_gone_stays_until_it_is_to_be_removed(
    s3: Any, bucket: str, command: Callable[..., Said], project: Path
) -> None:
    command(bucket, "--id", ID)
    theirs = [f"{FOLDER}notes.txt", "dags/other.py", "dags/other/dbt_lake.py", "data/x"]
    for key in theirs:
        s3.put_object(Bucket=bucket, Key=key, Body=b"theirs")
    (project / "reporting" / "winners.py").unlink()
    gone = f"{FOLDER}reporting/winners.py"
    said = command(bucket, "--id", ID)
    assert (said.uploaded, said.removed) == ([], [])
    assert f"{gone}; --delete removes them" in said.out
    assert gone in keys(s3, bucket)
    dry = command(bucket, "--id", ID, "--delete", "--dry-run")
    assert f"would remove  {gone}" in dry.out
    assert gone in keys(s3, bucket)
    said = command(bucket, "--id", ID, "--delete")
    assert said.removed == [gone]
    left = keys(s3, bucket)
    assert gone not in left
    assert set(theirs) <= set(left)
    assert command(bucket, "--id", ID, "--delete").removed == []


@pytest.mark.parametrize("key", ["startup.sh", "requirements.txt", DAG, f"{FOLDER}dbt_lake.py"])
def test_what_others_uploaded_is_refused(
    s3: Any, bucket: str, command: Callable[..., Said], key: str
) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=b"theirs")
    said = command(bucket, "--id", ID)
    assert said.code == 1
    assert f"s3://{bucket}/{key}: not uploaded by this deployment" in said.err
    assert "--replace" in said.err
    assert said.err.count("\n") == 1
    assert bodies(s3, bucket) == {key: b"theirs"}
    assert f"would refuse  {key}" in command(bucket, "--id", ID, "--dry-run").out
    said = command(bucket, "--id", ID, "--replace")
    assert (said.code, key in said.uploaded) == (0, True)
    assert body(s3, bucket, key) != b"theirs"
    assert command(bucket, "--id", ID).uploaded == []


def test_a_startup_script_that_somebody_changed_is_refused(
    s3: Any, bucket: str, command: Callable[..., Said]
) -> None:
    command(bucket, "--id", ID)
    s3.put_object(Bucket=bucket, Key="startup.sh", Body=b"theirs")
    said = command(bucket, "--id", ID)
    assert (said.code, "startup.sh" in said.err) == (1, True)
    assert body(s3, bucket, "startup.sh") == b"theirs"


def test_two_deployments_share_a_bucket(s3: Any, bucket: str, command: Callable[..., Said]) -> None:
    command(bucket, "--id", ID)
    said = command(bucket, "--id", "other")
    # An environment has one startup script; the second has to say that it is to be its own.
    assert (said.code, "startup.sh" in said.err) == (1, True)
    assert command(bucket, "--id", "other", "--replace").code == 0
    assert {DAG, "dags/other_dag.py", "dags/other/dbt_project.yml"} <= set(keys(s3, bucket))
    assert command(bucket, "--id", "other", "--delete").removed == []


def test_without_an_id_the_dag_keeps_its_name(
    s3: Any, bucket: str, command: Callable[..., Said]
) -> None:
    command(bucket)
    found = set(keys(s3, bucket))
    assert {"dags/pinterest_daily.py", "dags/pinterest_daily/dbt_project.yml"} <= found
    assert "PIPELINE_ID" not in body(s3, bucket, "startup.sh").decode()


def test_settings_are_in_the_startup_script(
    s3: Any, bucket: str, command: Callable[..., Said]
) -> None:
    said = command(
        bucket, "--id", ID,
        "--settings", "LAKE_URI=s3://lakes/one PIPELINE_SOURCES='s3 --uri s3://posts; kinesis'",
        "--set", "PIPELINE_NOTIFIER_ARGS={\"to\": \"it's $HOME\"}",
        "--secret", "SOURCE_DATABASE_URL=pinterest/database",
    )  # fmt: skip
    assert said.code == 0, said.err
    exported = sourced(body(s3, bucket, "startup.sh"), MWAA_AIRFLOW_COMPONENT="scheduler")
    assert exported["LAKE_URI"] == "s3://lakes/one"
    assert exported["PIPELINE_SOURCES"] == "s3 --uri s3://posts; kinesis"
    assert exported["PIPELINE_NOTIFIER_ARGS"] == '{"to": "it\'s $HOME"}'
    assert exported["PIPELINE_PUBLISH"] == f"s3://{bucket}/published"
    assert exported["PIPELINE_ID"] == ID
    assert (
        "pinterest_secret SOURCE_DATABASE_URL pinterest/database"
        in body(s3, bucket, "startup.sh").decode()
    )
    # Other settings change the script and nothing else.
    assert command(bucket, "--id", ID).uploaded == ["startup.sh"]


def sourced(script: bytes, **environ: str) -> dict[str, str]:
    """What a script exports where nothing else is set."""
    done = subprocess.run(
        ["bash", "-c", 'source /dev/stdin >&2; env -0'],
        input=script,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        check=True,
    )  # fmt: skip
    return dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)


def test_databricks_has_a_lock_of_its_own(
    s3: Any, bucket: str, command: Callable[..., Said]
) -> None:
    command(bucket, "--set", "DBT_TARGET=databricks")
    assert "\ndbt-databricks==" in body(s3, bucket, "startup.sh").decode()
    command(bucket, "--set", "DBT_TARGET=spark")
    assert "\ndbt-databricks==" not in body(s3, bucket, "startup.sh").decode()


def test_a_dry_run_writes_nothing(s3: Any, bucket: str, command: Callable[..., Said]) -> None:
    said = command(bucket, "--id", ID, "--dry-run")
    assert said.code == 0
    assert f"would upload  {DAG}" in said.out
    assert "nothing was written" in said.out
    assert keys(s3, bucket) == []


@pytest.mark.parametrize(
    ("change", "arguments", "why"),
    [
        (
            {},
            ["no-such-bucket-here"],
            "there is no bucket no-such-bucket-here; create it or name another",
        ),
        ({}, ["a b"], "cannot be a bucket's name; correct it"),
        ({}, [""], "BUCKET is not set; make mwaa-upload BUCKET=my-mwaa-bucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, ["x-y-z"], "no S3 store answers at"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, ["x-y-z"], "does not accept the credentials"),
        ({"AWS_ACCESS_KEY_ID": ""}, ["x-y-z"], "no credentials were found"),
        ({}, ["x-y-z", "--id", "a/b"], "cannot be a pipeline's id"),
        ({}, ["x-y-z", "--set", "A_TOKEN=hunter2"], "no place for credentials"),
        ({}, ["x-y-z", "--settings", "A='x"], "quote values as in a shell"),
    ],
)
@pytest.mark.usefixtures("s3")
def test_what_cannot_be_is_told_in_one_line(
    command: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    arguments: list[str],
    why: str,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in change.items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name)
            monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    said = command(*arguments)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: ")
    assert why in said.err
    assert said.err.count("\n") == 1
    assert "hunter2" not in said.err


def test_a_project_that_dbt_does_not_take_is_told_in_one_line(whole: Path) -> None:
    # The other models are not what it refuses: with them dbt reads for two seconds longer.
    models = whole / "dbt_project" / "models"
    shutil.rmtree(models)
    shutil.rmtree(whole / "dbt_project" / "tests")
    models.mkdir()
    (models / "broken.sql").write_text("select * from {{ ref('no') }}")
    with pytest.raises(UploadError, match="depends on a node named 'no'") as refused:
        parse(whole)
    assert "\n" not in str(refused.value)


def test_a_record_that_is_none_is_told(s3: Any, bucket: str, command: Callable[..., Said]) -> None:
    s3.put_object(Bucket=bucket, Key=STATE, Body=b"[]")
    said = command(bucket, "--id", ID)
    assert said.code == 1
    assert f"{STATE} is no record of an upload" in said.err


class Cut(BaseException):
    """The process is killed."""


class Watched:
    """A client of S3 that does something before an object is written.

    Args:
        client: the real one.
        before: is given the number of objects that were written.
    """

    def __init__(self, client: Any, before: Callable[[int], None]) -> None:
        self._client, self._before, self._written = client, before, 0
        self._one = Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **what: Any) -> Any:
        """Write an object."""
        with self._one:
            self._before(self._written)
            self._written += 1
        return self._client.put_object(**what)


def some_files(content: str, count: int = 2 * AT_ONCE + 3) -> dict[str, File]:
    """A small project, its manifest, its startup script and its DAG."""
    made = {f"{FOLDER}{number:03}.sql": File(content.encode()) for number in range(count)}
    return made | {
        f"{FOLDER}target/manifest.json": File(content.encode(), Stage.MANIFEST),
        "startup.sh": File(content.encode(), Stage.ROOT),
        DAG: File(content.encode(), Stage.DAG),
    }


def held(made: dict[str, File]) -> dict[str, bytes]:
    return {key: file.body for key, file in made.items()}


@pytest.mark.parametrize("after", [0, 1, 2, AT_ONCE + 1, 2 * AT_ONCE + 5, 2 * AT_ONCE + 7])
def test_an_upload_that_was_killed_is_completed_by_the_next(
    s3: Any, bucket: str, after: int
) -> None:
    def kill(written: int) -> None:
        if written >= after:
            raise Cut

    deployment = Deployment(ID)
    Bucket(s3, bucket, deployment).upload(some_files("old", count=5))
    new = some_files("new")
    # The record that claims, the files, the record of what was done.
    assert len(new) + 2 > after
    with pytest.raises(Cut):
        Bucket(Watched(s3, kill), bucket, deployment).upload(new)
    if after < len(new):
        # The DAG is not there before all of its project is.
        assert body(s3, bucket, DAG) == b"old"
    Bucket(s3, bucket, deployment).upload(new)
    assert bodies(s3, bucket) == held(new)
    again = Bucket(s3, bucket, deployment).upload(new)
    assert (again.uploaded, len(again.plan.unchanged)) == ({}, len(new))


def test_a_later_upload_of_the_same_deployment_goes_first(s3: Any, bucket: str) -> None:
    deployment = Deployment(ID)
    later = some_files("later")

    def interfere(written: int) -> None:
        if written == AT_ONCE + 1:
            Bucket(s3, bucket, deployment).upload(later)

    with pytest.raises(SupersededError, match="another upload began after this one"):
        Bucket(Watched(s3, interfere), bucket, deployment).upload(some_files("earlier"))
    # The earlier one had a few more under way when the later one was done; the next sees to it.
    written = [key for key, content in bodies(s3, bucket).items() if content == b"earlier"]
    assert len(written) <= AT_ONCE
    assert DAG not in written
    Bucket(s3, bucket, deployment).upload(later)
    assert bodies(s3, bucket) == held(later)


def test_an_upload_knows_what_another_uploaded_while_it_looked(s3: Any, bucket: str) -> None:
    deployment, extra = Deployment(ID), f"{FOLDER}extra.sql"
    mine = some_files("mine")

    def interfere(written: int) -> None:
        if written == 0:
            other = some_files("other") | {extra: File(b"other")}
            Bucket(s3, bucket, deployment).upload(other)

    Bucket(Watched(s3, interfere), bucket, deployment).upload(mine)
    assert bodies(s3, bucket) == held(mine) | {extra: b"other"}
    assert Bucket(s3, bucket, deployment).upload(mine, delete=True).removed == [extra]


def test_two_uploads_at_once_leave_one_of_the_two(s3: Any, bucket: str) -> None:
    deployment = Deployment(ID)
    for number in range(5):
        both = [some_files(f"{number}-{name}") for name in "ab"]

        def one(made: dict[str, File]) -> None:
            with suppress(SupersededError):
                Bucket(s3, bucket, deployment).upload(made)

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(one, both))
        assert bodies(s3, bucket) in [held(made) for made in both]


def test_a_folder_of_more_objects_than_a_listing_shows(s3: Any, bucket: str) -> None:
    def put(number: int) -> None:
        s3.put_object(Bucket=bucket, Key=f"{FOLDER}!{number:04}", Body=b"theirs")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(1003)))
    deployment, made = Deployment(ID), some_files("x")
    Bucket(s3, bucket, deployment).upload(made)
    again = Bucket(s3, bucket, deployment).upload(made, delete=True)
    assert (again.uploaded, again.removed) == ({}, [])
    assert len(again.plan.unchanged) == len(made)
    assert len(keys(s3, bucket)) == 1003 + len(made) + 1


def test_the_command_itself(s3: Any, bucket: str, command_on_all: Callable[..., Said]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.mwaa.upload", bucket, "--id", ID],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    nodes = json.loads(body(s3, bucket, f"{FOLDER}target/manifest.json"))["nodes"]
    assert "model.pinterest.int_posts" in nodes
    # The manifest that another process made of the copy is the same.
    assert " 0 files uploaded" in command_on_all(bucket, "--id", ID).out
    assert "--dry-run" in command_on_all("--help").out


def test_make_passes_settings_on_as_they_are(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    setting = "A='it is $HOME' B=\"x y\""
    done = subprocess.run(
        [
            "make", "--silent", "--old-file=install", "mwaa-upload", f"BIN={tmp_path}",
            "BUCKET=my-bucket", f"ID={ID}", f"SET={setting}", "DELETE=1", "DRY_RUN=1",
            "SECRETS=A=b C=d",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "-m", "deploy.mwaa.upload", "my-bucket", "--id", ID, "--settings", setting,
        "--secret", "A=b", "--secret", "C=d", "--delete", "--dry-run",
    ]  # fmt: skip


@pytest.mark.parametrize("given", [[], ["BUCKET="], ["BUCKET=  "]], ids=["none", "empty", "blank"])
def test_make_without_a_bucket_names_what_is_missing(given: list[str]) -> None:
    done = subprocess.run(
        [
            "make", "--silent", "--old-file=install", "mwaa-upload",
            f"BIN={Path(sys.executable).parent}", *given,
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "BUCKET"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2  # make's own, for a command that failed
    assert done.stdout == ""
    assert "error: BUCKET is not set; make mwaa-upload BUCKET=my-mwaa-bucket" in done.stderr
    assert "Traceback" not in done.stderr
