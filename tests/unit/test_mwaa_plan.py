"""What an upload to MWAA's bucket decides to do, and what comes of it when it is cut short."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.mwaa.errors import UploadError
from deploy.mwaa.plan import Local, Plan, Record, Stage, plan
from deploy.mwaa.project import Deployment, constant
from deploy.mwaa.startup import parse_secrets, parse_settings

DAG, ROOT, MODEL, MANIFEST = "dags/a_dag.py", "startup.sh", "dags/a/model.sql", "dags/a/m.json"
STAGES = {DAG: Stage.DAG, ROOT: Stage.ROOT, MANIFEST: Stage.MANIFEST, MODEL: Stage.PROJECT}
OTHERS = ("dags/b_dag.py", "dags/a/other.py")

contents = st.dictionaries(st.sampled_from(list(STAGES)), st.sampled_from("xyz"))


def local(files: dict[str, str]) -> dict[str, Local]:
    """Files whose digests are their contents."""
    return {key: Local(content, STAGES[key]) for key, content in files.items()}


@dataclass
class Memory:
    """A bucket and the record of uploads; an ETag is never given twice."""

    objects: dict[str, tuple[str, str]] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    writings: int = 0

    def write(self, key: str, content: str) -> str:
        """Write an object; its ETag."""
        self.writings += 1
        self.objects[key] = content, f"{content}-{self.writings}"
        return self.objects[key][1]

    @property
    def listing(self) -> dict[str, str]:
        """The ETags of all objects."""
        return {key: etag for key, (_, etag) in self.objects.items()}

    def plan(self, files: dict[str, str], **options: bool) -> Plan:
        """What an upload of files would do."""
        return plan(local(files), self.records, self.listing, **options)

    def upload(self, files: dict[str, str], cut: int | None = None, **options: bool) -> Plan:
        """Upload files; with `cut`, be killed after so many writes."""
        todo = self.plan(files, **options)
        if todo.refused or todo.idle:
            return todo
        steps = [(key, True) for key in todo.upload] + [(key, False) for key in todo.remove]
        if cut == 0:
            return todo
        self.records = dict(todo.records)
        after = dict(todo.records)
        for key, kept in steps[: None if cut is None else cut - 1]:
            if kept:
                after[key] = Record(files[key], self.write(key, files[key]))
            else:
                del self.objects[key], after[key]
        if cut is None:
            self.records = after
        return todo


@given(st.lists(st.tuples(contents, st.none() | st.integers(0, 6), st.booleans()), max_size=5))
def test_whatever_was_cut_short_the_next_upload_completes(
    earlier: list[tuple[dict[str, str], int | None, bool]],
) -> None:
    bucket = Memory()
    for key in OTHERS:
        bucket.write(key, "theirs")
    theirs = dict(bucket.objects)
    for files, cut, delete in earlier:
        assert not bucket.upload(files, cut, delete=delete).refused
    last = {MODEL: "x", DAG: "y"}
    assert not bucket.upload(last, delete=True).refused
    assert {key: content for key, (content, _) in bucket.objects.items()} == last | dict.fromkeys(
        OTHERS, "theirs"
    )
    assert {key: bucket.objects[key] for key in OTHERS} == theirs
    assert bucket.plan(last, delete=True).idle


@given(contents, contents, st.booleans())
def test_only_what_changed_is_uploaded(
    first: dict[str, str], second: dict[str, str], delete: bool
) -> None:
    bucket = Memory()
    bucket.upload(first)
    todo = bucket.upload(second, delete=delete)
    assert set(todo.upload) == {key for key in second if first.get(key) != second[key]}
    assert set(todo.unchanged) == second.keys() - set(todo.upload)
    gone = first.keys() - second.keys()
    assert set(todo.remove) == (gone if delete else set())
    assert set(todo.kept) == (set() if delete else gone)
    assert list(todo.upload) == sorted(todo.upload, key=lambda key: STAGES[key])


@given(contents, contents, st.sampled_from(list(STAGES)), st.booleans())
def test_what_others_wrote_is_refused_where_all_write(
    first: dict[str, str], second: dict[str, str], key: str, delete: bool
) -> None:
    bucket = Memory()
    bucket.upload(first)
    bucket.write(key, "theirs")
    foreign = key in second and (key not in first or STAGES[key].shared)
    todo = bucket.upload(second, delete=delete)
    assert todo.refused == ((key,) if foreign else ())
    if foreign or key not in second:
        # It is not overwritten, and not removed either.
        assert bucket.objects[key][0] == "theirs"
    if foreign:
        bucket.upload(second, replace=True)
    assert {name: bucket.objects[name][0] for name in second} == second


def test_the_dag_comes_last() -> None:
    assert Memory().plan(dict.fromkeys(STAGES, "x")).upload == (MODEL, MANIFEST, ROOT, DAG)


def test_one_whose_writing_was_cut_short_is_written_again() -> None:
    todo = plan(local({MODEL: "x"}), {MODEL: Record("x", None)}, {MODEL: "e"})
    assert (todo.upload, todo.idle) == ((MODEL,), False)


def test_one_that_vanished_from_the_bucket_is_written_again() -> None:
    todo = plan(local({DAG: "x"}), {DAG: Record("x", "e")}, {})
    assert todo.upload == (DAG,)


def test_names() -> None:
    named, only = Deployment("0a60b9a8a831"), Deployment()
    assert (named.dag_key, named.folder) == ("dags/0a60b9a8a831_dag.py", "dags/0a60b9a8a831/")
    assert (only.dag_key, only.folder) == ("dags/pinterest_daily.py", "dags/pinterest_daily/")


@pytest.mark.parametrize("pipeline", ["", "a/b", "..", "a b", "pinterest_daily", "a.b", "é"])
def test_an_id_that_is_no_name_is_refused(pipeline: str) -> None:
    with pytest.raises(UploadError, match="cannot be a pipeline's id"):
        Deployment(pipeline)


@pytest.mark.parametrize(
    "name",
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DATABRICKS_TOKEN", "KAFKA_SASL_PASSWORD",
     "DATABRICKS_CLIENT_SECRET", "GATEWAY_API_KEYS", "db_password"],
)  # fmt: skip
def test_a_credential_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(UploadError, match=f"--secret {name}=ID") as refused:
        parse_settings([f"{name}=hunter2"])
    assert "hunter2" not in str(refused.value)
    assert parse_secrets([f"{name}=pinterest/it"]) == {name: "pinterest/it"}


@pytest.mark.parametrize(
    "value",
    ["mysql+pymysql://reader:hunter2@db/pinterest", "mysql; kafka --to x://u:hunter2@h:1/",
     "https://:hunter2@index/simple"],
)  # fmt: skip
def test_an_address_with_a_password_is_refused(value: str) -> None:
    with pytest.raises(UploadError, match="holds a password") as refused:
        parse_settings([f"SOURCE_DATABASE_URL={value}"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        ("LAKE_URI", "write NAME=VALUE"),
        ("=x", "no name of a variable"),
        ("A-B=x", "no name of a variable"),
        ("A\nB=x", "no name of a variable"),
        ("AWS_REGION=x", "MWAA sets it itself"),
        ("PIPELINE_PYTHON=x", "PIPELINE_DBT_VENV says where"),
        ("X=a\0b", "zero byte"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(pair: str, why: str) -> None:
    with pytest.raises(UploadError, match=why):
        parse_settings([pair])


def test_what_is_no_credential_is_taken_and_the_later_counts() -> None:
    pairs = ["A=1", "SOURCE_DATABASE_URL=mysql+pymysql://reader@db/pinterest", "A=s3 --uri s3://b"]
    assert parse_settings(pairs) == {
        "A": "s3 --uri s3://b",
        "SOURCE_DATABASE_URL": "mysql+pymysql://reader@db/pinterest",
    }


def test_a_manifest_is_the_same_whenever_it_is_made() -> None:
    def made(at: float, said: str) -> dict[str, object]:
        column = {"created_at": {"description": "a column"}}
        node = {"name": "n", "created_at": at, "columns": column}
        return {"nodes": {"n": node}, "metadata": {"generated_at": said, "dbt_version": "1"}}

    first = constant(made(1.5, "yesterday"))
    assert first == constant(made(2.5, "today"))
    assert b'"a column"' in first
    assert b'"dbt_version"' in first
