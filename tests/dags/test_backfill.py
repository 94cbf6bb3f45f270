"""Days that are run one after another, late, give what one landing of all of them gives."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from stack import airflow
from tests.dags import postgres
from tests.dags.deployments import Deployment, posts, running
from tests.dbt.lakes import Built, assert_oracle_agrees

FIRST = date(2026, 3, 1)
PATIENCE = 1200

Lines = dict[str, list[bytes]]


def in_days(lines: Lines, days: int) -> Iterator[tuple[date, Lines]]:
    """Lines in as many parts, some of which may have none of a kind."""
    for day in range(days):
        yield (
            FIRST + timedelta(days=day),
            {
                kind: found[len(found) * day // days : len(found) * (day + 1) // days]
                for kind, found in lines.items()
            },
        )


def test_a_month_of_days_gives_what_one_landing_of_all_of_it_gives(tmp_path: Path) -> None:
    lines = posts(900, 5, tmp_path / "posts")
    daily, whole = Built(tmp_path / "daily"), Built(tmp_path / "whole")
    for built in (daily, whole):
        built.folder.mkdir()
    with daily.dbt() as dbt:
        for day, landed in in_days(lines, 30):
            daily.land(landed, datetime(day.year, day.month, day.day, 4, tzinfo=UTC))
            # The marts are made anew whenever they are made: the last day's are all there is.
            dbt.succeed("run --quiet --exclude marts")
        dbt.succeed("build --quiet")
    whole.land(lines, datetime(2026, 4, 1, tzinfo=UTC))
    with whole.dbt() as dbt:
        dbt.succeed("run --quiet")
    assert_oracle_agrees(daily)
    assert daily.tables() == whole.tables()


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[airflow.Client, Deployment]]:
    """An Airflow with its state in PostgreSQL, as configured; a deployment with three days."""
    folder = tmp_path_factory.mktemp("airflow")
    late = Deployment(folder / "dags", "late")
    late.install()
    # The schedule begins with today; what came before it is made up for afterwards.
    (_, today), *before = in_days(posts(300, 6, folder / "posts"), 3)
    now = datetime.now(UTC).date()
    late.deliver(today, f"days/{now}", f"days/{now + timedelta(days=1)}")
    for day, lines in before:
        late.deliver(lines, f"days/{day}")
    settings = {"PIPELINE_SOURCES": "s3 --uri days/{{ ds }}"}
    with postgres.serving(folder / "postgres") as database:
        settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database
        with running(folder / "home", late.dags, **settings) as client:
            yield client, late


def test_a_backfill_lands_each_day_s_records_and_builds(
    late: tuple[airflow.Client, Deployment],
) -> None:
    client, deployment = late
    client.wait_for_dag(deployment.dag)
    today = client.run_now(deployment.dag)
    assert client.wait(deployment.dag, today, PATIENCE) == "success"
    days = [FIRST + timedelta(days=day) for day in (1, 2)]
    runs = client.backfill(deployment.dag, *days)
    for run in runs:
        assert client.wait(deployment.dag, run, PATIENCE) == "success"
    assert [run[:20] for run in runs] == [f"backfill__{day}" for day in days]
    assert len(deployment.built.records["pin"]) > 250
    assert_oracle_agrees(deployment.built)
