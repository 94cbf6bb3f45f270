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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import RLock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import (
    CommitProperties,
    DeltaTable,
    QueryBuilder,
    Schema,
    Transaction,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from ingestion import bucket
from ingestion.address import is_bucket, resolve
from ingestion.errors import LakeError, PipelineError
from ingestion.files import WRITER
from ingestion.maintenance import shorten_log
from ingestion.merging import NO_HOOKS, merge_files
from ingestion.offsets import Offsets
from ingestion.records import KINDS

BRONZE = "bronze"
REJECTED = "rejected"
#: The source of rows that had been rejected before.
REPLAY = "replay"

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
#: What tells a record that had been rejected: its stream, ``{source}/{partition}`` and position.
REPLAYED_FIELDS = pa.schema(
    [pa.field(name, pa.string()) for name in ("_stream", "_partition", "_position")]
)
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

_COMMIT_ATTEMPTS = 60
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
#: An open handle grows, and slows down, with every commit made on it.
_COMMITS_A_HANDLE = 50
#: A commit takes the longer the more commits there are since the last checkpoint. Whoever makes
#: one of such a number writes the next, and merges files where it is one of these, too.
_COMMITS_A_CHECKPOINT = 50
_COMMITS_A_MERGE = 250
#: What landers merge files to; those of half of it, such as a full batch, they leave.
_MERGED_BYTES = 1024 * 1024


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

    Raises:
        AddressError: the address is neither a folder's nor a bucket's.
    """

    def __init__(self, uri: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        # The engine knows more kinds of stores, but nobody has tried whether commits are safe.
        self.uri = resolve(uri, "LAKE_URI")
        self.engine_options = bucket.engine_options(self.uri)
        self._clock = clock
        self._handles: dict[str, DeltaTable] = {}
        self._commits: Counter[str] = Counter()
        #: Of each table, what its log records as of a version.
        self._recorded: dict[str, tuple[int, dict[str, int | None]]] = {}
        self._appending = {table: RLock() for table in SCHEMAS}

    def location(self, table: str) -> str:
        """The address of a bronze table."""
        return f"{self.uri}/{BRONZE}/{table}"

    def exists(self, table: str) -> bool:
        """Whether the bronze table is there."""
        self._check_reachable()
        with explained(self.location(table)):
            return bool(DeltaTable.is_deltatable(self.location(table), self.engine_options))

    def create(self) -> list[str]:
        """Create the bronze tables that are missing.

        Returns:
            The names of those created.

        Raises:
            LakeError: the folder cannot be written or holds something else, or the bucket's store
                is one that commits are not safe in.
        """
        self.check_safe()
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
            try:
                DeltaTable.create(
                    location,
                    SCHEMAS[table],
                    mode="ignore",
                    partition_by=["_landed_on"],
                    name=table,
                    storage_options=self.engine_options,
                    configuration={
                        # Statistics of what readers prune by; texts of kilobytes say nothing.
                        "delta.dataSkippingStatsColumns": "_landed_at,_position"
                        + (",ind" if table in KINDS else ""),
                    },
                )
            except DeltaError:  # also where another process was first
                if not DeltaTable.is_deltatable(location, self.engine_options):
                    raise

    def _refuse_files(self, table: str) -> None:
        if is_bucket(self.uri):
            return
        with explained(self.location(table)):
            for place in (Path(self.uri), Path(self.uri, BRONZE), Path(self.location(table))):
                if place.exists() and not place.is_dir():
                    raise LakeError(
                        f"{place} is a file, not a folder; set LAKE_URI to another place"
                    )

    def _make_folder(self, table: str) -> None:
        if is_bucket(self.uri):
            return
        folder = Path(self.location(table))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LakeError(
                f"{folder} cannot be made: {error.strerror}; set LAKE_URI to another place"
            ) from error
        # A creation cut short leaves an empty log folder behind; another process may have created
        # the table since, and landed in it.
        others = any(entry.name != "_delta_log" for entry in folder.iterdir())
        if others and not DeltaTable.is_deltatable(str(folder)):
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
            handle = self._handles[table] = self.open(table)
        return handle

    def open(self, table: str) -> DeltaTable:
        """The bronze table as it is now, on a handle of its own.

        Raises:
            LakeError: it is not there, cannot be read, or has other columns.
        """
        location = self.location(table)
        self._check_reachable()
        with explained(location):
            try:
                handle = DeltaTable(location, storage_options=self.engine_options)
            except TableNotFoundError:
                raise LakeError(f"{location} is not a Delta table; run 'ingest init'") from None
            _refuse_other_schema(location, handle, SCHEMAS[table])
        return handle

    def _check_reachable(self) -> None:
        if is_bucket(self.uri):
            bucket.check_reachable(self.uri)

    def check_safe(self) -> None:
        """Find out whether commits are safe where the lake is, once in a process.

        Raises:
            LakeError: they are not, or the place cannot be written.
        """
        if is_bucket(self.uri):
            bucket.check_safe(self.uri)

    def offsets(self, table: str, origin: Origin) -> Offsets:
        """The offsets of an origin that the table accounts for, as of the open handle."""
        with self._appending[table], explained(self.location(table)):
            try:
                return self._offsets(table, origin)
            except Exception as error:
                if not _is_the_engine_s(error):
                    raise
                self._close(table)
                return self._offsets(table, origin)

    def _offsets(self, table: str, origin: Origin) -> Offsets:
        try:
            return Offsets.from_transactions(
                origin.app_id, lambda app_id: self._record(table, app_id)
            )
        except ValueError as error:
            raise LakeError(
                f"{self.location(table)}: its log does not say what has landed ({error}); "
                "land again into another lake"
            ) from error

    def _record(self, table: str, app_id: str) -> int | None:
        """What the log says of an application, as of the open handle.

        The log is read for it from the last checkpoint on, the more often the slower: what it said
        once holds until somebody else commits.
        """
        handle = self.handle(table)
        version, recorded = self._recorded.get(table, (-1, {}))
        if version != handle.version():
            recorded = {}
            self._recorded[table] = handle.version(), recorded
        if app_id not in recorded:
            recorded[app_id] = handle.transaction_version(app_id)
        return recorded[app_id]

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
        return self._append(table, lambda: self._outstanding(table, pieces, covering or {}))

    def append_replayed(self, table: str, rows: pa.Table) -> pa.Table:
        """Append records that had been rejected, each unless the table holds it already.

        Which of them it holds is asked of the handle that is then committed on, and every such
        commit changes one record of the log: of two that were made at once one fails and asks
        again.

        Args:
            table: name of a kind's table.
            rows: the records with :data:`REPLAYED_FIELDS`.

        Returns:
            The rows appended.

        Raises:
            LakeError: the commit cannot be made.
        """
        return self._append(table, lambda: self._not_replayed(table, rows))

    def _append(
        self, table: str, outstanding: Callable[[], tuple[pa.Table, Mapping[str, int]]]
    ) -> pa.Table:
        """Commit rows with a record that two writers cannot both change.

        Args:
            table: name of a bronze table.
            outstanding: the rows that are still to be appended and what to record with them, as of
                the open handle; nothing is committed where there is nothing to record.
        """
        self.check_safe()
        # What is outstanding is asked of the handle that is then committed on: no other thread
        # may move it forward in between.
        with self._appending[table], explained(self.location(table)):
            opened_anew = False
            for attempt in range(_COMMIT_ATTEMPTS):
                if attempt:
                    time.sleep(random.uniform(0, min(1.0, 0.02 * 2**attempt)))
                try:
                    if attempt:
                        self.handle(table).update_incremental()
                    handle = self.handle(table)
                    rows, transactions = outstanding()
                    if not transactions:
                        return rows
                    if handle is self.handle(table):
                        self._commit(table, rows, transactions)
                        return rows
                except CommitFailedError:
                    continue
                except Exception as error:
                    if opened_anew or not _is_the_engine_s(error):
                        raise
                    opened_anew = True
                    self._close(table)
        raise LakeError(
            f"{self.location(table)}: {_COMMIT_ATTEMPTS} commits in a row met another writer's; "
            "run again, nothing is lost"
        )

    def _close(self, table: str) -> None:
        """Give a handle up after an error: the log may have been shortened since it was opened,
        so that it lacks what the handle asks it for."""
        self._handles.pop(table, None)

    def _commit(self, table: str, rows: pa.Table, transactions: Mapping[str, int]) -> None:
        handle = self.handle(table)
        before = handle.version()
        write_deltalake(
            handle,
            rows,
            mode="append",
            writer_properties=WRITER,
            commit_properties=CommitProperties(
                app_transactions=[
                    Transaction(app_id, version) for app_id, version in transactions.items()
                ],
                max_commit_retries=15,
            ),
            post_commithook_properties=NO_HOOKS,
        )
        version, recorded = self._recorded.get(table, (-1, {}))
        if version == before and handle.version() == before + 1:  # nobody committed in between
            self._recorded[table] = handle.version(), {**recorded, **transactions}
        self._commits[table] += 1
        if handle.version() % _COMMITS_A_CHECKPOINT == 0:
            self._keep_up(table, merging=handle.version() % _COMMITS_A_MERGE == 0)
            del self._handles[table]
        elif self._commits[table] % _COMMITS_A_HANDLE == 0:
            del self._handles[table]

    def _keep_up(self, table: str, merging: bool) -> None:
        """Write a checkpoint, remove what the log no longer needs, merge the newest small files.

        What fails is left to the next round: the rows have landed.
        """
        today = self._clock().astimezone(UTC).date()
        with suppress(LakeError), explained(self.location(table)):
            handle = self.open(table)
            if merging:
                for day in (today - timedelta(days=1), today):
                    merge_files(handle, self.engine_options, day, _MERGED_BYTES)
            handle.create_checkpoint()
            if merging:
                shorten_log(handle, self.engine_options)

    def _not_replayed(self, table: str, rows: pa.Table) -> tuple[pa.Table, dict[str, int]]:
        """Those of the rows that the table does not hold, and what to record with them."""
        handle = self.handle(table)
        held = replayed(handle)
        missing = []
        columns = (rows.column(name).to_pylist() for name in REPLAYED_FIELDS.names)
        for record in zip(*columns, strict=True):
            missing.append(record not in held)
            held.add(record)
        fresh = rows.filter(pa.array(missing, pa.bool_()))
        same = {"_source": REPLAY, **_landing(self._clock())}
        number = (self._record(table, REPLAY) or 0) + 1
        return (
            _completed(fresh, SCHEMAS[table], same),
            {REPLAY: number} if fresh.num_rows else {},
        )

    def _outstanding(
        self, table: str, pieces: Sequence[Piece], covering: Mapping[Origin, Offsets]
    ) -> tuple[pa.Table, dict[str, int]]:
        """The rows to append and what to record with them, as of the open handle."""
        held: dict[Origin, Offsets] = {}
        before: dict[Origin, Offsets] = {}
        kept: dict[tuple[Origin, pa.DataType], list[Piece]] = {}
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
                    kept.setdefault((origin, part.offsets.type), []).append(part)
            held[origin] = held[origin].add(piece.start, piece.end)
        transactions: dict[str, int] = {}
        for origin, now in held.items():
            if now != before[origin]:
                total = now | covering.get(origin, Offsets())
                transactions |= total.to_transactions(origin.app_id, before[origin])
        landed_at = self._clock()
        # All parts of an origin at once: another thread decodes, and each call of Arrow's waits for
        # its turn.
        tables = [_with_provenance(parts, SCHEMAS[table], landed_at) for parts in kept.values()]
        rows = pa.concat_tables(tables) if tables else SCHEMAS[table].empty_table()
        return rows, transactions


@contextmanager
def explained(location: str) -> Iterator[None]:
    """Turn what goes wrong at an address of the lake into a :class:`LakeError`."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        if not _is_the_engine_s(error):
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


def replayed(handle: DeltaTable) -> set[tuple[str, str, str]]:
    """The records in a kind's table that had been rejected, as :data:`REPLAYED_FIELDS` say."""
    sql = f"select {', '.join(REPLAYED_FIELDS.names)} from landed where _source = '{REPLAY}'"
    found: set[tuple[str, str, str]] = set()
    for batch in QueryBuilder().register("landed", handle).execute(sql):
        columns = [batch.column(name).to_pylist() for name in REPLAYED_FIELDS.names]
        found.update(zip(*columns, strict=True))
    return found


def _is_the_engine_s(error: Exception) -> bool:
    """It raises its own errors, the file system's, and bare ones while it reads."""
    return isinstance(error, (OSError, DeltaError)) or type(error) is Exception


def _with_provenance(parts: Sequence[Piece], schema: pa.Schema, landed_at: datetime) -> pa.Table:
    """The rows of parts of one origin, with where they come from."""
    origin = parts[0].origin
    positions = pa.chunked_array([part.offsets for part in parts])
    if not pa.types.is_string(positions.type):
        positions = pc.utf8_lpad(pc.cast(positions, pa.string()), POSITION_DIGITS, "0")
    same = {
        "_source": origin.source,
        "_stream": origin.stream,
        "_partition": origin.partition,
        **_landing(landed_at),
    }
    rows = pa.Table.from_batches([part.rows for part in parts])
    return _completed(rows.append_column("_position", positions), schema, same)


def _landing(landed_at: datetime) -> dict[str, Any]:
    return {"_landed_at": landed_at, "_landed_on": landed_at.astimezone(UTC).date()}


def _completed(
    rows: pa.RecordBatch | pa.Table, schema: pa.Schema, same: Mapping[str, Any]
) -> pa.Table:
    """Rows in a schema's columns, some of which hold the same value in every row."""
    columns = [
        pa.repeat(pa.scalar(same[field.name], field.type), rows.num_rows)
        if field.name in same
        else rows.column(field.name)
        for field in schema
    ]
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
