"""The `ingest` command as its users meet it: help, output, errors, exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from ingestion import cli
from ingestion.cli import main

COMMANDS = [
    [],
    ["init"],
    ["s3"],
    ["synth"],
    ["status"],
    ["rejected"],
    ["rejected", "list"],
    ["rejected", "show"],
    ["rejected", "export"],
    ["rejected", "replay"],
    ["kafka"],
    ["kinesis"],
    ["mysql"],
    ["archive"],
    ["gateway"],
    ["emulate"],
    ["seed-database"],
    ["maintain"],
]


@dataclass(frozen=True)
class Done:
    """What a finished command left."""

    returncode: int
    raw: bytes
    stderr: str

    @property
    def stdout(self) -> str:
        return self.raw.decode()


def ingest(*arguments: str | Path, cwd: Path, **env: str) -> Done:
    """Run the command in this process, in a folder, with the lake at its default place there."""
    stdout, stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        for name in ("LAKE_URI", "PIPELINE_ID"):
            patch.delenv(name, raising=False)
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["ingest", *map(str, arguments)])
        with redirect_stdout(stdout), redirect_stderr(stderr):
            try:
                main()
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
    stdout.flush()
    return Done(code, stdout.buffer.getvalue(), stderr.getvalue())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sink of 300 posts and a lake that holds them."""
    folder = tmp_path_factory.mktemp("landed")
    assert ingest("synth", "--posts", "300", "--out", "sink", cwd=folder).returncode == 0
    done = ingest("s3", "--uri", "sink", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda parts: " ".join(parts) or "ingest")
def test_help_shows_an_example(command: list[str], tmp_path: Path) -> None:
    shown = ingest(*command, "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert "Example" in shown.stdout or command == ["rejected"]
    assert "Usage" in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["s3"],
        ["s3", "--uri", "x", "--nonsense"],
        ["nonsense"],
        ["synth"],
        ["synth", "--out", "x", "--posts", "0"],
        ["synth", "--out", "x", "--posts", "many"],
        ["synth", "--out", "x", "--posts", "3", "--days", "9"],
        ["rejected", "list", "--reason", "nonsense"],
        ["rejected", "show"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    done = ingest(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage" in done.stderr or "Error" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["sttus"], "'status'"),
        (["seed-databse"], "'seed-database'"),
        (["kafak"], "'kafka'"),
        (["rejected", "lst"], "'list'"),
        (["rejected", "reply"], "'replay'"),
    ],
    ids=" ".join,
)
def test_a_command_that_is_nearly_one_is_named(
    arguments: list[str], near: str, tmp_path: Path
) -> None:
    done = ingest(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"No such command '{arguments[-1]}'. Did you mean" in done.stderr
    assert near in done.stderr


def test_the_version_is_the_package_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ingest("--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"ingest {metadata.version('pinterest-data-pipeline')}\n"
    monkeypatch.setattr(cli, "DISTRIBUTION", "no-such-distribution")
    done = ingest("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ingest (not installed as a package)\n")


def test_help_groups_the_commands(tmp_path: Path) -> None:
    """What most users come for is first, and every command is in one group."""
    shown = ingest("--help", cwd=tmp_path).stdout
    groups: dict[str, list[str]] = {}
    for line in shown.splitlines():
        if title := re.match(r"╭─ (.+?) ─", line):
            names = groups.setdefault(title[1], [])
        elif command := re.match(r"│ ([a-z][a-z0-9-]*) ", line):
            names.append(command[1])
    assert groups == {
        "Options": [],
        "Land records": ["s3", "kafka", "kinesis", "mysql"],
        "Fill streams and the archive": ["gateway", "archive"],
        "Invent posts": ["synth", "seed-database", "emulate"],
        "Look after the lake": ["init", "status", "maintain", "rejected"],
    }
    assert {name for names in groups.values() for name in names} == {
        command[0] for command in COMMANDS if command
    }


def test_shells_complete_commands_options_and_their_values() -> None:
    for typed, offered in (
        ("ingest st", ["status"]),
        ("ingest rejected ex", ["export"]),
        ("ingest rejected list --reas", ["--reason"]),
        ("ingest rejected list --reason m", ["malformed", "misrouted"]),
    ):
        done = subprocess.run(
            [Path(sys.executable).with_name("ingest")],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={
                **os.environ,
                "_INGEST_COMPLETE": "complete_bash",
                "COMP_WORDS": typed,
                "COMP_CWORD": str(typed.count(" ")),
            },
        )
        assert done.stdout.split() == offered
        assert done.stderr == ""


def test_a_summary_line_for_each_stream(landed: Path, tmp_path: Path) -> None:
    done = ingest("s3", "--uri", landed / "sink", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert [line.split()[0] for line in lines] == [
        "0a60b9a8a831.pin",
        "0a60b9a8a831.geo",
        "0a60b9a8a831.user",
    ]
    for line in lines:
        assert "objects" in line
        assert "landed" in line
        assert "rejected" in line
        assert "malformed" in line
        assert line.endswith(" s")


def test_landing_again_lands_nothing(landed: Path) -> None:
    done = ingest("s3", "--uri", "sink", "--json", cwd=landed)
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert [stream["landed"] for stream in told["streams"]] == [0, 0, 0]
    assert [stream["received"] for stream in told["streams"]] == [0, 0, 0]


def test_json_accounts_for_every_record(landed: Path, tmp_path: Path) -> None:
    told = json.loads(ingest("s3", "--uri", landed / "sink", "--json", cwd=tmp_path).stdout)
    expected = json.loads(
        ingest(
            "synth", "--posts", "300", "--out", tmp_path / "again", "--json", cwd=tmp_path
        ).stdout
    )
    for stream in told["streams"]:
        counts = expected[stream["kind"]]
        assert stream["received"] == counts["records"]
        assert stream["rejected"] == counts["rejected"]
        assert stream["landed"] == counts["records"] - sum(counts["rejected"].values())


def test_status_counts_rows_and_rejections(landed: Path) -> None:
    rows = json.loads(ingest("status", "--json", cwd=landed).stdout)
    assert {(row["source"], row["stream"], row["partition"]) for row in rows} == {
        ("s3", f"0a60b9a8a831.{kind}", partition)
        for kind in ("pin", "geo", "user")
        for partition in ("0", "1", "2")
    }
    for row in rows:
        # Offsets are contiguous from 0 in this input, so the last one tells how many there were.
        assert row["rows"] + row["rejected"] == int(row["last_position"]) + 1
    shown = ingest("status", cwd=landed)
    assert shown.returncode == 0
    assert "0a60b9a8a831.user" in shown.stdout


def test_rejected_records_keep_their_bytes(landed: Path, tmp_path: Path) -> None:
    exported = tmp_path / "rejected.jsonl"
    done = ingest("rejected", "export", "--out", exported, cwd=landed)
    assert done.returncode == 0
    records = [json.loads(line) for line in exported.read_text().splitlines()]
    assert {record["reason"] for record in records} == {
        "malformed",
        "not_an_object",
        "invalid_key",
        "misrouted",
        "empty",
    }
    for record in records[:3]:
        shown = ingest("rejected", "show", record["id"], "--raw", cwd=landed).raw
        partition, position = record["id"].split("/")[-2:]
        stream = record["stream"]
        folder = landed / "sink" / "topics" / stream / f"partition={partition}"
        lines = b"".join(path.read_bytes() for path in sorted(folder.iterdir())).split(b"\n")
        assert shown == lines[int(position)]


def test_rejected_records_can_be_filtered(landed: Path) -> None:
    rows = json.loads(
        ingest(
            "rejected", "list", "--reason", "misrouted", "--kind", "geo", "--json", cwd=landed
        ).stdout
    )
    assert rows
    assert {(row["reason"], row["kind"]) for row in rows} == {("misrouted", "geo")}
    shown = ingest("rejected", "list", "--limit", "1", cwd=landed)
    assert "more; --limit shows them" in shown.stdout


def test_synth_writes_the_same_bytes_for_a_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert (
            ingest("synth", "--posts", "50", "--seed", "9", "--out", name, cwd=tmp_path).returncode
            == 0
        )
    one = {path.relative_to(tmp_path / "one"): path for path in (tmp_path / "one").rglob("*.json")}
    two = {path.relative_to(tmp_path / "two"): path for path in (tmp_path / "two").rglob("*.json")}
    assert one.keys() == two.keys()
    assert all(one[key].read_bytes() == two[key].read_bytes() for key in one)


def test_synth_does_not_write_over_posts(landed: Path) -> None:
    done = ingest("synth", "--posts", "5", "--out", "sink", cwd=landed)
    assert done.returncode == 1
    assert "sink" in done.stderr
    assert "Traceback" not in done.stderr


def test_init_makes_the_tables_once(tmp_path: Path) -> None:
    first = ingest("init", cwd=tmp_path)
    second = ingest("init", cwd=tmp_path)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "created bronze.pin, bronze.geo, bronze.user, bronze.rejected" in first.stdout
    assert "all bronze tables are there" in second.stdout
    assert "nothing has landed yet" in ingest("status", cwd=tmp_path).stdout
    assert "no record was rejected" in ingest("rejected", "list", cwd=tmp_path).stdout


@pytest.mark.parametrize("command", [["status"], ["rejected", "list"], ["rejected", "export"]])
def test_a_lake_that_is_not_there_is_named(command: list[str], tmp_path: Path) -> None:
    done = ingest(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert "./lake/bronze" in done.stderr
    assert "ingest init" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_record_that_is_not_there_is_named(landed: Path) -> None:
    for identity in ("s3/0a60b9a8a831.pin/0/999999", "nonsense", "s3/o'brien/0/1"):
        done = ingest("rejected", "show", identity, cwd=landed)
        assert done.returncode == 1
        assert identity in done.stderr
        assert "Traceback" not in done.stderr


def test_another_pipeline_is_named(landed: Path) -> None:
    done = ingest("s3", "--uri", "sink", "--lake", "other", cwd=landed, PIPELINE_ID="ffffffffffff")
    assert done.returncode == 1
    assert "0a60b9a8a831.pin" in done.stderr
    assert "PIPELINE_ID" in done.stderr
    assert not (landed / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (["init", "--lake"], "LAKE_URI"),
        (["status", "--lake"], "LAKE_URI"),
        (["rejected", "list", "--lake"], "LAKE_URI"),
        (["maintain", "--lake"], "LAKE_URI"),
        (["s3", "--uri", "sink", "--lake"], "LAKE_URI"),
        (["kafka", "--lake"], "LAKE_URI"),
        (["kinesis", "--lake"], "LAKE_URI"),
        (["mysql", "--lake"], "LAKE_URI"),
        (["s3", "--uri"], "--uri"),
        (["archive", "--uri"], "--uri"),
        (["synth", "--out"], "--out"),
        (["rejected", "export", "--out"], "--out"),
    ],
    ids=" ".join,
)
def test_a_mistyped_address_makes_no_folder(
    arguments: list[str], setting: str, tmp_path: Path
) -> None:
    done = ingest(*arguments, "s3//x", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: s3//x is neither a path of this machine nor s3://bucket/prefix; "
        f"did you mean s3://x? Correct {setting}\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["mysql", "emulate", "seed-database"])
def test_a_database_that_is_not_there_is_named_without_delay(command: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        done = ingest(
            command, cwd=tmp_path, SOURCE_DATABASE_URL=f"mysql://u:hunter2@{address}/pinterest"
        )
        seconds = time.monotonic() - began
    assert done.returncode == 1
    assert f"error: {address}/pinterest cannot be reached: " in done.stderr
    assert "Connection refused" in done.stderr
    assert "SOURCE_DATABASE_URL" in done.stderr
    assert "warning" not in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert seconds < 30  # a server that went away is waited for twice as long


def test_a_mistyped_lake_in_the_environment(tmp_path: Path) -> None:
    done = ingest("init", cwd=tmp_path, LAKE_URI="s3:/bucket/lake")
    assert done.returncode == 1
    assert "did you mean s3://bucket/lake? Correct LAKE_URI" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_is_installed() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("ingest"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Usage: ingest" in done.stdout
