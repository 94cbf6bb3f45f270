"""Progress on a terminal and in a log, and what programs read from standard output."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from tests.dbt import processes
from tests.dbt.changing import VERSIONS, Project
from tests.dbt.lakes import ROOT, Built, profiles


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The variables of a dbt process: four models, a test that passes, one that does not."""
    lake = Built(tmp_path_factory.mktemp("progress"))
    lake.land({}, datetime.now(UTC))
    project = Project(lake.folder / "project")
    project.write(VERSIONS["first"])
    for name, sql in {"passes": "select 1 as x where false", "fails": "select 1 as x"}.items():
        path = project.folder / "dbt_project" / "tests" / f"{name}.sql"
        path.parent.mkdir(exist_ok=True)
        path.write_text(sql)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("DBT_")},
        "LAKE_URI": str(lake.uri),
        "DBT_PROFILES_DIR": str(profiles(lake.folder)),
        "DBT_PROJECT_DIR": str(project.folder),
        "DBT_TARGET_PATH": str(lake.folder / "target"),
        "DBT_LOG_PATH": str(lake.folder / "logs"),
        "TERM": "xterm",
    }


def without_times(text: str) -> list[str]:
    """Lines with a letter for each number of seconds, and for the time of day."""
    return re.sub(r"\d+\.\d s\b", "N s", re.sub(r"\d\d:\d\d:\d\d", "T", text)).splitlines()


def test_a_log_gets_a_line_before_and_one_after(environment: Mapping[str, str]) -> None:
    commands = (
        "run --quiet , ls --quiet --resource-type model --output json "
        ", show --quiet --select plain --output json , docs generate --no-compile --quiet "
        ", test --select passes"
    )
    done = processes.run([*processes.SEVERAL, *commands.split()], environment, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert without_times(done.stderr) == [
        "building 4 models",
        "dbt run: 4 models, N s",
        "dbt docs generate: N s",
        "dbt test: 1 test, N s",
    ]
    # Standard output is dbt's: that of `ls`, of `show`, and the log of a test that is not quiet.
    listed, lines = [], done.stdout.splitlines()
    while lines and "resource_type" in lines[0]:
        listed.append(json.loads(lines.pop(0))["name"])
    assert sorted(listed) == ["agreed", "growing", "plain", "sliced"]
    shown, end = json.JSONDecoder().raw_decode("\n".join(lines))
    assert [row["ind"] for row in shown["show"]] == [1, 2, 3, 4]
    assert "1 of 1 PASS passes" in "\n".join(lines)[end:]


def test_a_terminal_shows_one_line_that_goes(environment: Mapping[str, str]) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*processes.SEVERAL, "run", "--quiet", ",", "test", "--quiet"],
        cwd=ROOT, env=environment, stdout=follower, stderr=follower,
    ) as process:  # fmt: skip
        os.close(follower)
        text = read_all(leader)
    assert process.returncode == 1
    frames = re.findall(r"\d/\d models?", text)
    assert list(dict.fromkeys(frames)) == [f"{number}/4 models" for number in range(5)]
    assert re.search(r"2/2 tests \S*0:00:\d\d", text)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor stays hidden"
    lines = without_times("\n".join(screen(text)))
    # What dbt says of a failure though it is quiet stands on lines of its own.
    assert lines.pop(3).startswith("T  1 of 2 FAIL 1 fails ..")
    assert lines == [
        "building 4 models",
        "dbt run: 4 models, N s",
        "running 2 tests",
        "T  Failure in test fails (dbt_project/tests/fails.sql)",
        "T    Got 1 result, configured to fail if != 0",
        "dbt test: 2 tests, N s (1 failed)",
        "error: fails failed: Got 1 result, configured to fail if != 0",
    ]


def read_all(descriptor: int) -> str:
    """What a terminal is sent until its last writer has gone."""
    chunks = []
    while True:
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError:  # Linux's way of saying that nothing will come
            chunk = b""
        if not chunk:
            os.close(descriptor)
            return b"".join(chunks).decode()
        chunks.append(chunk)


def screen(text: str) -> list[str]:
    """What a terminal shows in the end, of text that goes back by lines alone."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\x1b[1A":
            row -= 1
        elif not part.startswith("\x1b"):
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]
