"""Addresses of lakes, sources and targets: a path of this machine, or a place in an S3 bucket.

Whatever is not an address of S3 could be the name of a folder. So a mistyped address would become a
folder of that name, and what was meant to lie in a bucket would lie there.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ingestion.errors import AddressError

_S3, _FILE = "s3://", "file://"
#: What no folder is called: a scheme with its colon and a slash, and the schemes of stores with
#: less than that.
_NO_PATH = re.compile(
    r"[a-z][a-z0-9+.-]+:/"
    r"|(s3[an]?|gc?s|abfss?|wasbs?|adl|azure|az|hdfs|dbfs|file|https?)(:|//)"
    r"|arn:",
    re.IGNORECASE,
)
_LIKE_S3 = re.compile(r"(?:s3[an]?(?::[/\\]*|//+)|arn:aws[a-z-]*:s3:::)([^/\\].*)", re.IGNORECASE)
_LIKE_FILE = re.compile(r"file(?::/*|//+)(?:localhost/+)?([^/].*)", re.IGNORECASE)
#: Amazon's hosts: bucket.s3.region.amazonaws.com, and s3.region.amazonaws.com/bucket.
_HOST = re.compile(r"(?:(?P<bucket>[a-z0-9.-]+)\.)?s3[a-z0-9.-]*\.amazonaws\.com(\.cn)?")


def is_bucket(address: str) -> bool:
    """Whether an address names a place in a bucket, not a path."""
    return address.startswith(_S3)


def resolve(address: str, setting: str) -> str:
    """An address as it is used: without slashes at its end, and a ``file:///`` address as a path.

    Args:
        address: a path, ``file:///path``, ``s3://bucket`` or ``s3://bucket/prefix``.
        setting: where the user gave it, such as LAKE_URI or --uri.

    Raises:
        AddressError: it is empty, names no bucket, or looks like another kind of address or like
            a mistyped one.
    """
    if not address.strip():
        raise AddressError(f"the address is empty; set {setting} to a path or s3://bucket/prefix")
    if is_bucket(address):
        bucket, _, prefix = address.removeprefix(_S3).partition("/")
        if not bucket:
            raise AddressError(
                f"{address} names no bucket; write s3://bucket or s3://bucket/prefix in {setting}"
            )
        return f"{_S3}{bucket}/{prefix.strip('/')}".rstrip("/")
    if address.startswith(f"{_FILE}/"):
        address = unquote(address.removeprefix(_FILE))
    elif _NO_PATH.match(address.lstrip(" \t'\"")) or "://" in address:
        meant = _meant(address.strip(" \t\r\n'\""))
        raise AddressError(
            f"{address} is neither a path of this machine nor s3://bucket/prefix"
            + (f"; did you mean {meant}? Correct {setting}" if meant else f"; correct {setting}")
        )
    return address.rstrip("/") or "/"


def resolve_path(address: str, setting: str) -> Path:
    """The path that an address names where no bucket will do.

    Raises:
        AddressError: as :func:`resolve`, and where it names a place in a bucket.
    """
    resolved = resolve(address, setting)
    if is_bucket(resolved):
        raise AddressError(
            f"{address}: only a path of this machine can be written here; correct {setting}, and "
            "copy to the bucket afterwards"
        )
    return Path(resolved)


def _meant(address: str) -> str | None:
    """The address that a mistyped one probably stands for."""
    if found := _LIKE_S3.match(address):
        return _S3 + found[1]
    if found := _LIKE_FILE.match(address):
        return f"/{found[1]}"
    if address.lower().startswith("http"):
        try:
            url = urlsplit(address)
            host = _HOST.fullmatch(url.hostname or "")
        except ValueError:  # brackets that hold no address of a host
            return None
        if host and (place := f"{host['bucket'] or ''}{url.path}".strip("/")):
            return _S3 + place
    return None
