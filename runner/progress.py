"""Progress of a dbt command on standard error, for commands that run while dbt is quiet.

On a terminal one line is redrawn; elsewhere (CI, Airflow) a line is written every ten seconds.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

#: The kinds of nodes in the order in which they are named: what a command does with them, and the
#: name of one. Other kinds (exposures, saved queries, hooks) are not counted.
KINDS = {
    "source": ("checking", "source"),
    "seed": ("loading", "seed"),
    "snapshot": ("taking", "snapshot"),
    "model": ("building", "model"),
    "unit_test": ("running", "unit test"),
    "test": ("running", "test"),
}
#: Seconds between two lines where there is no terminal.
INTERVAL = 10.0

#: Results that are named in the summary besides the counts of nodes.
_REMARKABLE = {
    "error": "failed",
    "fail": "failed",
    "runtime error": "failed",
    "partial success": "failed",
    "warn": "with a warning",
    "skipped": "skipped",
}


class Display(Protocol):
    """Where progress is shown."""

    def say(self, line: str) -> None:
        """Write a line that stays."""

    def show(self, line: str) -> None:
        """Show how far the command is."""


class Progress:
    """Counts the nodes that are done. dbt calls it with each of its events, from every thread.

    Args:
        display: where the counts are shown.
        selected: returns the unique ids of the command's nodes, once dbt has selected them.
    """

    def __init__(self, display: Display, selected: Callable[[], Iterable[str]]) -> None:
        self._display, self._selected = display, selected
        self._planned: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, event: Any) -> None:
        """Take an event of dbt."""
        with self._lock:
            if event.info.name == "ConcurrencyLine":  # the last event before the first node
                self._planned = count(self._selected())
                if self._planned:
                    self._display.say(announcement(self._planned))
                    self._display.show(position(self._planned, self._done))
            elif event.info.name == "NodeFinished" and self._planned:
                kind = event.data.node_info.resource_type
                if kind in KINDS:
                    self._done[kind] += 1
                    self._display.show(position(self._planned, self._done))


def count(unique_ids: Iterable[str]) -> Counter[str]:
    """How many nodes of each kind there are; an id begins with its node's kind."""
    kinds = (unique_id.partition(".")[0] for unique_id in unique_ids)
    return Counter(kind for kind in kinds if kind in KINDS)


def announcement(planned: Mapping[str, int]) -> str:
    """What a command is about to do: ``building 16 models, running 104 tests``."""
    actions: dict[str, list[str]] = {}
    for kind, (action, _) in KINDS.items():
        if planned.get(kind):
            actions.setdefault(action, []).append(_many(planned[kind], kind))
    return ", ".join(f"{action} {' and '.join(what)}" for action, what in actions.items())


def position(planned: Mapping[str, int], done: Mapping[str, int]) -> str:
    """How much of it is done: ``12/16 models, 9 unit tests, 80/104 tests``.

    A build does not say beforehand how many unit tests it runs.
    """
    return ", ".join(
        f"{done.get(kind, 0)}/{_many(planned[kind], kind)}"
        if planned.get(kind)
        else _many(done[kind], kind)
        for kind in KINDS
        if planned.get(kind) or done.get(kind)
    )


def summary(results: Sequence[Any], seconds: float) -> str:
    """What was done: ``16 models, 104 tests, 14.2 s (1 failed, 3 skipped)``.

    Args:
        results: dbt's, of every node.
        seconds: how long the command took.
    """
    done = [result for result in results if str(result.node.resource_type) in KINDS]
    nodes = Counter(str(result.node.resource_type) for result in done)
    parts = [_many(nodes[kind], kind) for kind in KINDS if nodes[kind]] or ["nothing to do"]
    remarks = Counter(
        _REMARKABLE[str(result.status)] for result in done if str(result.status) in _REMARKABLE
    )
    remark = ", ".join(f"{number} {what}" for what, number in remarks.items())
    return ", ".join([*parts, f"{seconds:.1f} s"]) + (f" ({remark})" if remark else "")


def _many(number: int, kind: str) -> str:
    name = KINDS[kind][1]
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def say(line: str) -> None:
    """Write a line to standard error, if anything still reads that."""
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


class Lines:
    """A display for logs: no more than one line in ten seconds.

    Args:
        write: takes a line.
        clock: seconds, from any beginning.
    """

    def __init__(
        self, write: Callable[[str], None] = say, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._last = clock()

    def say(self, line: str) -> None:
        """Write a line that stays."""
        self._write(line)
        self._last = self._clock()

    def show(self, line: str) -> None:
        """Write the line if the last one is old enough."""
        if self._clock() - self._last >= INTERVAL:
            self.say(line)


class Terminal:
    """A display of one line at the bottom of a terminal, with the seconds since its beginning.

    It must be open before dbt begins: dbt then writes its errors above the line.

    Args:
        waiting_for: what is shown until there is progress.
    """

    def __init__(self, waiting_for: str) -> None:
        # Imported here: most commands need none of it.
        from rich.console import Console
        from rich.progress import Progress as Bar
        from rich.progress import TextColumn, TimeElapsedColumn

        # A long line of dbt's is left to the terminal: it can be copied as one.
        self._console = Console(stderr=True, soft_wrap=True)
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=4,
            # What is piped into another program does not belong on the terminal.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(waiting_for, total=None)

    def __enter__(self) -> Terminal:
        """Begin to draw the line."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the line."""
        self._bar.stop()

    def say(self, line: str) -> None:
        """Write a line above the one that is redrawn."""
        self._console.print(line, markup=False, highlight=False)

    def show(self, line: str) -> None:
        """Redraw the line."""
        self._bar.update(self._task, description=line, refresh=True)


def on_terminal() -> bool:
    """Whether standard error is a terminal that can redraw a line."""
    if not sys.stderr.isatty():
        return False
    from rich.console import Console

    return Console(stderr=True).is_interactive


@contextmanager
def shown(waiting_for: str, selected: Callable[[], Iterable[str]]) -> Iterator[Progress]:
    """Show the progress of a command for as long as the context lasts.

    Args:
        waiting_for: what a terminal shows until dbt has selected the nodes.
        selected: as for `Progress`.

    Yields:
        What dbt is to call with its events.
    """
    if on_terminal():
        with Terminal(waiting_for) as terminal:
            yield Progress(terminal, selected)
    else:
        yield Progress(Lines(), selected)
