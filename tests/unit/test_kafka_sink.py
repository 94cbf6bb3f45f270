"""Objects of the S3 sink's layout, as they are written: bytes, names, races, and what stands in."""

from __future__ import annotations

import errno
import gzip
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion import sink
from ingestion.errors import PipelineError, SourceError
from ingestion.lake import Origin
from ingestion.landing import Chunk
from ingestion.records import KINDS, decode, is_blank
from ingestion.sink import FolderTarget, Sink, key_of, line_of
from ingestion.sources.s3 import Folder, parse_name, read_lines
from tests import hostile

TOPIC = "t.geo"
PLACE = f"topics/{TOPIC}/partition=0/{TOPIC}+0+"


def chunk(start: int, values: Sequence[bytes], end: int | None = None, **more: object) -> Chunk:
    offsets = range(start, start + len(values))
    stop = offsets.stop if end is None else end
    return Chunk(Origin("kafka", TOPIC, "0"), start, stop, offsets, values, **more)  # type: ignore[arg-type]


def numbers(start: int, end: int) -> list[bytes]:
    return [b"%d" % at for at in range(start, end)]


def written(folder: Path) -> dict[str, bytes]:
    """All files, by what follows the topic and partition in their names."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert all(key.startswith(PLACE) for key in found)
    return {key.removeprefix(PLACE): path.read_bytes() for key, path in sorted(found.items())}


def offsets(folder: Path) -> dict[int, list[bytes]]:
    """The lines of each offset, as a reader counts them."""
    store, lines_of = Folder(str(folder)), dict[int, list[bytes]]()
    for key, size in store.list():
        item = parse_name(key, size)
        assert item is not None
        offset = item.start
        for lines, _ in read_lines(store, item):
            for line in lines:
                lines_of.setdefault(offset, []).append(line)
                offset += 1
    return lines_of


def a_sink(folder: Path, flush_size: int = 10, compress: bool = False) -> Sink:
    return Sink(FolderTarget(str(folder)), [TOPIC], flush_size, compress, now=lambda: 0.0)


# ------------------------------------------------------------------------------ lines


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (b'{"a": 1}', b'{"a": 1}'),
        (b'{"a":\n1}\n', b'{"a": 1} '),
        (b'{\r\n"a":1}', b'{  "a":1}'),
        (b'{"a":"b\\n"}', b'{"a":"b\\n"}'),
        (b'{"a":"b\nc"}', b'{"a":"b\x1ac"}'),
        (b"{\n", b"{\x1a"),
        (b"", b"\x1a"),
        (b" \n\t", b"\x1a"),
        (b"not\rJSON", b"not\x1aJSON"),
        (b"[" * 2000 + b"\n", b"[" * 2000 + b"\x1a"),
        (b"[" * 500 + b"\n" + b"]" * 500, b"[" * 500 + b" " + b"]" * 500),
        # Malformed by the contract, whatever a decoder would make of it.
        (b"[" * 501 + b"\n" + b"]" * 501, b"[" * 501 + b"\x1a" + b"]" * 501),
        (b"[" * 5000 + b"\n" + b"]" * 5000, b"[" * 5000 + b"\x1a" + b"]" * 5000),
    ],
)
def test_every_value_takes_one_line(value: bytes, line: bytes) -> None:
    assert line_of(value) == line


@settings(deadline=None)
@given(st.sampled_from(hostile.hostile_lines(seed=4, posts=30)["geo"]), st.data())
def test_a_line_is_landed_or_rejected_as_its_value(value: bytes, data: st.DataObject) -> None:
    for place in data.draw(st.lists(st.integers(0, len(value)), max_size=3)):
        value = value[:place] + data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"])) + value[place:]
    line = line_of(value)
    assert not is_blank(line)
    assert len(line.splitlines()) == 1
    from_value, from_line = (decode(KINDS["geo"], [raw]) for raw in (value, line))
    assert from_line.rows.drop_columns("_rescued") == from_value.rows.drop_columns("_rescued")
    assert [(item.index, item.reason) for item in from_line.rejected] == [
        (item.index, item.reason) for item in from_value.rejected
    ]


# ----------------------------------------------------------------------------- objects


def test_the_layout_byte_for_byte(tmp_path: Path) -> None:
    one = a_sink(tmp_path)
    one.add(chunk(0, numbers(0, 7)))
    one.add(chunk(7, numbers(7, 23)))
    one.close()
    assert written(tmp_path) == {
        "0000000000.json": b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n",
        "0000000010.json": b"10\n11\n12\n13\n14\n15\n16\n17\n18\n19\n",
        "0000000020.json": b"20\n21\n22\n",
    }
    archived = one.archived[TOPIC]
    assert (archived.objects, archived.records, archived.size) == (3, 23, 59)


def test_compressed_objects_are_the_same_every_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        one = a_sink(tmp_path / folder, compress=True)
        one.add(chunk(5, numbers(5, 12)))
        one.close()
    found = written(tmp_path / "a")
    assert list(found) == ["0000000005.json.gz", "0000000010.json.gz"]
    assert gzip.decompress(found["0000000005.json.gz"]) == b"5\n6\n7\n8\n9\n"
    assert found == written(tmp_path / "b")


def test_an_object_ends_where_offsets_are_missing(tmp_path: Path) -> None:
    one = a_sink(tmp_path)
    one.add(Chunk(Origin("kafka", TOPIC, "0"), 0, 9, [0, 1, 4, 5, 7], numbers(0, 5)))
    one.add(chunk(9, [b"x", b""], end=14))
    one.add(chunk(14, [], end=17))
    one.add(chunk(17, [b"y"]))
    one.close()
    assert written(tmp_path) == {
        "0000000000.json": b"0\n1\n",
        "0000000004.json": b"2\n3\n",
        "0000000007.json": b"4\n",
        "0000000009.json": b"x\n",
        "0000000010.json": b"\x1a\n",
        "0000000017.json": b"y\n",
    }
    assert one.archived[TOPIC].altered == 1


def test_writing_goes_on_where_the_objects_end(tmp_path: Path) -> None:
    for end in (4, 4, 17, 30):
        one = a_sink(tmp_path)
        one.add(chunk(max(0, one.end(TOPIC, 0) - 1), numbers(max(0, one.end(TOPIC, 0) - 1), end)))
        one.close()
        assert one.end(TOPIC, 0) == end
    assert list(written(tmp_path)) == [f"{start:010}.json" for start in (0, 4, 10, 17, 20)]
    assert offsets(tmp_path) == {at: [b"%d" % at] for at in range(30)}


def test_another_topics_records_are_refused(tmp_path: Path) -> None:
    one = a_sink(tmp_path)
    one.add(chunk(0, [b'{"a": 1, "b": 2}'] * 3))
    one.close()
    again = a_sink(tmp_path)
    assert again.end(TOPIC, 0) == 3
    again.add(chunk(2, [b'{"b":2,"a":1}', b"3"]))
    again.close()
    another = a_sink(tmp_path)
    with pytest.raises(
        SourceError, match=r"the record at 3 is not the one in .*; the topic was cre"
    ):
        another.add(chunk(3, [b"4", b"5"]))
    assert offsets(tmp_path)[3] == [b"3"]


def test_what_Kafka_had_removed_is_told(tmp_path: Path) -> None:
    one = a_sink(tmp_path)
    one.add(chunk(40, numbers(40, 42), follows=False))
    one.close()
    assert one.archived[TOPIC].gaps == []
    one.add(chunk(50, numbers(50, 52), follows=False))
    one.close()
    assert one.archived[TOPIC].gaps == [(0, 42, 49)]
    assert sorted(offsets(tmp_path)) == [40, 41, 50, 51]


def test_old_records_are_written_and_what_is_held_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    one = Sink(FolderTarget(str(tmp_path)), [TOPIC], 1000, now=lambda: now[0])
    one.add(chunk(0, numbers(0, 3)))
    now[0] = 9.0
    one.write_old(10)
    assert written(tmp_path) == {}
    now[0] = 10.0
    one.write_old(10)
    assert written(tmp_path) == {"0000000000.json": b"0\n1\n2\n"}
    monkeypatch.setattr(sink, "HELD_BYTES", 10)
    one.add(chunk(3, [b"x" * 6]))
    one.add(chunk(4, [b"x" * 6]))
    assert written(tmp_path)["0000000003.json"] == b"xxxxxx\nxxxxxx\n"


# ------------------------------------------------------------------------------- others


def test_whoever_is_second_goes_on_from_what_is_there(tmp_path: Path) -> None:
    """Objects of two writers who began together; every offset is there once."""
    one, two = a_sink(tmp_path), a_sink(tmp_path)
    assert one.end(TOPIC, 0) == two.end(TOPIC, 0) == 0
    one.add(chunk(0, numbers(0, 7)))
    one.close()
    two.add(chunk(0, numbers(0, 35)))
    two.close()
    one.add(chunk(7, numbers(7, 33)))
    one.add(chunk(33, numbers(33, 52)))
    one.close()
    two.add(chunk(35, numbers(35, 60)))
    two.close()
    assert offsets(tmp_path) == {at: [b"%d" % at] for at in range(60)}
    records = [writer.archived[TOPIC].records for writer in (one, two)]
    assert sum(records) == 60
    assert min(records) > 0
    assert one.archived[TOPIC].elsewhere > 0


def test_many_who_write_at_once(tmp_path: Path) -> None:
    writers = [a_sink(tmp_path, flush_size=7 + number % 2) for number in range(4)]

    def write(one: Sink, size: int) -> None:
        for start in range(0, 200, size):
            one.add(chunk(start, numbers(start, min(200, start + size))))
            one.write_old(0)

    threads = [
        threading.Thread(target=write, args=(one, 5 + 3 * number))
        for number, one in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert offsets(tmp_path) == {at: [b"%d" % at] for at in range(200)}
    assert sum(one.archived[TOPIC].records for one in writers) == 200


def test_an_object_that_holds_nothing_is_named(tmp_path: Path) -> None:
    path = tmp_path / key_of(TOPIC, 0, 0, compress=False)
    path.parent.mkdir(parents=True)
    path.touch()
    one = a_sink(tmp_path)
    one.add(chunk(0, numbers(0, 3)))
    with pytest.raises(SourceError, match=r"0000000000\.json is there and holds nothing; remove"):
        one.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PipelineError, match="file cannot be written: Not a directory; free space"):
        FolderTarget(str(tmp_path / "file"))
    target = FolderTarget(str(tmp_path))
    (tmp_path / "topics" / TOPIC).touch()
    with pytest.raises(PipelineError, match="cannot be written: Not a directory"):
        target.create(key_of(TOPIC, 0, 0, compress=False), b"")
    assert not list(tmp_path.glob(".partial-*"))


def test_what_killed_writers_left_goes_after_a_day(tmp_path: Path) -> None:
    FolderTarget(str(tmp_path))
    old, new = tmp_path / f".partial-{'0' * 32}", tmp_path / f".partial-{'1' * 32}"
    for path in (old, new):
        path.write_bytes(b"half a rec")
    a_day_ago = time.time() - 25 * 3600
    os.utime(old, (a_day_ago, a_day_ago))
    one = a_sink(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)
    new.unlink()
    one.add(chunk(0, numbers(0, 3)))
    one.close()
    assert offsets(tmp_path) == {at: [b"%d" % at] for at in range(3)}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Nothing is written of the object that does not fit, and the next run goes on there."""
    one = a_sink(tmp_path)
    one.add(chunk(0, numbers(0, 12)))

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PipelineError, match=f"written: {os.strerror(number)}; free space or"):
            one.close()
    assert list(written(tmp_path)) == ["0000000000.json"]
    again = a_sink(tmp_path)
    assert again.end(TOPIC, 0) == 10
    again.add(chunk(9, numbers(9, 12)))
    again.close()
    assert offsets(tmp_path) == {at: [b"%d" % at] for at in range(12)}


def test_a_folder_that_cannot_be_used_any_more(tmp_path: Path) -> None:
    root = tmp_path / "sink"
    target = FolderTarget(str(root))
    with pytest.raises(SourceError, match="cannot be listed: File name too long; check its perm"):
        list(target.objects("t" * 300, 0))
    (root / "topics").rmdir()
    root.rmdir()
    root.touch()
    with pytest.raises(PipelineError, match="cannot be written: Not a directory"):
        target.create(key_of(TOPIC, 0, 0, compress=False), b"")


@pytest.mark.parametrize("compress", [False, True])
def test_names_that_would_not_keep_writers_apart_are_refused(
    tmp_path: Path, compress: bool
) -> None:
    one = a_sink(tmp_path, compress=compress)
    one.add(chunk(0, numbers(0, 5)))
    one.close()
    how = "with" if compress else "without"
    with pytest.raises(SourceError, match=rf"0000000000\.json.* is there; go on {how} --gzip, or"):
        a_sink(tmp_path, compress=not compress).end(TOPIC, 0)
    assert a_sink(tmp_path, compress=compress).end(TOPIC, 0) == 5
