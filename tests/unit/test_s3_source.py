"""The S3 sink's objects: names, which of them to open, and their lines with offsets."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ingestion.commands.s3
from ingestion.errors import AddressError, SourceError
from ingestion.offsets import Offsets
from ingestion.sources import s3
from ingestion.sources.s3 import Bucket, Folder, SinkObject, open_store, outstanding, parse_name


class One:
    """A store with one object, or with one that cannot be opened."""

    uri = "memory"

    def __init__(self, data: bytes | Exception) -> None:
        self.data = data

    def list(self) -> Iterator[tuple[str, int]]:
        yield "topics/o", 0

    def open(self, key: str) -> IO[bytes]:
        assert key == "topics/o"
        if isinstance(self.data, Exception):
            raise self.data
        return io.BytesIO(self.data)


def runs(
    stored: bytes | Exception, *, zipped: bool = False, seen: list[bytes] | None = None
) -> list[tuple[list[bytes], int]]:
    """What `read_lines` yields; `seen` gets the lines that come before an error."""
    found = []
    for lines, size in s3.read_lines(One(stored), SinkObject("topics/o", "t", 0, 40, 0, zipped)):
        found.append((lines, size))
        if seen is not None:
            seen += lines
    return found


def read(stored: bytes, *, zipped: bool = False) -> list[bytes]:
    return [line for lines, _ in runs(stored, zipped=zipped) for line in lines]


def packed(data: bytes, zipped: bool) -> bytes:
    return gzip.compress(data) if zipped else data


# ------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("0a60.pin+0+0000000000.json", ("0a60.pin", 0, 0, False)),
        ("0a60.pin+12+0000001234.json", ("0a60.pin", 12, 1234, False)),
        ("0a60.pin+2+0000000007.json.gz", ("0a60.pin", 2, 7, True)),
        ("a+b+3+0000000001.json", ("a+b", 3, 1, False)),
        ("t+0+123456789012345678.json", ("t", 0, 123456789012345678, False)),
    ],
)
def test_a_name_tells_topic_partition_and_offset(name: str, found: tuple[Any, ...]) -> None:
    key = f"msk/topics/t/partition=0/{name}"
    assert parse_name(key, 5) == SinkObject(key, *found[:3], size=5, gzip=found[3])


@pytest.mark.parametrize(
    "name",
    [
        "_SUCCESS",
        ".t+0+0000000000.json.partial",
        "t+0+0000000000.json.partial",
        "t+0+0000000000.avro",
        "t+0+0000000000.json.gz.tmp",
        "t+0+000000000.json",
        "t+x+0000000000.json",
        "t+-1+0000000000.json",
        "+0+0000000000.json",
        "t-0-0000000000.json",
        "t+0+0000000000.json\n",
        "t+0+٠٠٠٠٠٠٠٠٠٠.json",
        "",
    ],
)
def test_other_names_are_none_of_ours(name: str) -> None:
    assert parse_name(f"topics/t/partition=0/{name}", 5) is None


# -------------------------------------------------------------------- which to open


def at(*starts: int) -> list[SinkObject]:
    return [SinkObject(f"o{n}+{start}", "t", 0, start, 1, False) for n, start in enumerate(starts)]


@pytest.mark.parametrize(
    ("starts", "landed", "opened"),
    [
        ([0, 10, 20], [], [0, 10, 20]),
        ([20, 0, 10], [], [0, 10, 20]),
        ([0, 10, 20], [(0, 20)], [20]),
        ([0, 10, 20], [(0, 25)], [20]),  # the last may have grown
        ([0, 10, 20], [(0, 10), (20, 30)], [10, 20]),
        ([0, 10, 20], [(10, 30)], [0, 20]),
        ([0, 10, 20], [(0, 15), (20, 30)], [10, 20]),
        ([5, 10], [], [5, 10]),
        ([0, 0, 10], [(0, 5)], [0, 0, 10]),
        ([0, 0, 10], [(0, 10)], [10]),
        ([], [], []),
    ],
)
def test_objects_that_may_hold_something_new_are_opened(
    starts: list[int], landed: list[tuple[int, int]], opened: list[int]
) -> None:
    found = outstanding(at(*starts), Offsets.of(landed))
    assert [item.start for item in found] == opened


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_no_object_with_something_new_is_left_closed(
    layout: list[tuple[int, int]], landed: list[bool]
) -> None:
    """Objects of any length after gaps of any length, each landed or not."""
    start = 0
    objects, held = [], Offsets()
    due = set()
    for (gap, length), is_landed in zip(layout, landed, strict=False):
        start += gap
        objects += at(start)
        held = held.add(start, start + length) if is_landed else held
        due |= set() if is_landed else {start}
        start += length
    assert due <= {item.start for item in outstanding(objects, held)}


# ------------------------------------------------------------------------------- lines


@pytest.fixture(params=[1, 2, 3, 7, 2**20])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(s3, "_READ_BYTES", request.param)
    return int(request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", []),
        (b"a\nbb\nccc\n", [b"a", b"bb", b"ccc"]),
        (b"a\nbb\nccc", [b"a", b"bb", b"ccc"]),
        (b"a", [b"a"]),
        (b"a\r\nb\r\n", [b"a\r", b"b\r"]),
        (
            b"a\rb\x0bc\x0cd\x1ce\xc2\x85f\xe2\x80\xa8g\n",
            [b"a\rb\x0bc\x0cd\x1ce\xc2\x85f\xe2\x80\xa8g"],
        ),
        (b"\n\na\n\n \n\t\r\nb\n\n", [b"a", b"b"]),
        (b"  \na", [b"a"]),
        (b"a\n  ", [b"a"]),
        (b"\xff\n\x00\n", [b"\xff", b"\x00"]),
    ],
)
def test_lines(data: bytes, lines: list[bytes], zipped: bool) -> None:
    assert read(packed(data, zipped), zipped=zipped) == lines


@given(
    st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"-")), max_size=12),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
)
def test_lines_do_not_depend_on_where_blocks_end(
    lines: list[bytes], size: int, zipped: bool, ended: bool
) -> None:
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, "_READ_BYTES", size)
        found = runs(packed(data, zipped), zipped=zipped)
    assert [line for part, _ in found for line in part] == [line for line in lines if line.strip()]
    assert sum(size for _, size in found) == len(packed(data, zipped))


def test_the_bytes_read_of_a_compressed_object_are_those_stored() -> None:
    data = b"".join(b"%d\n" % number for number in range(500_000))
    sizes = [size for _, size in runs(gzip.compress(data), zipped=True)]
    assert len(sizes) > 2
    assert sum(sizes) == len(gzip.compress(data))


def test_a_gzip_file_of_several_members() -> None:
    stored = gzip.compress(b"a\nb") + gzip.compress(b"b\nc\n")
    assert read(stored, zipped=True) == [b"a", b"bb", b"c"]


# ------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nshort\n"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_line_as_long_as_allowed_is_read_and_a_longer_one_is_not(
    monkeypatch: pytest.MonkeyPatch, size: int, end: bytes, zipped: bool
) -> None:
    monkeypatch.setattr(s3, "_READ_BYTES", size)
    monkeypatch.setattr(s3, "MAX_LINE_BYTES", 10)
    whole = packed(b"a\n" + b"b" * 10 + end, zipped)
    assert read(whole, zipped=zipped)[1] == b"b" * 10
    seen: list[bytes] = []
    with pytest.raises(SourceError) as caught:
        runs(packed(b"a\nb\n" + b"c" * 11 + end, zipped), zipped=zipped, seen=seen)
    assert seen == [b"a", b"b"]
    for said in ("memory: topics/o", "the line at offset 42 ", "shorten it"):
        assert said in str(caught.value)


def test_the_limit_leaves_room_for_what_a_broker_takes() -> None:
    assert s3.MAX_LINE_BYTES >= 10 * 2**20


# --------------------------------------------------------------------- damaged objects


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: stored[:0],
        lambda stored: stored[:5],
        lambda stored: stored[:-1],
        lambda stored: stored[: len(stored) // 2],
        lambda stored: stored[:50] + bytes([stored[50] ^ 0xFF]) + stored[51:],
        lambda stored: stored[:-6] + bytes([stored[-6] ^ 1]) + stored[-5:],
        lambda stored: b"plain text\n" + stored,
        lambda stored: stored + b"rubbish",
    ],
    ids=["empty", "header", "one byte", "half", "middle", "checksum", "not gzip", "trailing"],
)
def test_nothing_of_a_damaged_gzip_object_is_taken(damage: Any) -> None:
    stored = damage(gzip.compress(os.urandom(4_000).hex().encode() + b"\nb\n"))
    seen: list[bytes] = []
    with pytest.raises(SourceError) as caught:
        runs(stored, zipped=True, seen=seen)
    assert seen == []
    for said in ("memory: topics/o ", "not a whole gzip file", "the next run picks it up"):
        assert said in str(caught.value)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), TimeoutError("slow")])
def test_an_object_that_cannot_be_opened(error: OSError) -> None:
    with pytest.raises(SourceError, match=r"memory: topics/o cannot be read: (Permission|slow)"):
        runs(error)


def test_an_error_of_ours_is_not_disguised() -> None:
    with pytest.raises(ZeroDivisionError):
        runs(ZeroDivisionError())


# -------------------------------------------------------------------------------- stores


def test_a_folder_lists_what_lies_below_topics_in_order(tmp_path: Path) -> None:
    for name in ("topics/t/partition=1/b", "topics/t/partition=0/a", "topics/x", "elsewhere/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    store = open_store(str(tmp_path))
    assert [key for key, _ in store.list()] == [
        "topics/x",
        "topics/t/partition=0/a",
        "topics/t/partition=1/b",
    ]
    assert dict(store.list())["topics/x"] == len("topics/x")
    with store.open("topics/t/partition=0/a") as file:
        assert file.read() == b"topics/t/partition=0/a"
    assert list(open_store(f"file://{tmp_path}").list()) == list(store.list())


def test_a_file_that_goes_while_it_is_listed_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "gone").symlink_to(tmp_path / "nothing")
    assert list(Folder(str(tmp_path)).list()) == []


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "topics").mkdir()

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="topics cannot be listed: Permission denied; check"):
        list(Folder(str(tmp_path)).list())


def test_a_folder_that_cannot_be_looked_at_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some interpreters' Path.is_dir says that it is not there."""
    stat = os.stat

    def refuse(path: Any, **more: Any) -> Any:
        if str(path).endswith("topics"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(Path, "is_dir", lambda *_, **__: False)  # as Python 3.14 has it
    with pytest.raises(SourceError, match="topics cannot be listed: Permission denied; check"):
        list(Folder(str(tmp_path)).list())


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("gs://bucket/x", "is neither a path of this machine nor s3://bucket/prefix"),
        ("s3://", "names no bucket"),
        ("s3//bucket/x", "did you mean s3://bucket/x"),
    ],
)
def test_addresses_that_no_store_is_for(uri: str, said: str) -> None:
    with pytest.raises(AddressError, match=rf"^{uri} .*{said}.*--uri$"):
        open_store(uri)


class Client:
    """As much of an S3 client as the source uses."""

    def __init__(self, objects: dict[str, bytes], error: Exception | None = None) -> None:
        self.objects = objects
        self.error = error

    def get_paginator(self, name: str) -> Client:
        assert name == "list_objects_v2"
        return self

    def paginate(self, *, Bucket: str, Prefix: str) -> Iterator[dict[str, Any]]:
        assert Bucket == "bucket"
        if self.error:
            raise self.error
        for key, data in self.objects.items():
            yield {}
            if key.startswith(Prefix):
                yield {"Contents": [{"Key": key, "Size": len(data)}]}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        assert Bucket == "bucket"
        if self.error:
            raise self.error
        return {"Body": io.BytesIO(self.objects[Key])}


@pytest.mark.parametrize("uri", ["s3://bucket/msk", "s3://bucket/msk/"])
def test_a_bucket(uri: str) -> None:
    objects = {"msk/topics/t/o": b"a\nb\n", "topics/t/x": b"", "msk/other/y": b""}
    bucket = Bucket(uri, Client(objects))
    assert list(bucket.list()) == [("msk/topics/t/o", 4)]
    item = SinkObject("msk/topics/t/o", "t", 0, 0, 4, False)
    assert list(s3.read_lines(bucket, item)) == [([b"a", b"b"], 4), ([], 0)]


def test_a_bucket_without_topics() -> None:
    with pytest.raises(SourceError, match=r"s3://bucket is not in the S3 sink's layout: nothing"):
        list(Bucket("s3://bucket", Client({"x/topics/t/o": b""})).list())


def test_an_empty_prefix_tells_what_was_expected_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(s3, "open_store", lambda uri: Bucket(uri, Client({})))
    with pytest.raises(SourceError) as refused:
        ingestion.commands.s3.s3("s3://bucket/msk", str(tmp_path / "lake"), "f00d", as_json=False)
    assert str(refused.value) == (
        "s3://bucket/msk is not in the S3 sink's layout: nothing lies below 'topics/'; expected "
        "topics/<topic>/partition=<p>/<topic>+<p>+<10-digit start offset>.json. "
        "An object of pipeline f00d is topics/f00d.pin/partition=0/f00d.pin+0+0000000000.json; "
        "'ingest archive --uri s3://bucket/msk --pipeline-id f00d' writes some from Kafka"
    )
    assert not (tmp_path / "lake").exists()


def test_what_a_bucket_answers_is_told() -> None:
    from botocore.exceptions import ClientError, EndpointConnectionError

    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2")
    with pytest.raises(SourceError, match=r"s3://bucket cannot be listed: .*AccessDenied"):
        list(Bucket("s3://bucket", Client({}, denied)).list())
    away = EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
    item = SinkObject("topics/t/o", "t", 0, 0, 4, False)
    with pytest.raises(SourceError, match=r"s3://bucket: topics/t/o cannot be read: Could not"):
        list(s3.read_lines(Bucket("s3://bucket", Client({}, away)), item))


def test_a_record_stays_whole_in_a_json_text(tmp_path: Path) -> None:
    """What a JSON writer escapes, and what it does not, never breaks a line."""
    text = "".join(map(chr, range(0x20, 0x2100)))
    data = json.dumps({"t": text}, ensure_ascii=False).encode() + b"\n"
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "o").write_bytes(data)
    item = SinkObject("topics/o", "t", 0, 0, len(data), False)
    ((line,),) = [lines for lines, _ in s3.read_lines(Folder(str(tmp_path)), item) if lines]
    assert json.loads(line)["t"] == text
