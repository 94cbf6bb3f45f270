"""The dbt plugin: which tables it finds, and whose turn it is."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from dbt_common.exceptions import DbtRuntimeError

import dbt_lake


def test_tables_are_folders_with_a_log_two_levels_down(tmp_path: Path) -> None:
    for table in ("bronze/pin", "marts/answer", "deep/er/table"):
        (tmp_path / table / "_delta_log").mkdir(parents=True)
        (tmp_path / table / "_delta_log" / "00000000000000000000.json").write_text("{}")
    (tmp_path / "bronze" / "begun" / "_delta_log").mkdir(parents=True)  # no commit yet
    (tmp_path / "bronze" / "notes").mkdir()
    found = list(dbt_lake._tables_under(str(tmp_path)))
    assert found == [
        ("bronze", "pin", str(tmp_path / "bronze" / "pin")),
        ("marts", "answer", str(tmp_path / "marts" / "answer")),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("./lake", "/project/lake"),
        ("/elsewhere/lake", "/elsewhere/lake"),
        ("file:///elsewhere/lake", "/elsewhere/lake"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
    ],
)
def test_a_relative_lake_lies_in_the_project(given: str, expected: str) -> None:
    assert dbt_lake._absolute(given, Path("/project")) == expected


@pytest.mark.parametrize(
    "given", ["s3//bucket/prefix", "s3:/bucket/prefix", "gs://bucket", "s3://"]
)
def test_an_address_of_no_lake_is_refused(given: str) -> None:
    """It would be built as a folder of that name."""
    with pytest.raises(DbtRuntimeError, match=f"{given} .*LAKE_URI"):
        dbt_lake._absolute(given, Path("/project"))


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    script = f"import dbt_lake; dbt_lake._wait_for_turn({str(tmp_path)!r}); print('my turn')"
    with (tmp_path / ".dbt.lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as second:
            assert second.stderr is not None
            assert second.stdout is not None
            assert f"waiting for another dbt to finish with {tmp_path}" in second.stderr.readline()
            assert second.poll() is None
            fcntl.flock(held, fcntl.LOCK_UN)
            assert second.stdout.read() == "my turn\n"
    assert second.returncode == 0


def test_a_lake_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".dbt.lock").mkdir()  # no one can open this for writing, not even root
    monkeypatch.setattr(dbt_lake, "_turn", None)
    with pytest.raises(DbtRuntimeError, match="cannot be written"):
        dbt_lake._wait_for_turn(str(tmp_path))


def test_what_a_killed_process_gathered_goes(tmp_path: Path) -> None:
    (tmp_path / ".scratch" / "int_posts").mkdir(parents=True)
    assert dbt_lake._scratch(str(tmp_path)) == str(tmp_path / ".scratch")
    assert not (tmp_path / ".scratch").exists()


def test_what_a_process_gathers_goes_with_it(tmp_path: Path) -> None:
    script = f"import dbt_lake, os; os.makedirs(dbt_lake._scratch({str(tmp_path)!r}) + '/table')"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert not list(tmp_path.iterdir())


def test_what_is_being_gathered_is_no_table_of_the_lake(tmp_path: Path) -> None:
    log = tmp_path / ".scratch" / "int_posts" / "_delta_log"
    log.mkdir(parents=True)
    (log / "00000000000000000000.json").write_text("{}")
    assert list(dbt_lake._tables_under(str(tmp_path))) == []
