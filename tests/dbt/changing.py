"""Models whose columns change, in a dbt project with the macros and settings of this one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.dbt.lakes import ROOT, Built, Dbt, Row

#: A column's name and Delta's type of it, in the table's order.
Columns = list[tuple[str, str]]


def primitive(name: str) -> str:
    """A type as `Built.types` writes it."""
    return f'PrimitiveType("{name}")'


@dataclass(frozen=True)
class Version:
    """The columns that every model selects.

    Attributes:
        select: the expressions, of a row whose key is `ind`.
        contract: the columns' names and types as a contract names them.
        columns: the same as the table has them.
        row: what the row of key 1 holds.
        config: the models' further configuration.
    """

    select: str
    contract: list[tuple[str, str]]
    columns: Columns
    row: Row
    config: dict[str, Any] = field(default_factory=dict)


#: Each changes the columns of the one before it.
VERSIONS = {
    "first": Version(
        "ind, 'x' as kept, ind * 2 as doubled",
        [("ind", "bigint"), ("kept", "string"), ("doubled", "bigint")],
        [
            ("ind", primitive("long")),
            ("kept", primitive("string")),
            ("doubled", primitive("long")),
        ],
        {"ind": 1, "kept": "x", "doubled": 2},
    ),
    "added": Version(
        "ind, 'x' as kept, cast(null as double) as added, ind * 2 as doubled",
        [("ind", "bigint"), ("kept", "string"), ("added", "double"), ("doubled", "bigint")],
        [
            ("ind", primitive("long")),
            ("kept", primitive("string")),
            ("added", primitive("double")),
            ("doubled", primitive("long")),
        ],
        {"ind": 1, "kept": "x", "added": None, "doubled": 2},
    ),
    "dropped": Version(
        "ind, 'x' as kept, cast(0.5 as double) as added",
        [("ind", "bigint"), ("kept", "string"), ("added", "double")],
        [
            ("ind", primitive("long")),
            ("kept", primitive("string")),
            ("added", primitive("double")),
        ],
        {"ind": 1, "kept": "x", "added": 0.5},
    ),
    "retyped": Version(
        "ind, cast(ind as int) as kept, array('a', cast(null as string)) as added",
        [("ind", "bigint"), ("kept", "int"), ("added", "array<string>")],
        [
            ("ind", primitive("long")),
            ("kept", primitive("integer")),
            ("added", f"ArrayType({primitive('string')}, contains_null=True)"),
        ],
        {"ind": 1, "kept": 1, "added": ["a", None]},
    ),
    "reordered": Version(
        "array('a', cast(null as string)) as added, cast(ind as int) as kept, ind",
        [("added", "array<string>"), ("kept", "int"), ("ind", "bigint")],
        [
            ("added", f"ArrayType({primitive('string')}, contains_null=True)"),
            ("kept", primitive("integer")),
            ("ind", primitive("long")),
        ],
        {"added": ["a", None], "kept": 1, "ind": 1},
    ),
    # The columns of a partition are the last that a table has.
    "partitioned": Version(
        "ind, 'y' as kept",
        [("ind", "bigint"), ("kept", "string")],
        [("ind", primitive("long")), ("kept", primitive("string"))],
        {"ind": 1, "kept": "y"},
        {"partition_by": "kept"},
    ),
}

#: Models, each with its schema: incremental, a table, one built in slices, one with a contract.
GROWING, PLAIN, SLICED, AGREED = (
    ("staging", "growing"),
    ("intermediate", "plain"),
    ("intermediate", "sliced"),
    ("marts", "agreed"),
)
TABLES = (PLAIN, SLICED, AGREED)


@dataclass
class Project:
    """A dbt project of these models.

    Args:
        folder: where it is made.
    """

    folder: Path

    def __post_init__(self) -> None:
        shutil.copytree(ROOT / "dbt_project" / "macros", self.folder / "dbt_project" / "macros")
        shutil.copy(ROOT / "dbt_project.yml", self.folder)

    def write(self, version: Version, rows: int = 4, **of_growing: Any) -> None:
        """Write every model anew.

        Args:
            version: the columns.
            rows: how many the models have.
            of_growing: configuration of the incremental model.
        """
        columns = f"select {version.select} from"
        ids = f"(select id as ind from range(1, {rows + 1})) as ids"
        self._model(GROWING, f"{columns} {ids}", version.config | of_growing)
        self._model(PLAIN, f"{columns} {ids}", version.config)
        self._model(
            SLICED,
            f"{columns} {{{{ ref('plain') }}}} where {{{{ of_slice('ind', ref('plain')) }}}}",
            version.config,
        )
        self._model(AGREED, f"{columns} {{{{ ref('plain') }}}}", version.config)
        contract = [{"name": name, "data_type": kind} for name, kind in version.contract]
        properties = {"models": [{"name": AGREED[1], "columns": contract}]}
        self._path(AGREED, "yml").write_text(yaml.safe_dump(properties))

    def _model(self, table: tuple[str, str], sql: str, config: dict[str, Any]) -> None:
        path = self._path(table, "sql")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{{{{ config({config!r}) }}}}\n{sql}")

    def _path(self, table: tuple[str, str], suffix: str) -> Path:
        schema, name = table
        return self.folder / "dbt_project" / "models" / schema / f"{name}.{suffix}"


def assert_tables_follow(
    lake: Built, project: Project, dbt: Dbt, versions: Mapping[str, Version] = VERSIONS
) -> None:
    """After each change of its columns, a table has the new ones, its rows and its history."""
    before: dict[tuple[str, str], int] = {}
    for name, version in versions.items():
        project.write(version, full_refresh=True)
        dbt.succeed('run --select growing plain sliced agreed --vars {"rows_a_slice":2}')
        for table in (GROWING, *TABLES):
            assert list(lake.types(*table).items()) == version.columns, (name, table)
            rows = {row["ind"]: row for row in lake.rows(*table)}
            assert sorted(rows) == [1, 2, 3, 4], (name, table)
            assert rows[1] == version.row, (name, table)
            partitions = [version.config["partition_by"]] if version.config else []
            assert lake.log(*table).metadata().partition_columns == partitions, (name, table)
            # The table was replaced, not dropped: what it was can still be read.
            assert lake.version(*table) > before.get(table, -1), (name, table)
            before[table] = lake.version(*table)
    for table in (GROWING, *TABLES):
        log = lake.log(*table)
        log.load_as_version(0)
        fields = log.schema().fields
        assert [(field.name, str(field.type)) for field in fields] == VERSIONS["first"].columns
