"""Days that are landed and built one after another give what one landing of all of them gives."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

from tests.dags.deployments import in_days, posts
from tests.dbt.lakes import Built, assert_oracle_agrees


def test_days_one_by_one_give_what_one_landing_of_all_gives(tmp_path: Path) -> None:
    lines = posts(300, 5, tmp_path / "posts")
    daily, whole = Built(tmp_path / "daily"), Built(tmp_path / "whole")
    for built in (daily, whole):
        built.folder.mkdir()
    with daily.dbt() as dbt:
        for day, landed in in_days(lines, date(2026, 3, 1), 10):
            daily.land(landed, datetime(day.year, day.month, day.day, 4, tzinfo=UTC))
            # The marts are made from nothing at every run: the last day's are all there is.
            dbt.succeed("run --quiet --exclude marts")
        dbt.succeed("build --quiet")
    whole.land(lines, datetime(2026, 4, 1, tzinfo=UTC))
    with whole.dbt() as dbt:
        dbt.succeed("run --quiet")
    assert_oracle_agrees(daily)
    assert daily.tables() == whole.tables()
