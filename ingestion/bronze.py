"""Reading bronze for people: where each partition stands, and what was rejected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deltalake import QueryBuilder

from ingestion.errors import LakeError
from ingestion.lake import BRONZE, REJECTED, REPLAY, SCHEMAS, Lake, explained
from ingestion.records import KINDS

#: One scan with small batches: a row may hold megabytes.
_SESSION = {
    "datafusion.execution.batch_size": "512",
    "datafusion.execution.target_partitions": "1",
}


@dataclass(frozen=True)
class Position:
    """Where one partition of one stream stands.

    Attributes:
        last_position: the highest position seen, landed or rejected.
        rows: rows in the kinds' tables, replayed ones too.
        rejected: records that were rejected and have not been replayed.
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
    """A row of the rejected table, and when the record was replayed, if it was."""

    kind: str
    reason: str
    detail: str
    raw: bytes
    source: str
    stream: str
    partition: str
    position: str
    landed_at: datetime
    replayed_at: datetime | None = None

    @property
    def id(self) -> str:
        """``source/stream/partition/position``, as `ingest rejected show` takes it."""
        position = self.position.lstrip("0") or "0"
        return f"{self.source}/{self.stream}/{self.partition}/{position}"


def _query(lake: str, sql: str, tables: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of a query as they come; its memory does not grow with their number."""
    opened = Lake(lake)
    builder = QueryBuilder(_SESSION)
    for table in tables:
        builder = builder.register(table, opened.handle(table))
    with explained(f"{opened.uri}/{BRONZE}"):
        for batch in builder.execute(sql):
            names = batch.schema.names
            columns = [batch.column(name).to_pylist() for name in names]
            for values in zip(*columns, strict=True):
                yield dict(zip(names, values, strict=True))


def _text(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


#: Rows that had been rejected, under the source and partition they were rejected at.
_REPLAYED = " union all ".join(
    "select split_part(_partition, '/', 1) as source, _stream as stream, "
    "substr(_partition, strpos(_partition, '/') + 1) as partition, _position as position, "
    f"_landed_at as landed_at from {kind} where _source = '{REPLAY}'"
    for kind in KINDS
)


def positions(lake: str) -> list[Position]:
    """Every source, stream and partition that anything came from, in order.

    Raises:
        LakeError: a bronze table is missing or cannot be read.
    """
    place = "_source as source, _stream as stream, _partition as partition"
    last = "max(_position) as last_position, max(_landed_at) as last_landed"
    parts = [
        f"select {place}, {last}, count(*) as rows, 0 as rejected from {kind} "
        f"where _source <> '{REPLAY}' group by 1, 2, 3"
        for kind in KINDS
    ]
    parts.append(
        f"select {place}, {last}, 0 as rows, count(*) as rejected from {REJECTED} group by 1, 2, 3"
    )
    parts.append(
        "select source, stream, partition, max(position) as last_position, "
        "max(landed_at) as last_landed, count(*) as rows, -count(*) as rejected "
        f"from ({_REPLAYED}) as replayed group by 1, 2, 3"
    )
    sql = (
        "select source, stream, partition, max(last_position) as last_position, "
        "cast(sum(rows) as bigint) as rows, cast(sum(rejected) as bigint) as rejected, "
        f"max(last_landed) as last_landed from ({' union all '.join(parts)}) as t "
        "group by 1, 2, 3 order by 1, 2, 3"
    )
    return [Position(**row) for row in _query(lake, sql, SCHEMAS)]


def _where(**equal: str | None) -> str:
    conditions = [f"{name} = {_text(value)}" for name, value in equal.items() if value is not None]
    return f" where {' and '.join(conditions)}" if conditions else ""


def count_rejected(lake: str, reason: str | None = None, kind: str | None = None) -> int:
    """How many records were rejected, for a reason and of a kind where given."""
    sql = f"select count(*) as n from {REJECTED}{_where(reason=reason, kind=kind)}"
    return next(int(row["n"]) for row in _query(lake, sql, [REJECTED]))


_RECORDS = (
    "select kind, reason, detail, raw, _source as source, _stream as stream, "
    f"_partition as partition, _position as position, _landed_at as landed_at from {REJECTED}"
)


def _records(lake: str, sql: str) -> Iterator[RejectedRecord]:
    replayed = {
        (row["source"], row["stream"], row["partition"], row["position"]): row["landed_at"]
        for row in _query(lake, _REPLAYED, KINDS)
    }
    for row in _query(lake, sql, [REJECTED]):
        place = (row["source"], row["stream"], row["partition"], row["position"])
        yield RejectedRecord(**row, replayed_at=replayed.get(place))


def rejected(
    lake: str, reason: str | None = None, kind: str | None = None, limit: int | None = None
) -> Iterator[RejectedRecord]:
    """Rejected records: the newest first where there is a limit, otherwise all, in any order.

    Args:
        lake: the lake's address.
        reason: only this reason.
        kind: only this kind of record.
        limit: at most so many; their number bounds the memory.
    """
    sql = _RECORDS + _where(reason=reason, kind=kind)
    if limit is not None:
        sql += " order by _landed_at desc, _source, _stream, _partition, _position"
        sql += f" limit {limit:d}"
    yield from _records(lake, sql)


def rejected_record(lake: str, identity: str) -> RejectedRecord:
    """The rejected record of an id.

    Raises:
        LakeError: there is none.
    """
    source, _, rest = identity.partition("/")
    stream, partition, position = ["", "", *rest.rsplit("/", 2)][-3:]
    sql = _RECORDS + _where(_source=source, _stream=stream, _partition=partition)
    # Positions are padded with zeros, ids are not.
    sql += f" and ltrim(_position, '0') = {_text(position.lstrip('0'))}"
    for record in _records(lake, sql):
        return record
    raise LakeError(f"{lake}: no rejected record {identity}; 'ingest rejected list' shows the ids")
