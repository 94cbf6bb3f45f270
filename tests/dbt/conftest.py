"""The lake of hostile records, built once for all tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from tests import hostile
from tests.dbt.lakes import STAGING, Built, Row

HOSTILE = hostile.hostile_lines(seed=1, posts=150)
INCREMENTAL = (*(("staging", table) for table in STAGING), ("intermediate", "int_posts"))


@pytest.fixture(scope="session")
def hostile_lake(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Landed in one commit an hour ago; `dbt build`, with every test, has run."""
    lake = Built(tmp_path_factory.mktemp("hostile"))
    lake.land(HOSTILE, datetime.now(UTC) - timedelta(hours=1))
    with lake.dbt() as dbt:
        dbt.succeed("build")
    return lake


@dataclass
class Rebuilt:
    """The lake of hostile records after another process, and what it held before."""

    lake: Built
    tables: dict[str, list[Row]]
    versions: dict[str, int]


@pytest.fixture(scope="session")
def rebuilt(hostile_lake: Built) -> Rebuilt:
    """A second process has built it again, asked how fresh it is and written the docs."""
    result = Rebuilt(hostile_lake, hostile_lake.tables(), incremental_versions(hostile_lake))
    with hostile_lake.dbt() as dbt:
        dbt.succeed(
            "build --exclude-resource-type unit_test , source freshness , docs generate --static"
        )
    return result


def incremental_versions(lake: Built) -> dict[str, int]:
    """How many commits each incremental table has."""
    return {table: lake.version(schema, table) for schema, table in INCREMENTAL}
