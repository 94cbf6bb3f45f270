"""Competing landers, killed at random: every record of a real source lands or is rejected, once.

What the check is worth is shown by landers with something wrong: it finds what they lose and what
they land twice. `python -m benchmarks.kills` is the same with hundreds of kills.
"""

from __future__ import annotations

import signal
import uuid
from pathlib import Path

import pytest

from tests.dbt.lakes import PIPELINE
from tests.services import kills
from tests.services.conftest import client
from tests.services.kills import Source
from tests.services.landers import Nursery, Order, Stage

RECORDS = 20_000
KILLS = 15


@pytest.fixture(params=["S3", "Kafka", "Kinesis"])
def source(request: pytest.FixtureRequest) -> Source:
    if request.param == "S3":
        return kills.Objects(request.getfixturevalue("store"))
    if request.param == "Kafka":
        return kills.Topics(request.getfixturevalue("broker"))
    return kills.Shards(request.getfixturevalue("kinesis_url"))


def test_whoever_is_killed_every_record_is_there_once(
    source: Source, nursery: Nursery, tmp_path: Path
) -> None:
    report = kills.run(source, nursery, tmp_path, RECORDS, KILLS)
    assert report.sound, report
    assert report.unfit > RECORDS // (kills.UNFIT + 2)
    assert report.kills == KILLS
    # Most kills hit work, not landers that had nothing to do.
    assert report.busy >= KILLS // 3, report
    # It was upheld meanwhile.
    assert report.merged, report


def test_nor_does_it_matter_where_the_lake_is(
    store: dict[str, str], nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a store, a commit is safe because the store refuses to write a log's file twice."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    bucket = f"lake-{uuid.uuid4().hex}"
    client("s3", store).create_bucket(Bucket=bucket)
    lake = f"s3://{bucket}/lake"
    report = kills.run(kills.Objects(store), nursery, tmp_path, 8_000, 8, lake=lake)
    assert report.sound, report
    assert report.kills == 8


def test_a_lander_that_is_told_to_end_before_it_has_begun_ends(
    nursery: Nursery, tmp_path: Path
) -> None:
    # A lander that the signal reaches late lands this record and waits; without it, it would exit.
    name = f"topics/{PIPELINE}.geo/partition=0/{PIPELINE}.geo+0+0000000000.json"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b'{"ind":1,"country":"x"}\n')
    order = Order(
        ["s3", "--uri", str(tmp_path), "--lake", str(tmp_path / "lake")],
        tmp_path / "log",
        tmp_path / "stages",
        again=True,
        rest=60,
    )
    for _ in range(200):
        assert nursery.start(order).end(signal.SIGTERM) == -signal.SIGTERM


def test_landers_without_the_check_land_records_twice(
    source: Source, nursery: Nursery, tmp_path: Path
) -> None:
    report = kills.run(
        source, nursery, tmp_path, 6_000, 8, mutation="without the check", patience=5
    )
    assert not report.sound
    assert report.twice, report


def test_it_takes_others_to_miss_the_check(
    source: Source, nursery: Nursery, tmp_path: Path
) -> None:
    """Nothing else is wrong with landers that lack it: one that nobody kills lands all once."""
    report = kills.run(source, nursery, tmp_path, 2_000, 0, landers=1, mutation="without the check")
    assert report.sound, report


@pytest.mark.parametrize("mutation", ["rows before rejected", "positions before rows"])
def test_a_lander_that_commits_in_the_wrong_order_loses_records(
    broker: str, nursery: Nursery, tmp_path: Path, mutation: str
) -> None:
    report = kills.run(
        kills.Topics(broker),
        nursery,
        tmp_path,
        6_000,
        6,
        landers=1,
        mutation=mutation,
        aims=[Stage.BETWEEN],
        pause=0.3,
        patience=2,
    )
    assert not report.sound
    assert report.lost, report
