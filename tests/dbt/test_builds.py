"""A lake built at once: against the oracle, elsewhere, once more, and what it tells of itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import hostile, oracle
from tests.dbt.lakes import ROOT, STAGING, Built, Row, assert_oracle_agrees

HOSTILE = hostile.hostile_lines(seed=1, posts=150)
STREAM = ROOT.parent / "shared" / "data" / "seed100_stream"

#: The machine's time zone, and the session's.
ZONES = {
    "America/New_York": "Pacific/Kiritimati",
    "Asia/Kolkata": "America/New_York",
    "Pacific/Kiritimati": "Asia/Kolkata",
}


@pytest.fixture(scope="module")
def hostile_lake(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Landed in one commit an hour ago; `dbt build`, with every test, has run."""
    lake = Built(tmp_path_factory.mktemp("hostile"))
    lake.land(HOSTILE, datetime.now(UTC) - timedelta(hours=1))
    with lake.dbt() as dbt:
        dbt.succeed("build")
    return lake


def test_hostile_records(hostile_lake: Built) -> None:
    assert_oracle_agrees(hostile_lake)


@pytest.mark.skipif(not STREAM.is_dir(), reason="../shared/data missing")
def test_real_records(tmp_path: Path) -> None:
    lake = Built(tmp_path)
    lake.land(
        {kind: (STREAM / f"raw_{kind}.jsonl").read_bytes().splitlines() for kind in oracle.KINDS},
        datetime(2024, 3, 1, tzinfo=UTC),
    )
    with lake.dbt() as dbt:
        dbt.succeed("build --exclude-resource-type unit_test")
    assert_oracle_agrees(lake)
    assert {kind: len(rows) for kind, rows in lake.staged().items()} == dict.fromkeys(
        oracle.KINDS, 2019
    )


@pytest.fixture(scope="module")
def elsewhere(hostile_lake: Built, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Built]:
    """The hostile records, built on machines elsewhere by sessions elsewhere again."""
    lakes = {}
    for zone in ZONES:
        folder = tmp_path_factory.mktemp("elsewhere")
        lakes[zone] = Built(folder, hostile_lake.records, hostile_lake.rejected)
        shutil.copytree(hostile_lake.uri / "bronze", lakes[zone].uri / "bronze")

    def build(zone: str) -> None:
        with lakes[zone].dbt({"spark.sql.session.timeZone": ZONES[zone]}, TZ=zone) as dbt:
            dbt.succeed("run")

    with ThreadPoolExecutor() as threads:
        list(threads.map(build, ZONES))
    return lakes


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
def test_no_answer_depends_on_a_time_zone(elsewhere: Mapping[str, Built], zone: str) -> None:
    assert_oracle_agrees(elsewhere[zone])


@dataclass
class Rebuilt:
    """The lake of hostile records after another process, and what it held before."""

    lake: Built
    tables: dict[str, list[Row]]
    versions: list[int]


@pytest.fixture(scope="module")
def rebuilt(hostile_lake: Built) -> Rebuilt:
    """A second process has built it again, asked how fresh it is and written the docs."""
    result = Rebuilt(hostile_lake, hostile_lake.tables(), incremental_versions(hostile_lake))
    with hostile_lake.dbt() as dbt:
        dbt.succeed("run , source freshness , docs generate --static")
    return result


def incremental_versions(lake: Built) -> list[int]:
    """How many commits each incremental table has."""
    tables = [*(("staging", table) for table in STAGING), ("intermediate", "int_posts")]
    return [lake.version(schema, table) for schema, table in tables]


@pytest.mark.slow
def test_a_build_with_nothing_new_changes_nothing(rebuilt: Rebuilt) -> None:
    assert rebuilt.lake.tables() == rebuilt.tables
    assert incremental_versions(rebuilt.lake) == rebuilt.versions


@pytest.mark.slow
def test_what_has_just_landed_is_fresh(rebuilt: Rebuilt) -> None:
    freshness = artifact(rebuilt.lake, "sources.json")
    assert {entry["unique_id"]: entry["status"] for entry in freshness["results"]} == {
        f"source.pinterest.bronze.{kind}": "pass" for kind in oracle.KINDS
    }


@pytest.mark.slow
def test_docs_tell_every_column_and_its_type(rebuilt: Rebuilt) -> None:
    catalog, manifest = (
        artifact(rebuilt.lake, "catalog.json"),
        artifact(rebuilt.lake, "manifest.json"),
    )
    described = {
        unique_id: {name: column["description"] for name, column in node["columns"].items()}
        for unique_id, node in {**manifest["nodes"], **manifest["sources"]}.items()
        if node["resource_type"] in ("model", "source")
    }
    found = {
        unique_id: {name: column["type"] for name, column in node["columns"].items()}
        for unique_id, node in {**catalog["nodes"], **catalog["sources"]}.items()
    }
    assert {unique_id: list(columns) for unique_id, columns in found.items()} == {
        unique_id: list(columns) for unique_id, columns in described.items()
    }
    assert all(all(columns.values()) for columns in described.values())
    assert found["model.pinterest.stg_geo"]["coordinates"] == "array<double>"
    assert found["model.pinterest.median_followers_by_age_group"] == {
        "age_group": "string",
        "median_follower_count": "double",
        "number_users": "bigint",
    }
    assert (rebuilt.lake.folder / "target" / "static_index.html").stat().st_size > 500_000


def artifact(lake: Built, name: str) -> Any:
    """What dbt left for others to read."""
    return json.loads((lake.folder / "target" / name).read_text())
