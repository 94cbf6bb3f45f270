"""What the benchmarks rely on: stand-ins, comparisons, processes, sizes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from benchmarks import agreement, duck, process, scale
from benchmarks.__main__ import app
from benchmarks.engines import DuckDB, Step
from benchmarks.grown import Size
from ingestion.lake import Lake


def test_an_empty_table_has_its_columns_and_types(tmp_path: Path) -> None:
    """In DuckDB as in Delta, whatever they are, and for every table of a new lake."""
    schema = pa.schema(
        [
            ("whole", pa.int32()),
            ("exact", pa.decimal128(9, 2)),
            ("several", pa.list_(pa.string())),
            ("parts", pa.struct([("a", pa.float64()), ("b", pa.bool_())])),
            ("moment", pa.timestamp("us", "UTC")),
            ("day", pa.date32()),
        ]
    )
    lake = tmp_path / "it's a lake"
    Lake(str(lake)).create()
    write_deltalake(str(lake / "bronze/odd"), schema.empty_table(), partition_by=["day"])
    with duckdb.connect(str(tmp_path / "peer.duckdb")) as connection:
        duck.attach(connection, lake)
        tables = [path.name for path in (lake / "bronze").iterdir()]
        assert set(tables) == {"pin", "geo", "user", "rejected", "odd"}
        for table in tables:
            found = connection.sql(f"select * from bronze.{table}").to_arrow_table()
            fields = DeltaTable(str(lake / "bronze" / table)).schema().fields
            assert found.num_rows == 0
            assert found.column_names == [field.name for field in fields]
        described = connection.execute("describe bronze.odd").fetchall()
    assert {name: type_ for name, type_, *_ in described} == {
        "whole": "INTEGER",
        "exact": "DECIMAL(9,2)",
        "several": "VARCHAR[]",
        "parts": "STRUCT(a DOUBLE, b BOOLEAN)",
        "moment": "TIMESTAMP WITH TIME ZONE",
        "day": "DATE",
    }


def test_rows_take_the_place_of_the_stand_in(tmp_path: Path) -> None:
    one = pa.table({"kind": ["pin"], "day": ["2020-01-01"]})
    write_deltalake(str(tmp_path / "bronze/some"), one.slice(0, 0), partition_by=["day"])
    with duckdb.connect(str(tmp_path / "peer.duckdb")) as connection:
        duck.attach(connection, tmp_path)
        write_deltalake(str(tmp_path / "bronze/some"), one, mode="append")
        duck.attach(connection, tmp_path)
        assert connection.execute("select kind from bronze.some").fetchall() == [("pin",)]


@pytest.mark.parametrize(
    "theirs", [[1, 2, 2], [1, 2], [1, 2, 2, None]], ids=["equal", "one fewer", "one more"]
)
def test_answers_are_compared_row_by_row(tmp_path: Path, theirs: list[int | None]) -> None:
    write_deltalake(str(tmp_path / "marts/answer"), pa.table({"n": [1, 2, 2]}))
    with duckdb.connect(str(tmp_path / "peer.duckdb")) as connection:
        connection.execute("create schema marts")
        rows = pa.table({"n": pa.array(theirs, pa.int32())})
        connection.register("rows", rows)
        connection.execute("create table marts.answer as select * from rows")
    read = agreement.database(tmp_path / "peer.duckdb")
    if theirs == [1, 2, 2]:
        agreement.compare("a peer", tmp_path, read)
        return
    with pytest.raises(RuntimeError, match=r"a peer's marts that differ .*'answer': 1"):
        agreement.compare("a peer", tmp_path, read)


def test_a_lake_without_marts_agrees_with_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="holds no marts"):
        agreement.compare("a peer", tmp_path, lambda _: pa.table({}))


def test_measured_processes_keep_what_they_compile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(process.NOT_COMPILED, "1")
    ask = "import sys; print(sys.dont_write_bytecode)"
    assert process.run([sys.executable, "-c", ask]).output == "False\n"
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    assert process.compiled()
    (tmp_path / "a file").touch()
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "a file"))
    assert not process.compiled()


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"exit code 3\nbecause"):
        process.run([sys.executable, "-c", "import sys; print('because'); sys.exit(3)"])


@pytest.mark.parametrize(
    ("millions", "posts", "copies"), [(0.002, 2_000, 1), (1, 1_000_000, 1), (20, 1_000_000, 20)]
)
def test_sizes(millions: float, posts: int, copies: int) -> None:
    size = Size.of(millions, 100)
    assert (size.posts, size.copies, size.total) == (posts, copies, posts * copies)


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--only", "landings", "landings is unknown"),
        ("--steps", "full,week", "week is unknown"),
        ("--steps", "daily,full", "must be full"),
        ("--engines", "sqlite", "sqlite is unknown"),
        ("--set", "postss=3", "postss is unknown"),
        ("--set", "kafka_posts=few", "positive number"),
        ("--set", "kafka_posts=-1", "positive number"),
        ("--sizes", "1.5", "whole number"),
        ("--sizes", "many", "positive number"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    option: str, value: str, reason: str, tmp_path: Path
) -> None:
    rest = ["--small", "--only", "commits", "--work", str(tmp_path)]
    done = CliRunner().invoke(app, [*rest, option, value], env={"COLUMNS": "200"})
    assert done.exit_code == 2, done.output
    assert reason in done.output
    assert not list(tmp_path.iterdir())


def test_a_peer_whose_tests_find_other_rows_is_refused(tmp_path: Path) -> None:
    ours = Step(2.0, 1.0, 1.0, 1.0, 0.0, {}, {"test.pinterest.a": 0, "test.pinterest.b": 3})
    peer = DuckDB(tmp_path, tmp_path)
    scale.agree(peer, "test", tmp_path, ours, ours)
    theirs = replace(ours, failures={"test.pinterest.a": 1, "test.pinterest.b": 3})
    with pytest.raises(RuntimeError, match=r"DuckDB: .*test\.pinterest\.a"):
        scale.agree(peer, "test", tmp_path, ours, theirs)


def test_a_database_goes_without_what_lies_beside_it(tmp_path: Path) -> None:
    peer = DuckDB(tmp_path, tmp_path)
    (tmp_path / "peer-project").mkdir()
    peer.database.parent.mkdir()
    peer.database.touch()
    peer.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["peer-project"]
