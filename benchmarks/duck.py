"""The same compiled SQL on DuckDB: ``python -m benchmarks.duck STEP LAKE TARGET DATABASE``.

Reads what dbt compiled, translates Spark's SQL to DuckDB's, and runs in the order of dependence, on
the lake's own Parquet files: every model from the beginning (``full``), every model as after a day
(``day``: rows of incremental models replaced by key), or every data test (``test``). After models
the answers are compared with the lake's. Prints one line of JSON.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import sqlglot
from deltalake import DeltaTable
from sqlglot import exp

#: Functions of Spark that the translation leaves as they are.
_FUNCTIONS = [
    "create or replace macro unix_micros(moment) as epoch_us(moment)",
    "create or replace macro timestamp_micros(count) as make_timestamptz(count)",
    "create or replace macro date_from_unix_date(days) as date '1970-01-01' + days",
]


def main(step: str, lake: Path, target: Path, database: Path) -> dict[str, Any]:
    """Run a step.

    Returns:
        Seconds between the first and the last statement and of each model or test, and the number
        of rows that differ, by table.
    """
    manifest = json.loads((target / "manifest.json").read_text())
    nodes = [
        node
        for node in _in_order(manifest)
        if (node["resource_type"] == "test") == (step == "test")
    ]
    connection = duckdb.connect(str(database))
    connection.execute("set TimeZone = 'UTC'")
    for statement in _FUNCTIONS:
        connection.execute(statement)
    for schema in ("bronze", "staging", "intermediate", "marts"):
        connection.execute(f"create schema if not exists {schema}")
    for table in sorted((lake / "bronze").iterdir()):
        if files := DeltaTable(str(table)).file_uris():
            rows = f"select * from read_parquet({files!r}, hive_partitioning = true)"
        else:  # nothing was rejected
            rows = "select '' as kind, '' as reason, now() as _landed_at where false"
        connection.execute(f"create or replace view bronze.{table.name} as {rows}")
    seconds: dict[str, float] = {}
    begun = time.monotonic()
    for node in nodes:
        since = time.monotonic()
        sql = _translated((target / "compiled" / "pinterest" / _path(node)).read_text())
        if step == "test":
            failing = connection.execute(f"select count(*) from ({sql}) as failures").fetchall()
            assert failing == [(0,)], (node["name"], failing)
        else:
            incremental = step == "day" and node["config"]["materialized"] == "incremental"
            _build(connection, f"{node['schema']}.{node['name']}", sql, incremental)
        seconds[node["name"]] = time.monotonic() - since
    total = time.monotonic() - begun
    differing = {} if step == "test" else _differing(connection, lake, nodes)
    connection.close()
    return {"seconds": total, "nodes": seconds, "differing_rows": differing}


def _build(connection: duckdb.DuckDBPyConnection, table: str, sql: str, incremental: bool) -> None:
    if not incremental:
        connection.execute(f"create or replace table {table} as {sql}")
        return
    connection.execute(f"create or replace temp table newer as {sql}")
    connection.execute(f"delete from {table} where ind in (select ind from newer)")
    connection.execute(f"insert into {table} by name select * from newer")


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


def _path(node: dict[str, Any]) -> str:
    """Where dbt put the node's compiled SQL."""
    original = str(node["original_file_path"])
    return original if original.endswith(".sql") else f"{original}/{node['path']}"


def _translated(sql: str) -> str:
    """Spark's SQL as DuckDB's, in the form that is fastest there."""
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


def _differing(
    connection: duckdb.DuckDBPyConnection, lake: Path, nodes: list[dict[str, Any]]
) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in nodes:
        if node["resource_type"] != "model" or node["schema"] != "marts":
            continue
        ours = DeltaTable(str(lake / "marts" / node["name"])).to_pyarrow_table()
        connection.register("ours", ours)
        table = f"marts.{node['name']}"
        columns = ", ".join(ours.column_names)
        for left, right in ((table, "ours"), ("ours", table)):
            found = connection.execute(
                f"select count(*) from (select {columns} from {left} "
                f"except all select {columns} from {right})"
            ).fetchall()
            if found[0][0]:
                counts[node["name"]] = counts.get(node["name"], 0) + found[0][0]
        connection.unregister("ours")
    return counts


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(Path, sys.argv[2:5]))))
