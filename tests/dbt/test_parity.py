"""Apache Spark and the embedded engine build the same tables from the same records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
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
from tests.dbt.lakes import INTERMEDIATE, MARTS, STAGING, Built, assert_oracle_agrees
from tests.dbt.small_spark import serving

pytestmark = pytest.mark.skipif(spark.missing() is not None, reason=str(spark.missing()))

TABLES = [
    *(("staging", table) for table in STAGING),
    *(("intermediate", table) for table in INTERMEDIATE),
    *(("marts", table) for table in MARTS),
]
#: Whether Spark refuses what it cannot cast, by day: the answers are the same.
ANSI = ("true", "false")
DAYS = len(ANSI)

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
    """A lake that one engine built day by day, then the other."""

    lake: Built
    days: list[Mapping[str, Content]] = field(default_factory=list)
    continued: Mapping[str, Content] = field(default_factory=dict)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """A Spark of its own; the settings that make dbt use it."""
    with serving(tmp_path_factory.mktemp("spark")) as settings:
        yield settings


def lines(day: int) -> Mapping[str, list[bytes]]:
    """Everything hostile on the first day; corrections and replays of it, and more, later."""
    return hostile.hostile_lines(seed=4, posts=60) if day == 0 else LATER[day - 1]


#: The same posts' keys with other values: for every key of the first day there may be a correction.
LATER = hostile.parts(hostile.hostile_lines(seed=5, posts=60), DAYS)


def stamp(day: int) -> datetime:
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return now - timedelta(days=DAYS - day)


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


def forget_schemas(address: str) -> None:
    """Make a server fit for another lake; what it built is deleted."""
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
def pair(server: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A day on each engine in each of Spark's modes; then a day by the other engine."""
    left = Grown(Built(tmp_path_factory.mktemp("by_spark")))
    left.lake.land(lines(0), stamp(0))
    # Readers of a log that has a checkpoint go another way than those of a young one.
    for kind in oracle.KINDS:
        DeltaTable(str(left.lake.uri / "bronze" / kind)).create_checkpoint()
    right = Grown(same_bronze(left.lake, tmp_path_factory.mktemp("embedded")))
    with right.lake.dbt() as embedded:
        for day, ansi in enumerate(ANSI):
            if day:
                left.lake.land(lines(day), stamp(day))
                same_bronze(left.lake, right.lake.folder)
            embedded.succeed("run")
            # The data tests run on the same Spark by way of the stand-in for a warehouse.
            with left.lake.dbt({"spark.sql.ansi.enabled": ansi}, **server) as by_spark:
                by_spark.succeed("run")
                if day == len(ANSI) - 1:
                    by_spark.succeed("source freshness , docs generate")
            for grown in (left, right):
                grown.days.append(content(grown.lake))
    target = left.lake.folder / "target"
    freshness = json.loads((target / "sources.json").read_text())["results"]
    catalog = json.loads((target / "catalog.json").read_text())
    left.lake.land(lines(DAYS), stamp(DAYS))
    same_bronze(left.lake, right.lake.folder)
    with left.lake.dbt() as embedded:
        embedded.succeed("run")
    left.lake = kept(left.lake, tmp_path_factory.mktemp("kept"))
    with right.lake.dbt(**server) as by_spark:
        # There, as the client takes a worker of pytest for a run of doctests.
        by_spark.process.submit(forget_schemas, server["SPARK_REMOTE"]).result()
        # Marts are made anew each time, whoever made the last ones.
        by_spark.succeed("run --select staging intermediate")
    for grown in (left, right):
        grown.continued = content(grown.lake)
    return Pair(
        left,
        right,
        {entry["unique_id"]: entry["status"] for entry in freshness},
        {**catalog["nodes"], **catalog["sources"]},
    )


@pytest.mark.parametrize(
    ("day", "table"),
    [(day, table) for day in range(DAYS) for _, table in TABLES],
)
def test_both_engines_build_the_same(pair: Pair, day: int, table: str) -> None:
    assert pair.spark.days[day][table] == pair.embedded.days[day][table]


def test_later_days_changed_something(pair: Pair) -> None:
    for before, after in zip(pair.spark.days, pair.spark.days[1:], strict=False):
        changed = {table for table in before if before[table] != after[table]}
        assert {*STAGING, *INTERMEDIATE} <= changed
    assert pair.spark.days[0]["data_quality"] != pair.spark.days[-1]["data_quality"]


@pytest.mark.parametrize("table", [table for schema, table in TABLES if schema != "marts"])
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
    server: Mapping[str, str],
    tmp_path: Path,
) -> None:
    other = Built(tmp_path)
    other.land({}, stamp(0))
    with other.dbt(**server) as dbt:
        assert dbt("run") == 2
    assert not (other.uri / "staging").exists()


def test_columns_of_models_change_on_spark_too(
    pair: Pair, server: Mapping[str, str], tmp_path: Path
) -> None:
    # The lake that the server has.
    lake, project = pair.embedded.lake, Project(tmp_path / "project")
    with lake.dbt(project=project.folder, **server) as dbt:
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
