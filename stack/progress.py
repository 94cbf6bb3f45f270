"""Waiting that ends when nothing moves any more, not when a slow machine has taken its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

#: Seconds that a wait may take altogether, however much progress there is.
TOTAL = 900.0


class Patience:
    """Decides when a wait has failed: after a time without progress, or after a long time anyway.

    Args:
        progress: returns a value that changes while there is progress.
        quiet: seconds without progress after which the wait has failed.
        total: seconds after which it has failed whatever the progress.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        progress: Callable[[], object],
        quiet: float,
        total: float = TOTAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._quiet = quiet
        self._total = total
        self._clock = clock
        self._started = self._moved = self._looked = clock()
        self._last = progress()

    def exhausted(self) -> str | None:
        """Return why the wait has failed, as the end of a sentence; None to wait on."""
        now = self._clock()
        # A look may walk over every process of the machine: twenty within `quiet` are enough.
        if now - self._looked >= min(5.0, self._quiet / 20):
            self._looked = now
            if (seen := self._progress()) != self._last:
                self._last, self._moved = seen, now
        if now - self._moved >= self._quiet:
            return f"no progress for {self._quiet:.0f} s"
        if now - self._started >= self._total:
            return f"not done after {self._total:.0f} s"
        return None


def activity(
    processes: Callable[[], Iterable[psutil.Process]], quiet: float, log: Path | None = None
) -> Callable[[], tuple[int, int]]:
    """Make a measure of progress for `Patience`: CPU time that is used, and a log that grows.

    Args:
        processes: returns those to look at; the processes that they started count as well.
        quiet: as for `Patience`. Less than a sixtieth of a core over this time is not progress:
            an idle server uses some.
        log: a file.
    """
    grain = quiet / 60

    def measure() -> tuple[int, int]:
        used = sum(map(_cpu_seconds, _families(processes())))
        size = 0
        if log is not None:
            with suppress(OSError):
                size = log.stat().st_size
        return int(used / grain), size

    return measure


def _families(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for process in processes:
        with suppress(psutil.Error):
            found |= {process, *process.children(recursive=True)}
    return found


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and, where the system knows it, of its children that have ended."""
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(sum(times[:4]))  # user, system, and both of the children
    return 0.0
