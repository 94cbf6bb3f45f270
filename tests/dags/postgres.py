"""PostgreSQL with an empty database, for an Airflow's state."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack import process
from tests.servers import skip

#: Whom Debian's package adds; root may not run a server.
USER = "postgres"


def programs() -> Path | None:
    """The folder of the newest server that is installed; Debian has it beside the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: path.parts)
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run a server for as long as the context lasts.

    Args:
        folder: for its log.

    Yields:
        The database's address for SQLAlchemy.
    """
    there = programs()
    skip(None if there else "Airflow's state needs PostgreSQL here: apt-get install postgresql")
    assert there is not None
    as_user = (
        ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        if os.getuid() == 0
        else []
    )
    port = process.free_port()
    # Its user cannot enter the folders of this one.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as made:
        if as_user:
            shutil.chown(made, USER)
        data = Path(made, "data")
        subprocess.run(
            [*as_user, str(there / "initdb"), "-D", str(data), "-U", "airflow", "-A", "trust",
             "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True, cwd=made, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        server = process.Server(
            "PostgreSQL",
            [*as_user, str(there / "postgres"), "-D", str(data), "-p", str(port),
             "-h", "127.0.0.1", "-k", made, "-c", "fsync=off", "-c", "max_connections=200"],
            port, folder,
        )  # fmt: skip
        process.start(server)
        try:
            yield f"postgresql+psycopg2://airflow@127.0.0.1:{port}/postgres"
        finally:
            if running := process.find(folder):
                running.send_signal(signal.SIGINT)  # asked politely, it waits for its clients
            process.stop(folder)
