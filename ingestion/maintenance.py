"""Upkeep of a Delta table that is landed in: few files, a short log, no files that nobody needs.

Everything here may be done beside writers and readers, by two at once, and be ended anywhere: a
merge is one commit that changes no row, and what is removed is needed by no version that is kept.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from deltalake import CommitProperties, DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileInfo, FileSelector, FileType

from ingestion.address import is_bucket
from ingestion.merging import NO_HOOKS, File, files_of, merge_files

#: How many of the newest commits stay in the log. Where the table lies in a folder, every commit
#: looks at every file of the log.
KEPT_COMMITS = 1_000
#: What files are merged to; those of half of it are left as they are.
MERGED_BYTES = 64 * 1024 * 1024
#: A day with fewer small files is left as it is.
MANY_FILES = 4
#: A writer may hold a file for so long before it commits it; a reader of a version, too.
SHORTEST_RETENTION = timedelta(hours=24)
#: The log forgets for how long a file has been out of use after that.
LONGEST_RETENTION = timedelta(hours=168)

_LOG = "_delta_log"
_HALF_WRITTEN = re.compile(r".+#[0-9]+")
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
        skipped: of those, where another process got at some of the files meanwhile.
        removed: files that were removed, those that killed writers left half written too.
        seconds: how long it took.
    """

    table: str
    before: Size
    after: Size
    merged: list[date]
    skipped: list[date]
    removed: int
    seconds: float


def days_to_merge(files: Iterable[File]) -> list[date]:
    """The days that have many small files, in order."""
    small = Counter(file.day for file in files if file.size * 2 < MERGED_BYTES)
    return sorted(day for day, count in small.items() if count >= MANY_FILES)


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
        with suppress(FileNotFoundError):  # another process was there first
            storage.delete_file(f"{_LOG}/{name}")
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


def measure(handle: DeltaTable, stored: Sequence[FileInfo]) -> Size:
    """What a table consists of, as of the open handle.

    Args:
        handle: the open table.
        stored: every file where it lies.
    """
    files = files_of(handle)
    data = [info for info in stored if not info.path.startswith(_LOG)]
    return Size(
        len(files),
        sum(file.size for file in files),
        len(data),
        sum(info.size for info in data),
        len(stored) - len(data),
    )


def maintain(
    name: str,
    handle: DeltaTable,
    options: Mapping[str, str] | None,
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
        retention: files that were in use within this time stay; with less than
            ``SHORTEST_RETENTION`` only those are removed that a commit has put out of use, as a
            writer may be about to commit the others.
        dry_run: only say what would be done.
        doing: called with what is being done now.
        now: seconds of a clock that never goes back.
    """
    begun = now()
    doing("looking")
    stored = _stored(handle, options)
    before = measure(handle, stored)
    days = days_to_merge(files_of(handle))
    skipped = []
    if not dry_run:
        for day in days:
            doing(f"merging files of {day}")
            _, left = merge_files(handle, options, day, MERGED_BYTES)
            if left:
                skipped.append(day)
        doing("writing a checkpoint")
        handle.create_checkpoint()
        doing("shortening the log")
        shorten_log(handle, options)
    doing("removing files out of use")
    out_of_use = handle.vacuum(
        retention_hours=round(retention / timedelta(hours=1)),
        enforce_retention_duration=False,
        dry_run=dry_run,
        full=retention >= SHORTEST_RETENTION,
        commit_properties=CommitProperties(max_commit_retries=15),
        post_commithook_properties=NO_HOOKS,
    )
    half_written = _left_half_written(handle, now=time.time())
    after = before
    if not dry_run:
        for path in half_written:
            path.unlink(missing_ok=True)
        handle.update_incremental()
        after = measure(handle, _stored(handle, options))
    # It names files, too, that were removed before and that the log has not forgotten yet.
    removed = {info.path for info in stored}.intersection(out_of_use)
    return Maintained(
        name,
        before,
        after,
        days,
        skipped,
        len(removed) + len(half_written),
        now() - begun,
    )


def _left_half_written(handle: DeltaTable, now: float) -> list[Path]:
    """Files that killed writers did not finish, where a table lies in a folder.

    There a file has another name until it is whole, under which no engine finds it.
    """
    address = urlsplit(handle.table_uri)
    found = []
    for folder, _, names in os.walk(unquote(address.path)) if address.scheme == "file" else ():
        for path in (Path(folder, name) for name in names if _HALF_WRITTEN.fullmatch(name)):
            with suppress(FileNotFoundError):  # it has got its name, or another removed it
                if now - path.stat().st_mtime > SHORTEST_RETENTION.total_seconds():
                    found.append(path)
    return found


def tables_under(lake: str, options: Mapping[str, str] | None) -> list[str]:
    """The Delta tables two levels below a lake, as ``schema/table``, in order.

    On a disk, folders that this user may not look into are passed over, such as ``lost+found``.
    """
    storage = DeltaStorageHandler(lake, dict(options) if options else None)

    def below(folder: str) -> list[str]:
        try:
            return _folders(storage, folder)
        except OSError:
            if is_bucket(lake):
                raise
            return []

    tables = [table for schema in _folders(storage, "") for table in below(schema)]
    return sorted(table for table in tables if f"{table}/{_LOG}" in below(table))


def remove_out_of_use(
    handle: DeltaTable,
    options: Mapping[str, str] | None,
    retention: timedelta,
    *,
    dry_run: bool = False,
) -> list[str]:
    """Remove the data files of a table that no version within a time needs, and name them.

    It is for tables that somebody else writes: nothing is committed, and files that the log does
    not name stay, whatever they are.
    """
    out_of_use = handle.vacuum(
        retention_hours=round(retention / timedelta(hours=1)),
        enforce_retention_duration=False,
    )
    storage = _storage(handle, options)
    # The log does not forget at once what was removed before.
    there = {info.path for info in _listed(storage, "")}.intersection(out_of_use)
    for path in () if dry_run else there:
        with suppress(FileNotFoundError):
            storage.delete_file(path)
    return sorted(there)


def _folders(storage: Any, folder: str) -> list[str]:
    found = storage.get_file_info_selector(FileSelector(folder, allow_not_found=True))
    return [info.path for info in found if info.type == FileType.Directory]


def _stored(handle: DeltaTable, options: Mapping[str, str] | None) -> list[FileInfo]:
    return _listed(_storage(handle, options), "")


def _storage(handle: DeltaTable, options: Mapping[str, str] | None) -> Any:
    return DeltaStorageHandler(handle.table_uri, dict(options) if options else None)


def _listed(storage: Any, folder: str) -> list[FileInfo]:
    selector = FileSelector(folder, allow_not_found=True, recursive=not folder)
    return [info for info in storage.get_file_info_selector(selector) if info.is_file]
