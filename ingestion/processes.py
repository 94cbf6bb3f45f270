"""Landing with several processes, each with its share of the partitions; they end together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from threading import Event, Thread
from typing import Any, Protocol

from ingestion.errors import PipelineError, SourceError
from ingestion.landing import Account

#: How long processes may take to end once they are told to, in seconds; then they are killed.
PATIENCE = 60.0
#: Seconds between two reports of a process.
_REPORT_SECONDS = 0.25


@dataclass(frozen=True)
class Report:
    """What a share's landing has come to.

    Attributes:
        accounts: one for each stream.
        behind: how much of each stream is still to be read.
        absent: streams that do not exist.
    """

    accounts: Sequence[Account] = ()
    behind: Mapping[str, int] = field(default_factory=dict)
    absent: Sequence[str] = ()


class Work(Protocol):
    """Lands a share; called in a process of its own, so it must be known by name there."""

    def __call__(
        self,
        share: tuple[int, int],
        stopping: Callable[[], bool],
        report: Callable[[Report], None],
        notice: Callable[[str], None],
    ) -> Report:
        """Land until there is nothing left, or until stopped.

        Args:
            share: which of how many it is.
            stopping: whether to stop.
            report: told what it has come to meanwhile.
            notice: told what the user should know.
        """


def run(
    work: Work,
    shares: int,
    stopping: Callable[[], bool],
    report: Callable[[Report], None],
    notice: Callable[[str], None],
) -> Report:
    """Land with as many processes as there are shares.

    Args:
        work: what each does.
        shares: how many.
        stopping: whether to stop all of them.
        report: told what they have come to together.
        notice: told what one of them has to say, once.

    Returns:
        What they have come to together.

    Raises:
        PipelineError: one of them failed, was ended by somebody else, or did not end when told to;
            the others have committed what they had read.
    """
    if shares == 1:
        return work((0, 1), stopping, report, notice)
    spawning = multiprocessing.get_context("spawn")
    processes: dict[Any, Any] = {}
    try:
        for share in range(shares):
            ours, theirs = spawning.Pipe()
            process = spawning.Process(target=_serve, args=(work, (share, shares), theirs))
            process.start()
            theirs.close()
            processes[ours] = process
        return _attend(processes, stopping, report, notice)
    finally:
        for pipe in processes:
            pipe.close()  # tells it to stop
        deadline = time.monotonic() + PATIENCE
        for process in processes.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def _attend(
    processes: Mapping[Any, Any],
    stopping: Callable[[], bool],
    report: Callable[[Report], None],
    notice: Callable[[str], None],
) -> Report:
    """Listen to processes until all have ended."""
    reports: dict[Any, Report] = dict.fromkeys(processes, Report())
    running = set(processes)
    noticed: set[str] = set()
    failure: PipelineError | None = None
    deadline: float | None = None
    one_was_stopped = told = False
    while running and (deadline is None or time.monotonic() < deadline):
        if not told and (failure is not None or one_was_stopped or stopping()):
            told = True
            deadline = time.monotonic() + PATIENCE
            for pipe in running:
                _tell(pipe)
        for pipe in wait(list(running), 0.2):
            what, content = _heard(pipe, processes[pipe])
            if what == "report":
                reports[pipe] = content
            elif what == "notice" and content not in noticed:
                noticed.add(content)
                notice(content)
            elif what == "end":
                running.discard(pipe)
                one_was_stopped |= content
            elif what == "failure":
                running.discard(pipe)
                failure = failure or content
        report(merged(list(reports.values())))
    for pipe in running:
        processes[pipe].kill()
    if failure is not None:
        raise failure
    if running:
        raise SourceError(
            f"one of the processes did not end in {PATIENCE:.0f} s and was killed; run again, "
            "nothing is lost"
        )
    if one_was_stopped and not stopping():
        raise SourceError("one of the processes was told to end; run again, nothing is lost")
    return merged(list(reports.values()))


def _tell(pipe: Connection) -> None:
    with suppress(OSError):  # it may have ended
        pipe.send("stop")


def _heard(pipe: Any, process: Any) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = pipe.recv()
    except (EOFError, OSError):
        process.join(PATIENCE)
        return "failure", SourceError(
            f"one of the processes ended with code {process.exitcode}; run again, nothing is lost"
        )
    return message


def merged(reports: Sequence[Report]) -> Report:
    """What shares have come to together."""
    accounts: dict[str, Account] = {}
    behind: Counter[str] = Counter()
    for report in reports:
        behind.update(report.behind)
        for account in report.accounts:
            total = accounts.setdefault(
                account.stream, Account(account.stream, account.kind, account.objects)
            )
            total.received += account.received
            total.landed += account.landed
            total.rejected += account.rejected
            total.elsewhere += account.elsewhere
            total.seconds = max(total.seconds, account.seconds)
            total.gaps = sorted([*total.gaps, *account.gaps])
            total.failures += account.failures
    absent = sorted({name for report in reports for name in report.absent})
    return Report(list(accounts.values()), dict(behind), absent)


# --- in a share's process -----------------------------------------------------------------------


def _serve(work: Work, share: tuple[int, int], pipe: Connection) -> None:
    stopped, told = Event(), Event()
    Thread(target=_outlive_no_parent, daemon=True).start()
    # The keyboard's interrupt reaches every process; the first of them passes it on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    reported = 0.0

    def stopping() -> bool:
        if not told.is_set() and pipe.poll():
            told.set()  # or the first process is gone
        return stopped.is_set() or told.is_set()

    def report(latest: Report) -> None:
        nonlocal reported
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            _send(pipe, "report", latest)

    try:
        final = work(share, stopping, report, lambda text: _send(pipe, "notice", text))
    except PipelineError as error:
        _send(pipe, "failure", error)
        return
    _send(pipe, "report", final)
    _send(pipe, "end", stopped.is_set())


def _outlive_no_parent() -> None:
    """End this process some time after the first one is gone, whatever it is busy with."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(PATIENCE)
    os._exit(1)


def _send(pipe: Connection, what: str, content: Any) -> None:
    with suppress(OSError):  # perhaps nobody listens any more
        pipe.send((what, content))
