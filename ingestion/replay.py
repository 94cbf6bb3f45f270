"""Sending rejected records through the rules again, after the rules have changed or to the kind
that they belong to.

A record lands in the kind of its stream as soon as the rules take it there, and nowhere else. One
that is still misrouted there may be sent to another kind, the only one whose fields it carries.
So there is one table at most that a record can land in, and that table is asked, in the commit
that would add the record, whether it holds it.

The row of a record says how it came: ``_source`` is ``replay``, ``_stream`` and ``_position`` are
the record's own, ``_partition`` is its source and partition. What was rejected stays in the
rejected table: it is what happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa

from ingestion.bronze import RejectedRecord
from ingestion.lake import REPLAYED_FIELDS, Lake
from ingestion.records import KINDS, Kind, Reason, decode, is_too_deep

#: Records are replayed so many at a time, or so many bytes.
_RECORDS = 10_000
_BYTES = 16 * 1024 * 1024

_parse = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass
class Replayed:
    """What became of the chosen records.

    Attributes:
        chosen: how many there were.
        landed: those that this run landed, or would land, by kind.
        before: those that an earlier run had landed.
        elsewhere: those that another process landed meanwhile.
        rejected: those that the rules still reject, by the reason they give now.
    """

    chosen: int = 0
    landed: Counter[str] = field(default_factory=Counter)
    before: int = 0
    elsewhere: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


def named_kind(raw: bytes) -> Kind | None:
    """The kind whose payload fields a record carries, None where it is not exactly one."""
    if is_too_deep(raw):
        return None
    try:
        given = _parse(raw).keys()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    named = [kind for kind in KINDS.values() if given & kind.fields.keys()]
    return named[0] if len(named) == 1 else None


def replay(
    lake: Lake,
    records: Iterable[RejectedRecord],
    into: Kind | None = None,
    *,
    dry_run: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Replayed:
    """Land those of the records that the rules take now and that have not landed since.

    Args:
        lake: where the records were rejected; its tables exist.
        records: what is chosen of its rejected records.
        into: the kind to which records go that are misrouted where they are and name it.
        dry_run: only say what would land.
        progress: called with numbers of records dealt with.

    Returns:
        The account of the chosen records.

    Raises:
        LakeError: the lake cannot be written; what was committed stays.
    """
    account = Replayed()
    for chosen in _batches(records):
        account.chosen += len(chosen)
        waiting = [record for record in chosen if record.replayed_at is None]
        account.before += len(chosen) - len(waiting)
        for table, rows in _decided(waiting, into, account.rejected):
            landed = rows.num_rows if dry_run else lake.append_replayed(table, rows).num_rows
            if landed:
                account.landed[table] += landed
            account.elsewhere += rows.num_rows - landed
        progress(len(chosen))
    return account


def _decided(
    records: Sequence[RejectedRecord], into: Kind | None, rejected: Counter[str]
) -> Iterator[tuple[str, pa.Table]]:
    """The records that the rules take, by the table they go to; the others are counted."""
    for kind in KINDS.values():
        mine = [record for record in records if record.kind == kind.name]
        misrouted = []
        taken, refused = _decode(kind, mine)
        if taken.num_rows:
            yield kind.name, taken
        for record, reason in refused:
            if reason is Reason.MISROUTED and into and named_kind(record.raw) is into:
                misrouted.append(record)
            else:
                rejected[reason.value] += 1
        if into and misrouted:
            taken, refused = _decode(into, misrouted)
            rejected.update(reason.value for _, reason in refused)
            yield into.name, taken


def _decode(
    kind: Kind, records: Sequence[RejectedRecord]
) -> tuple[pa.Table, list[tuple[RejectedRecord, Reason]]]:
    """The rows of the records that a kind's rules take, and the others with the reason."""
    decoded = decode(kind, [record.raw for record in records])
    taken = [records[index] for index in decoded.indices]
    rows = pa.Table.from_batches([decoded.rows])
    for name, values in zip(
        REPLAYED_FIELDS.names,
        (
            [record.stream for record in taken],
            [f"{record.source}/{record.partition}" for record in taken],
            [record.position for record in taken],
        ),
        strict=True,
    ):
        rows = rows.append_column(name, pa.array(values, pa.string()))
    return rows, [(records[item.index], item.reason) for item in decoded.rejected]


def _batches(records: Iterable[RejectedRecord]) -> Iterator[list[RejectedRecord]]:
    batch: list[RejectedRecord] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.raw)
        if len(batch) >= _RECORDS or size >= _BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
