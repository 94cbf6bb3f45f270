"""The servers of `make stack`: what is left when starting them is cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from stack import mysql, process
from tests.services.conftest import folder_of


def test_a_database_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    if reason := mysql.missing():
        pytest.skip(reason)
    folder, port = folder_of(tmp_path, "mysql"), process.free_port()
    script = "import sys; from pathlib import Path; from stack import mysql; "
    script += f"mysql.server({port}, Path({str(folder)!r}))"
    making = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/mysql/*")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    # All of it, as the keyboard's interrupt is for the whole group.
    os.killpg(making.pid, signal.SIGKILL)
    making.wait(20)
    process.start(mysql.server(port, folder))
    try:
        with create_engine(mysql.url(port)).connect() as connection:
            assert connection.execute(text("select database()")).scalar() == mysql.DATABASE
    finally:
        process.stop(folder)
