"""The models against the oracle: hostile records, real ones, other time zones."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import oracle
from tests.dbt.lakes import ROOT, Built, assert_oracle_agrees

STREAM = ROOT.parent / "shared" / "data" / "seed100_stream"

#: The machine's time zone, and the session's.
ZONES = {
    "America/New_York": "Pacific/Kiritimati",
    "Asia/Kolkata": "America/New_York",
    "Pacific/Kiritimati": "Asia/Kolkata",
}


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
        with lakes[zone].dbt(session_time_zone=ZONES[zone], TZ=zone) as dbt:
            dbt.succeed("run")

    with ThreadPoolExecutor() as threads:
        list(threads.map(build, ZONES))
    return lakes


@pytest.mark.parametrize("zone", ZONES)
def test_no_answer_depends_on_a_time_zone(elsewhere: Mapping[str, Built], zone: str) -> None:
    assert_oracle_agrees(elsewhere[zone])
