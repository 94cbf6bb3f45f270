"""The bucket that a lake lies in: its address for the engine, whether it can be used, and whether
commits are safe there.

A commit is the file of its number in the table's log, and no two writers may both write it. A
folder refuses the second by itself; a store refuses it only if it honours ``If-None-Match: *``,
and one that does not keeps the later of the two and says nothing. There are stores that honour it
of two writes that follow each other, and not of two at once. Which this one is, is tried; but one
that is several servers may be asked by way of one of them only.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from threading import Barrier
from typing import Any

from ingestion.address import is_bucket
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

#: A store is safe if of so many writers at once one gets through, so many times in a row.
_WRITERS = 8
_RACES = 3
#: So many races may say nothing, as an answer was lost or the store was busy.
_UNDECIDED = 5
#: Seconds after the first of those, twice as many after the second, and so on.
_PAUSE = 0.1

#: What this process has found out, by the address and the store's.
_reachable: set[tuple[str, str]] = set()
_safe: set[tuple[str, str]] = set()


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
    with explained(uri, bucket):
        connect().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    _reachable.add(asked)


def check_safe(uri: str) -> None:
    """Try whether the store lets one of several writers through, once in a process.

    The objects that this takes are removed again.

    Raises:
        LakeError: it does not, it does not say, or these credentials may not write there.
    """
    asked = (uri, _endpoint(os.environ))
    if asked in _safe:
        return
    check_reachable(uri)
    bucket, prefix = _parts(uri)
    with explained(uri, bucket):
        safe = _lets_one_through(bucket, prefix)
    if not safe:
        raise LakeError(
            f"{uri}: the store at {_endpoint(os.environ) or 'AWS'} does not honour conditional "
            "writes (If-None-Match: *), so that landers would overwrite each other's commits; use "
            "one that does, or set LAKE_URI to a folder"
        )
    _safe.add(asked)


def put(uri: str, body: bytes, content_type: str) -> None:
    """Write an object; whoever reads it sees what was there before, or all of this.

    Args:
        uri: ``s3://bucket/key``.
        body: its bytes.
        content_type: what they are, ``text/html; charset=utf-8`` say.

    Raises:
        LakeError: the address names no object, there is no such bucket, or the store does not
            take it.
    """
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    if not bucket or not key or key.endswith("/"):
        raise LakeError(f"{uri} names no object; write s3://bucket/name")
    with explained(uri, bucket):
        client = connect()
        _look_into(client, bucket)
        client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)


def _look_into(client: Any, bucket: str) -> None:
    """Ask for a bucket before it is written to: there are stores that would make an absent one.

    Who may write and not look may write nevertheless.

    Raises:
        Exception: the client's; there is no such bucket, or nobody answers.
    """
    from botocore.exceptions import ClientError

    try:
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as error:
        if _code(error) not in _NO_ACCESS:
            raise


def _lets_one_through(bucket: str, prefix: str) -> bool:
    """Whether of several that write an object at once, and one that comes later, one does.

    Raises:
        Exception: the client's; the store did not say.
    """
    # A write that is made again after its answer was lost is refused, and has got through.
    client = connect(attempts=1, connections=_WRITERS)
    undecided = decided = 0
    with ThreadPoolExecutor(_WRITERS) as threads:
        while decided < _RACES:
            key = f"{prefix}.probe-{uuid.uuid4().hex}"
            try:
                written = _race(client, bucket, key, threads)
            except NotImplementedError:
                return False
            except Exception as error:
                if undecided == _UNDECIDED or not _passes(error):
                    raise
                undecided += 1
                time.sleep(_PAUSE * undecided)
                continue
            finally:
                with suppress(Exception):  # what is wrong now was wrong before, and is told then
                    client.delete_object(Bucket=bucket, Key=key)
            if written != 1:
                return False
            decided += 1
    return True


def _race(client: Any, bucket: str, key: str, threads: ThreadPoolExecutor) -> int:
    """How many of those write an object who begin at once, and of one who comes later.

    Raises:
        Exception: the client's, where that is not known of all of them and may have been one.
    """
    start = Barrier(_WRITERS, timeout=30)

    def write(_: int) -> bool:
        start.wait()
        return _write_new(client, bucket, key)

    # Whatever goes wrong with one, nobody writes any more when this is over.
    writes = [threads.submit(write, number) for number in range(_WRITERS)]
    wait(writes)
    written = sum(done.result() for done in writes if not done.exception())
    if written <= 1:
        for done in writes:
            done.result()
    return written + _write_new(client, bucket, key)


def _passes(error: Exception) -> bool:
    """Whether another try may get an answer: none came, or the store is busy."""
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429
    return isinstance(error, boto.HTTPClientError)


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


def connect(attempts: int = 4, connections: int = 10) -> Any:
    """A boto3 client of the store that the ``AWS_*`` variables lead to.

    Args:
        attempts: how often a request is made that gets no answer.
        connections: how many requests may be under way at once.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5,
        read_timeout=20,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=connections,
    )
    return boto3.session.Session().client("s3", config=config)


def _parts(uri: str) -> tuple[str, str]:
    """The bucket, and what the lake's keys in it begin with."""
    bucket, _, prefix = uri.removeprefix(_SCHEME).partition("/")
    return bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def _endpoint(environ: Mapping[str, str]) -> str:
    return environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def explained(uri: str, bucket: str) -> Iterator[None]:
    """Tell in one line what the client's errors mean.

    Args:
        uri: the address that is used.
        bucket: the bucket in it.

    Raises:
        LakeError: instead of any error of the client.
    """
    from botocore import exceptions as boto

    try:
        yield
    except boto.ClientError as error:
        code = _code(error)
        if code == "NoSuchBucket":
            raise LakeError(
                f"{uri}: there is no bucket {bucket}; create it or name another place"
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
        raise LakeError(f"{uri}: {bucket} cannot be a bucket's name; correct it") from error
    except (boto.BotoCoreError, ValueError) as error:
        raise LakeError(f"{uri}: {' '.join(str(error).split())}") from error
