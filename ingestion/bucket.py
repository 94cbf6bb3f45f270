"""The bucket that a lake lies in: its address for the engine, whether it can be used, and whether
commits are safe there.

A commit is the file of its number in the table's log, and no two writers may both write it. A
folder refuses the second by itself; a store refuses it only if it honours ``If-None-Match: *``,
and one that does not keeps the later of the two and says nothing.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ingestion.errors import LakeError

_SCHEME = "s3://"
_BAD_CREDENTIALS = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
    }
)
_NO_ACCESS = frozenset({"AccessDenied", "AllAccessDisabled", "Forbidden", "403"})
#: What a store answers where the object is there, or another is writing it at this moment.
_REFUSED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_UNKNOWN = frozenset({"NotImplemented", "501"})

#: What this process has found out, by the address and the store's.
_reachable: set[tuple[str, str]] = set()
_safe: set[tuple[str, str]] = set()


def is_bucket(uri: str) -> bool:
    """Whether an address names a place in a bucket, not a folder."""
    return uri.startswith(_SCHEME)


def normal(uri: str) -> str:
    """An address without slashes at its end.

    Raises:
        LakeError: it names no bucket.
    """
    bucket, prefix = _parts(uri)
    return f"{_SCHEME}{bucket}/{prefix}".rstrip("/")


def engine_options(uri: str, environ: Mapping[str, str] = os.environ) -> dict[str, str] | None:
    """What the Delta engine has to be told of a store besides what it finds out by itself.

    It must understand the ``AWS_*`` variables as boto3 does, which reads the sources.

    Args:
        uri: the lake's address.
        environ: where the variables are.
    """
    if not is_bucket(uri):
        return None
    options = {}
    if endpoint := _endpoint(environ):
        options["AWS_ENDPOINT_URL"] = endpoint
        if endpoint.startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
    if region := environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"):
        options["AWS_REGION"] = region
    return options


def check_reachable(uri: str) -> None:
    """Look into the bucket, once in a process.

    Raises:
        LakeError: there is no such bucket, nobody answers, or these credentials may not read it.
    """
    asked = (uri, _endpoint(os.environ))
    if asked in _reachable:
        return
    bucket, prefix = _parts(uri)
    with _explained(uri, bucket):
        _client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    _reachable.add(asked)


def check_safe(uri: str) -> None:
    """Try whether the store refuses to overwrite where it is told to, once in a process.

    The object that this takes is removed again.

    Raises:
        LakeError: it does not, or these credentials may not write there.
    """
    asked = (uri, _endpoint(os.environ))
    if asked in _safe:
        return
    check_reachable(uri)
    bucket, prefix = _parts(uri)
    key = f"{prefix}.probe-{uuid.uuid4().hex}"
    with _explained(uri, bucket):
        client = _client()
        try:
            _write_new(client, bucket, key)
            safe = not _write_new(client, bucket, key)
        except NotImplementedError:
            safe = False
        finally:
            with suppress(Exception):  # what is wrong now was wrong before, and is told then
                client.delete_object(Bucket=bucket, Key=key)
    if not safe:
        raise LakeError(
            f"{uri}: the store at {_endpoint(os.environ) or 'AWS'} does not honour conditional "
            "writes (If-None-Match: *), so that landers would overwrite each other's commits; use "
            "one that does, or set LAKE_URI to a folder"
        )
    _safe.add(asked)


def _write_new(client: Any, bucket: str, key: str) -> bool:
    """Write an object unless it is there; whether it was written.

    Raises:
        NotImplementedError: the store says that it cannot do that.
    """
    from botocore.exceptions import ClientError

    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"", IfNoneMatch="*")
    except ClientError as error:
        if _code(error) in _UNKNOWN:
            raise NotImplementedError from error
        if _code(error) in _REFUSED:
            return False
        raise
    return True


def _client() -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5, read_timeout=20, retries={"mode": "standard", "max_attempts": 3}
    )
    return boto3.session.Session().client("s3", config=config)


def _parts(uri: str) -> tuple[str, str]:
    """The bucket, and what the lake's keys in it begin with."""
    bucket, _, prefix = uri.removeprefix(_SCHEME).partition("/")
    if not bucket:
        raise LakeError(f"{uri} names no bucket; write s3://bucket or s3://bucket/prefix")
    return bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def _endpoint(environ: Mapping[str, str]) -> str:
    return environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _explained(uri: str, bucket: str) -> Iterator[None]:
    from botocore import exceptions as boto

    try:
        yield
    except boto.ClientError as error:
        code = _code(error)
        if code == "NoSuchBucket":
            raise LakeError(
                f"{uri}: there is no bucket {bucket}; create it or set LAKE_URI to another place"
            ) from error
        if code in _BAD_CREDENTIALS:
            raise LakeError(
                f"{uri}: the store does not accept the credentials ({code}); correct "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        if code in _NO_ACCESS:
            raise LakeError(
                f"{uri}: these credentials may not use it ({code}); they need s3:ListBucket, "
                "s3:GetObject, s3:PutObject and s3:DeleteObject"
            ) from error
        raise LakeError(f"{uri}: {' '.join(str(error).split())}") from error
    except boto.NoCredentialsError as error:
        raise LakeError(
            f"{uri}: no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE"
        ) from error
    except (boto.ConnectionError, boto.HTTPClientError) as error:
        raise LakeError(
            f"{uri}: no S3 store answers at {_endpoint(os.environ) or 'AWS'}; start it or correct "
            "AWS_ENDPOINT_URL"
        ) from error
    except boto.ParamValidationError as error:
        raise LakeError(f"{uri}: {bucket} cannot be a bucket's name; correct LAKE_URI") from error
    except (boto.BotoCoreError, ValueError) as error:
        raise LakeError(f"{uri}: {' '.join(str(error).split())}") from error
