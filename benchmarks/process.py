"""Running a command as a whole process and reading what it cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: With this variable set, every process compiles every module again: dbt starts in twice the time.
NOT_COMPILED = "PYTHONDONTWRITEBYTECODE"

_ASK_COMPILED = "import os, click; print(os.path.exists(click.__spec__.cached))"


@dataclass(frozen=True)
class Cost:
    """What a finished process cost.

    Attributes:
        seconds: from start to end.
        cpu_seconds: user and system, over all its threads.
        peak_mb: largest resident set.
        output: its standard output.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    output: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of a measured process: those of this one, without `NOT_COMPILED`."""
    inherited = {name: value for name, value in os.environ.items() if name != NOT_COMPILED}
    return {**inherited, **(extra or {})}


def compiled() -> bool:
    """Whether a measured process finds its modules compiled by those before it."""
    return run([sys.executable, "-c", _ASK_COMPILED]).output.strip() == "True"


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end.

    Args:
        command: the program and its arguments.
        env: variables besides those of `environment`.

    Raises:
        RuntimeError: the command failed; the message ends with the end of its output.
    """
    begun = time.monotonic()
    with subprocess.Popen(
        command,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{output[-3000:]}")
    return Cost(
        time.monotonic() - begun,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / (1024 if sys.platform != "darwin" else 2**20),
        output,
    )
