"""Columns of models are added, dropped, retyped and moved, on the embedded engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from tests.dbt.changing import GROWING, VERSIONS, Project, assert_tables_follow
from tests.dbt.lakes import Built, Dbt


@dataclass
class Changing:
    """A lake, the project whose models change, and a dbt process on both."""

    lake: Built
    project: Project
    dbt: Dbt

    def refused(self, command: str) -> str:
        """Run a command that must fail and change nothing; give back what dbt logged of it."""
        version, begin = self.lake.version(*GROWING), len(self.dbt.log.read_text())
        assert self.dbt(command) == 1
        assert self.lake.version(*GROWING) == version
        return self.dbt.log.read_text()[begin:]


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    folder = tmp_path_factory.mktemp("changing")
    lake = Built(folder)
    lake.land({}, datetime.now(UTC))
    project = Project(folder / "project")
    with lake.dbt(project=project.folder) as dbt:
        yield Changing(lake, project, dbt)


def test_a_table_has_the_columns_of_its_model(changing: Changing) -> None:
    assert_tables_follow(changing.lake, changing.project, changing.dbt)
    (compiled,) = (changing.lake.folder / "target" / "compiled").rglob("sliced.sql")
    assert "1 slice of 2" in compiled.read_text()


def test_an_incremental_table_whose_columns_change_is_to_be_built_again(changing: Changing) -> None:
    lake, project, dbt = changing.lake, changing.project, changing.dbt
    run = f"run --select {GROWING[1]}"
    remedy = f"build it again with 'dbt run --full-refresh --select {GROWING[1]}'"
    project.write(VERSIONS["first"])
    dbt.succeed(f"{run} --full-refresh")

    # dbt's default leaves out a column that is new.
    project.write(VERSIONS["added"])
    dbt.succeed(run)
    said = "staging.growing goes on without new columns of its model (added); 'dbt run --full-ref"
    assert said in dbt.log.read_text()
    assert list(lake.types(*GROWING).items()) == VERSIONS["first"].columns
    project.write(VERSIONS["added"], on_schema_change="append_new_columns")
    said = changing.refused(run)
    assert "staging.growing are not those of its model (only in the model: added)" in said
    assert remedy in said

    project.write(VERSIONS["dropped"])
    said = changing.refused(run)
    assert "its model (only in the table: doubled)" in said
    assert remedy in said

    project.write(VERSIONS["retyped"], on_schema_change="sync_all_columns")
    assert (
        "(only in the table: doubled; only in the model: added; of another type: kept)"
    ) in changing.refused(run)

    dbt.succeed(f"{run} --full-refresh")
    project.write(VERSIONS["retyped"], rows=5, on_schema_change="sync_all_columns")
    dbt.succeed(run)
    assert list(lake.types(*GROWING).items()) == VERSIONS["retyped"].columns
    rows = sorted((row["ind"], row["kept"], row["added"]) for row in lake.rows(*GROWING))
    assert rows == [(ind, ind, ["a", None]) for ind in range(1, 6)]
