"""What the processes have in common that tests start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_children_keep_what_they_compile(tmp_path: Path) -> None:
    """Whatever the environment says in which the tests were started."""
    (tmp_path / "module.py").write_text("")
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import module'])"
    for preamble, kept in (("", []), ("import tests.conftest; ", ["__pycache__"])):
        subprocess.run(
            [sys.executable, "-c", preamble + child],
            env={
                **os.environ,
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            check=True,
        )
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == kept
