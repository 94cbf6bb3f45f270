"""dbt commands as processes of their own, forked from one that has imported dbt already.

A new interpreter spends three CPU seconds on importing dbt, more than most of these commands cost.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.forking import forkserver

DBT = str(Path(sys.executable).with_name("dbt"))
SEVERAL = (sys.executable, "-m", "dbt_lake")


def run(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run ``dbt …`` or ``python -m dbt_lake …``; like `subprocess.run` with captured text.

    Args:
        command: begins with `DBT` or with `SEVERAL`.
        environment: every variable of the process.
        cwd: its working directory.
    """
    with TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        child = forkserver.Process(
            target=_run, args=(list(command), dict(environment), str(cwd), files)
        )
        child.start()
        child.join(300)
        assert child.exitcode is not None, f"{command} did not end within 300 s"
        texts = [Path(file).read_text() for file in files]
    return subprocess.CompletedProcess(command, child.exitcode, *texts)


def _run(command: list[str], environment: dict[str, str], cwd: str, files: list[str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    from dbt.cli.main import cli

    from runner import commands
    from tests.dbt import imported  # noqa: F401 (repeats it if the preload failed)

    several = tuple(command[: len(SEVERAL)]) == SEVERAL
    assert several or command[0] == DBT, command
    try:
        if several:
            sys.exit(commands.main(command[len(SEVERAL) :]))
        cli(command[1:], prog_name="dbt")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
