"""What an upload does, decided from what is here, what was uploaded and what the bucket shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Stage(IntEnum):
    """When a file is uploaded.

    Whoever reads the bucket in between finds no DAG without its project, no task without its model.
    """

    PROJECT = 0
    MANIFEST = 1
    ROOT = 2
    DAG = 3

    @property
    def shared(self) -> bool:
        """Whether the file lies where other deployments have theirs."""
        return self >= Stage.ROOT


@dataclass(frozen=True)
class Local:
    """A file that is here.

    Attributes:
        sha256: of its content, in hexadecimal digits.
        stage: when it is uploaded.
    """

    sha256: str
    stage: Stage = Stage.PROJECT


@dataclass(frozen=True)
class Record:
    """What is known of a file that this deployment uploaded.

    Attributes:
        sha256: of its content, in hexadecimal digits.
        etag: what the store answered; None while it is uploaded, and if that was cut short.
    """

    sha256: str
    etag: str | None


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        upload: keys, in the order of their stages.
        unchanged: keys of files that are in the bucket as they are here.
        remove: keys of files that were uploaded and are gone here.
        kept: the same where nothing is to be removed.
        refused: keys that hold what this deployment did not upload.
        records: what is known when all of it has been claimed and nothing done.
        recorded: what was known before.
    """

    upload: tuple[str, ...]
    unchanged: tuple[str, ...]
    remove: tuple[str, ...]
    kept: tuple[str, ...]
    refused: tuple[str, ...]
    records: Mapping[str, Record] = field(default_factory=dict)
    recorded: Mapping[str, Record] = field(default_factory=dict)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do, and nothing to note."""
        return not self.upload and not self.remove and dict(self.records) == dict(self.recorded)


def plan(
    local: Mapping[str, Local],
    recorded: Mapping[str, Record],
    listing: Mapping[str, str],
    *,
    delete: bool = False,
    replace: bool = False,
) -> Plan:
    """Decide what an upload does.

    A file is unchanged if its content is the recorded one and the bucket still shows the recorded
    ETag. What nobody recorded was uploaded by somebody else; so was, among the files that
    deployments share, what shows another ETag than the recorded one.

    Args:
        local: the files that are here, by key.
        recorded: those that this deployment uploaded, by key.
        listing: the ETags that the bucket shows, by key; at least of the keys in the other two.
        delete: remove what was uploaded and is gone here.
        replace: overwrite what somebody else uploaded.
    """
    unchanged, upload, refused = [], [], []
    for key, file in local.items():
        record, shown = recorded.get(key), listing.get(key)
        if shown is not None and not replace and not _is_own(record, shown, file.stage):
            refused.append(key)
        elif record and shown is not None and record == Record(file.sha256, shown):
            unchanged.append(key)
        else:
            upload.append(key)
    upload.sort(key=lambda key: (local[key].stage, key))
    gone = [
        key
        for key, record in recorded.items()
        if key not in local and key in listing and record.etag in (None, listing[key])
    ]
    records = {key: recorded[key] for key in (*unchanged, *gone)}
    records |= {key: Record(local[key].sha256, None) for key in upload}
    return Plan(
        upload=tuple(upload),
        unchanged=tuple(unchanged),
        remove=tuple(sorted(gone)) if delete else (),
        kept=() if delete else tuple(sorted(gone)),
        refused=tuple(sorted(refused)),
        records=records,
        recorded=dict(recorded),
    )


def _is_own(record: Record | None, shown: str, stage: Stage) -> bool:
    """Whether this deployment uploaded what the bucket shows; in its own folder, whether it ever
    uploaded it."""
    if record is None:
        return False
    return not stage.shared or record.etag in (None, shown)
