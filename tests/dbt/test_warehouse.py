"""The databricks target on the stand-in for a SQL warehouse: two landings, two builds."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stack import spark
from tests import hostile, oracle
from tests.dbt import small_spark
from tests.dbt.lakes import STAGING, Built, assert_oracle_agrees
from tests.dbt.warehouse import Warehouse, warehouse

pytestmark = pytest.mark.skipif(spark.missing() is not None, reason=str(spark.missing()))

#: The hostile lines, half and half.
PARTS = hostile.parts(hostile.hostile_lines(seed=3, posts=60), 2)
INCREMENTAL = (*(f"staging.{table}" for table in STAGING), "intermediate.int_posts")
#: Every test that is a query of its own, and those of every kind that models share.
TESTED = "test_type:singular source:bronze.rejected stg_geo int_users top_user_by_country"
SETTINGS = {
    **small_spark.SETTINGS,
    "spark.sql.ui.explainMode": "simple",
    "spark.sql.maxPlanStringLength": "1000",
}


@dataclass
class Done:
    """A lake whose bronze the warehouse reads, and the warehouse.

    Attributes:
        lake: landed twice.
        shown: the warehouse's tables, where a lake would have them.
        warehouse: built after each landing, then tested.
    """

    lake: Built
    shown: Built
    warehouse: Warehouse


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """Registered, built, built again; asked how fresh it is; its docs written."""
    folder = tmp_path_factory.mktemp("databricks")
    lake = Built(folder)
    lake.land(PARTS[0], hours_ago(2))
    with warehouse(folder, SETTINGS) as running:
        (folder / "shown" / "lake").mkdir(parents=True)
        for schema in ("staging", "intermediate", "marts"):
            (folder / "shown" / "lake" / schema).symlink_to(running.tables / f"{schema}.db")
        with lake.dbt(**running.settings(folder)) as dbt:
            dbt.succeed(f'run-operation register_bronze --args {{"lake":"{lake.uri}"}} , run')
            lake.land(PARTS[1], hours_ago(1))
            dbt.succeed("run")
            dbt.succeed(f"test --select {TESTED} --exclude-resource-type unit_test")
            dbt.succeed("source freshness , docs generate")
            yield Done(lake, Built(folder / "shown", lake.records, lake.rejected), running)


def hours_ago(number: int) -> datetime:
    return datetime.now(UTC) - timedelta(hours=number)


def test_its_tables_are_the_oracles(done: Done) -> None:
    assert_oracle_agrees(done.shown)


def test_its_tables_are_the_embedded_engines(done: Done, tmp_path: Path) -> None:
    local = Built(tmp_path)
    for number in range(2):
        local.land(PARTS[number], hours_ago(2 - number))
    with local.dbt() as dbt:
        dbt.succeed("run")
    assert done.shown.tables() == local.tables()


def test_it_refuses_nothing_of_a_build(done: Done) -> None:
    assert done.warehouse.refused == []


def heads(done: Done, pattern: str) -> Counter[str]:
    """How often which table follows a pattern at the beginning of a statement."""
    name = rf"(?i){pattern}\s+`?hive_metastore`?\.`(\w+)`\.`(\w+)`"
    found = (re.match(name, statement) for statement in done.warehouse.statements)
    return Counter(".".join(match.groups()) for match in found if match)


def test_increments_are_merged_and_optimized(done: Done) -> None:
    assert heads(done, r"merge\s+into") == dict.fromkeys(INCREMENTAL, 1)
    assert heads(done, "optimize") == dict.fromkeys(INCREMENTAL, 2)


def test_incremental_tables_are_clustered_by_key(done: Done) -> None:
    for table in INCREMENTAL:
        actions = log(done.shown.uri.joinpath(*table.split(".")))
        clustered = [
            json.loads(action["domainMetadata"]["configuration"])["clusteringColumns"]
            for action in actions
            if action.get("domainMetadata", {}).get("domain") == "delta.clustering"
        ]
        assert clustered[-1] == [["ind"]]
        properties = next(
            action["metaData"]["configuration"] for action in actions if "metaData" in action
        )
        assert properties["delta.enableDeletionVectors"] == "true"


def log(table: Path) -> list[dict[str, Any]]:
    """Every action of a table's commits."""
    commits = sorted((table / "_delta_log").glob("*.json"))
    return [
        json.loads(line) for commit in commits for line in commit.read_text().strip().split("\n")
    ]


def test_it_tells_how_fresh_bronze_is_and_what_columns_there_are(done: Done) -> None:
    """Spark lists the columns of a table once it has been replaced; a warehouse lists all."""
    target = done.lake.folder / "target"
    freshness = json.loads((target / "sources.json").read_text())["results"]
    assert {entry["unique_id"]: entry["status"] for entry in freshness} == {
        f"source.pinterest.bronze.{kind}": "pass" for kind in oracle.KINDS
    }
    manifest = json.loads((target / "manifest.json").read_text())
    catalog = json.loads((target / "catalog.json").read_text())
    assert {name: list(node["columns"]) for name, node in catalog["nodes"].items()} == {
        name: list(node["columns"])
        for name, node in manifest["nodes"].items()
        if node["resource_type"] == "model"
        and f"{node['schema']}.{node['name']}" not in INCREMENTAL
    }


def test_readers_are_granted_what_they_may_read(done: Done) -> None:
    asked = len(done.warehouse.refused)
    with done.lake.dbt(**done.warehouse.settings(done.lake.folder)) as dbt:
        assert dbt('run --select data_quality --vars {"readers":["analysts"]}') == 1
    assert {kind for kind, _ in done.warehouse.refused[asked:]} == {"privileges"}
    del done.warehouse.refused[asked:]
