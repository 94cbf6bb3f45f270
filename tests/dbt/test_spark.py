"""Apache Spark and the embedded engine build the same tables from the same records.

Spark is spoken to in two ways: by the spark target, and by the databricks target through the
stand-in for a SQL warehouse. One server serves both, one after the other: what it costs to start
and to load its classes is paid once.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from stack import spark
from tests import hostile, oracle
from tests.dbt.changing import GROWING, VERSIONS, Project, assert_tables_follow, primitive
from tests.dbt.lakes import (
    INTERMEDIATE,
    MARTS,
    STAGING,
    Built,
    Dbt,
    assert_oracle_agrees,
)
from tests.dbt.small_spark import Server, serving
from tests.dbt.warehouse import Warehouse, warehouse
from tests.forking import forkserver

pytestmark = pytest.mark.skipif(spark.missing() is not None, reason=str(spark.missing()))

TABLES = [
    *(("staging", table) for table in STAGING),
    *(("intermediate", table) for table in INTERMEDIATE),
    *(("marts", table) for table in MARTS),
]
#: Marts that give an account of landing; the others answer questions.
ACCOUNTS = ("data_quality", "rejected_by_reason")
#: What grows or tells of it, and the command that builds it. The answers of a second landing are
#: compared where the warehouse builds them: each takes more than a CPU second.
GROWING_TABLES = [table for schema, table in TABLES if schema != "marts" or table in ACCOUNTS]
GROW = f"run --select staging intermediate {' '.join(ACCOUNTS)}"
#: Spark does not refuse what it cannot cast; the warehouse's builds have its own mode, in which it
#: does. Between them, every table is built and continued in both.
NO_ANSI = {"spark.sql.ansi.enabled": "false"}

#: Spark's names of types, and Delta's.
DELTA_TYPES = {
    **{
        name: f'PrimitiveType("{delta}")'
        for name, delta in {
            "bigint": "long",
            "int": "integer",
            "string": "string",
            "double": "double",
            "timestamp": "timestamp",
        }.items()
    },
    "array<double>": 'ArrayType(PrimitiveType("double"), contains_null=True)',
}

#: A table's types, and its rows as they print; they print alike only if they are alike.
Content = tuple[dict[str, str], list[str]]


@dataclass
class Grown:
    """A lake that one engine built, then the other continued."""

    lake: Built
    built: Mapping[str, Content] = field(default_factory=dict)
    continued: Mapping[str, Content] = field(default_factory=dict)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Spark of its own."""
    with serving(tmp_path_factory.mktemp("spark")) as running:
        yield running


def midnight(days_ago: int) -> datetime:
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return now - timedelta(days=days_ago)


def content(lake: Built) -> dict[str, Content]:
    return {
        table: (lake.types(schema, table), sorted(map(repr, lake.rows(schema, table))))
        for schema, table in TABLES
    }


def same_bronze(source: Built, folder: Path) -> Built:
    """Another lake with the same bronze tables, whatever was built of them."""
    copy = Built(folder, source.records, source.rejected)
    shutil.copytree(source.uri / "bronze", copy.uri / "bronze", dirs_exist_ok=True)
    return copy


def kept(lake: Built, folder: Path) -> Built:
    """A copy of a lake, of which a server may delete the original."""
    shutil.copytree(lake.folder, folder, dirs_exist_ok=True)
    return Built(folder, lake.records, lake.rejected, lake.offsets)


def forget_schemas(server: Server) -> None:
    """Make a server fit for another lake; what it built is deleted."""
    # In a process of its own, as the client takes a worker of pytest for a run of doctests.
    with ProcessPoolExecutor(1, forkserver) as process:
        process.submit(_drop_schemas, server.remote).result()


def _drop_schemas(address: str) -> None:
    session = SparkSession.builder.remote(address).getOrCreate()
    for schema in ("bronze", "staging", "intermediate", "marts"):
        session.sql(f"drop schema if exists `{schema}` cascade")
    session.stop()


@dataclass
class Pair:
    """Lakes with the same records, one built by each engine, then each continued by the other."""

    spark: Grown
    embedded: Grown
    statuses: Mapping[str, str]
    documented: Mapping[str, Any]


@pytest.fixture(scope="module")
def pair(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A landing built by each engine; then another, built by the other one."""
    left = Grown(Built(tmp_path_factory.mktemp("by_spark")))
    left.lake.land(hostile.hostile_lines(seed=4, posts=60), midnight(days_ago=1))
    # Readers of a log that has a checkpoint go another way than those of a young one.
    for kind in oracle.KINDS:
        DeltaTable(str(left.lake.uri / "bronze" / kind)).create_checkpoint()
    right = Grown(same_bronze(left.lake, tmp_path_factory.mktemp("embedded")))
    with right.lake.dbt() as embedded:
        embedded.succeed("run")
    # The data tests run on the same Spark by way of the stand-in for a warehouse.
    with left.lake.dbt(NO_ANSI, **server.settings) as by_spark:
        by_spark.succeed("run , source freshness , docs generate --no-compile")
    for grown in (left, right):
        grown.built = content(grown.lake)
    target = left.lake.folder / "target"
    freshness = json.loads((target / "sources.json").read_text())["results"]
    catalog = json.loads((target / "catalog.json").read_text())
    # The same posts' keys with other values: for every key there may be a correction.
    left.lake.land(hostile.hostile_lines(seed=5, posts=60), midnight(days_ago=0))
    same_bronze(left.lake, right.lake.folder)
    with left.lake.dbt() as embedded:
        embedded.succeed("run")
    left.lake = kept(left.lake, tmp_path_factory.mktemp("kept"))
    forget_schemas(server)
    with right.lake.dbt(NO_ANSI, **server.settings) as by_spark:
        by_spark.succeed(GROW)
    for grown in (left, right):
        grown.continued = content(grown.lake)
    return Pair(
        left,
        right,
        {entry["unique_id"]: entry["status"] for entry in freshness},
        {**catalog["nodes"], **catalog["sources"]},
    )


@pytest.mark.parametrize("table", [table for _, table in TABLES])
def test_both_engines_build_the_same(pair: Pair, table: str) -> None:
    assert pair.spark.built[table] == pair.embedded.built[table]


def test_the_second_landing_changed_something(pair: Pair) -> None:
    for grown in (pair.spark, pair.embedded):
        changed = {
            table for table in GROWING_TABLES if grown.built[table] != grown.continued[table]
        }
        assert {*STAGING, *INTERMEDIATE, "data_quality"} <= changed


@pytest.mark.parametrize("table", GROWING_TABLES)
def test_one_engine_continues_what_the_other_built(pair: Pair, table: str) -> None:
    assert pair.spark.continued[table] == pair.embedded.continued[table]


def test_what_both_engines_built_is_right(pair: Pair) -> None:
    """The other lake's tables are the same, as the tests before say."""
    assert_oracle_agrees(pair.spark.lake)


def test_spark_tells_how_fresh_the_sources_are(pair: Pair) -> None:
    assert set(pair.statuses) == {f"source.pinterest.bronze.{kind}" for kind in oracle.KINDS}
    assert set(pair.statuses.values()) <= {"pass", "warn"}


def test_spark_documents_every_column(pair: Pair) -> None:
    for schema, table in TABLES:
        found = pair.documented[f"model.pinterest.{table}"]["columns"].values()
        assert {column["name"]: DELTA_TYPES[column["type"]] for column in found} == (
            pair.spark.lake.types(schema, table)
        )
    assert set(pair.documented) >= {f"source.pinterest.bronze.{kind}" for kind in oracle.KINDS}


def test_a_server_with_another_lake_is_refused(
    pair: Pair,  # noqa: ARG001 (one of its lakes is the one the server has)
    server: Server,
    tmp_path: Path,
) -> None:
    other = Built(tmp_path)
    other.land({}, midnight(days_ago=1))
    with other.dbt(**server.settings) as dbt:
        assert dbt("run") == 2
    assert not (other.uri / "staging").exists()


def test_columns_of_models_change_on_spark_too(pair: Pair, server: Server, tmp_path: Path) -> None:
    # The lake that the server has.
    lake, project = pair.embedded.lake, Project(tmp_path / "project")
    with lake.dbt(project=project.folder, **server.settings) as dbt:
        # The embedded engine goes through every version; Spark through what is another way there.
        versions = {name: VERSIONS[name] for name in ("first", "retyped", "partitioned")}
        assert_tables_follow(lake, project, dbt, versions)
        project.write(VERSIONS["first"], full_refresh=True)
        dbt.succeed(f"run --select {GROWING[1]}")
        # Unlike the embedded engine, Spark adds columns to an incremental table.
        project.write(VERSIONS["added"], rows=5, on_schema_change="append_new_columns")
        dbt.succeed(f"run --select {GROWING[1]}")
    first, added = VERSIONS["first"].columns, ("added", primitive("double"))
    assert list(lake.types(*GROWING).items()) == [*first, added]
    assert sorted(row["ind"] for row in lake.rows(*GROWING)) == [1, 2, 3, 4, 5]


#: The hostile lines, half and half.
PARTS = hostile.parts(hostile.hostile_lines(seed=3, posts=60), 2)
INCREMENTAL = (*(f"staging.{table}" for table in STAGING), "intermediate.int_posts")
#: Every test that is a query of its own, and one or two of every kind that models share.
TESTED = (
    "test_type:singular source:bronze.rejected stg_geo test_name:relationships,country_of_top_user "
    "int_users,test_name:unique_rows int_users,test_name:in_range"
)


@dataclass
class Done:
    """A lake whose bronze the warehouse reads, and the warehouse.

    Attributes:
        lake: landed twice.
        shown: the warehouse's tables, where a lake would have them.
        warehouse: built after each landing, then tested.
        dbt: the process that did so.
    """

    lake: Built
    shown: Built
    warehouse: Warehouse
    dbt: Dbt


@pytest.fixture(scope="module")
def done(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """Registered, built, built again; asked how fresh it is; its docs written."""
    forget_schemas(server)
    folder = tmp_path_factory.mktemp("databricks")
    lake = Built(folder)
    lake.land(PARTS[0], hours_ago(2))
    with warehouse(folder, server) as running:
        (folder / "shown" / "lake").mkdir(parents=True)
        for schema in ("staging", "intermediate", "marts"):
            (folder / "shown" / "lake" / schema).symlink_to(running.tables / f"{schema}.db")
        with lake.dbt(**running.settings(folder)) as dbt:
            dbt.succeed(f'run-operation register_bronze --args {{"lake":"{lake.uri}"}} , run')
            lake.land(PARTS[1], hours_ago(1))
            dbt.succeed("run")
            dbt.succeed(f"test --select {TESTED} --exclude-resource-type unit_test")
            dbt.succeed("source freshness , docs generate --no-compile")
            shown = Built(folder / "shown", lake.records, lake.rejected)
            yield Done(lake, shown, running, dbt)


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
    for table in TABLES:
        assert done.shown.types(*table) == local.types(*table), table


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
    assert done.dbt('run --select data_quality --vars {"readers":["analysts"]}') == 1
    assert {kind for kind, _ in done.warehouse.refused[asked:]} == {"privileges"}
    del done.warehouse.refused[asked:]
