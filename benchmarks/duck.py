"""The same compiled SQL on DuckDB: ``python -m benchmarks.duck LAKE TARGET WORK``.

Reads what dbt compiled, translates Spark's SQL to DuckDB's, runs models and data tests in the
order of dependence on the lake's own Parquet files, and compares the answers with the lake's.
Prints one line of JSON.
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

#: Functions of Spark that the translation leaves as they are.
_FUNCTIONS = [
    "create macro btrim(text, characters) as trim(text, characters)",
    "create macro unix_micros(moment) as epoch_us(moment)",
    "create macro date_from_unix_date(days) as date '1970-01-01' + days",
]


def main(lake: Path, target: Path, work: Path) -> dict[str, Any]:
    """Build and test everything, and compare the answers.

    Returns:
        Seconds between the first and the last statement, and the number of rows that differ, by
        table.
    """
    manifest = json.loads((target / "manifest.json").read_text())
    nodes = _in_order(manifest)
    database = work / "peer.duckdb"
    database.unlink(missing_ok=True)
    connection = duckdb.connect(str(database))
    connection.execute("set TimeZone = 'UTC'")
    for statement in _FUNCTIONS:
        connection.execute(statement)
    connection.execute("create schema bronze")
    for table in sorted((lake / "bronze").iterdir()):
        if files := DeltaTable(str(table)).file_uris():
            rows = f"select * from read_parquet({files!r}, hive_partitioning = true)"
        else:  # nothing was rejected
            rows = "select '' as kind, '' as reason, now() as _landed_at where false"
        connection.execute(f"create view bronze.{table.name} as {rows}")
    for schema in ("staging", "intermediate", "marts"):
        connection.execute(f"create schema {schema}")
    begun = time.monotonic()
    for node in nodes:
        sql = _translated((target / "compiled" / "pinterest" / _path(node)).read_text())
        if node["resource_type"] == "model":
            connection.execute(f"create table {node['schema']}.{node['name']} as {sql}")
        else:
            failing = connection.execute(f"select count(*) from ({sql}) as failures").fetchall()
            assert failing == [(0,)], (node["name"], failing)
    seconds = time.monotonic() - begun
    return {"seconds": seconds, "differing_rows": _differing(connection, lake, nodes)}


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
    characters = re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), sql)
    return str(sqlglot.transpile(characters, read="spark", write="duckdb")[0])


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
    print(json.dumps(main(*map(Path, sys.argv[1:4]))))
