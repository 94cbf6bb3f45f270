"""Objects of the S3 sink's layout, written once, whole, and never again.

What has been written is known from the objects alone: the one with the highest start offset is read
once more for its end. An object's name is where writing stands, and a store refuses to write a name
twice; of several who write at once one goes ahead, and the others go on from what is there.

A record's offset is its object's start plus its line, for every reader of the layout. So an object
ends where offsets are missing, and every record takes exactly one line: line breaks within a JSON
text become spaces, and where a text is none, as with a record that holds nothing, the character
SUBSTITUTE stands for what cannot stand in a line; no JSON text contains it.
"""

from __future__ import annotations

import gzip
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import IO, Any, Protocol

import msgspec

from ingestion.address import is_bucket, resolve
from ingestion.bucket import check_safe
from ingestion.errors import LakeError, PipelineError, SourceError
from ingestion.landing import Chunk
from ingestion.records import is_blank, is_too_deep
from ingestion.sources.s3 import Bucket, Folder, SinkObject, parse_name, read_lines
from ingestion.streams import READ_SECONDS, Reader

SUBSTITUTE = b"\x1a"
#: What lies in memory and is no object yet may have so many bytes.
HELD_BYTES = 64 * 1024 * 1024

#: What a file of a folder is called until it is whole; an older one is nobody's any more.
_PARTIAL = ".partial-"
_LEFT_SECONDS = 24 * 3600
_LINE_BREAK = re.compile(rb"[\r\n]")
_EXISTS = ("PreconditionFailed", "412")
_CONFLICT = ("ConditionalRequestConflict", "409")


def key_of(topic: str, partition: int, start: int, compress: bool) -> str:
    """The name of the object whose first record has an offset."""
    name = f"{topic}+{partition}+{start:010}.json{'.gz' if compress else ''}"
    return f"topics/{topic}/partition={partition}/{name}"


def line_of(value: bytes) -> bytes:
    """The line that a record's value is written as; a reader treats it as it treats the value."""
    if is_blank(value):
        return SUBSTITUTE
    if b"\n" not in value and b"\r" not in value:
        return value
    # Within strings they would not be JSON.
    return _LINE_BREAK.sub(b" " if _is_json(value) else SUBSTITUTE, value)


def _is_json(value: bytes) -> bool:
    if is_too_deep(value):
        return False
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


class Target(Protocol):
    """Where objects are written."""

    #: as the user named it
    uri: str

    def objects(self, topic: str, partition: int) -> Iterator[tuple[str, int]]:
        """The objects of a partition: key and size in bytes."""

    def list(self) -> Iterator[tuple[str, int]]:
        """Every object."""

    def open(self, key: str) -> IO[bytes]:
        """The object's bytes as a stream."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object, whole or not at all; False if there is one of that name."""


class FolderTarget(Folder):
    """A folder of the local file system."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        try:
            (self._root / "topics").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(uri, error) from error
        for left in self._root.glob(f"{_PARTIAL}*"):  # by writers that were killed
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                    left.unlink()

    def objects(self, topic: str, partition: int) -> Iterator[tuple[str, int]]:
        """The files of a partition."""
        folder = self._root / f"topics/{topic}/partition={partition}"
        try:
            paths = sorted(folder.iterdir())
            found = [(str(path.relative_to(self._root)), path.stat().st_size) for path in paths]
        except FileNotFoundError:
            return
        except OSError as error:
            raise SourceError(
                f"{error.filename or folder} cannot be listed: {error.strerror}; "
                "check its permissions"
            ) from error
        yield from found

    def create(self, key: str, data: bytes) -> bool:
        """Write a file beside the layout, then give it its name there."""
        path = self._root / key
        partial = self._root / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(partial)  # unlike a renamed file it replaces nothing
        except FileExistsError:
            return False
        except OSError as error:
            raise _unwritable(str(path), error) from error
        finally:
            with suppress(OSError):  # what went wrong before is told
                partial.unlink()
        return True


def _unwritable(place: str, error: OSError) -> PipelineError:
    return PipelineError(
        f"{place} cannot be written: {error.strerror}; free space or correct its permissions, "
        "and run again"
    )


class BucketTarget(Bucket):
    """A prefix of an S3 bucket."""

    def __init__(self, uri: str, client: Any = None) -> None:
        try:
            check_safe(resolve(uri, "--uri"))
        except LakeError as error:
            raise SourceError(str(error).replace("LAKE_URI", "--uri")) from error
        super().__init__(uri, client)

    def objects(self, topic: str, partition: int) -> Iterator[tuple[str, int]]:
        """The objects of a partition."""
        prefix = f"{self._prefix}topics/{topic}/partition={partition}/"
        pages = self._client.get_paginator("list_objects_v2")
        with self._explained(prefix):
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    yield entry["Key"], entry["Size"]

    def create(self, key: str, data: bytes) -> bool:
        """Write an object; the store refuses a second one of the name."""
        for attempt in range(6):
            with self._explained(key) as refusal:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*"
                )
            if not refusal:
                return True
            if refusal[0] in _EXISTS:
                return False
            time.sleep(0.05 * 2**attempt)  # another is writing it at this moment
        raise SourceError(f"{self.uri}: others keep writing {key}; run again")

    @contextmanager
    def _explained(self, key: str) -> Iterator[list[str]]:
        """Collect what the store answers where an object is there or being written."""
        from botocore.exceptions import BotoCoreError, ClientError

        refusal: list[str] = []
        try:
            yield refusal
        except (BotoCoreError, ClientError) as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
            if code not in (*_EXISTS, *_CONFLICT):
                raise SourceError(
                    f"{self.uri}: {key} cannot be read or written: {error}; "
                    "check the bucket's name, the endpoint and the credentials (AWS_*)"
                ) from error
            refusal.append(code)


def open_target(uri: str) -> Target:
    """The target that an address names: ``s3://…`` or a folder.

    Raises:
        AddressError: it names neither.
        PipelineError: it cannot be written.
    """
    return BucketTarget(uri) if is_bucket(uri) else FolderTarget(uri)


# --- what is written ----------------------------------------------------------------------------


@dataclass
class Archived:
    """What became of one topic's records in one run.

    Attributes:
        stream: the topic.
        objects: how many were written.
        records: how many they hold.
        size: bytes of the objects.
        elsewhere: records that another wrote meanwhile.
        altered: records whose line is not their value.
        seconds: how long it took.
        gaps: offsets that Kafka had removed, as (partition, first, last), both inclusive.
    """

    stream: str
    objects: int = 0
    records: int = 0
    size: int = 0
    elsewhere: int = 0
    altered: int = 0
    seconds: float = 0.0
    gaps: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class _Partition:
    """Where writing a partition stands.

    Attributes:
        end: one more than the last offset that is written.
        last: the last line that is written; None where nothing is known of it.
        start: offset of the first line that is held.
        lines: what is held, for one object.
        size: bytes of it.
        since: when the first of it came.
    """

    end: int
    last: bytes | None
    start: int = 0
    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    since: float = 0.0

    @property
    def next(self) -> int:
        """The offset that goes on with what is held."""
        return self.start + len(self.lines)


class Sink:
    """Writes records as objects.

    Args:
        target: where to.
        topics: whose.
        flush_size: an object ends before each multiple of it.
        compress: whether objects are compressed, as those that are there.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        target: Target,
        topics: Sequence[str],
        flush_size: int,
        compress: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._flush_size = flush_size
        self._compress = compress
        self._now = now
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self.archived = {topic: Archived(topic) for topic in topics}

    def end(self, topic: str, partition: int) -> int:
        """One more than the last offset that is written; 0 if none is."""
        return self._partition(topic, partition).end

    def _partition(self, topic: str, partition: int) -> _Partition:
        if (topic, partition) not in self._partitions:
            self._partitions[topic, partition] = _Partition(*self._written(topic, partition))
        return self._partitions[topic, partition]

    def _written(self, topic: str, partition: int) -> tuple[int, bytes | None]:
        """Where the objects of a partition end, and their last line."""
        found: list[SinkObject] = []
        for key, size in self._target.objects(topic, partition):
            item = parse_name(key, size)
            if item is not None and (item.topic, item.partition) == (topic, partition):
                found.append(item)
        end, last = 0, None
        highest = max((item.start for item in found), default=0)
        for item in found:
            if item.start < highest:
                continue
            if item.gzip != self._compress:  # names would not keep writers from each other
                raise SourceError(
                    f"{self._target.uri}: {item.key} is there; go on "
                    f"{'with' if item.gzip else 'without'} --gzip, or archive into another folder "
                    "or prefix"
                )
            offset, line = item.start, None
            for lines, _ in read_lines(self._target, item):
                offset += len(lines)
                line = lines[-1] if lines else line
            if offset > end:
                end, last = offset, line
        return end, last

    def add(self, chunk: Chunk) -> None:
        """Take records; write the objects that they fill."""
        if not chunk.raws:
            return
        topic, number = chunk.origin.stream, int(chunk.origin.partition)
        partition = self._partition(topic, number)
        if not chunk.follows and 0 < partition.end < chunk.start:
            self.archived[topic].gaps.append((number, partition.end, chunk.start - 1))
        for start, values in _dense(chunk.offsets, chunk.raws):
            self._compare(topic, number, partition, start, values)
            self._add(topic, number, partition, start, values)
        while sum(held.size for held in self._partitions.values()) > HELD_BYTES:
            (topic, number), largest = max(self._partitions.items(), key=lambda item: item[1].size)
            self._write(topic, number, largest)

    def _compare(
        self, topic: str, number: int, partition: _Partition, start: int, values: Sequence[bytes]
    ) -> None:
        """The last record that was written is read once more: it must be the same."""
        place = partition.end - 1 - start
        if partition.last is None or not 0 <= place < len(values):
            return
        if not _alike(values[place], partition.last):
            raise SourceError(
                f"topic {topic}, partition {number}: the record at {partition.end - 1:,} is not "
                f"the one in {self._target.uri}; the topic was created anew, or is another "
                "cluster's: archive it into another folder or prefix"
            )
        partition.last = None

    def _add(
        self, topic: str, number: int, partition: _Partition, start: int, values: Sequence[bytes]
    ) -> None:
        """Take records without a hole between them that are not written."""
        while values:
            if partition.lines and start > partition.next:
                self._write(topic, number, partition)
            # Written before, or by another just now.
            skipped = max(0, partition.end - start, partition.next - start)
            start, values = start + skipped, values[skipped:]
            if not values:
                return
            if not partition.lines:
                partition.start, partition.since = start, self._now()
            room = self._flush_size - partition.next % self._flush_size
            lines = [line_of(value) for value in values[:room]]
            changed = sum(line != value for line, value in zip(lines, values, strict=False))
            self.archived[topic].altered += changed
            partition.lines += lines
            partition.size += sum(map(len, lines))
            start, values = start + len(lines), values[room:]
            if partition.next % self._flush_size == 0:
                self._write(topic, number, partition)

    def write_old(self, age: float) -> None:
        """Write what has been held for so many seconds."""
        for (topic, number), partition in self._partitions.items():
            if partition.lines and self._now() - partition.since >= age:
                self._write(topic, number, partition)

    def close(self) -> None:
        """Write what is held."""
        self.write_old(0)

    def _write(self, topic: str, number: int, partition: _Partition) -> None:
        """Write what is held of a partition, or what of it another has not written."""
        archived = self.archived[topic]
        while partition.lines:
            data = b"\n".join(partition.lines) + b"\n"
            if self._compress:
                data = gzip.compress(data, 6, mtime=0)
            key = key_of(topic, number, partition.start, self._compress)
            if self._target.create(key, data):
                archived.objects += 1
                archived.records += len(partition.lines)
                archived.size += len(data)
                partition.end, partition.last = partition.next, None
                partition.lines, partition.size = [], 0
                return
            end, _ = self._written(topic, number)
            if end <= partition.start:
                raise SourceError(
                    f"{self._target.uri}: {key} is there and holds nothing; remove it and run again"
                )
            there = partition.lines[: end - partition.start]
            archived.elsewhere += len(there)
            partition.lines = partition.lines[len(there) :]
            partition.size -= sum(map(len, there))
            partition.start, partition.end, partition.last = end, end, None


def _alike(value: bytes, line: bytes) -> bool:
    """Whether a line may be a record's; another sink may have written the JSON differently."""
    if line_of(value) == line:
        return True
    if is_too_deep(value) or is_too_deep(line):
        return False
    try:
        return bool(msgspec.json.decode(value) == msgspec.json.decode(line))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _dense(
    offsets: Sequence[int], values: Sequence[bytes]
) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Records in runs without a hole, each with its first offset."""
    if not offsets:
        return
    if offsets[-1] - offsets[0] + 1 == len(offsets):
        yield offsets[0], values
        return
    breaks = [at for at, (low, high) in enumerate(pairwise(offsets), 1) if high != low + 1]
    for first, last in pairwise([0, *breaks, len(offsets)]):
        yield offsets[first], values[first:last]


def archive(
    sink: Sink,
    reader: Reader,
    *,
    max_latency: float | None = None,
    stopping: Callable[[], bool] = lambda: False,
    progress: Callable[[Sequence[Archived]], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> list[Archived]:
    """Write what a reader hands over.

    Args:
        sink: where to.
        reader: where from; it reads on from where the sink ends.
        max_latency: seconds a record may wait for its object, and reading goes on until it is
            stopped; None to write what is there and return.
        stopping: whether to stop; what was read is written first.
        progress: called after every read with what was archived so far.
        now: seconds of a clock that never goes back.

    Returns:
        What became of each topic's records.

    Raises:
        SourceError: the source cannot be read; what was read before is written first.
        PipelineError: objects cannot be written.
    """
    begun = now()
    archived = list(sink.archived.values())
    unread: SourceError | None = None
    while not stopping():
        try:
            chunks = reader.read(READ_SECONDS)
        except SourceError as error:
            unread = error
            break
        for chunk in chunks:
            sink.add(chunk)
        if max_latency is not None:
            sink.write_old(max_latency)
        for one in archived:
            one.seconds = now() - begun
        progress(archived)
        if max_latency is None and reader.finished:
            break
    sink.close()
    for one in archived:
        one.seconds = now() - begun
    if unread is not None:
        raise unread
    return archived
