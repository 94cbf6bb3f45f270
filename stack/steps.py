"""What long steps say: a line before each, and on a terminal how long it has taken so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

#: How much of the last line of output is shown beside the time.
_WIDTH = 60


class Steps:
    """Tells people about long steps.

    Args:
        console: where to; a spinner is shown on a terminal alone.
        clock: monotonic seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self.clock = clock

    def say(self, line: str) -> None:
        """Print a line as it is."""
        self._console.print(line, markup=False)

    @contextmanager
    def step(self, line: str) -> Iterator[Callable[[str], None]]:
        """Print a line, and on a terminal the elapsed time below it while the context lasts.

        Args:
            line: what is done, and about how long it takes.

        Yields:
            A function that shows the last line that the step printed, on a terminal.
        """
        self.say(line)
        columns = (
            SpinnerColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=True),
        )
        terminal = self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=not terminal) as bar:
            task = bar.add_task("", total=None)
            yield lambda last: bar.update(task, description=escape(last.strip()[:_WIDTH]))
