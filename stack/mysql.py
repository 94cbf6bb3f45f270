"""MariaDB, which speaks the protocol of MySQL: the source database on this machine."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from pathlib import Path

from stack.process import Server, ServerError

#: The database that is there from the start; its user is root, who needs no password.
DATABASE = "pinterest"


def missing() -> str | None:
    """What keeps it from starting, with the way out; None if nothing does."""
    if shutil.which("mariadbd") is None or shutil.which("mariadb-install-db") is None:
        return (
            "the source database needs MariaDB: 'apt-get install mariadb-server' or "
            "'brew install mariadb'"
        )
    return None


def server(port: int, folder: Path) -> Server:
    """A database server; its tables are made the first time and kept.

    Args:
        port: of 127.0.0.1.
        folder: for its tables and its log.

    Raises:
        ServerError: it is not installed, or its tables cannot be made.
    """
    if reason := missing():
        raise ServerError(reason)
    folder = folder.resolve()
    data = folder / "data"
    user = f"--user={getpass.getuser()}"
    # A server that starts removes temporary tables, those of others in the same folder too.
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    (folder / "init.sql").write_text(
        f"create database if not exists {DATABASE} character set utf8mb4;\n"
    )
    if not data.is_dir():
        # Cut short, it leaves a database that never starts: it gets its name when it is whole.
        making = folder / "making"
        shutil.rmtree(making, ignore_errors=True)
        command = [
            "mariadb-install-db", "--no-defaults", user, f"--datadir={making}",
            "--auth-root-authentication-method=normal", "--skip-test-db",
        ]  # fmt: skip
        env = {**os.environ, "TMPDIR": str(temporary)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ServerError(f"{data} cannot be made: {said[-1] if said else 'no reason'}")
        making.rename(data)
    return Server(
        "MySQL",
        [
            "mariadbd", "--no-defaults", user, f"--datadir={data}", f"--tmpdir={temporary}",
            f"--port={port}",
            "--bind-address=127.0.0.1", "--socket=server.sock", "--character-set-server=utf8mb4",
            "--innodb-buffer-pool-size=128M", f"--init-file={folder / 'init.sql'}",
        ],
        port,
        folder,
    )  # fmt: skip


def url(port: int) -> str:
    """The database's address for SQLAlchemy."""
    return f"mysql+pymysql://root@127.0.0.1:{port}/{DATABASE}"
