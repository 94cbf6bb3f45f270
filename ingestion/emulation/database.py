"""The source database's tables: made, filled with synthetic posts, and drawn from."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from itertools import zip_longest
from typing import Any, TypeVar

import msgspec
import numpy as np
from sqlalchemy import Connection, bindparam, text

from ingestion.emulation.defects import KINDS as NAMES
from ingestion.emulation.defects import Kind as Name
from ingestion.emulation.posting import Post
from ingestion.emulation.posts import Plan, records
from ingestion.errors import SourceError
from ingestion.records import KINDS, MAX_INT64, Kind, Type
from ingestion.sources.database import Database, DatabaseError
from ingestion.sources.mysql import as_json, columns_of

#: Rows made, written or compared at once.
_BLOCK = 10_000
_TYPES = {Type.TEXT: "TEXT", Type.INTEGER: "BIGINT", Type.DOUBLE: "DOUBLE"}
_TIMES = ("timestamp", "date_joined")
#: How long to wait for another filler of the same database.
_WAIT_SECONDS = 500

T = TypeVar("T")


def key_column(kind: Kind) -> str:
    """The name of the key in a kind's table."""
    return "index" if kind.name == "pin" else "ind"


def _columns(kind: Kind) -> dict[str, str]:
    """A table's columns with their types, the key first."""
    payload = {
        name: "DATETIME" if name in _TIMES else _TYPES[type_] for name, type_ in kind.fields.items()
    }
    return {key_column(kind): "BIGINT", **payload}


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _once(database: Database, action: Callable[[Connection], T]) -> T:
    """The result of an action, on a connection that does not outlast it."""
    try:
        return database.run(action)
    finally:
        database.drop()


# Filling


class Holds(Enum):
    """What a table holds, compared with a plan's posts."""

    NOTHING = auto()
    THESE = auto()
    OTHERS = auto()


def fill(
    database: Database,
    plan: Plan,
    replace: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Holds]:
    """Make the three tables and fill them with a plan's posts.

    A table is filled in one transaction: whatever is killed, it holds nothing or all. Of several
    fillers at once one works and the others wait.

    Args:
        database: where to.
        plan: what to invent; a clean one, since a column of times has one spelling.
        replace: whether a table that holds something else is dropped and made again.
        progress: told, now and then, how many more rows are in place.

    Returns:
        What each table held before; those that held these posts were left as they are.

    Raises:
        SourceError: a table holds something else, in which case none was written; or one cannot
            be written, in which case those before it are filled; or another filler takes long.
    """
    with _alone(database):
        return _fill(database, plan, replace, progress)


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Keep other fillers out, by a lock that ends with its connection."""
    keeper = database.another()
    # Such locks are the server's; the name of the database makes it this one's.
    sql = f"SELECT GET_LOCK(CONCAT('ingest-seed ', SHA1(DATABASE())), {_WAIT_SECONDS})"
    try:
        if keeper.run(lambda connection: connection.exec_driver_sql(sql).scalar()) != 1:
            raise SourceError(
                f"{database.location}: another 'ingest seed-database' has been filling it for "
                f"{_WAIT_SECONDS} s; run again when that has ended"
            )
        yield
    finally:
        keeper.drop()


def _fill(
    database: Database, plan: Plan, replace: bool, progress: Callable[[int], None]
) -> dict[str, Holds]:
    held = {name: _held(database, name, plan) for name in NAMES}
    others = [KINDS[name].source_table for name in NAMES if held[name] is Holds.OTHERS]
    if others and not replace:
        raise SourceError(
            f"{database.location}: something else than these posts is in {', '.join(others)}; "
            "--replace drops what is there and fills it anew, or name another database with --url"
        )
    for name in NAMES:
        if held[name] is Holds.THESE:
            progress(plan.posts)
        else:
            _write(database, name, plan, held[name] is Holds.OTHERS, progress)
    return {KINDS[name].source_table: held[name] for name in NAMES}


def _held(database: Database, name: Name, plan: Plan) -> Holds:
    kind = KINDS[name]
    columns = list(_columns(kind))
    sql = text(
        f"SELECT {_quoted(columns)} FROM `{kind.source_table}` ORDER BY `{key_column(kind)}`"
    )

    def look(connection: Connection) -> Holds:
        found = columns_of(connection, kind.source_table)
        if not found:
            return Holds.NOTHING
        if set(found) != set(columns):
            return Holds.OTHERS
        result = connection.execute(sql, execution_options={"stream_results": True})
        blocks = zip_longest(result.partitions(_BLOCK), _blocks(plan, name))
        for number, (rows, expected) in enumerate(blocks):
            if not number and not rows:
                return Holds.NOTHING
            raws = (as_json(dict(zip(columns, row, strict=True))) for row in rows or ())
            if [msgspec.json.decode(raw) for raw in raws] != expected:
                return Holds.OTHERS
        return Holds.THESE

    return _once(database, look)


def _write(
    database: Database, name: Name, plan: Plan, anew: bool, progress: Callable[[int], None]
) -> None:
    kind = KINDS[name]
    table, columns = kind.source_table, _columns(kind)
    defined = ", ".join(f"`{column}` {type_}" for column, type_ in columns.items())
    places = ", ".join(["%s"] * len(columns))
    insert = f"INSERT INTO `{table}` ({_quoted(list(columns))}) VALUES ({places})"

    def write(connection: Connection) -> None:
        if anew:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS `{table}`")
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS `{table}` "
            f"({defined}, PRIMARY KEY (`{key_column(kind)}`)) DEFAULT CHARACTER SET utf8mb4"
        )
        for block in _blocks(plan, name):
            rows = [tuple(record[column] for column in columns) for record in block]
            connection.exec_driver_sql(insert, rows)
            progress(len(rows))
        connection.commit()

    try:
        _once(database, write)
    except DatabaseError:
        raise
    except SourceError:
        # The rows may be there: by a commit whose answer was lost, or by another filler.
        if _held(database, name, plan) is not Holds.THESE:
            raise


def _blocks(plan: Plan, name: Name) -> Iterator[list[dict[str, Any]]]:
    """A plan's records, in the order of their keys."""
    for start in range(0, plan.posts, _BLOCK):
        keys = np.arange(start, min(start + _BLOCK, plan.posts))
        yield [msgspec.json.decode(line) for line in records(plan, name, keys)]


# Drawing


class StoredPosts:
    """Rows of the three tables by their numbers, in the order of their keys.

    Row n of a table is what ``LIMIT n, 1`` gives where the table is stored by its key; said here
    by key, it is the same whatever the storage, and found without counting. No connection stays
    open between two calls: posts may be sent for long.

    Args:
        database: where the tables are.
        rows: how many rows at the most can be asked for.

    Attributes:
        lengths: by table, the rows it has of them.

    Raises:
        SourceError: a table is missing or empty.
    """

    def __init__(self, database: Database, rows: int) -> None:
        self._database = database
        self._keys = {name: self._read_keys(KINDS[name], rows) for name in NAMES}
        self.lengths = {KINDS[name].source_table: len(self._keys[name]) for name in NAMES}
        for table, length in self.lengths.items():
            if not length:
                raise SourceError(
                    f"{database.location}: {table} is empty; fill it with 'ingest seed-database', "
                    "or post invented records with --synthetic"
                )

    def _read_keys(self, kind: Kind, rows: int) -> array[int]:
        key = key_column(kind)
        sql = text(
            f"SELECT `{key}` FROM `{kind.source_table}` "
            f"WHERE `{key}` BETWEEN 0 AND {MAX_INT64} ORDER BY `{key}` LIMIT {rows:d}"
        )
        return _once(self._database, lambda c: array("q", c.execute(sql).scalars()))

    def posts(self, numbers: Sequence[int]) -> list[Post]:
        """For each number the rows that there are, by kind."""
        found: list[Post] = [{} for _ in numbers]
        for name in NAMES:
            keys = self._keys[name]
            wanted = [keys[number] if number < len(keys) else None for number in numbers]
            rows = self._read_rows(KINDS[name], sorted({key for key in wanted if key is not None}))
            for post, key in zip(found, wanted, strict=True):
                if key in rows:
                    post[name] = rows[key]
        return found

    def _read_rows(self, kind: Kind, keys: Sequence[int]) -> dict[int, dict[str, Any]]:
        if not keys:
            return {}
        key = key_column(kind)
        sql = text(f"SELECT * FROM `{kind.source_table}` WHERE `{key}` IN :keys").bindparams(
            bindparam("keys", expanding=True)
        )

        def read(connection: Connection) -> dict[int, dict[str, Any]]:
            rows = connection.execute(sql, {"keys": keys}).mappings()
            return {int(row[key]): dict(row) for row in rows}

        return _once(self._database, read)
