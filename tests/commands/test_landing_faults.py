"""What can go wrong while `ingest s3` lands, each with its outcome.

An error names the thing, the place and the way out, in one line and without a traceback; the exit
code is 1 (2 where the command was not understood); what can land does, nothing is lost or
repeated, and running again after the repair completes it.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import IO, Any, NamedTuple

import pytest
from deltalake import write_deltalake

from ingestion import cli, lake, landing
from ingestion.emulation.posts import Plan, write_posts
from ingestion.lake import REJECTED, SCHEMAS
from ingestion.sources.s3 import Folder
from tests.unit.test_lake import rows
from tests.unit.test_landing import Sink, assert_exactly_once, line, lines, wait_until


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


class Command(Sink):
    """A sink of pipeline `t`, and the command that lands it."""

    capsys: pytest.CaptureFixture[str]

    def ingest(self, *arguments: str) -> Ran:
        self.capsys.readouterr()
        code = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["ingest", *arguments])
            try:
                cli.main()
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        ran = Ran(code, *self.capsys.readouterr())
        assert "Traceback" not in ran.err
        return ran

    def s3(self, uri: Path | str = "", lake: Path | str = "", pipeline: str = "t") -> Ran:
        uri, lake = str(uri or self.folder), str(lake or self.lake)
        return self.ingest("s3", "--uri", uri, "--lake", lake, "--pipeline-id", pipeline)

    def refused(self, *said: str, **where: Path | str) -> Ran:
        """It ends with one line on standard error that says all this, and code 1."""
        ran = self.s3(**where)
        assert ran.code == 1
        *_, last = ran.err.splitlines()
        assert last.startswith("error: ")
        for text in said:
            assert text in last
        return ran

    def lands(self) -> None:
        ran = self.s3()
        assert (ran.code, ran.err) == (0, "")


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    made = Command(tmp_path)
    made.capsys = capsys
    return made


# ------------------------------------------------------------------------ the source


def test_no_such_folder(command: Command) -> None:
    nowhere = command.folder / "nowhere"
    command.refused(
        f"no such folder: {nowhere}. An object of pipeline t is ",
        f"'ingest synth --out {nowhere} --pipeline-id t' writes invented ones",
        uri=nowhere,
    )
    assert not Path(command.lake).exists()


def test_a_file_instead_of_a_folder(command: Command) -> None:
    path = command.put(0, lines(0, 5))
    command.refused(f"{path} is a file; --uri takes the folder that holds topics/", uri=path)


@pytest.mark.parametrize("inside", ["", "partition=0"])
def test_a_folder_of_another_layout(command: Command, inside: str) -> None:
    folder = command.put(0, lines(0, 5)).parents[1] / inside
    command.refused(
        f"{folder} is not in the S3 sink's layout: it holds no folder 'topics'; expected",
        "topics/<topic>/partition=<p>/<topic>+<p>+<10-digit start offset>.json",
        "An object of pipeline t is topics/t.pin/partition=0/t.pin+0+0000000000.json; ",
        f"'ingest synth --out {folder} --pipeline-id t' writes invented ones",
        uri=folder,
    )


@pytest.mark.parametrize("inside", ["", "topics", "topics/0a60b9a8a831.pin/partition=0"])
def test_a_folder_without_objects(command: Command, tmp_path: Path, inside: str) -> None:
    folder = tmp_path / "an empty one"
    (folder / inside).mkdir(parents=True)
    why = "nothing lies below 'topics/'" if inside else "it holds no folder 'topics'"
    command.refused(
        f"{folder} is not in the S3 sink's layout: {why}; expected topics/<topic>/partition=<p>/",
        "An object of pipeline 0a60b9a8a831 is topics/0a60b9a8a831.pin/partition=0/"
        "0a60b9a8a831.pin+0+0000000000.json; ",
        f"'ingest synth --out '{folder}'' writes invented ones",
        uri=folder,
        pipeline="0a60b9a8a831",
    )
    assert not Path(command.lake).exists()
    # What it names does it.
    assert command.ingest("synth", "--out", str(folder), "--posts", "5").code == 0
    assert command.s3(uri=folder, pipeline="0a60b9a8a831").code == 0


def test_a_folder_of_other_files(command: Command) -> None:
    (command.folder / "topics" / "notes.txt").write_text("x")
    command.refused(
        "not in the S3 sink's layout: topics/notes.txt is not an object of it; expected topics/",
        "An object of pipeline t is topics/t.pin/partition=0/t.pin+0+0000000000.json; ",
    )


def test_topics_of_another_pipeline(command: Command) -> None:
    command.put(0, lines(0, 5))
    command.refused(
        f"{command.folder} holds no topic of pipeline 0a60 but t.geo; ",
        "--pipeline-id or PIPELINE_ID",
        pipeline="0a60",
    )
    command.lands()
    assert_exactly_once(command, {0: 5})


def test_what_else_lies_below_topics_is_named_and_left_alone(command: Command) -> None:
    path = command.put(0, lines(0, 5))
    path.with_name("_SUCCESS").touch()
    ran = command.s3()
    assert ran.code == 0
    assert "1 other objects below topics/ were left alone, the first topics/t.geo/" in ran.err
    assert_exactly_once(command, {0: 5})


@pytest.mark.parametrize("whole", [0.0, 0.5, 0.98])
def test_a_truncated_gzip_object(command: Command, whole: float) -> None:
    command.put(0, lines(0, 40))
    path = command.put(40, lines(40, 90), zipped=True)
    command.put(90, lines(90, 120))
    command.put(0, lines(0, 10), partition=1)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * whole)])
    ran = command.refused(f"{command.folder}: topics/t.geo/partition=0/{path.name} is not a whole")
    assert "partition 0 lacks offsets 40 to 89" in ran.err
    assert command.offsets()["1"] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(command.offsets()["0"]) == 60
    command.refused("write it again, the next run picks it up")
    path.write_bytes(data)
    command.lands()
    assert_exactly_once(command, {0: 120, 1: 10})


def test_a_damaged_gzip_object(command: Command) -> None:
    path = command.put(0, lines(0, 4_000), zipped=True)
    command.put(0, lines(0, 10), partition=1)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :])
    command.refused(f"{path.name} is not a whole gzip file")
    assert list(command.offsets()) == ["1"]
    path.write_bytes(data)
    command.lands()
    assert_exactly_once(command, {0: 4_000, 1: 10})


def test_an_object_that_may_not_be_read(command: Command) -> None:
    command.put(0, lines(0, 10))
    closed = command.put(10, lines(10, 20))
    command.put(20, lines(20, 30))
    closed.chmod(0)
    opened = Folder.open

    def refuse(store: Folder, key: str) -> IO[bytes]:
        if key.endswith(closed.name):  # root reads it all the same
            raise PermissionError(errno.EACCES, "Permission denied", key)
        return opened(store, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "open", refuse)
        ran = command.refused(f"{closed.name} cannot be read: Permission denied")
    assert "lacks offsets 10 to 19" in ran.err
    closed.chmod(0o600)
    command.lands()
    assert_exactly_once(command, {0: 30})


def test_an_object_that_goes_while_others_are_read(command: Command) -> None:
    command.put(0, lines(0, 10))
    gone = command.put(10, lines(10, 20))
    listed = Folder.list

    def then_remove(store: Folder) -> Iterator[tuple[str, int]]:
        yield from list(listed(store))
        gone.unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "list", then_remove)
        command.refused(f"{gone.name} cannot be read: No such file or directory")
    assert_exactly_once(command, {0: 10})
    command.lands()


def test_a_bucket_out_of_reach(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the client's attempts
    command.refused("s3://bucket/x cannot be listed: Could not connect", uri="s3://bucket/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    command.refused("s3://bucket/x cannot be opened: Invalid endpoint", uri="s3://bucket/x")


@pytest.mark.parametrize(
    "arguments",
    [
        ["s3"],
        ["s3", "--uri"],
        ["s3", "--uri", "sink", "--no-such-option"],
        ["s4"],
        ["rejected", "list", "--reason", "because"],
        ["rejected", "list", "--limit", "0"],
        ["rejected", "show"],
    ],
)
def test_a_command_that_is_not_understood(command: Command, arguments: list[str]) -> None:
    ran = command.ingest(*arguments)
    assert ran.code == 2
    assert "Error" in ran.err


# --------------------------------------------------------------------------- the lake


def test_a_lake_below_a_file(command: Command, tmp_path: Path) -> None:
    command.put(0, lines(0, 10))
    (tmp_path / "file").write_text("x")
    place = tmp_path / "file" / "lake"
    command.refused(f"{place}/bronze/pin cannot be made: Not a directory; set LAKE", lake=place)


def test_a_lake_that_is_a_file(command: Command, tmp_path: Path) -> None:
    command.put(0, lines(0, 10))
    (tmp_path / "file").write_text("x")
    command.refused("file is a file, not a folder; set LAKE_URI", lake=tmp_path / "file")


def test_a_lake_that_may_not_be_written(command: Command, tmp_path: Path) -> None:
    command.put(0, lines(0, 10))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    # Nobody, root included, makes a folder in /sys.
    place = Path("/sys/lake") if os.access(closed, os.W_OK) else closed / "lake"
    command.refused(f"{place}/bronze/pin cannot be read or written by this user", lake=place)


def test_a_lake_that_can_no_longer_be_written(command: Command) -> None:
    command.put(0, lines(0, 10))
    command.lands()
    command.put(10, lines(10, 30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lake, "write_deltalake", failing_write(0, errno.EACCES))
        command.refused("bronze/rejected cannot be read or written", "change its permissions")
    command.lands()
    assert_exactly_once(command, {0: 30})


def test_a_lake_where_something_else_lies(command: Command) -> None:
    command.put(0, lines(0, 10))
    other = Path(command.lake, "bronze", "pin", "model.bin")
    other.parent.mkdir(parents=True)
    other.write_text("x")
    command.refused(f"{other.parent} holds something else than a Delta table; move it away")
    other.rename(other.parents[2] / "model.bin")
    other.parent.rmdir()
    command.lands()
    assert_exactly_once(command, {0: 10})


def test_a_bronze_table_with_other_columns(command: Command) -> None:
    command.put(0, lines(0, 10))
    schema = SCHEMAS["geo"].remove(SCHEMAS["geo"].get_field_index("country"))
    write_deltalake(f"{command.lake}/bronze/geo", schema.empty_table())
    command.refused("bronze/geo has other columns", "lacks country", "land again")


@pytest.mark.parametrize("arguments", [["status"], ["rejected", "list"], ["rejected", "export"]])
def test_a_lake_that_was_not_made(command: Command, arguments: list[str]) -> None:
    ran = command.ingest(*arguments, "--lake", command.lake)
    assert ran.code == 1
    assert "is not a Delta table; run 'ingest init'" in ran.err
    assert not Path(command.lake).exists()


def test_a_bronze_table_whose_files_went(command: Command) -> None:
    command.put(0, lines(0, 10))
    command.lands()
    for path in Path(command.lake, "bronze", REJECTED).rglob("*.parquet"):
        path.unlink()
    ran = command.ingest("rejected", "list", "--lake", command.lake)
    assert ran.code == 1
    assert ran.err.startswith(f"error: {command.lake}/bronze: ")
    assert len(ran.err.splitlines()) == 1


def failing_write(after: int, number: int) -> Any:
    """A writer that fails for good after some commits."""
    left = [after]

    def write(*arguments: Any, **named: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        write_deltalake(*arguments, **named)

    return write


@pytest.mark.parametrize("commits", range(4))
def test_a_disk_that_is_full(
    command: Command, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    """Rejected and good rows are committed in turn: it fills up at any of them."""
    monkeypatch.setattr(landing, "BATCH_RECORDS", 30)
    monkeypatch.setattr(landing, "DECODED_RECORDS", 10)
    command.put(0, lines(0, 60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lake, "write_deltalake", failing_write(commits, errno.ENOSPC))
        command.refused(f"{command.lake}/bronze/", "no space left on the disk; free some and run")
    command.lands()
    assert_exactly_once(command, {0: 60})


class Disk(NamedTuple):
    """A place where a process cannot write much."""

    folder: Path
    limits: Any
    said: str


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 1 MB where one may be mounted, else files of 100 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if not which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        small = 100 * 1024
        limits = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (small, small))  # noqa: E731
        yield Disk(folder, limits, "File too large")
        return
    try:
        yield Disk(folder, None, "no space left on the disk; free some and run again")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(command: Command, disk: Disk) -> None:
    command.lake = str(disk.folder / "lake")
    long = [
        b'{"ind":%d,"country":"%s"}' % (at, os.urandom(5_000).hex().encode()) for at in range(300)
    ]
    command.put(0, lines(0, 100))
    command.put(0, long, partition=1)
    ran = ended(start_ingest(command, preexec_fn=disk.limits))
    assert ran.code == 1
    assert disk.said in ran.err.splitlines()[-1]
    assert f"error: {command.lake}/bronze/geo" in ran.err
    if disk.limits is None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk.folder)], check=True)
    assert ended(start_ingest(command)).code == 0
    assert len(command.offsets()["0"]) + len(command.offsets(REJECTED)["0"]) == 100
    assert command.offsets()["1"] == list(range(300))


# ------------------------------------------------------------------- long lines, memory

MEGABYTE = 2**20
#: What `ingest s3` may take at its peak, whatever it reads.
PEAK = 512 * MEGABYTE


class Measured(NamedTuple):
    """A program that ran in a process of its own, and its memory at the peak."""

    code: int
    out: str
    err: str
    peak: int


# What a parent is told of its child's memory may be its own: the child says it itself.
SAY_PEAK = r"""
import atexit, re, sys
peak = lambda: re.findall(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[0]
atexit.register(lambda: print(peak(), file=sys.stderr))
"""


def start(program: str, *arguments: str, **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SAY_PEAK + program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def start_ingest(command: Command, pipeline: str = "t", **how: Any) -> subprocess.Popen[str]:
    return start(
        "from ingestion.cli import main; main()",
        *("s3", "--uri", str(command.folder), "--lake", command.lake),
        *("--pipeline-id", pipeline, "--json"),
        **how,
    )


def ended(process: subprocess.Popen[str]) -> Measured:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    *said, peak = err.splitlines()
    return Measured(process.returncode, out, "\n".join(said), int(peak) * 1024)


def test_ten_megabytes_in_a_line(command: Command) -> None:
    """Good or not, such records land, or are rejected with every byte."""
    title = "\N{GRINNING FACE}" * (10 * MEGABYTE // 4)
    good = json.dumps({"ind": 0, "country": title}, ensure_ascii=False).encode()
    garbage = os.urandom(5 * MEGABYTE).hex().encode()
    command.put(0, [good, garbage, b'{"ind":2,"country":"x"}', b"[" * 10 * MEGABYTE, good, garbage])
    ran = ended(start_ingest(command))
    assert (ran.code, ran.err) == (0, "")
    assert ran.peak < PEAK
    assert command.offsets() == {"0": [0, 2, 4]}
    assert command.offsets(REJECTED) == {"0": [1, 3, 5]}
    ((country,),) = rows(command.lake, "geo", "country", "where ltrim(_position, '0') = '4'")
    assert country == title
    ((raw,),) = rows(command.lake, REJECTED, "raw", "where ltrim(_position, '0') = '1'")
    assert raw == garbage
    shown = command.ingest("rejected", "show", "s3/t.geo/0/1", "--lake", command.lake)
    assert shown.code == 0
    assert garbage.decode() in shown.out


def test_a_line_over_the_limit(command: Command) -> None:
    long = b'{"ind":11,"country":"%s"}' % (b"x" * 13 * MEGABYTE)
    path = command.put(0, [*lines(0, 11), long, *lines(12, 20)])
    command.put(20, lines(20, 30))
    ran = command.refused(
        f"{path.name}: the line at offset 11 has more than 12 MiB; shorten it, the next run goes on"
    )
    assert "lacks offsets 11 to 19" in ran.err
    path.write_bytes(b"\n".join(lines(0, 20)))
    command.lands()
    assert_exactly_once(command, {0: 30})


def test_memory_does_not_grow_with_the_input(command: Command) -> None:
    """Several batches of the widest records."""
    (command.folder / "topics").rmdir()
    counts = write_posts(command.folder, Plan(posts=200_000, people=30_000, seed=2)).counts["pin"]
    for other in ("geo", "user"):
        (command.folder / "topics" / f"0a60b9a8a831.{other}").rename(command.folder / other)
    ran = ended(start_ingest(command, "0a60b9a8a831"))
    assert ran.code == 0
    pin = json.loads(ran.out)["streams"][0]
    assert (pin["received"], pin["landed"]) == (counts.records, counts.landed)
    assert lake.Lake(command.lake).handle("pin").version() > 2
    assert ran.peak < PEAK


def test_reading_rejected_records_takes_no_more_memory_the_more_there_are(
    command: Command,
) -> None:
    """Two hundred megabytes of them."""
    command.put(0, (b"%d%8000d" % (number, number) for number in range(25_000)))
    assert ended(start_ingest(command)).code == 0
    program = """
from ingestion.bronze import rejected
print(len({row.id for row in rejected(sys.argv[1])}))
"""
    ran = ended(start(program, command.lake))
    assert (ran.code, ran.out) == (0, "25000\n")
    assert ran.peak < 320 * MEGABYTE


# --------------------------------------------------------------------------- interrupted


def test_an_interrupted_run_is_taken_up_by_the_next(command: Command) -> None:
    ends = dict.fromkeys(range(5), 60_000)
    for partition, end in ends.items():
        command.put(0, map(line, range(end)), partition)
    # A runner in the background hands an ignored SIGINT down to what it starts.
    process = start_ingest(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    log = Path(command.lake, "bronze", "geo", "_delta_log")
    wait_until((log / "00000000000000000001.json").exists)
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130
    before = sum(map(len, command.offsets().values()))
    assert before > 0
    command.lands()
    assert_exactly_once(command, ends)
