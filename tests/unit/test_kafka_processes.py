"""Several processes that share the work: one report of all, one end for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import SpawnProcess

import psutil
import pytest

from ingestion import processes
from ingestion.commands.kafka import Speeds
from ingestion.errors import SourceError
from ingestion.landing import Account
from ingestion.processes import Report, merged, run

Stopping = Callable[[], bool]
Notice = Callable[[str], None]


def account(received: int, **more: object) -> Account:
    return Account("t.geo", "geo", None, received, **more)  # type: ignore[arg-type]


def count(
    share: tuple[int, int], _stopping: Stopping, report: Callable[[Report], None], notice: Notice
) -> Report:
    """Ends by itself."""
    report(Report([account(1)]))
    notice("the same")
    notice(f"of {share[0]}")
    return Report([account(10 + share[0])], {"t.geo": share[0]}, ["t.pin"])


def wait_or(
    share: tuple[int, int], stopping: Stopping, report: Callable[[Report], None], notice: Notice
) -> Report:
    """Goes on until it is stopped; the first of them does what is noticed."""
    notice(f"{share[0]} at {os.getpid()}")
    deadline = time.monotonic() + 30
    while not stopping() and time.monotonic() < deadline:
        report(Report([account(1)]))
        time.sleep(0.01)
    return Report([account(100 + share[0])])


def fail_first(
    share: tuple[int, int], stopping: Stopping, report: Callable[[Report], None], notice: Notice
) -> Report:
    """The first one fails, the other goes on until it is stopped."""
    if share[0]:
        return wait_or(share, stopping, report, notice)
    raise SourceError("out of records; wait")


def stuck(
    share: tuple[int, int], stopping: Stopping, report: Callable[[Report], None], notice: Notice
) -> Report:
    """The first one never ends."""
    processes.PATIENCE = 0.2  # of its own process
    if share[0]:
        return wait_or(share, stopping, report, notice)
    notice(f"{share[0]} at {os.getpid()}")
    while True:
        time.sleep(1)


def run_stuck() -> None:
    """In a process of its own: says who runs."""
    run(stuck, 2, lambda: False, lambda _: None, lambda text: print(text, flush=True))


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_what_all_have_come_to() -> None:
    notices: list[str] = []
    reports: list[Report] = []
    done = run(count, 2, lambda: False, reports.append, notices.append)
    assert done == Report([account(21)], {"t.geo": 1}, ["t.pin"])
    assert sorted(notices) == ["of 0", "of 1", "the same"]
    assert reports[-1] == done
    assert run(count, 1, lambda: False, reports.append, notices.append).accounts == [account(10)]


def test_the_error_of_one_ends_the_others() -> None:
    begun = time.monotonic()
    with pytest.raises(SourceError, match="out of records; wait"):
        run(fail_first, 2, lambda: False, lambda _: None, lambda _: None)
    assert time.monotonic() - begun < 25


@pytest.mark.parametrize("what", ["asked", "terminated", "killed"])
def test_they_end_together(what: str) -> None:
    pids: dict[str, int] = {}
    asked: list[bool] = []

    def notice(text: str) -> None:
        share, _, pid = text.partition(" at ")
        pids[share] = int(pid)
        if len(pids) == 2:
            if what == "asked":
                asked.append(True)
            else:
                os.kill(pids["1"], signal.SIGTERM if what == "terminated" else signal.SIGKILL)

    if what != "asked":
        said = "ended with code -9" if what == "killed" else "was told to end"
        with pytest.raises(SourceError, match=f"{said}; run again, nothing is lost"):
            run(wait_or, 2, lambda: bool(asked), lambda _: None, notice)
    else:
        done = run(wait_or, 2, lambda: bool(asked), lambda _: None, notice)
        assert done.accounts == [account(201)]
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_one_that_does_not_end_when_told_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 2.0)
    pids: list[int] = []
    with pytest.raises(SourceError, match="did not end in 2 s and was killed; run again, nothing"):
        run(
            stuck,
            2,
            lambda: len(pids) == 2,
            lambda _: None,
            lambda text: pids.append(int(text.rpartition(" ")[2])),
        )
    assert all(gone(pid) for pid in pids)


def test_none_outlives_the_first_process() -> None:
    code = "from tests.unit.test_kafka_processes import run_stuck; run_stuck()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        pids = [int(first.stdout.readline().rpartition(" ")[2]) for _ in range(2)]
        first.kill()
    try:
        deadline = time.monotonic() + 20
        while not all(gone(pid) for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_those_that_were_started_end_if_one_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[SpawnProcess] = []
    start = SpawnProcess.start

    def failing(process: SpawnProcess) -> None:
        if started:
            raise OSError("no more processes")
        start(process)
        started.append(process)

    monkeypatch.setattr(SpawnProcess, "start", failing)
    with pytest.raises(OSError, match="no more processes"):
        run(wait_or, 2, lambda: False, lambda _: None, lambda _: None)
    (first,) = started
    assert not first.is_alive()


def test_accounts_are_added_up() -> None:
    one = account(5, landed=3, rejected=Counter(empty=2), seconds=2.0, gaps=[(1, 5, 6)])
    two = account(7, landed=6, rejected=Counter(empty=1), seconds=1.0, gaps=[(0, 1, 2)])
    assert merged([Report([one]), Report([two])]).accounts == [
        account(
            12,
            landed=9,
            rejected=Counter(empty=3),
            seconds=2.0,
            gaps=[(0, 1, 2), (1, 5, 6)],
        )
    ]


def test_speeds_are_those_of_the_last_seconds() -> None:
    now = [0.0]
    speeds = Speeds(5.0, lambda: now[0])
    assert speeds.shown() == {}
    for second, received in enumerate((0, 10_000, 11_000, 12_000, 13_000, 14_000, 15_000)):
        now[0] = float(second)
        speeds.note(Report([account(received)], {"t.geo": 1_500 if second < 6 else 0}))
        if second == 1:
            assert speeds.shown() == {"t.geo": "10,000/s  1,500 behind"}
    assert speeds.shown() == {"t.geo": "1,000/s  up to date"}
