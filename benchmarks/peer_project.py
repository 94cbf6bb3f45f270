"""The same project for dbt-duckdb: as many models and data tests, the same SQL translated.

Models are tables that DuckDB keeps in a database; the lake's bronze files are views of it. Data
tests are singular ones with the SQL that dbt compiled: they cost dbt less than the generic tests
of this project, and the models have no contracts, so what is compared favours the peer.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import yaml

from benchmarks import duck
from benchmarks.engines import ROOT, Dbt

_NAME = "peer"


class DbtDuckDB(Dbt):
    """dbt-duckdb on a project made from what dbt compiled for the embedded engine.

    Args:
        folder: a folder to write the project and the database into; what it holds goes.
        compiled: dbt's target folder, after a full ``build``.
        lake: whose bronze files the models read.
    """

    name = "dbt-duckdb"

    def __init__(self, folder: Path, compiled: Path, lake: Path) -> None:
        super().__init__(folder / "target", folder, folder)
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("models", "tests", "macros"):
            (folder / name).mkdir(parents=True)
        self.database = (folder / f"{_NAME}.duckdb").resolve()
        with duckdb.connect(str(self.database)) as connection:
            duck.attach(connection, lake)
        _write(folder / "dbt_project.yml", _project())
        _write(folder / "profiles.yml", _profiles(self.database))
        macros = ROOT / "dbt_project" / "macros"
        shutil.copy(macros / "generate_schema_name.sql", folder / "macros")
        nodes = duck.nodes(compiled, ("model", "test"))
        names = {node["unique_id"]: node["name"] for node in nodes}
        for node in nodes:
            kind = "models" if node["resource_type"] == "model" else "tests"
            parents = [names[id_] for id_ in node["depends_on"]["nodes"] if id_ in names]
            path = folder / kind / f"{node['alias']}.sql"
            path.write_text(_source(node, parents, duck.translated(node, compiled)))


def _source(node: dict[str, Any], parents: list[str], sql: str) -> str:
    """A node's file: its configuration, its parents, and SQL that names their tables itself."""
    lines = [f"-- depends_on: {{{{ ref('{parent}') }}}}" for parent in parents]
    if node["resource_type"] == "model":
        lines.insert(0, f"{{{{ config(materialized='table', schema='{node['schema']}') }}}}")
    else:
        config = node["config"]
        lines.insert(
            0,
            f"{{{{ config(severity='{config['severity']}', fail_calc={config['fail_calc']!r}, "
            f"warn_if={config['warn_if']!r}, error_if={config['error_if']!r}) }}}}",
        )
    return "\n".join([*lines, "{% raw %}", sql, "{% endraw %}", ""])


def _project() -> dict[str, Any]:
    return {
        "name": _NAME,
        "version": "1.0",
        "config-version": 2,
        "profile": _NAME,
        "flags": {"send_anonymous_usage_stats": False},
    }


def _profiles(database: Path) -> dict[str, Any]:
    """A profile with as many threads as the local target of this project has."""
    ours = yaml.safe_load((ROOT / "profiles.example.yml").read_text())
    (profile,) = ours.values()
    peer = {
        "type": "duckdb",
        "path": str(database),
        "schema": "main",
        "threads": profile["outputs"]["local"]["threads"],
        "settings": {"TimeZone": "UTC"},
    }
    return {_NAME: {"target": "peer", "outputs": {"peer": peer}}}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content))
