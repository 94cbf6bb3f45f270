"""Where pages go: a file, or an object of a bucket; both in one step."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ingestion import bucket
from ingestion.address import is_bucket, resolve
from ingestion.errors import AddressError, LakeError
from reporting.errors import ReportError


def publish(page: str, out: str) -> None:
    """Write a page in one step: whoever reads `out` sees the old page or the new one.

    Args:
        page: HTML.
        out: the file, or ``s3://bucket/name``.

    Raises:
        ReportError: it cannot be written there.
    """
    try:
        place = resolve(out, "--out")
    except AddressError as error:
        raise ReportError(str(error)) from error
    if not is_bucket(place):
        _write(page, Path(place))
        return
    try:
        bucket.put(out, page.encode(), "text/html; charset=utf-8")
    except LakeError as error:
        raise ReportError(f"cannot write {error}") from error


def dbt_docs(target: Path) -> str:
    """The page that ``dbt docs generate --static`` writes.

    Args:
        target: dbt's target folder.

    Raises:
        ReportError: it is not there, or is no page.
    """
    page = target / "static_index.html"
    try:
        return page.read_bytes().decode()  # line ends stay as they are
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ReportError(
            f"cannot read {page}: {why}; run 'dbt docs generate --static', which writes it"
        ) from error


def _write(page: str, out: Path) -> None:
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(page.encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise ReportError(
            f"cannot write {out}: {error.strerror or error}; "
            "make room or name another file with --out"
        ) from error
