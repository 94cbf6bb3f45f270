"""What the commands that read streams share: options, how they are stopped, what they show."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn

from ingestion.console import err

if TYPE_CHECKING:
    from ingestion.landing import Account

FollowOption = Annotated[
    bool,
    typer.Option(
        "--follow/--once", help="Read on until stopped, or what is there now, and return."
    ),
]
LatencyOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="With --follow: seconds a record may wait for its commit to begin.",
        metavar="SECONDS",
    ),
]


@contextmanager
def until_stopped() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT came; the second one does what it always does."""
    stopped = Event()
    before: dict[int, Any] = {}

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, stop)
    try:
        yield stopped.is_set
    finally:
        for stopping, handler in before.items():
            signal.signal(stopping, handler)


@contextmanager
def counters(
    behind: Callable[[], Mapping[str, str]] = dict,
) -> Iterator[Callable[[Sequence[Account]], None]]:
    """A line for each stream on a terminal, nothing elsewhere.

    Args:
        behind: how far reading is behind, by stream, as a person reads it.
    """
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("read {task.completed:,.0f}"),
        TextColumn("{task.fields[rest]}"),
        console=err,
        transient=True,
        disable=not err.is_terminal,
        refresh_per_second=4,
    ) as lines:
        tasks: dict[str, TaskID] = {}

        def show(accounts: Sequence[Account]) -> None:
            if not err.is_terminal:
                return
            lags = behind()
            for account in accounts:
                if account.stream not in tasks:
                    tasks[account.stream] = lines.add_task(account.stream, total=None, rest="")
                rest = f"landed {account.landed:,}  rejected {account.rejected.total():,}"
                lines.update(
                    tasks[account.stream],
                    completed=account.received,
                    rest=f"{rest}  {lags.get(account.stream, '')}",
                )

        yield show


def warn(text: str) -> None:
    """Tell the user something that does not end the command."""
    err.print(f"[yellow]warning:[/] {escape(text)}")
