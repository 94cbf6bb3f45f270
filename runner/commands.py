"""Several dbt commands in one process, which share the engine and the imports."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import takewhile
from typing import Any

from dbt import selected_resources
from dbt.cli.main import dbtRunner
from dbt.flags import get_flags

from runner.failures import what_failed, what_stopped, what_warns
from runner.progress import Progress, say, shown, summary

#: Commands that run nodes, as dbt's flags name them.
_COUNTED = frozenset(
    {"build", "freshness", "retry", "run", "seed", "snapshot", "snapshot-freshness", "test"}
)
#: `docs generate`, as dbt's flags name it.
_DOCS = "generate"


def main(arguments: Sequence[str]) -> int:
    """Run dbt commands one after the other, up to the first that fails.

    Standard output is dbt's alone. Progress (while dbt is quiet), a summary of each command and
    what failed go to standard error.

    Args:
        arguments: dbt's own, the commands separated by a lone comma, such as
            ``build --quiet , docs generate --static``.

    Returns:
        dbt's exit code: 0, 1 for a failure, 2 for an error.
    """
    for command in _commands(arguments):
        if code := _run(command):
            return code
    return 0


def _commands(arguments: Sequence[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for argument in arguments:
        if argument == ",":
            yield command
            command = []
        else:
            command.append(argument)
    yield command


def _run(command: list[str]) -> int:
    begin = time.monotonic()
    with _progress(command) as progress:
        outcome = dbtRunner(callbacks=[progress] if progress else []).invoke(command)
    seconds = time.monotonic() - begin
    results = getattr(outcome.result, "results", None) or []
    if outcome.result is not None:
        if _which() in _COUNTED:
            say(f"{_name(command)}: {summary(results, seconds)}")
        elif _which() == _DOCS:
            say(f"{_name(command)}: {seconds:.1f} s")
    if late := what_warns(results):
        say(f"warning: {late}")
    if outcome.success:
        return 0
    # The last line: Airflow shows it as the reason.
    reason = what_stopped(outcome.exception) if outcome.exception else what_failed(results)
    say(f"error: {reason or 'dbt does not say why'}")
    return 2 if outcome.exception else 1


def _progress(command: Sequence[str]) -> AbstractContextManager[Progress | None]:
    """The progress of a command that runs nodes or writes the docs while dbt is quiet."""
    quiet = {"-q", "--quiet"} & {*command} or _is_true(os.environ.get("DBT_QUIET", ""))
    if quiet and {*_COUNTED, _DOCS} & {*command}:
        return shown(_name(command), _selected)
    return nullcontext()


def _selected() -> Sequence[str]:
    """The unique ids of the nodes that the command runs."""
    ids: Sequence[str] = selected_resources.SELECTED_RESOURCES
    return ids if _which() in _COUNTED else []


def _which() -> Any:
    """dbt's name of the command that it ran last."""
    return getattr(get_flags(), "WHICH", "")


def _is_true(value: str) -> bool:
    return value.lower() in {"1", "on", "t", "true", "y", "yes"}


def _name(command: Sequence[str]) -> str:
    """The command without its options, as far as these come last."""
    words = list(takewhile(lambda word: not word.startswith("-"), command))
    return " ".join(["dbt", *(words or command)])
