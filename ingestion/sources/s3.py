"""Objects of the Kafka Connect S3 sink, from a folder or a bucket, as lines with offsets.

Layout: ``topics/<topic>/partition=<p>/<topic>+<p>+<start offset>.json``, one JSON text a line,
optionally gzip (``.json.gz``). A record's offset is the start offset plus its place among the
object's records; an empty line is not a record and takes no offset.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from stat import S_ISDIR
from typing import IO, Any, Protocol

from ingestion.address import is_bucket, resolve
from ingestion.errors import SourceError
from ingestion.offsets import Offsets

SOURCE = "s3"
_LAYOUT = "topics/<topic>/partition=<p>/<topic>+<p>+<10-digit start offset>.json"
_NAME = re.compile(
    r"(?P<topic>.+)\+(?P<partition>[0-9]{1,10})\+(?P<start>[0-9]{10,18})\.json(?P<gz>\.gz)?"
)
_READ_BYTES = 1024 * 1024
#: A longer line is not read, so that memory stays bounded; brokers' records end at 10 MiB.
MAX_LINE_BYTES = 12 * 1024 * 1024


class NothingThereError(SourceError):
    """There is no such folder, or nothing in it is in the sink's layout."""


@dataclass(frozen=True)
class SinkObject:
    """One object of the layout.

    Attributes:
        key: its name in the store.
        topic: the topic its records come from.
        partition: their partition.
        start: the offset of its first record.
        size: bytes as stored.
        gzip: whether it is compressed.
    """

    key: str
    topic: str
    partition: int
    start: int
    size: int
    gzip: bool


class Store(Protocol):
    """Where objects lie."""

    #: as the user named it
    uri: str

    def list(self) -> Iterator[tuple[str, int]]:
        """Every object below ``topics/``: its key and its size in bytes."""

    def open(self, key: str) -> IO[bytes]:
        """The object's bytes as a stream."""


class Folder:
    """A folder of the local file system that holds ``topics/``."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._root = Path(resolve(uri, "--uri"))

    def list(self) -> Iterator[tuple[str, int]]:
        """Every file below ``topics/``, by name."""
        try:
            yield from self._list()
        except OSError as error:
            raise SourceError(
                f"{error.filename or self.uri} cannot be listed: {error.strerror}; "
                "check its permissions"
            ) from error

    def _list(self) -> Iterator[tuple[str, int]]:
        topics = self._root / "topics"
        root_is_folder = _is_folder(self._root)
        if root_is_folder is None:
            raise NothingThereError(f"no such folder: {self.uri}")
        if not root_is_folder:
            raise SourceError(f"{self.uri} is a file; --uri takes the folder that holds topics/")
        if not _is_folder(topics):
            raise not_the_layout(self.uri, "it holds no folder 'topics'")
        for folder, folders, files in os.walk(topics, onerror=_raise):
            folders.sort()
            for file in sorted(files):
                path = Path(folder, file)
                try:
                    size = path.stat().st_size
                except FileNotFoundError:
                    continue  # renamed or removed since it was listed
                yield str(path.relative_to(self._root)), size

    def open(self, key: str) -> IO[bytes]:
        """The file, open for reading."""
        return (self._root / key).open("rb", buffering=0)


def _is_folder(path: Path) -> bool | None:
    """Whether a path is a folder; None where there is nothing.

    From Python 3.14 on, Path.is_dir says that there is none where it may not be looked at.

    Raises:
        OSError: this user may not look at it, say.
    """
    try:
        return S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _raise(error: OSError) -> None:
    raise error


class Bucket:
    """A prefix of an S3 bucket that holds ``topics/``.

    Args:
        uri: ``s3://bucket`` or ``s3://bucket/prefix``.
        client: a boto3 S3 client; by default one made from the ``AWS_*`` variables.
    """

    def __init__(self, uri: str, client: Any = None) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self.uri = uri
        self._bucket, _, prefix = resolve(uri, "--uri").removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        retries = Config(retries={"mode": "standard", "max_attempts": 5})
        try:
            self._client = client or boto3.session.Session().client("s3", config=retries)
        except (BotoCoreError, ValueError) as error:
            raise SourceError(f"{uri} cannot be opened: {error}") from error

    def list(self) -> Iterator[tuple[str, int]]:
        """Every object below ``topics/``."""
        from botocore.exceptions import BotoCoreError, ClientError

        found = False
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}topics/"
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    found = True
                    yield entry["Key"], entry["Size"]
        except (BotoCoreError, ClientError) as error:
            raise SourceError(
                f"{self.uri} cannot be listed: {error}; check the bucket's name, the region, the "
                "endpoint and the credentials (AWS_*)"
            ) from error
        if not found:
            raise not_the_layout(self.uri, "nothing lies below 'topics/'")

    def open(self, key: str) -> IO[bytes]:
        """The object's body."""
        body: IO[bytes] = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
        return body


def open_store(uri: str) -> Store:
    """The store that an address names: ``s3://…`` or a folder.

    Raises:
        AddressError: it names neither.
    """
    return Bucket(uri) if is_bucket(uri) else Folder(uri)


def not_the_layout(uri: str, why: str) -> NothingThereError:
    """The error for a place that holds no object of the layout."""
    return NothingThereError(f"{uri} is not in the S3 sink's layout: {why}; expected {_LAYOUT}")


def parse_name(key: str, size: int) -> SinkObject | None:
    """What a key says of its object; None where it is no name of the layout."""
    match = _NAME.fullmatch(key.rsplit("/", 1)[-1])
    if match is None:
        return None
    return SinkObject(
        key,
        match["topic"],
        int(match["partition"]),
        int(match["start"]),
        size,
        match["gz"] is not None,
    )


def outstanding(objects: Iterable[SinkObject], landed: Offsets) -> list[SinkObject]:
    """The objects of one partition that may hold records not landed yet, by start offset.

    An object reaches at most to the next one's start, so one whose whole reach has landed need
    not be opened. The last one has no next and is always looked at.
    """
    ordered = sorted(objects, key=lambda item: (item.start, item.key))
    starts = sorted({item.start for item in ordered})
    reach = dict(pairwise([*starts, None]))
    return [item for item in ordered if landed.missing(item.start, reach[item.start])]


def read_lines(store: Store, item: SinkObject) -> Iterator[tuple[list[bytes], int]]:
    """The records of an object, in runs, each with the bytes of the object read for it.

    Raises:
        SourceError: the object cannot be read to its end, or holds a line that is too long. No
            record of a compressed object comes before all of it was found sound.
    """
    with _explained(store, item):
        if item.gzip:
            with store.open(item.key) as raw:
                _check_gzip(raw)
        with store.open(item.key) as raw:
            offset = item.start
            started: list[bytes] = []  # the line that the next block goes on with
            length = taken = 0
            for block, read in _gunzip(raw) if item.gzip else _blocks(raw):
                taken += read
                first_end = block.find(b"\n")
                length += len(block) if first_end < 0 else first_end
                if length > MAX_LINE_BYTES:
                    raise SourceError(
                        f"{store.uri}: {item.key}: the line at offset {offset:,} has more than "
                        f"{MAX_LINE_BYTES / 2**20:g} MiB; shorten it, the next run goes on there"
                    )
                if first_end < 0:
                    started.append(block)
                    continue
                whole, _, tail = block.rpartition(b"\n")
                lines = _records(b"".join([*started, whole]).split(b"\n"))
                started, length = [tail], len(tail)
                offset += len(lines)
                yield lines, taken
                taken = 0
            yield _records([b"".join(started)]), taken


def _records(lines: Iterable[bytes]) -> list[bytes]:
    return list(filter(bytes.strip, lines))  # is_blank, without a call in Python for each line


def _blocks(raw: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    while block := raw.read(_READ_BYTES):
        yield block, len(block)


def _gunzip(raw: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    counted = _Counted(raw)
    with gzip.GzipFile(fileobj=counted) as plain:
        while block := plain.read(_READ_BYTES):
            yield block, counted.take()
    yield b"", counted.take()


def _check_gzip(raw: IO[bytes]) -> None:
    """Read to the end: a torn or damaged object shows only there."""
    if not sum(read for _, read in _gunzip(raw)):
        raise EOFError("it is empty")


class _Counted:
    """A stream that knows how much was read from it."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._count = 0

    def read(self, size: int = -1, /) -> bytes:
        block = self._raw.read(size)
        self._count += len(block)
        return block

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("a body is read once")

    def take(self) -> int:
        count, self._count = self._count, 0
        return count


@contextmanager
def _explained(store: Store, item: SinkObject) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(
            f"{store.uri}: {item.key} is not a whole gzip file ({error}); write it again, "
            "the next run picks it up"
        ) from error
    except SourceError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise SourceError(f"{store.uri}: {item.key} cannot be read: {why}") from error
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "urllib3")):
            raise
        raise SourceError(f"{store.uri}: {item.key} cannot be read: {error}") from error
