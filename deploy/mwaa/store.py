"""The bucket: what it shows, what was uploaded to it, and uploads that others may cross.

What a deployment uploaded is recorded in an object beside its project. An upload first claims, in
that object, what it is about to write: cut short, it is known for its own the next time. The object
is replaced only as it was read. So of two uploads at once the later to claim goes on, and the other
ends as soon as it sees that.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from deploy.mwaa.errors import UploadError
from deploy.mwaa.plan import Plan, Record, plan
from deploy.mwaa.project import Deployment, File

#: Objects that are written at once; between so many it is seen whether another upload began.
AT_ONCE = 16
#: How often an upload looks again where others write as well.
_ROUNDS = 8
_CONFLICT = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_FORMAT = 1

Say = Callable[[str, str, int], None]


class SupersededError(UploadError):
    """Another upload of the same deployment began later."""


@dataclass(frozen=True)
class State:
    """What the object says that records the uploads.

    Attributes:
        records: what was uploaded, by key.
        etag: the object's own; None where there is none.
    """

    records: Mapping[str, Record] = field(default_factory=dict)
    etag: str | None = None


@dataclass
class Outcome:
    """What an upload did.

    Attributes:
        uploaded: the keys written, each with the version that the store gave it, if it keeps them.
        removed: the keys removed.
        plan: what was decided at first.
        size: bytes written.
        seconds: how long it took.
    """

    plan: Plan
    uploaded: dict[str, str | None] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    size: int = 0
    seconds: float = 0.0


class Bucket:
    """A deployment in its bucket.

    Args:
        client: a boto3 client of S3.
        name: the bucket's.
        deployment: the deployment's names.
    """

    def __init__(self, client: Any, name: str, deployment: Deployment) -> None:
        self._client = client
        self._name = name
        self._deployment = deployment

    def state(self) -> State:
        """What was uploaded.

        Raises:
            UploadError: the record cannot be understood.
        """
        from botocore.exceptions import ClientError

        key = self._deployment.state_key
        try:
            answer = self._client.get_object(Bucket=self._name, Key=key)
        except ClientError as error:
            if _code(error) in _ABSENT:
                return State()
            raise
        try:
            said = json.loads(answer["Body"].read())
            if said["format"] != _FORMAT:
                raise ValueError(f"format {said['format']}")
            records = {k: Record(**record) for k, record in said["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UploadError(
                f"s3://{self._name}/{key} is no record of an upload ({error}); remove it and "
                "upload with --replace"
            ) from error
        return State(records, answer["ETag"].strip('"'))

    def listing(self, keys: Iterable[str]) -> dict[str, str]:
        """The ETags of what is in the deployment's folder, and of those of some keys that exist.

        Args:
            keys: any; those outside the folder are looked up one by one.
        """
        folder = self._deployment.folder
        found = {}
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._name, Prefix=folder):
            for item in page.get("Contents", ()):
                found[item["Key"]] = item["ETag"].strip('"')
        for key in sorted({key for key in keys if not key.startswith(folder)}):
            # Of the keys that begin so, the key itself comes first.
            page = self._client.list_objects_v2(Bucket=self._name, Prefix=key, MaxKeys=1)
            for item in page.get("Contents", ()):
                if item["Key"] == key:
                    found[key] = item["ETag"].strip('"')
        return found

    def look(self, files: Mapping[str, File], *, delete: bool, replace: bool) -> tuple[State, Plan]:
        """What was uploaded, and what an upload would do.

        Args:
            files: what is here.
            delete: remove what was uploaded and is gone here.
            replace: overwrite what somebody else uploaded.
        """
        local = {key: file.local for key, file in files.items()}
        state = self.state()
        listing = self.listing({*local, *state.records})
        return state, plan(local, state.records, listing, delete=delete, replace=replace)

    def upload(
        self,
        files: Mapping[str, File],
        *,
        delete: bool = False,
        replace: bool = False,
        say: Say | None = None,
    ) -> Outcome:
        """Bring the bucket to what is here.

        Args:
            files: what is here.
            delete: remove what was uploaded and is gone here.
            replace: overwrite what somebody else uploaded.
            say: told of each file: ``uploaded`` or ``removed``, its key, its size.

        Raises:
            UploadError: somebody else's file is in the way, or the bucket changes all the time.
            SupersededError: another upload began later.
        """
        begun = time.monotonic()
        outcome: Outcome | None = None
        for _ in range(_ROUNDS):
            # What was written a moment ago and looks otherwise was written by one that was cut off.
            state, todo = self.look(files, delete=delete, replace=replace or bool(outcome))
            if todo.refused:
                raise UploadError(self._refusal(todo.refused))
            outcome = outcome or Outcome(todo)
            outcome.seconds = time.monotonic() - begun
            if todo.idle:
                return outcome
            try:
                claim = self._write(todo.records, state.etag)
            except SupersededError:
                continue  # it may have done all of it
            self._carry_out(todo, files, claim, outcome, say or _silent)
        raise UploadError(
            f"s3://{self._name}/{self._deployment.folder} changes all the time; see who else "
            "uploads there, and run this again"
        )

    def _carry_out(
        self, todo: Plan, files: Mapping[str, File], claim: str, outcome: Outcome, say: Say
    ) -> None:
        records = dict(todo.records)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _, keys in groupby(todo.upload, key=lambda key: files[key].stage):
                for some in _slices(list(keys), AT_ONCE):
                    self._check(claim)
                    for key, answer in zip(
                        some, threads.map(lambda key: self._put(key, files[key]), some), strict=True
                    ):
                        size = len(files[key].body)
                        records[key] = Record(records[key].sha256, answer["ETag"].strip('"'))
                        outcome.uploaded[key] = answer.get("VersionId")
                        outcome.size += size
                        say("uploaded", key, size)
        for some in _slices(list(todo.remove), AT_ONCE):
            self._check(claim)
            for key in some:
                self._client.delete_object(Bucket=self._name, Key=key)
                del records[key]
                outcome.removed.append(key)
                say("removed", key, 0)
        self._write(records, claim)

    def _put(self, key: str, file: File) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.put_object(Bucket=self._name, Key=key, Body=file.body)
        return answer

    def _check(self, claim: str) -> None:
        """See that nobody claimed after this upload did."""
        from botocore.exceptions import ClientError

        try:
            head = self._client.head_object(Bucket=self._name, Key=self._deployment.state_key)
        except ClientError as error:
            if _code(error) in _ABSENT:
                raise self._superseded() from error
            raise
        if head["ETag"].strip('"') != claim:
            raise self._superseded()

    def _write(self, records: Mapping[str, Record], before: str | None) -> str:
        """Replace the record if it is as it was read; its new ETag.

        Raises:
            SupersededError: it is not.
        """
        from botocore.exceptions import ClientError

        said = {
            "format": _FORMAT,
            # No two are the same, so that each has an ETag of its own.
            "writing": uuid.uuid4().hex,
            "files": {
                key: {"sha256": record.sha256, "etag": record.etag}
                for key, record in sorted(records.items())
            },
        }
        condition = {"IfMatch": f'"{before}"'} if before else {"IfNoneMatch": "*"}
        body = json.dumps(said, indent=1).encode()
        where = {"Bucket": self._name, "Key": self._deployment.state_key}
        try:
            answer = self._client.put_object(**where, Body=body, **condition)
        except ClientError as error:
            if _code(error) not in _CONFLICT | _ABSENT:
                raise
            # A client that got no answer has asked again, and then its own writing is in the way.
            try:
                answer = self._client.get_object(**where)
            except ClientError:
                raise self._superseded() from error
            if answer["Body"].read() != body:
                raise self._superseded() from error
        return str(answer["ETag"]).strip('"')

    def _superseded(self) -> SupersededError:
        return SupersededError(
            f"s3://{self._name}/{self._deployment.folder}: another upload began after this one and "
            "goes on; run this again if it is not the one that counts"
        )

    def _refusal(self, keys: tuple[str, ...]) -> str:
        named = ", ".join(f"s3://{self._name}/{key}" for key in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        return (
            f"{named}{more}: not uploaded by this deployment, or changed since, so nothing was "
            "written; upload to another bucket, or overwrite with --replace"
        )


def _silent(done: str, key: str, size: int) -> None:
    pass


def _slices(keys: list[str], size: int) -> list[list[str]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
