"""The only writer of bronze: appends rows together with their offsets, in one commit.

The protocol. Which offsets of a partition a table holds is recorded in the table's own Delta log,
by the very commit that adds the rows. An append reads that record from the handle it will commit
on, leaves out rows whose offsets are there already, and commits. A writer that got in between
changed the same record, so the commit conflicts; the handle is then brought up to date and the
question asked again. Rejected records go first, to their own table with its own record: a process
killed between the two leaves rows out of bronze that the next run adds, and no rejection twice.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from ingestion.errors import LakeError, PipelineError
from ingestion.offsets import Offsets
from ingestion.records import KINDS

BRONZE = "bronze"
REJECTED = "rejected"

#: Wide enough for any offset of 64 bits, so that texts compare as the numbers do.
POSITION_DIGITS = 20
#: The same for Kinesis' sequence numbers, which have up to 186 bits.
SEQUENCE_DIGITS = 56

_PROVENANCE = [
    pa.field("_source", pa.string()),
    pa.field("_stream", pa.string()),
    pa.field("_partition", pa.string()),
    pa.field("_position", pa.string()),
    pa.field("_landed_at", pa.timestamp("us", "UTC")),
    pa.field("_landed_on", pa.date32()),
]
REJECTED_FIELDS = pa.schema(
    [
        pa.field("kind", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("raw", pa.binary()),
    ]
)
#: Every bronze table's columns.
SCHEMAS: dict[str, pa.Schema] = {
    **{name: pa.schema([*kind.schema, *_PROVENANCE]) for name, kind in KINDS.items()},
    REJECTED: pa.schema([*REJECTED_FIELDS, *_PROVENANCE]),
}

# Where hardly a value comes twice, a dictionary costs time and space; the least and the greatest
# of long texts tell a reader nothing, and cost a copy of each.
_UNREPEATED = ColumnProperties(dictionary_enabled=False)
_LONG_TEXT = ColumnProperties(dictionary_enabled=False, statistics_enabled="NONE")
_WRITER = WriterProperties(
    compression="ZSTD",
    compression_level=1,
    column_properties={
        **dict.fromkeys(("ind", "_position", "timestamp", "latitude", "longitude"), _UNREPEATED),
        **dict.fromkeys(("unique_id", "title", "description", "tag_list", "image_src"), _LONG_TEXT),
        **dict.fromkeys(("raw", "_rescued"), _LONG_TEXT),
    },
)
_COMMIT_ATTEMPTS = 60
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
#: An open handle grows, and slows down, with every commit made on it.
_COMMITS_A_HANDLE = 50


@dataclass(frozen=True)
class Origin:
    """One partition of one stream of one source; the unit in which offsets are counted."""

    source: str
    stream: str
    partition: str

    @property
    def app_id(self) -> str:
        """The application id under which the Delta log records this partition's offsets."""
        return f"{self.source}/{self.stream}/{self.partition}"


@dataclass(frozen=True)
class Piece:
    """Rows of one origin, and the range of offsets they are all of.

    Attributes:
        origin: where they come from.
        start: first offset of the range.
        end: one more than its last; offsets without a row are accounted for all the same.
        offsets: the offset of each row, ascending: int64, or, where they do not fit it, texts
            padded with zeros to ``SEQUENCE_DIGITS``.
        rows: the rows, without provenance.
        follows: whether the table must account for the offset before ``start``: a stream is read
            on from where the table stands, and what is left out once is never read again.
    """

    origin: Origin
    start: int
    end: int
    offsets: pa.Array
    rows: pa.RecordBatch
    follows: bool = False

    def between(self, start: int, end: int) -> Piece:
        """The part of it in a range of offsets."""
        if start <= self.start and end >= self.end:
            return self
        low, high = (self._comparable(bound) for bound in (start, end))
        inside = pc.and_(pc.greater_equal(self.offsets, low), pc.less(self.offsets, high))
        return Piece(
            self.origin,
            max(start, self.start),
            min(end, self.end),
            self.offsets.filter(inside),
            self.rows.filter(inside),
            self.follows,
        )

    def _comparable(self, offset: int) -> int | str:
        return padded(offset) if pa.types.is_string(self.offsets.type) else offset


def padded(sequence_number: int) -> str:
    """A sequence number as a text that compares as the number does."""
    return f"{sequence_number:0{SEQUENCE_DIGITS}}"


class Lake:
    """The lake's bronze tables.

    Args:
        uri: the lake's folder, or ``s3://bucket/prefix``; credentials and endpoint of the latter
            come from the ``AWS_*`` variables.
        clock: the time a commit is stamped with, aware, UTC.
    """

    def __init__(self, uri: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.uri = uri.rstrip("/") or "/"
        self._clock = clock
        self._handles: dict[str, DeltaTable] = {}
        self._commits: Counter[str] = Counter()
        self._appending = {table: Lock() for table in SCHEMAS}

    def location(self, table: str) -> str:
        """The address of a bronze table."""
        return f"{self.uri}/{BRONZE}/{table}"

    def exists(self, table: str) -> bool:
        """Whether the bronze table is there."""
        with explained(self.location(table)):
            return bool(DeltaTable.is_deltatable(self.location(table)))

    def create(self) -> list[str]:
        """Create the bronze tables that are missing.

        Returns:
            The names of those created.

        Raises:
            LakeError: the folder cannot be written or holds something else.
        """
        created = []
        for table in SCHEMAS:
            self._refuse_files(table)
            if not self.exists(table):
                self._create(table)
                created.append(table)
            self.handle(table)
        return created

    def _create(self, table: str) -> None:
        location = self.location(table)
        with explained(location):
            self._make_folder(table)
            DeltaTable.create(
                location,
                SCHEMAS[table],
                mode="ignore",
                partition_by=["_landed_on"],
                name=table,
                configuration={
                    # Statistics of what readers prune by; texts of kilobytes say nothing.
                    "delta.dataSkippingStatsColumns": "_landed_at,_position"
                    + (",ind" if table in KINDS else ""),
                },
            )

    def _refuse_files(self, table: str) -> None:
        if "://" in self.uri:
            return
        with explained(self.location(table)):
            for place in (Path(self.uri), Path(self.uri, BRONZE), Path(self.location(table))):
                if place.exists() and not place.is_dir():
                    raise LakeError(
                        f"{place} is a file, not a folder; set LAKE_URI to another place"
                    )

    def _make_folder(self, table: str) -> None:
        if "://" in self.uri:
            return
        folder = Path(self.location(table))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LakeError(
                f"{folder} cannot be made: {error.strerror}; set LAKE_URI to another place"
            ) from error
        # A creation cut short leaves an empty log folder behind.
        if any(entry.name != "_delta_log" for entry in folder.iterdir()):
            raise LakeError(
                f"{folder} holds something else than a Delta table; "
                "move it away or set LAKE_URI to another place"
            )

    def handle(self, table: str) -> DeltaTable:
        """The open bronze table.

        Raises:
            LakeError: it is not there, cannot be read, or has other columns.
        """
        handle = self._handles.get(table)
        if handle is None:
            location = self.location(table)
            with explained(location):
                try:
                    handle = DeltaTable(location)
                except TableNotFoundError:
                    raise LakeError(f"{location} is not a Delta table; run 'ingest init'") from None
                _refuse_other_schema(location, handle, SCHEMAS[table])
            self._handles[table] = handle
        return handle

    def offsets(self, table: str, origin: Origin) -> Offsets:
        """The offsets of an origin that the table accounts for, as of the open handle."""
        try:
            return Offsets.from_transactions(origin.app_id, self.handle(table).transaction_version)
        except ValueError as error:
            raise LakeError(
                f"{self.location(table)}: its log does not say what has landed ({error}); "
                "land again into another lake"
            ) from error

    def append(
        self, table: str, pieces: Sequence[Piece], covering: Mapping[Origin, Offsets] | None = None
    ) -> pa.Table:
        """Append what the table does not account for yet, in one commit with its offsets.

        Args:
            table: name of a bronze table.
            pieces: rows with the ranges they are all of; several of one origin may follow each
                other.
            covering: offsets recorded besides the pieces' own ranges.

        Returns:
            The rows appended; fewer than given where another writer was first.

        Raises:
            LakeError: the commit cannot be made.
        """
        # What is outstanding is asked of the handle that is then committed on: no other thread
        # may move it forward in between.
        with self._appending[table], explained(self.location(table)):
            for attempt in range(_COMMIT_ATTEMPTS):
                if attempt:
                    time.sleep(random.uniform(0, min(1.0, 0.02 * 2**attempt)))
                    self.handle(table).update_incremental()
                rows, transactions = self._outstanding(table, pieces, covering or {})
                if not transactions:
                    return rows
                try:
                    self._commit(table, rows, transactions)
                except CommitFailedError:
                    continue
                return rows
        raise LakeError(
            f"{self.location(table)}: {_COMMIT_ATTEMPTS} commits in a row met another writer's; "
            "run again, nothing is lost"
        )

    def _commit(self, table: str, rows: pa.Table, transactions: Mapping[str, int]) -> None:
        write_deltalake(
            self.handle(table),
            rows,
            mode="append",
            writer_properties=_WRITER,
            commit_properties=CommitProperties(
                app_transactions=[
                    Transaction(app_id, version) for app_id, version in transactions.items()
                ],
                max_commit_retries=15,
            ),
        )
        self._commits[table] += 1
        if self._commits[table] % _COMMITS_A_HANDLE == 0:
            del self._handles[table]

    def _outstanding(
        self, table: str, pieces: Sequence[Piece], covering: Mapping[Origin, Offsets]
    ) -> tuple[pa.Table, dict[str, int]]:
        """The rows to append and what to record with them, as of the open handle."""
        held: dict[Origin, Offsets] = {}
        before: dict[Origin, Offsets] = {}
        kept: list[pa.Table] = []
        landed_at = self._clock()
        for piece in pieces:
            origin = piece.origin
            if origin not in held:
                before[origin] = held[origin] = self.offsets(table, origin)
            if piece.follows and held[origin].end < piece.start:
                raise LakeError(
                    f"{self.location(table)} stands at {held[origin].end:,} of {origin.app_id}, "
                    f"not at {piece.start:,} any more; run again, nothing is lost"
                )
            for start, end in held[origin].missing(piece.start, piece.end):
                part = piece.between(start, end)
                if part.rows.num_rows:
                    kept.append(_with_provenance(part, SCHEMAS[table], landed_at))
            held[origin] = held[origin].add(piece.start, piece.end)
        transactions: dict[str, int] = {}
        for origin, now in held.items():
            if now != before[origin]:
                total = now | covering.get(origin, Offsets())
                transactions |= total.to_transactions(origin.app_id, before[origin])
        rows = pa.concat_tables(kept) if kept else SCHEMAS[table].empty_table()
        return rows, transactions


@contextmanager
def explained(location: str) -> Iterator[None]:
    """Turn what goes wrong at an address of the lake into a :class:`LakeError`."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        # The engine raises its own errors, the file system's, and bare ones while it reads.
        if not isinstance(error, (OSError, DeltaError)) and type(error) is not Exception:
            raise
        text = str(error)
        number = getattr(error, "errno", None) or _os_error(text)
        if number in _NO_SPACE:
            raise LakeError(
                f"{location}: no space left on the disk; free some and run again, "
                "nothing is lost or repeated"
            ) from error
        if number in _NO_ACCESS:
            raise LakeError(
                f"{location} cannot be read or written by this user; "
                "change its permissions or set LAKE_URI to another place"
            ) from error
        raise LakeError(f"{location}: {_one_line(text)}") from error


def _with_provenance(piece: Piece, schema: pa.Schema, landed_at: datetime) -> pa.Table:
    positions = piece.offsets
    if not pa.types.is_string(positions.type):
        positions = pc.utf8_lpad(pc.cast(positions, pa.string()), POSITION_DIGITS, "0")
    same = [
        pa.scalar(piece.origin.source, pa.string()),
        pa.scalar(piece.origin.stream, pa.string()),
        pa.scalar(piece.origin.partition, pa.string()),
        pa.scalar(landed_at, pa.timestamp("us", "UTC")),
        pa.scalar(landed_at.astimezone(UTC).date(), pa.date32()),
    ]
    source, stream, partition, at, on = (pa.repeat(value, piece.rows.num_rows) for value in same)
    columns = [*piece.rows.columns, source, stream, partition, positions, at, on]
    return pa.Table.from_arrays(columns, schema=schema)


def _refuse_other_schema(location: str, handle: DeltaTable, expected: pa.Schema) -> None:
    """Delta casts silently, 7.5 to 7: columns are compared before anything is written."""
    want = {field.name: str(field.type) for field in Schema.from_arrow(expected).fields}
    have = {field.name: str(field.type) for field in handle.schema().fields}
    if want == have:
        return
    differences = [f"lacks {name}" for name in want if name not in have]
    differences += [f"has {name}" for name in have if name not in want]
    differences += [
        f"{name} is {have[name]}, not {want[name]}"
        for name in want
        if name in have and have[name] != want[name]
    ]
    raise LakeError(
        f"{location} has other columns than this version writes ({'; '.join(differences)}); "
        "set LAKE_URI to another place, or move the table away and land again"
    )


def _os_error(text: str) -> int | None:
    """The operating system's number in an engine's message."""
    match = re.search(r"os error ([0-9]+)|Os \{ code: ([0-9]+)", text)
    return int(match[1] or match[2]) if match else None


def _one_line(text: str) -> str:
    """An engine's message without its colours and line breaks."""
    plain = re.sub(r"\x1b\[[0-9;]*m|↳", "", text)
    line = ": ".join(part.strip() for part in plain.splitlines() if part.strip())
    return line[:500] or "unknown error"


def lake_uri() -> str:
    """The lake's address from ``LAKE_URI``, ``./lake`` by default."""
    return os.environ.get("LAKE_URI") or "./lake"
