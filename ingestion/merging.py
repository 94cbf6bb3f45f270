"""Merging small data files of a table: one file in their place, in one commit, with the same rows.

The engine's own `optimize` is not used: of two that run at once it lets both commit, and every row
of the files that both took is there twice. Here a commit is only made on the newest version there
is, and only while that version still has all the files: whatever another process does to them,
merging or deleting, one of the two is done.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
from deltalake.exceptions import CommitFailedError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction

from ingestion.errors import LakeError
from ingestion.files import open_writer

#: Checkpoints and the removal of old commits have their own time, not that of every commit.
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_DAY = "_landed_on"
_ATTEMPTS = 20
#: Rows are read so many at a time, and so many bytes: memory does not grow with a file's rows, nor
#: with what they were compressed from.
_ROWS = 50_000
_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class File:
    """A data file of a table's version.

    Attributes:
        path: below the table's folder.
        day: its partition.
        size: in bytes.
        rows: how many.
        least: of columns with statistics, the least value.
        greatest: the greatest.
        nulls: how many are NULL.
    """

    path: str
    day: date
    size: int
    rows: int
    least: Mapping[str, Any]
    greatest: Mapping[str, Any]
    nulls: Mapping[str, int]


def files_of(handle: DeltaTable) -> list[File]:
    """The files of an open version, by the time of their rows."""
    found = [
        File(
            row["path"],
            row["partition"][_DAY],
            row["size_bytes"],
            row["num_records"],
            row.get("min") or {},
            row.get("max") or {},
            row.get("null_count") or {},
        )
        for row in pa.table(handle.get_add_actions()).to_pylist()
    ]
    beginning = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda file: (file.least.get("_landed_at") or beginning, file.path))


def groups(files: Sequence[File], size: int) -> Iterator[list[File]]:
    """Which files become one, in their order.

    Args:
        files: of one day.
        size: what a merged file may have, in bytes; a file of half of it is left as it is.
    """
    group: list[File] = []
    total = 0
    for file in files:
        if file.size * 2 >= size:
            continue
        if total + file.size > size:
            if len(group) > 1:
                yield group
            group, total = [], 0
        group.append(file)
        total += file.size
    if len(group) > 1:
        yield group


def merge_files(
    handle: DeltaTable, options: Mapping[str, str] | None, day: date, size: int
) -> tuple[int, int]:
    """Merge a day's small files.

    The files that were merged stay for readers of earlier versions, until they are vacuumed.

    Args:
        handle: the open table; it is brought up to date.
        options: of its store.
        day: the day that the files' rows landed on.
        size: what a merged file may have, in bytes.

    Returns:
        How many files there are less, and how many groups of files were left as they were because
        another process got at them meanwhile.
    """
    if handle.protocol().min_reader_version != 1:
        return 0, 0  # its files may hold rows that were deleted
    handle.update_incremental()
    fewer = left = 0
    for group in groups([file for file in files_of(handle) if file.day == day], size):
        try:
            merged = _write(handle, options, group)
        except FileNotFoundError:
            left += 1  # merged and vacuumed by another process
            continue
        if _commit(handle, group, merged):
            fewer += len(group) - 1
        else:
            left += 1
    return fewer, left


def _write(handle: DeltaTable, options: Mapping[str, str] | None, group: Sequence[File]) -> File:
    """Write the rows of files to a new one, which belongs to no version yet."""
    storage = DeltaStorageHandler(handle.table_uri, dict(options) if options else None)
    schema = pa.schema(handle.schema().to_arrow())
    schema = schema.remove(schema.get_field_index(_DAY))
    day = group[0].day
    path = f"{_DAY}={day.isoformat()}/part-00000-{uuid.uuid4()}-c000.zstd.parquet"
    sink = storage.open_output_stream(path)
    rows = 0
    with sink, open_writer(sink, schema) as writer:
        for file in group:
            with storage.open_input_file(file.path) as source:
                stored = pa.BufferReader(source.read())
            try:
                opened = pq.ParquetFile(stored)
                at_once = _rows_at_once(opened.metadata)
                for batch in opened.iter_batches(at_once, use_threads=False):
                    writer.write_batch(batch.select(schema.names).cast(schema))
                    rows += batch.num_rows
            except pa.ArrowException as error:
                raise LakeError(
                    f"{handle.table_uri}{file.path} is damaged ({error}); "
                    "bring it back from a copy of the lake"
                ) from error
    size = storage.get_file_info([path])[0].size
    return File(
        path,
        day,
        size,
        rows,
        _together(min, [file.least for file in group]),
        _together(max, [file.greatest for file in group]),
        _together(sum, [file.nulls for file in group]),
    )


def _rows_at_once(file: pq.FileMetaData) -> int:
    """How many rows of a file to read at a time."""
    row_groups = (file.row_group(number) for number in range(file.num_row_groups))
    held: int = sum(group.total_byte_size for group in row_groups)
    rows: int = file.num_rows
    return max(1, min(_ROWS, _BYTES * rows // max(held, 1)))


def _commit(handle: DeltaTable, group: Sequence[File], merged: File) -> bool:
    """Put the merged file in the place of the others.

    The file stays where another process was first: an answer of the store may have been lost, and
    the commit made.

    Returns:
        Whether it is done; it is not where another process has taken one of them out.
    """
    now = round(time.time() * 1000)
    partition: dict[str, str | None] = {_DAY: merged.day.isoformat()}
    removed = [RemoveAction(file.path, False, now, file.size, partition) for file in group]
    added = AddAction(merged.path, merged.size, partition, now, False, _statistics(merged))
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0, 0.05 * attempt))
        handle.update_incremental()
        present = {file.path for file in files_of(handle)}
        if merged.path in present:
            return True
        if not present.issuperset(file.path for file in group):
            return False
        try:
            handle.create_write_transaction(
                [*removed, added],
                "append",
                handle.schema(),
                [_DAY],
                # None: it fails if anything was committed since the handle was brought up to date.
                commit_properties=CommitProperties(max_commit_retries=0),
                post_commithook_properties=NO_HOOKS,
            )
        except CommitFailedError:
            continue
        handle.update_incremental()
        return True
    return False


def _together(choose: Any, of_files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of all files together; of a column of which one says nothing, nothing."""
    names = set.intersection(*(set(known) for known in of_files))
    values = {name: [known[name] for known in of_files] for name in sorted(names)}
    return {name: choose(known) for name, known in values.items() if None not in known}


def _statistics(file: File) -> str:
    return json.dumps(
        {
            "numRecords": file.rows,
            "minValues": file.least,
            "maxValues": file.greatest,
            "nullCount": file.nulls,
        },
        default=lambda time: time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
    )
