"""The same compiled SQL on DuckDB: ``python -m benchmarks.duck STEP LAKE TARGET DATABASE``.

Reads what dbt compiled, translates Spark's SQL to DuckDB's, and runs it in the order of dependence
on the lake's own Parquet files. The steps are those of `benchmarks.sizes`: every model from the
beginning (``full``), every model after a day (``day``: rows of incremental models replaced by key),
every data test (``test``), or models after a day and data tests (``daily``). Prints one line of
JSON.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from deltalake import DeltaTable
from sqlglot import exp

#: Functions of Spark that the translation leaves as they are.
_FUNCTIONS = [
    "create or replace macro unix_micros(moment) as epoch_us(moment)",
    "create or replace macro timestamp_micros(count) as make_timestamptz(count)",
    "create or replace macro date_from_unix_date(days) as date '1970-01-01' + days",
]
#: Resource types that each step runs.
_RESOURCES = {
    "full": ("model",),
    "day": ("model",),
    "test": ("test",),
    "daily": ("model", "test"),
}


def main(step: str, lake: Path, target: Path, database: Path) -> dict[str, Any]:
    """Run a step.

    Returns:
        Seconds between the first and the last statement, seconds of each model or test, and the
        number of failures of each test.
    """
    connection = duckdb.connect(str(database))
    attach(connection, lake)
    failures: dict[str, int] = {}
    seconds: dict[str, float] = {}
    begun = time.monotonic()
    for node in nodes(target, _RESOURCES[step]):
        since = time.monotonic()
        sql = translated(node, target)
        if node["resource_type"] == "test":
            counted = f"select {node['config']['fail_calc']} from ({sql}) as failures"
            failures[node["unique_id"]] = connection.execute(counted).fetchall()[0][0] or 0
        else:
            incremental = step != "full" and node["config"]["materialized"] == "incremental"
            keys = node["config"]["unique_key"] if incremental else []
            _build(connection, f"{node['schema']}.{node['name']}", sql, keys)
        seconds[node["name"]] = time.monotonic() - since
    total = time.monotonic() - begun
    connection.close()
    return {"seconds": total, "nodes": seconds, "failures": failures}


def attach(connection: duckdb.DuckDBPyConnection, lake: Path) -> None:
    """Give a database the functions, the schemas and a view of each bronze table of the lake."""
    connection.execute("set TimeZone = 'UTC'")
    for statement in _FUNCTIONS:
        connection.execute(statement)
    for schema in ("bronze", "staging", "intermediate", "marts"):
        connection.execute(f"create schema if not exists {schema}")
    database = Path(connection.execute("select path from duckdb_databases() where not internal")
                    .fetchall()[0][0])  # fmt: skip
    for log in sorted((lake / "bronze").glob("*/_delta_log")):
        name = log.parent.name
        table = DeltaTable(str(log.parent))
        empty = database.with_name(f"{database.stem}-{name}-empty.parquet")
        files = ", ".join(map(_quoted, table.file_uris() or [_without_rows(table, empty)]))
        connection.execute(
            f"create or replace view bronze.{name} as "
            f"select * from read_parquet([{files}], hive_partitioning = true)"
        )


def _without_rows(table: DeltaTable, path: Path) -> str:
    """A Parquet file with a table's columns, for a table that has no files yet."""
    pq.write_table(pa.schema(table.schema().to_arrow()).empty_table(), path)
    return str(path)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _build(
    connection: duckdb.DuckDBPyConnection, table: str, sql: str, keys: str | list[str]
) -> None:
    """Replace a table, or only replace the rows of an incremental one that have newer versions."""
    if not keys:
        connection.execute(f"create or replace table {table} as {sql}")
        return
    key = keys if isinstance(keys, str) else f"({', '.join(keys)})"
    connection.execute(f"create or replace temp table newer as {sql}")
    connection.execute(f"delete from {table} where {key} in (select {key} from newer)")
    connection.execute(f"insert into {table} by name select * from newer")


def nodes(target: Path, resources: tuple[str, ...]) -> list[dict[str, Any]]:
    """Nodes of what dbt compiled into a folder, each after those it depends on.

    Args:
        target: the folder.
        resources: the types of nodes.
    """
    manifest = json.loads((target / "manifest.json").read_text())
    return [node for node in _in_order(manifest) if node["resource_type"] in resources]


def _in_order(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Models and data tests, each after what it depends on."""
    wanted = {
        key: node
        for key, node in manifest["nodes"].items()
        if node["resource_type"] in ("model", "test")
    }
    ordered: dict[str, dict[str, Any]] = {}

    def visit(key: str) -> None:
        if key in ordered or key not in wanted:
            return
        for parent in wanted[key]["depends_on"]["nodes"]:
            visit(parent)
        ordered[key] = wanted[key]

    for key in wanted:
        visit(key)
    return list(ordered.values())


def translated(node: dict[str, Any], target: Path) -> str:
    """A node's compiled SQL as DuckDB's, in the form that is fastest there."""
    original = str(node["original_file_path"])
    path = original if original.endswith(".sql") else f"{original}/{node['path']}"
    sql = (target / "compiled" / node["package_name"] / path).read_text()
    characters = re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), sql)
    parsed = sqlglot.parse_one(characters, read="spark").transform(_trimmed)
    # Of the two percentiles, the one that interpolates, as Spark's does.
    return str(parsed.sql(dialect="duckdb")).replace("QUANTILE(", "QUANTILE_CONT(")


def _trimmed(node: exp.Expression) -> exp.Expression:
    """Its regular expression trims a list of characters three times as fast as its trim."""
    name = node.name.lower() if isinstance(node, exp.Anonymous) else ""
    if name == "btrim":
        text, characters = node.expressions
    elif isinstance(node, exp.Trim) and node.expression:
        text, characters = node.this, node.expression
    else:
        return node
    several = "[" + "".join(f"\\x{{{ord(character):x}}}" for character in characters.name) + "]+"
    pattern = exp.Literal.string(f"^{several}|{several}$")
    return exp.Anonymous(
        this="regexp_replace",
        expressions=[text, pattern, exp.Literal.string(""), exp.Literal.string("g")],
    )


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(Path, sys.argv[2:5]))))
