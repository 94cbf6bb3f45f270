"""Upkeep of a Delta table that is landed in: few files, a short log, no files that nobody needs.

Everything here may be done beside writers and readers, twice at once, and be ended anywhere: rows
are never changed, a merge is one commit that changes no data, and what is removed is needed by no
version that is kept.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, WriterProperties
from deltalake.exceptions import CommitFailedError
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileInfo, FileSelector

#: Checkpoints and the removal of old commits have their own time, not that of every commit.
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)

#: How many of the newest commits stay in the log. Where the table lies in a folder, every commit
#: looks at every file of the log.
KEPT_COMMITS = 1_000
#: What files are merged to, and which are merged.
MERGED_BYTES = 128 * 1024 * 1024
SMALL_BYTES = MERGED_BYTES // 4
#: A day with fewer small files is left as it is.
MANY_FILES = 4
#: A writer may hold a file for so long before it commits it; a reader of a version, too.
SHORTEST_RETENTION = timedelta(hours=24)
#: The log forgets for how long a file has been out of use after that.
LONGEST_RETENTION = timedelta(hours=168)

_COMMIT = CommitProperties(max_commit_retries=15)
_LOG = "_delta_log"
_LOG_FILE = re.compile(r"([0-9]{20})\.(.+)")


@dataclass(frozen=True)
class Size:
    """What a table consists of.

    Attributes:
        files: of its newest version.
        bytes: in them.
        stored_files: all its data files, those that older versions or nobody needs too.
        stored_bytes: in them.
        log_files: the files of its log.
    """

    files: int
    bytes: int
    stored_files: int
    stored_bytes: int
    log_files: int


@dataclass(frozen=True)
class Maintained:
    """What was done to a table, or would be.

    Attributes:
        table: its name.
        before: what it consisted of.
        after: what it consists of; as before where nothing was to be done.
        merged: the days whose small files were merged.
        skipped: the days whose files another process was merging.
        removed: data files that were removed.
        seconds: how long it took.
    """

    table: str
    before: Size
    after: Size
    merged: list[date]
    skipped: list[date]
    removed: int
    seconds: float


def days_to_merge(files: Iterable[tuple[date, int]]) -> list[date]:
    """The days that have many small files, in order.

    Args:
        files: of each file the day and the size in bytes.
    """
    small = Counter(day for day, size in files if size < SMALL_BYTES)
    return sorted(day for day, count in small.items() if count >= MANY_FILES)


def merge_files(handle: DeltaTable, day: date, size: int, writer: WriterProperties) -> int:
    """Write a day's files anew, as many of those smaller than a size in one as stay below it.

    Rows keep all their columns, and the commit says that it changed no data. The files that were
    merged stay for readers of earlier versions, until they are vacuumed.

    Args:
        handle: the open table; it is brought up to date.
        day: the day that the files' rows landed on.
        size: in bytes.
        writer: how files are written.

    Returns:
        How many files there are less.

    Raises:
        CommitFailedError: another process has merged them meanwhile.
    """
    done = handle.optimize.compact(
        partition_filters=[("_landed_on", "=", day.isoformat())],
        target_size=size,
        max_concurrent_tasks=1,
        writer_properties=writer,
        commit_properties=_COMMIT,
        post_commithook_properties=NO_HOOKS,
    )
    return int(done["numFilesRemoved"]) - int(done["numFilesAdded"])


def shorten_log(handle: DeltaTable, options: Mapping[str, str] | None) -> int:
    """Remove the files of the log that only versions before the newest 1,000 or so need.

    A reader begins at a checkpoint; the oldest that is kept is older than all versions kept.

    Args:
        handle: the open table.
        options: of its store.

    Returns:
        How many were removed.
    """
    storage = _storage(handle, options)
    names = [info.base_name for info in _listed(storage, _LOG)]
    removed = superseded(names)
    for name in removed:
        try:
            storage.delete_file(f"{_LOG}/{name}")
        except FileNotFoundError:  # another process was there first
            continue
    return len(removed)


def superseded(names: Iterable[str]) -> list[str]:
    """The files of a log that no version kept needs, oldest first."""
    versions = {name: int(match[1]) for name in names if (match := _LOG_FILE.fullmatch(name))}
    checkpoints = [versions[name] for name in versions if name.endswith(".checkpoint.parquet")]
    if not checkpoints:
        return []
    oldest = max(checkpoints) - KEPT_COMMITS
    begin = max((version for version in checkpoints if version <= oldest), default=0)
    return sorted(name for name, version in versions.items() if version < begin)


def measure(handle: DeltaTable, options: Mapping[str, str] | None) -> Size:
    """What a table consists of, as of the open handle."""
    files = _files(handle)
    stored = list(_listed(_storage(handle, options), ""))
    data = [info for info in stored if not info.path.startswith(_LOG)]
    return Size(
        len(files),
        sum(size for _, size in files),
        len(data),
        sum(info.size for info in data),
        len(stored) - len(data),
    )


def maintain(
    name: str,
    handle: DeltaTable,
    options: Mapping[str, str] | None,
    writer: WriterProperties,
    retention: timedelta = LONGEST_RETENTION,
    *,
    dry_run: bool = False,
    doing: Callable[[str], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> Maintained:
    """Merge small files, write a checkpoint, shorten the log, remove files out of use.

    Args:
        name: the table's.
        handle: the open table; it is brought up to date.
        options: of its store.
        writer: how files are written.
        retention: files that were in use within this time stay; with less than
            ``SHORTEST_RETENTION`` only those are removed that a commit has put out of use, as a
            writer may be about to commit the others.
        dry_run: only say what would be done.
        doing: called with what is being done now.
        now: seconds of a clock that never goes back.
    """
    begun = now()
    doing("looking")
    before = measure(handle, options)
    days = days_to_merge(_files(handle))
    skipped = []
    if not dry_run:
        for day in days:
            doing(f"merging files of {day}")
            try:
                merge_files(handle, day, MERGED_BYTES, writer)
            except CommitFailedError:
                skipped.append(day)
                handle.update_incremental()
        doing("writing a checkpoint")
        handle.create_checkpoint()
        doing("shortening the log")
        shorten_log(handle, options)
    doing("removing files out of use")
    removed = handle.vacuum(
        retention_hours=round(retention / timedelta(hours=1)),
        enforce_retention_duration=False,
        dry_run=dry_run,
        full=retention >= SHORTEST_RETENTION,
        commit_properties=_COMMIT,
        post_commithook_properties=NO_HOOKS,
    )
    if not dry_run:
        handle.update_incremental()
    return Maintained(
        name,
        before,
        before if dry_run else measure(handle, options),
        [day for day in days if day not in skipped],
        skipped,
        len(removed),
        now() - begun,
    )


def _files(handle: DeltaTable) -> list[tuple[date, int]]:
    """The day and the size of each file of a version."""
    actions = pa.table(handle.get_add_actions(flatten=True))
    days = actions.column("partition._landed_on").to_pylist()
    return list(zip(days, actions.column("size_bytes").to_pylist(), strict=True))


def _storage(handle: DeltaTable, options: Mapping[str, str] | None) -> Any:
    return DeltaStorageHandler(handle.table_uri, dict(options) if options else None)


def _listed(storage: Any, folder: str) -> list[FileInfo]:
    selector = FileSelector(folder, allow_not_found=True, recursive=not folder)
    return [info for info in storage.get_file_info_selector(selector) if info.is_file]
