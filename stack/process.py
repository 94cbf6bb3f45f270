"""A server as a process of its own: started, waited for, found again, ended."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from tempfile import gettempdir
from typing import IO

import psutil

from stack.progress import TOTAL, Patience, activity

#: Variables that no server inherits. With the first, which containers set, Python compiles every
#: module at every start: each task of Airflow, each dbt process.
NOT_INHERITED = ("PYTHONDONTWRITEBYTECODE",)

#: How long a server may take to end when asked to, in seconds; then it is killed.
PATIENCE = 20.0

#: By how much a clock may be corrected while a server runs, in seconds.
_CORRECTION = 60.0

#: Where `free_port` chooses: below what Linux (32768) and others (49152) give to any connection.
_PORTS = range(20_000, 32_768)

#: Ports that this process has from `free_port`; its own locks would let it take them twice.
_given: set[int] = set()


class ServerError(Exception):
    """A server did not start; the message says where to look."""


class PortTakenError(ServerError):
    """Another program has the port."""


@dataclass(frozen=True)
class Server:
    """What it takes to run a server.

    Attributes:
        name: what people call it.
        command: the program and its arguments.
        port: of 127.0.0.1, open as soon as the server is ready.
        folder: its own; holds its data, its log and the record of its process.
        env: variables besides those of this process; None for one that it must not have.
        drop: beginnings of the names of variables that it does not inherit from this process.
    """

    name: str
    command: Sequence[str]
    port: int
    folder: Path
    env: Mapping[str, str | None] = field(default_factory=dict)
    drop: Sequence[str] = ()

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.folder / "server.log"


def start(
    server: Server,
    ready: Callable[[], object] = lambda: None,
    *,
    patience: float = 90.0,
    total: float = TOTAL,
) -> int:
    """Start a server, unless it runs, and wait until it is ready.

    A server that is slow is waited for as long as it uses CPU time or its log grows.

    Args:
        server: what to run.
        ready: raises an OSError while the server does not answer; called once its port is open.
        patience: seconds without progress after which it has failed.
        total: seconds after which it has failed whatever its progress.

    Returns:
        The id of its process.

    Raises:
        ServerError: another process has the port, the server ended, or it did not become ready.
            One that this call started has been ended.
    """
    server.folder.mkdir(parents=True, exist_ok=True)
    running = find(server.folder)
    found = running is not None
    if running is None:
        if listening(server.port):
            raise _taken(server)
        running = _launch(server)
    watched = running
    wait = Patience(activity(lambda: [watched], patience, server.log), patience, total)
    while (lacks := _lacks(server, running, ready)) is not None:
        if not _alive(running):
            if listening(server.port):
                raise _taken(server)
            raise ServerError(f"{server.name} ended: {_last_words(server)}; see {server.log}")
        if (reason := wait.exhausted()) is not None:
            if not found:
                stop(server.folder)
            more = f"; process {running.pid} still runs" if found else ""
            raise ServerError(
                f"{server.name} is not ready, {reason}: {lacks}{more}; see {server.log}"
            )
        time.sleep(0.1)
    return int(running.pid)


def inherit(environ: Mapping[str, str], drop: Sequence[str] = ()) -> dict[str, str]:
    """Return the variables that a process started here inherits.

    Args:
        environ: the variables of the process that starts it.
        drop: beginnings of the names of variables that it does not inherit.
    """
    prefixes = (*NOT_INHERITED, *drop)
    return {name: value for name, value in environ.items() if not name.startswith(prefixes)}


def _launch(server: Server) -> psutil.Process:
    environ = {**inherit(os.environ, server.drop), **server.env}
    with server.log.open("wb") as log:
        child = subprocess.Popen(
            server.command,
            env={name: value for name, value in environ.items() if value is not None},
            cwd=server.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = psutil.Process(child.pid)
    _record(server.folder).write_text(
        json.dumps({"pid": running.pid, "created": running.create_time()})
    )
    return running


def _lacks(server: Server, running: psutil.Process, ready: Callable[[], object]) -> str | None:
    """What a server lacks to be ready; None if nothing."""
    if not (listening(server.port) and _listens(running, server.port)):
        return f"it does not listen at port {server.port}"
    try:
        ready()
    except OSError as error:
        return f"it does not answer ({' '.join(str(error).split())})"
    return None


def find(folder: Path) -> psutil.Process | None:
    """The process that was started for a folder, if it still runs.

    A process is told by its id and the time when it began: ids are used again. The time is reckoned
    from the machine's clock, and moves when that is corrected.
    """
    try:
        record = json.loads(_record(folder).read_text())
        process = psutil.Process(record["pid"])
        same = abs(process.create_time() - record["created"]) < _CORRECTION
        return process if same and _alive(process) else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None


def stop(folder: Path) -> bool:
    """End the process that was started for a folder, and those that it started.

    Returns:
        Whether one was running.
    """
    process = find(folder)
    _record(folder).unlink(missing_ok=True)
    if process is None:
        return False
    others = process.children(recursive=True)
    end([process])
    end(others)
    # One of these may have started another meanwhile, as a supervisor does for one that ended; that
    # may do so once more.
    for _ in range(3):
        end(_session(process.pid))
    return True


def _session(leader: int) -> list[psutil.Process]:
    """The processes of the session that `start` made for a server, which leads it."""
    found = []
    for one in psutil.process_iter():
        with suppress(OSError):
            if os.getsid(one.pid) == leader and _alive(one):
                found.append(one)
    return found


def end(processes: Sequence[psutil.Process], total: float = 120.0) -> None:
    """Ask processes to end, and kill those that do not.

    Args:
        processes: which.
        total: seconds until those are killed that still use CPU time; others are killed after
            `PATIENCE` seconds.
    """
    for asked in processes:
        with suppress(psutil.NoSuchProcess):
            asked.terminate()
    kill(_wait(processes, total))


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes that have not ended."""
    for stubborn in processes:
        with suppress(psutil.NoSuchProcess):
            stubborn.kill()
    _wait(processes)


def _wait(processes: Sequence[psutil.Process], total: float = PATIENCE) -> list[psutil.Process]:
    """Wait for processes to end; return those that have not.

    One that ended is gone, even if whoever started it has not asked how.
    """
    left = list(processes)
    wait = Patience(activity(lambda: left, PATIENCE), PATIENCE, total)
    while (left := [one for one in processes if _alive(one)]) and wait.exhausted() is None:
        time.sleep(0.05)
    return left


def listening(port: int) -> bool:
    """Whether somebody takes connections at a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _listens(running: psutil.Process, port: int) -> bool:
    """Whether a port that somebody listens at is a process' own, or that of one it started."""
    try:
        family = [running, *running.children(recursive=True)]
        return any(
            connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
            for one in family
            for connection in one.net_connections(kind="tcp")
        )
    except psutil.NoSuchProcess:
        return False  # the next look finds one fewer
    except psutil.AccessDenied:
        return True  # a server may have given up this user's rights


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, and that nobody else is given by this function.

    It is this process' as long as it lives: a server takes seconds until it listens, and does not
    while it is started again. It is none of those that systems give to whoever asks for any.

    Raises:
        ServerError: every port is taken.
    """
    first = random.SystemRandom().randrange(len(_PORTS))
    for port in chain(_PORTS[first:], _PORTS[:first]):
        if port not in _given and _unused(port) and _reserve(port):
            _given.add(port)
            return port
    raise ServerError(f"every port from {_PORTS[0]} to {_PORTS[-1]} of 127.0.0.1 is taken")


def _unused(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _taken(server: Server) -> PortTakenError:
    return PortTakenError(
        f"port {server.port} of 127.0.0.1 is taken by another program; "
        f"end it or choose another port for {server.name}"
    )


def _reserve(port: int) -> bool:
    """Take a port's byte of a file that all of a user's processes lock; the lock ends with this
    process."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    return True


@cache
def _reservations() -> IO[bytes]:
    return (Path(gettempdir()) / f"ports-{os.getuid()}").open("ab")


def _record(folder: Path) -> Path:
    return folder / "process.json"


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _last_words(server: Server) -> str:
    lines = server.log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
