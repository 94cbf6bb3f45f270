"""Lakes for dbt to build: lines land in them, dbt runs, the oracle says what has to come out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from deltalake import DeltaTable, QueryBuilder

from ingestion.bucket import engine_options
from ingestion.lake import Lake
from ingestion.landing import land_objects
from ingestion.records import KINDS
from ingestion.sources.s3 import open_store, parse_name
from runner import commands
from tests import oracle
from tests.forking import forkserver

ROOT = Path(__file__).parents[2]
PIPELINE = "0a60b9a8a831"
STAGING = {f"stg_{kind}": kind for kind in oracle.KINDS}
INTERMEDIATE = ("int_posts", "int_users")
MARTS = (*oracle.COLUMNS, "data_quality", "rejected_by_reason")

Row = dict[str, Any]

#: The parsed project, by target, for the processes after the first: dbt parses the project again
#: for another target, which takes nearly three CPU seconds.
_parsed: dict[str, Path] = {}


@dataclass
class Built:
    """A lake in a folder of its own, and what the oracle says has landed in it."""

    folder: Path
    records: dict[str, list[tuple[Any, oracle.Landed]]] = field(
        default_factory=lambda: {kind: [] for kind in oracle.KINDS}
    )
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    offsets: Counter[str] = field(default_factory=Counter)

    @property
    def uri(self) -> Path:
        """Where its tables lie."""
        return self.folder / "lake"

    def land(self, lines: Mapping[str, Sequence[bytes]], at: datetime) -> None:
        """Land lines after those that landed before, in a commit of each kind, stamped `at`."""
        lake = Lake(str(self.uri), clock=lambda: at)
        lake.create()
        store = open_store(str(self.folder))
        for kind, raws in lines.items():
            topic, start = f"{PIPELINE}.{kind}", self.offsets[kind]
            key = f"topics/{topic}/partition=0/{topic}+0+{start:010}.json"
            (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / key).write_bytes(b"".join(raw + b"\n" for raw in raws))
            item = parse_name(key, (self.folder / key).stat().st_size)
            assert item is not None
            account = land_objects(lake, store, KINDS[kind], topic, [item])
            assert not account.failures
        self.know(lines, at)

    def know(self, lines: Mapping[str, Sequence[bytes]], at: datetime) -> None:
        """Tell the oracle what landed."""
        for kind, raws in lines.items():
            for raw in raws:
                record = oracle.land(kind, raw)
                if isinstance(record, oracle.Landed):
                    self.records[kind].append(((at, self.offsets[kind]), record))
                elif record is not None:
                    self.rejected[kind, record.reason] += 1
                self.offsets[kind] += record is not None

    def staged(self) -> dict[str, dict[int, Row]]:
        """What the oracle says the staging tables hold."""
        return {kind: oracle.stage(kind, landed) for kind, landed in self.records.items()}

    def log(self, schema: str, table: str) -> DeltaTable:
        """A table's log."""
        return DeltaTable(str(self.uri / schema / table))

    def rows(self, schema: str, table: str) -> list[Row]:
        """A table's rows; times are UTC, without a time zone."""
        log = self.log(schema, table)
        result = QueryBuilder().register("t", log).execute("select * from t").read_all()
        return [
            {name: _naive(value) for name, value in row.items()}
            for row in pa.table(result).to_pylist()
        ]

    def types(self, schema: str, table: str) -> dict[str, str]:
        """The types of a table's columns, as Delta names them."""
        fields = self.log(schema, table).schema().fields
        return {field.name: str(field.type) for field in fields}

    def version(self, schema: str, table: str) -> int:
        """The number of a table's newest commit."""
        return self.log(schema, table).version()

    def tables(self) -> dict[str, list[Row]]:
        """Every row of every table that dbt builds, but for the times when something landed."""
        schemas = {"staging": STAGING, "intermediate": INTERMEDIATE, "marts": MARTS}
        return {
            table: without_stamps(self.rows(schema, table))
            for schema, names in schemas.items()
            for table in names
        }

    @contextmanager
    def dbt(
        self, parameters: Mapping[str, str] | None = None, project: Path = ROOT, **settings: str
    ) -> Iterator[Dbt]:
        """A dbt process on this lake.

        Args:
            parameters: of the engine's session, besides those of the profile.
            project: the folder of the dbt project.
            settings: further environment variables.
        """
        environment = {
            **os.environ,
            "LAKE_URI": str(self.uri),
            "DBT_PROFILES_DIR": str(profiles(self.folder, parameters)),
            "DBT_PROJECT_DIR": str(project),
            "DBT_TARGET_PATH": str(self.folder / "target"),
            "DBT_LOG_PATH": str(self.folder / "logs"),
            "DBT_QUIET": "true",
            "DBT_LOG_LEVEL_FILE": "info",
            **settings,
        }
        target = settings.get("DBT_TARGET", "local")
        if target in _parsed and project == ROOT:
            environment["DBT_PARTIAL_PARSE_FILE_PATH"] = str(_parsed[target])
        with ProcessPoolExecutor(
            1, forkserver, initializer=_begin, initargs=(environment,)
        ) as process:
            yield Dbt(process, self.folder / "logs" / "dbt.log")
        if project == ROOT:
            _parsed.setdefault(target, self.folder / "target" / "partial_parse.msgpack")


@dataclass
class InBucket(Built):
    """The lake lies in a bucket, to which the variables of this process lead."""

    address: str = ""

    def log(self, schema: str, table: str) -> DeltaTable:
        options = engine_options(self.address)
        return DeltaTable(f"{self.address}/{schema}/{table}", storage_options=options)


def _begin(environment: Mapping[str, str]) -> None:
    # A forked process has the environment of the first one's beginning.
    os.environ.clear()
    os.environ.update(environment)
    from tests.dbt import imported  # noqa: F401 (it may not have been found where forking began)


@dataclass
class Dbt:
    """A process that runs dbt command after dbt command; starting one takes seconds."""

    process: ProcessPoolExecutor
    log: Path

    def __call__(self, arguments: str) -> int:
        """Run commands, separated by a lone comma; give dbt's exit code back."""
        return self.process.submit(commands.main, arguments.split()).result(timeout=900)

    def succeed(self, arguments: str) -> None:
        """Run commands that must not fail."""
        code = self(arguments)
        assert code == 0, f"dbt {arguments}: {self.log.read_text()[-6000:]}"


def profiles(folder: Path, parameters: Mapping[str, str] | None = None) -> Path:
    """A profiles folder as a user makes it, with parameters for every session."""
    profile = yaml.safe_load((ROOT / "profiles.example.yml").read_text())
    for output in profile["pinterest"]["outputs"].values():
        if output.get("method") == "session":
            output.setdefault("server_side_parameters", {}).update(parameters or {})
    path = folder / "profiles"
    path.mkdir(exist_ok=True)
    (path / "profiles.yml").write_text(yaml.safe_dump(profile))
    return path


def _naive(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def without_stamps(rows: Iterable[Row]) -> list[Row]:
    """Rows without the columns that say when something landed, in an order of their own."""
    kept = [{name: row[name] for name in row if not name.endswith("_at")} for row in rows]
    return sorted(kept, key=repr)


def assert_oracle_agrees(lake: Built) -> None:
    """Every table holds exactly the rows that the contract asks for."""
    staged = lake.staged()
    for table, kind in STAGING.items():
        rows = lake.rows("staging", table)
        found = {row["ind"]: row for row in rows}
        assert len(found) == len(rows), f"{table} holds a post twice"
        assert_same(table, found, staged[kind])
    people = {row[:2]: row._asdict() for row in oracle.people(staged["pin"], staged["user"])}
    rows = lake.rows("intermediate", "int_users")
    found = {(row["user_name"], row["date_joined"]): row for row in rows}
    assert len(found) == len(rows), "int_users holds a person twice"
    assert_same("int_users", found, people)
    for mart, expected in oracle.answers(**staged).items():
        columns = oracle.COLUMNS[mart]
        answers = [tuple(row[name] for name in columns) for row in lake.rows("marts", mart)]
        assert sorted(answers) == expected, mart
    assert_accounts_agree(lake)


def assert_same(table: str, found: Mapping[Any, Row], expected: Mapping[Any, Row]) -> None:
    """Rows by key are equal in every column that is expected."""
    assert found.keys() == expected.keys(), f"{table}: {found.keys() ^ expected.keys()}"
    differences = [
        (key, name, found[key][name], value)
        for key, row in expected.items()
        for name, value in row.items()
        if found[key][name] != value
    ]
    assert not differences, f"{table}: {len(differences)} values differ, such as {differences[:3]}"


def assert_accounts_agree(lake: Built) -> None:
    """The counts of landed and rejected records are right."""
    staged = lake.staged()
    quality = {row["kind"]: row for row in lake.rows("marts", "data_quality")}
    for kind, landed in lake.records.items():
        rejected = sum(count for (of, _), count in lake.rejected.items() if of == kind)
        row = quality.pop(kind)
        assert (row["landed"], row["posts"], row["rejected"]) == (
            len(landed),
            len(staged[kind]),
            rejected,
        )
        assert row["replays"] == row["landed"] - row["posts"]
    assert not quality
    reasons = {
        (row["kind"], row["reason"]): row["rejected"]
        for row in lake.rows("marts", "rejected_by_reason")
    }
    assert reasons == dict(lake.rejected)
