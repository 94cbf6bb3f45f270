"""Whether peers give the same answers: every mart of a lake, row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder


def compare(peer: str, lake: Path, theirs: Callable[[str], pa.Table]) -> None:
    """Compare every mart of a lake with a peer's table of the same name.

    Args:
        peer: its name.
        lake: the lake.
        theirs: gives the peer's table of a mart's name.

    Raises:
        RuntimeError: rows differ, or the lake has no marts.
    """
    differing: dict[str, int] = {}
    names = sorted(log.parent.name for log in (lake / "marts").glob("*/_delta_log"))
    if not names:
        raise RuntimeError(f"{lake} holds no marts to compare with {peer}'s; build it first")
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for name in names:
            ours = delta(lake)(name)
            connection.register("ours", ours)
            connection.register("theirs", theirs(name))
            columns = ", ".join(ours.column_names)
            ((rows,),) = connection.execute(
                f"""
                select count(*) from (
                    (select {columns} from ours except all select {columns} from theirs)
                    union all
                    (select {columns} from theirs except all select {columns} from ours)
                )
                """
            ).fetchall()
            if rows:
                differing[name] = rows
    if differing:
        raise RuntimeError(f"rows of {peer}'s marts that differ from those in {lake}: {differing}")


def delta(lake: Path) -> Callable[[str], pa.Table]:
    """Reads a mart of a lake."""

    def read(name: str) -> pa.Table:
        table = DeltaTable(str(lake / "marts" / name))
        rows = QueryBuilder().register("mart", table).execute("select * from mart")
        return pa.table(rows.read_all())

    return read


def database(path: Path) -> Callable[[str], pa.Table]:
    """Reads a mart of a DuckDB database."""

    def read(name: str) -> pa.Table:
        with duckdb.connect(str(path), read_only=True) as connection:
            connection.execute("set TimeZone = 'UTC'")
            found: Any = connection.sql(f"select * from marts.{name}").to_arrow_table()
            return found

    return read
