"""Reading bronze for people: where each partition stands, and what was rejected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deltalake import QueryBuilder

from ingestion.errors import LakeError
from ingestion.lake import REJECTED, SCHEMAS, Lake


@dataclass(frozen=True)
class Position:
    """Where one partition of one stream stands.

    Attributes:
        last_position: the highest position seen, landed or rejected.
        rows: rows in the kind's table.
        rejected: rows in the rejected table.
        last_landed: when the newest of either was committed, UTC.
    """

    source: str
    stream: str
    partition: str
    last_position: str
    rows: int
    rejected: int
    last_landed: datetime


@dataclass(frozen=True)
class RejectedRecord:
    """A row of the rejected table."""

    kind: str
    reason: str
    detail: str
    raw: bytes
    source: str
    stream: str
    partition: str
    position: str
    landed_at: datetime

    @property
    def id(self) -> str:
        """``source/stream/partition/position``, as `ingest rejected show` takes it."""
        position = self.position.lstrip("0") or "0"
        return f"{self.source}/{self.stream}/{self.partition}/{position}"


def _query(lake: str, sql: str, tables: list[str]) -> Iterator[dict[str, Any]]:
    opened = Lake(lake)
    builder = QueryBuilder()
    for table in tables:
        builder = builder.register(table, opened.handle(table))
    for batch in builder.execute(sql):
        names = batch.schema.names
        columns = [batch.column(name).to_pylist() for name in names]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


def positions(lake: str) -> list[Position]:
    """Every source, stream and partition that anything came from, in order.

    Raises:
        LakeError: a bronze table is missing or cannot be read.
    """
    parts = [
        f"select _source, _stream, _partition, max(_position) as last_position, "
        f"count(*) as rows, 0 as rejected, max(_landed_at) as last_landed from {table} "
        "group by 1, 2, 3"
        for table in SCHEMAS
        if table != REJECTED
    ]
    parts.append(
        "select _source, _stream, _partition, max(_position) as last_position, "
        f"0 as rows, count(*) as rejected, max(_landed_at) as last_landed from {REJECTED} "
        "group by 1, 2, 3"
    )
    sql = (
        "select _source as source, _stream as stream, _partition as partition, "
        "max(last_position) as last_position, cast(sum(rows) as bigint) as rows, "
        "cast(sum(rejected) as bigint) as rejected, max(last_landed) as last_landed "
        f"from ({' union all '.join(parts)}) as t group by 1, 2, 3 order by 1, 2, 3"
    )
    return [Position(**row) for row in _query(lake, sql, list(SCHEMAS))]


def _where(reason: str | None, kind: str | None) -> str:
    # Both come from closed lists, never from free text.
    conditions = [f"reason = '{reason}'"] if reason else []
    conditions += [f"kind = '{kind}'"] if kind else []
    return f" where {' and '.join(conditions)}" if conditions else ""


def count_rejected(lake: str, reason: str | None = None, kind: str | None = None) -> int:
    """How many records were rejected, for a reason and of a kind where given."""
    sql = f"select count(*) as n from {REJECTED}{_where(reason, kind)}"
    return next(int(row["n"]) for row in _query(lake, sql, [REJECTED]))


def rejected(
    lake: str, reason: str | None = None, kind: str | None = None, limit: int | None = None
) -> Iterator[RejectedRecord]:
    """Rejected records, the newest first.

    Args:
        lake: the lake's address.
        reason: only this reason.
        kind: only this kind of record.
        limit: at most so many.
    """
    sql = (
        "select kind, reason, detail, raw, _source as source, _stream as stream, "
        "_partition as partition, _position as position, _landed_at as landed_at "
        f"from {REJECTED}{_where(reason, kind)} "
        "order by _landed_at desc, _source, _stream, _partition, _position"
        + (f" limit {limit:d}" if limit is not None else "")
    )
    for row in _query(lake, sql, [REJECTED]):
        yield RejectedRecord(**row)


def rejected_record(lake: str, identity: str) -> RejectedRecord:
    """The rejected record of an id.

    Raises:
        LakeError: there is none.
    """
    for row in rejected(lake):
        if row.id == identity:
            return row
    raise LakeError(f"{lake}: no rejected record {identity}; 'ingest rejected list' shows the ids")
