"""`ingest archive` from a real broker into a folder and into a real store."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingestion import cli
from ingestion.lake import REJECTED
from ingestion.records import KINDS
from ingestion.sink import BucketTarget, FolderTarget, Sink, archive
from ingestion.sources.kafka import KafkaReader, client_settings
from ingestion.sources.s3 import Store, open_store, parse_name, read_lines
from tests import hostile
from tests.services.conftest import client, eventually
from tests.services.test_kafka import Commands, Pipeline, Ran, geo, wait_until
from tests.unit.test_lake import rows


class Archiving(Pipeline):
    """A pipeline that is archived."""

    def archive(self, uri: Path | str, *arguments: str) -> Ran:
        """Run `ingest archive` in this process."""
        where = ["--bootstrap-servers", self.servers, "--pipeline-id", self.id]
        return self.run("archive", "--json", "--uri", str(uri), *where, *arguments)

    def land(self, uri: Path | str, lake: Path) -> Ran:
        """Land what was archived."""
        where = ["--lake", str(lake), "--pipeline-id", self.id]
        return self.run("s3", "--json", "--uri", str(uri), *where)

    def run(self, *arguments: str) -> Ran:
        assert self.capsys is not None
        self.capsys.readouterr()
        code = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["ingest", *arguments])
            try:
                cli.main()
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Ran(code, *self.capsys.readouterr())


@pytest.fixture
def pipeline(
    broker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Archiving]:
    made = Archiving(broker, tmp_path)
    made.capsys = capsys
    yield made
    made.producer.close()
    made.admin.close()


@pytest.fixture
def commands() -> Iterator[Commands]:
    with Commands() as made:
        yield made


@pytest.fixture
def bucket(store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket that the commands reach."""
    name = f"b{uuid4().hex}"
    eventually(lambda: client("s3", store).create_bucket(Bucket=name))
    for variable, value in store.items():
        monkeypatch.setenv(variable, value)
    return f"s3://{name}/archive"


def archived(store: Store, topic: str) -> Counter[tuple[int, int]]:
    """How often each offset of a topic is there, by (partition, offset)."""
    found: Counter[tuple[int, int]] = Counter()
    for key, size in store.list():
        item = parse_name(key, size)
        assert item is not None
        if item.topic == topic:
            count = sum(len(lines) for lines, _ in read_lines(store, item))
            found.update((item.partition, at) for at in range(item.start, item.start + count))
    return found


def table(lake: Path | str, name: str) -> list[tuple[Any, ...]]:
    """A table's rows without the time they landed and the kind of source."""
    columns = ["kind", "reason"] if name == REJECTED else ["ind", *KINDS[name].fields, "_rescued"]
    wanted = ", ".join(f'"{column}"' for column in ("_stream", "_partition", "_position", *columns))
    return sorted(rows(str(lake), name, wanted), key=repr)


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_what_was_archived_lands_as_what_came(
    pipeline: Archiving, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    """Hostile lines, values of nothing, and text with line breaks, in several partitions."""
    uri = tmp_path / "sink" if place == "folder" else request.getfixturevalue("bucket")
    pipeline.create(partitions=2)
    for kind, lines in hostile.hostile_lines(seed=8, posts=20).items():
        pipeline.send(kind, [*lines[:300], None, b"", b" \n", b'{"ind":1\n,"x":2}', b"{\n"])
        pipeline.send(kind, lines[300:], partition=1)
    for _ in range(2):  # the second finds everything written
        ran = pipeline.archive(uri, "--flush-size", "100")
        assert ran.code == 0, ran.err
    assert sum(stream["objects"] for stream in json.loads(ran.out)["streams"]) == 0
    pipeline.ingest()
    ran = pipeline.land(uri, tmp_path / "from_sink")
    assert ran.code == 0, ran.err
    assert all(stream["gaps"] == [] for stream in ran.streams().values())
    for name in (*KINDS, REJECTED):
        assert table(tmp_path / "from_sink", name) == table(pipeline.lake, name)
        assert table(pipeline.lake, name)


def test_holes_and_removed_records(pipeline: Archiving, tmp_path: Path) -> None:
    pipeline.create("geo")
    pipeline.send("geo", geo(0, 30))
    pipeline.archive(tmp_path / "sink")
    pipeline.send("geo", geo(30, 60))
    pipeline.remove("geo", before=40)
    ran = pipeline.archive(tmp_path / "sink")
    assert ran.code == 1
    assert "[30, 40) were removed from Kafka before they were read; --accept-gap" in ran.err
    geo_account = json.loads(pipeline.archive(tmp_path / "sink", "--accept-gap").out)["streams"][1]
    assert (geo_account["records"], geo_account["gaps"]) == (20, [[0, 30, 39]])
    found = archived(open_store(str(tmp_path / "sink")), pipeline.topic("geo"))
    assert found == Counter({(0, at): 1 for at in (*range(30), *range(40, 60))})
    pipeline.delete("geo")
    pipeline.create("geo")
    pipeline.send("geo", [b'{"ind":1,"country":"another"}'] * 100)
    ran = pipeline.archive(tmp_path / "sink")
    assert ran.code == 1
    assert "the record at 59 is not the one in" in ran.err
    assert archived(open_store(str(tmp_path / "sink")), pipeline.topic("geo")) == found


def test_a_store_that_does_not_answer(
    pipeline: Archiving, store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in store.items():
        monkeypatch.setenv(variable, value)
    ran = pipeline.archive("s3://no-such-bucket-anywhere/x")
    assert ran.code == 1
    assert "there is no bucket no-such-bucket-anywhere; create it or name another place" in ran.err
    assert (
        "gs://x is neither a path of this machine nor s3://bucket/prefix; correct --uri"
        in pipeline.archive("gs://x").err
    )


def test_killed_and_run_again_every_offset_is_there_once(
    pipeline: Archiving, tmp_path: Path, commands: Commands
) -> None:
    """Three that follow together, killed as they write; the last one ends when asked."""
    uri = tmp_path / "sink"
    pipeline.create("geo", partitions=2)
    sent = 0

    where = ["--bootstrap-servers", pipeline.servers, "--pipeline-id", pipeline.id]
    how = ["--follow", "--max-latency", "0.05", "--flush-size", "50", "--uri", str(uri)]

    def written() -> int:
        return sum(1 for path in uri.rglob("*.json"))

    running = [commands.start("archive", *where, *how) for _ in range(3)]
    for number, child in enumerate(running):
        before = written()
        for _ in range(4):
            for partition in (0, 1):
                pipeline.send("geo", geo(sent, sent + 200), partition)
            sent += 200
        wait_until(lambda before=before: written() > before + 3)  # type: ignore[misc]
        child.send_signal(signal.SIGTERM if number == 2 else signal.SIGKILL)
        assert child.wait(30) == (0 if number == 2 else -signal.SIGKILL)
    assert pipeline.archive(uri).code == 0
    assert archived(open_store(str(uri)), pipeline.topic("geo")) == Counter(
        {(partition, at): 1 for partition in (0, 1) for at in range(sent)}
    )
    assert pipeline.land(uri, tmp_path / "lake").streams()["geo"]["landed"] == 2 * sent
    assert all(int(at) == ind for at, ind in rows(str(tmp_path / "lake"), "geo", "_position, ind"))


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_several_at_once(
    pipeline: Archiving, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    """They follow while records come, each cutting its objects otherwise."""
    uri = str(tmp_path / "sink") if place == "folder" else request.getfixturevalue("bucket")
    target = FolderTarget if place == "folder" else BucketTarget
    pipeline.create("geo")
    topic = pipeline.topic("geo")
    stop = threading.Event()
    sinks = [Sink(target(uri), [topic], flush_size) for flush_size in (20, 33, 1000)]
    # Whoever is slow to begin still believes that nothing is there.
    assert [sink.end(topic, 0) for sink in sinks] == [0, 0, 0]

    def follow(sink: Sink) -> None:
        settings = client_settings({"KAFKA_BOOTSTRAP_SERVERS": pipeline.servers})
        reader = KafkaReader(settings, [topic], lambda: cli_stored(sink), follow=True, overlap=1)
        try:
            archive(sink, reader, max_latency=0.02, stopping=stop.is_set)
        finally:
            reader.close()

    threads = [threading.Thread(target=follow, args=(sink,)) for sink in sinks]
    for thread in threads:
        thread.start()
    try:
        for start in range(0, 500, 50):
            pipeline.send("geo", geo(start, start + 50))
        wait_until(lambda: sum(sink.archived[topic].records for sink in sinks) == 500)
        wait_until(lambda: sum(sink.archived[topic].elsewhere for sink in sinks) > 0)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert archived(open_store(uri), topic) == Counter({(0, at): 1 for at in range(500)})


def cli_stored(sink: Sink) -> Any:
    from ingestion.commands.archive import _stored

    return _stored(sink)
