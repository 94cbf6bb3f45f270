"""Running benchmarks on tiny data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="the benchmarks' peers are not installed: make .venv/.bench")

#: Runs one benchmark with further options; gives its figures by name.
Measure = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's benchmarks write; each finds what those before it made."""
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def measure(work: Path) -> Measure:
    """What `python -m benchmarks --small --only NAME` finds."""
    from typer.testing import CliRunner

    from benchmarks.__main__ import app

    def run(name: str, *options: str) -> dict[str, float]:
        # Relative, as the default is.
        arguments = ["--small", "--only", name, "--work", os.path.relpath(work), *options]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        kept = json.loads((work / "latest.json").read_text())
        assert done.output.startswith(kept["machine"])
        assert list(kept["figures"]) == [name], done.output
        figures: dict[str, float] = kept["figures"][name]
        for figure in figures:
            assert f"| {figure} | " in (work / "latest.md").read_text()
        return figures

    return run
