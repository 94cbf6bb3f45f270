"""A lake in a bucket: every command, what keeps commits safe there, and dbt."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ingestion import bucket, landing, maintenance
from ingestion import lake as lake_module
from ingestion.bronze import rejected
from ingestion.errors import LakeError
from ingestion.lake import Lake
from ingestion.landing import land_objects
from ingestion.records import KINDS
from ingestion.replay import replay
from ingestion.sources.s3 import open_store
from stack.process import free_port
from tests import hostile, oracle
from tests.commands.test_ingest_command import Done, ingest
from tests.dbt.lakes import PIPELINE, InBucket, assert_oracle_agrees
from tests.report.lakes import SAMPLE, write_lake
from tests.services.conftest import client
from tests.unit.test_lake import another, landed, piece
from tests.unit.test_landing import TOPIC, Sink, assert_exactly_once, lines


@dataclass
class Bucket:
    """A bucket of a test's own, whose variables are set, and boto3's way to it."""

    name: str
    s3: Any
    environment: dict[str, str]

    @property
    def lake(self) -> str:
        return f"s3://{self.name}/some/lake"

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def put(self, key: str, raws: Sequence[bytes]) -> None:
        body = b"".join(raw + b"\n" for raw in raws)
        body = gzip.compress(body) if key.endswith(".gz") else body
        self.s3.put_object(Bucket=self.name, Key=key, Body=body)


@pytest.fixture
def place(store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """It is named as the clients of AWS have it: nothing tells the engines more than those."""
    environment = {name: store[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    environment["AWS_ENDPOINT_URL_S3"] = store["AWS_ENDPOINT_URL"]
    environment["AWS_DEFAULT_REGION"] = store["AWS_DEFAULT_REGION"]
    for name in store:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = Bucket(f"b-{uuid.uuid4().hex}", client("s3", store), environment)
    made.s3.create_bucket(Bucket=made.name)
    return made


@pytest.fixture(autouse=True)
def nothing_found_out_yet() -> Iterator[None]:
    """What a process has found out about stores is not this test's."""
    yield
    bucket._reachable.clear()
    bucket._safe.clear()


# ---------------------------------------------------------------------------- the commands


def test_every_command_on_a_lake_in_a_bucket(place: Bucket, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> Any:
        done = ingest(*arguments, "--json", cwd=tmp_path, LAKE_URI=place.lake)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert ingest("init", cwd=tmp_path, LAKE_URI=place.lake).returncode == 0
    assert place.keys() == [f"some/lake/bronze/{table}/_delta_log/{0:020}.json"
                            for table in ("geo", "pin", "rejected", "user")]  # fmt: skip
    assert run("status") == []
    said = run("synth", "--posts", "60", "--out", "sink")
    received = sum(kind["records"] for kind in said.values())
    streams = run("s3", "--uri", "sink")["streams"]
    assert sum(stream["received"] for stream in streams) == received
    assert [stream["received"] for stream in run("s3", "--uri", "sink")["streams"]] == [0, 0, 0]
    status = run("status")
    assert sum(row["rows"] + row["rejected"] for row in status) == received
    refused = run("rejected", "list")
    assert len(refused) == sum(row["rejected"] for row in status) > 0
    (misrouted,) = [row for row in refused if row["reason"] == "misrouted"][:1]
    goes = next(kind for kind in KINDS if KINDS[kind].fields.keys() & json.loads(misrouted["raw"]))
    assert run("rejected", "replay", misrouted["id"], "--as", goes)["landed"] == {goes: 1}
    assert run("rejected", "replay", "--as", goes)["before"] == 1
    shown = ingest("rejected", "show", misrouted["id"], cwd=tmp_path, LAKE_URI=place.lake)
    assert "replayed  " in shown.stdout
    assert sum(row["rows"] + row["rejected"] for row in run("status")) == received
    tables = run("maintain")["tables"]
    assert [table["table"] for table in tables] == ["pin", "geo", "user", "rejected"]
    kept = place.keys()
    assert sum(key.endswith(".checkpoint.parquet") for key in kept) == 4
    assert not any("probe" in key for key in kept)


def test_objects_are_landed_from_a_bucket(place: Bucket, tmp_path: Path) -> None:
    """Plain and compressed, below a prefix; a page of the listing is full of another pipeline's."""

    def put(pipeline: str, number: int) -> None:
        topic, partition, start = f"{pipeline}.geo", number % 2, number // 2
        name = f"msk/topics/{topic}/partition={partition}/{topic}+{partition}+{start:010}.json"
        name += ".gz" if number % 10 == 0 else ""
        place.put(name, [b'{"ind":%d,"country":"x"}' % number])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, ["0"] * 1_000, range(1_000)))
        list(threads.map(put, [PIPELINE] * 60, range(60)))
    done = ingest("s3", "--uri", f"s3://{place.name}/msk", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["ignored"]) == 1_000
    (geo,) = [stream for stream in told["streams"] if stream["kind"] == "geo"]
    assert (geo["objects"], geo["landed"], geo["gaps"]) == (60, 60, [])
    again = ingest("s3", "--uri", f"s3://{place.name}/msk", cwd=tmp_path)
    assert f"{PIPELINE}.geo  objects 0  landed 0" in again.stdout


def test_two_landers_at_once(
    place: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each commits in small batches; the store lets one of two commits of a number through."""
    monkeypatch.setattr(landing, "BATCH_RECORDS", 40)
    monkeypatch.setattr(landing, "DECODED_RECORDS", 20)
    sink = Sink(tmp_path)
    sink.lake = place.lake
    for start in range(0, 240, 60):
        sink.put(start, lines(start, start + 60))

    def land(_: int) -> int:
        store = open_store(str(sink.folder))
        account = land_objects(Lake(place.lake), store, KINDS["geo"], TOPIC, sink.objects())
        assert account.landed + account.rejected.total() + account.elsewhere == account.received
        return account.landed + account.rejected.total()

    Lake(place.lake).create()
    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(land, range(2))) == 240
    assert_exactly_once(sink, {0: 240})


def test_landers_keep_tables_in_a_bucket_small(
    place: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_module, "_COMMITS_A_CHECKPOINT", 5)
    monkeypatch.setattr(lake_module, "_COMMITS_A_MERGE", 10)
    monkeypatch.setattr(maintenance, "KEPT_COMMITS", 5)
    lake = Lake(place.lake)
    lake.create()
    late = another(lake)
    late.handle("geo")
    for at in range(24):
        lake.append("geo", [piece(at, at + 1)])
    assert len(lake.open("geo").file_uris()) <= 12
    assert len(place.keys("some/lake/bronze/geo/_delta_log/")) <= 24
    # The log does not reach back to this one's version any more.
    assert late.append("geo", [piece(20, 26)]).num_rows == 2
    assert landed(lake) == list(range(26))


# ------------------------------------------------------------------------------- what is wrong


def refused(done: Done, *said: str) -> None:
    """One line on standard error says all this."""
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for text in said:
        assert text in line


@pytest.mark.parametrize("command", [["init"], ["status"], ["maintain"], ["rejected", "list"]])
def test_a_bucket_that_is_not_there(place: Bucket, tmp_path: Path, command: list[str]) -> None:
    uri = f"s3://{place.name}-not/lake"
    done = ingest(*command, cwd=tmp_path, LAKE_URI=uri)
    refused(done, f"{uri}: there is no bucket {place.name}-not; create it or name another")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "does not accept the credentials (Signature"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "does not accept the credentials (InvalidAccessKeyId"),
    ],
)
def test_credentials_that_are_not_accepted(
    place: Bucket, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    for command in ("init", "status"):
        done = ingest(command, cwd=tmp_path, LAKE_URI=place.lake, **variables)
        refused(done, f"{place.lake}: the store {said}", "; correct AWS_ACCESS_KEY_ID")


def test_a_store_that_does_not_answer(place: Bucket, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    for command in ("init", "status"):
        done = ingest(command, cwd=tmp_path, LAKE_URI=place.lake, AWS_ENDPOINT_URL_S3=nobody)
        refused(done, f"{place.lake}: no S3 store answers at {nobody}; start it or correct")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://", "s3:// names no bucket; write s3://bucket or s3://bucket/prefix"),
        ("s3:///lake", "s3:///lake names no bucket"),
        ("s3://no such!/lake", "no such! cannot be a bucket's name; correct it"),
    ],
)
def test_an_address_without_a_bucket(tmp_path: Path, uri: str, said: str) -> None:
    refused(ingest("init", cwd=tmp_path, LAKE_URI=uri, AWS_ACCESS_KEY_ID="a",
                   AWS_SECRET_ACCESS_KEY="b"), said)  # fmt: skip


def test_where_the_store_is_is_told_to_the_engine_as_boto3_reads_it() -> None:
    told = bucket.engine_options("s3://b", {
        "AWS_ENDPOINT_URL": "https://every.service",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_DEFAULT_REGION": "eu-west-1",
    })  # fmt: skip
    assert told == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "eu-west-1",
    }
    assert bucket.engine_options("s3://b", {"AWS_ENDPOINT_URL": "https://x"}) == {
        "AWS_ENDPOINT_URL": "https://x"
    }
    assert bucket.engine_options("s3://b", {}) == {}
    assert bucket.engine_options("./lake", {"AWS_ENDPOINT_URL": "https://x"}) is None


# ------------------------------------------------------------------------ are commits safe


class StandIn(ThreadingHTTPServer):
    """A store in memory, as far as one is asked before anything is landed.

    Attributes:
        answer: the status that a PUT gets of an object that is there and must not be.
        slow: seconds between its look for an object and its writing it; 0 if nobody gets between.
        busy: so many of the next PUTs are not taken.
        objects: what it holds.
        asked: the methods of the requests it got.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.slow = 0.0
        self.busy = 0
        self.writing = Lock()
        self.objects: set[str] = set()
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Answers)


class _Answers(BaseHTTPRequestHandler):
    server: StandIn

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.server.asked.append(self.command)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.server
        with server.writing:
            server.busy -= 1
            status = 503 if server.busy >= 0 else self._refused()
            if status == 200 and not server.slow:
                server.objects.add(self.path)
        if status == 200 and server.slow:
            time.sleep(server.slow)
            server.objects.add(self.path)
        codes = {412: "PreconditionFailed", 501: "NotImplemented", 503: "SlowDown"}
        code = codes.get(status)
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode() if code else b"")

    def _refused(self) -> int:
        conditional = self.headers.get("If-None-Match") == "*"
        there = self.path in self.server.objects
        return self.server.answer if conditional and (self.server.answer == 501 or there) else 200

    def do_DELETE(self) -> None:
        self.server.objects.discard(self.path)
        self._answer(204)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], StandIn]]:
    running = []

    def start(answer: int) -> StandIn:
        server = StandIn(answer)
        running.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("answer", [200, 501], ids=["ignores it", "does not know it"])
def test_a_store_that_overwrites_is_refused(
    stand_in: Callable[[int], StandIn], tmp_path: Path, answer: int
) -> None:
    server = stand_in(answer)
    done = ingest("init", cwd=tmp_path, LAKE_URI="s3://bucket/lake")
    where = f"http://127.0.0.1:{server.server_port}"
    refused(
        done,
        f"s3://bucket/lake: the store at {where} does not honour conditional writes",
        "; use one that does, or set LAKE_URI to a folder",
    )
    with pytest.raises(LakeError, match="does not honour conditional writes"):
        Lake("s3://bucket/lake").append("geo", [piece(0, 1)])
    assert server.objects == set()


def test_a_store_is_asked_once_and_nothing_is_left_in_it(
    stand_in: Callable[[int], StandIn],
) -> None:
    server = stand_in(412)
    for _ in range(3):
        bucket.check_safe("s3://bucket/lake")
    assert Counter(server.asked) == {"GET": 1, "PUT": 3 * 9, "DELETE": 3}
    assert server.objects == set()


def test_a_store_that_looks_and_then_writes_is_refused(
    stand_in: Callable[[int], StandIn],
) -> None:
    """It refuses a write that comes later, but not one that comes in between."""
    server = stand_in(412)
    server.slow = 0.5
    with pytest.raises(LakeError, match="does not honour conditional writes"):
        bucket.check_safe("s3://bucket/lake")
    assert server.objects == set()


def test_a_store_that_is_busy_is_asked_again(
    stand_in: Callable[[int], StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "_PAUSE", 0.0)
    server = stand_in(412)
    server.busy = 3
    bucket.check_safe("s3://bucket/lake")
    bucket._safe.clear()
    server.busy = 1_000
    with pytest.raises(LakeError, match=r"s3://bucket/lake: .*SlowDown"):
        bucket.check_safe("s3://bucket/lake")
    assert 1_000 - server.busy < 100


def test_upkeep_commits_too(stand_in: Callable[[int], StandIn], tmp_path: Path) -> None:
    server = stand_in(200)
    done = ingest("maintain", cwd=tmp_path, LAKE_URI="s3://bucket/lake")
    refused(done, "s3://bucket/lake: the store at", "does not honour conditional writes")
    server.asked.clear()
    refused(ingest("maintain", "--dry-run", cwd=tmp_path, LAKE_URI="s3://bucket/lake"), "init")
    assert "PUT" not in server.asked


# --------------------------------------------------------------------------------------- dbt


def test_dbt_builds_a_lake_in_a_bucket(place: Bucket, tmp_path: Path) -> None:
    """What was landed, replayed and merged there; then what came after that."""
    at = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    built = InBucket(tmp_path, address=place.lake)
    whole = {kind: [raw for raw in raws if raw.strip()]
             for kind, raws in hostile.hostile_lines(seed=4, posts=20).items()}  # fmt: skip
    lake = Lake(place.lake, clock=lambda: at)
    lake.create()

    def land(part: int) -> None:
        for kind, raws in whole.items():
            half = raws[part::2]
            first = built.offsets[kind]
            name = f"topics/{PIPELINE}.{kind}/partition=0/{PIPELINE}.{kind}+0+{first:010}.json"
            place.put(name, half)
            built.know({kind: half}, at)
        store = open_store(f"s3://{place.name}")
        for kind in KINDS:
            items = _objects(store, f"{PIPELINE}.{kind}")
            land_objects(lake, store, KINDS[kind], f"{PIPELINE}.{kind}", items)

    land(0)
    for kind in KINDS:
        for record in list(rejected(place.lake, "misrouted", kind)):
            for into in KINDS.values():
                if replay(lake, [record], into).landed.total():
                    taken = oracle.land(into.name, record.raw)
                    assert isinstance(taken, oracle.Landed)
                    built.records[into.name].append(((at, int(record.position)), taken))
                    built.rejected[kind, "misrouted"] -= 1
    built.rejected = +built.rejected  # without those of which none is left
    with built.dbt(LAKE_URI=place.lake, **place.environment) as dbt:
        dbt.succeed("build --exclude resource_type:unit_test")
        assert_oracle_agrees(built)
        at = at.replace(hour=20)
        land(1)
        for table in KINDS:
            maintenance.maintain(table, lake.open(table), lake.engine_options)
        dbt.succeed("run")
    assert_oracle_agrees(built)
    done = subprocess.run(
        [sys.executable, "-m", "reporting", "answers", "--json"],
        env={**os.environ, "LAKE_URI": place.lake},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert place.lake in done.stdout
    # What dbt's own tables do not need any more goes, and nothing that they do.
    clearing = ("maintain", "--all", "--retention", "0", "--short-retention", "--json")
    done = ingest(*clearing, "--dry-run", cwd=tmp_path, LAKE_URI=place.lake)
    before, would = set(place.keys()), json.loads(done.stdout)["removed_elsewhere"]
    assert set(place.keys()) == before
    done = ingest(*clearing, cwd=tmp_path, LAKE_URI=place.lake)
    removed = json.loads(done.stdout)["removed_elsewhere"]
    assert removed == would
    # Staging's are in use still, though the log calls them removed: rows were marked in them.
    assert removed["marts/data_quality"] > 0
    assert_oracle_agrees(built)


def _objects(store: Any, topic: str) -> list[Any]:
    from ingestion.sources.s3 import parse_name

    found = [parse_name(key, size) for key, size in store.list()]
    return [item for item in found if item is not None and item.topic == topic]


# ---------------------------------------------------------------------------- the pages


def reporting(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reporting", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_page_is_published_in_a_bucket(place: Bucket, tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", SAMPLE)
    out = f"s3://{place.name}/site/index.html"
    done = reporting("page", "--lake", lake, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out} (")
    assert place.keys() == ["site/index.html"]
    found = place.s3.get_object(Bucket=place.name, Key="site/index.html")
    page = found["Body"].read().decode()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "Côte d&#39;Or" in page or "Côte d'Or" in page
    assert found["ContentType"] == "text/html; charset=utf-8"


def test_the_dbt_docs_are_published_in_a_bucket(place: Bucket, tmp_path: Path) -> None:
    page = "<!doctype html>\r\n<p>zwölf Antworten</p>\n".encode()
    (tmp_path / "static_index.html").write_bytes(page)
    for _ in range(2):
        out = f"s3://{place.name}/site/docs.html"
        done = reporting("docs", "--target", tmp_path, "--out", out)
        assert done.returncode == 0, done.stderr
    assert place.keys() == ["site/docs.html"]
    found = place.s3.get_object(Bucket=place.name, Key="site/docs.html")
    assert found["Body"].read() == page
    assert found["ContentType"] == "text/html; charset=utf-8"


def test_a_page_that_a_bucket_does_not_take(
    place: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(out: str, *said: str) -> None:
        done = reporting("docs", "--target", tmp_path, "--out", out)
        refused(
            Done(done.returncode, done.stdout.encode(), done.stderr), f"cannot write {out}: ", *said
        )
        assert "LAKE_URI" not in done.stderr

    out = f"s3://{place.name}/docs.html"
    done = reporting("docs", "--target", tmp_path, "--out", out)
    refused(Done(done.returncode, done.stdout.encode(), done.stderr),
            str(tmp_path / "static_index.html"), "run 'dbt docs generate --static'")  # fmt: skip
    (tmp_path / "static_index.html").write_text("a page")
    absent = f"s3://{place.name}-not/docs.html"
    for _ in range(2):  # the first has not made it
        told(absent, f"there is no bucket {place.name}-not; create it or name another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    told(out, "the store does not accept the credentials")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    told(out, "no S3 store answers at http://127.0.0.1:", "start it or correct")
    assert place.keys() == []


def test_who_may_not_look_into_a_bucket_may_write_to_it(
    place: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store here has no such policies; the client is told what AWS would answer."""

    def may_not(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": code}}, "ListObjectsV2")

    made = bucket.connect()
    monkeypatch.setattr(made, "list_objects_v2", may_not)
    monkeypatch.setattr(bucket, "connect", lambda: made)
    code = "AccessDenied"
    bucket.put(f"s3://{place.name}/page", b"a page", "text/html")
    assert place.keys() == ["page"]
    code = "SlowDown"
    with pytest.raises(LakeError, match="SlowDown"):
        bucket.put(f"s3://{place.name}/another", b"a page", "text/html")
    assert place.keys() == ["page"]
