"""Kinesalite, which speaks the protocol of Kinesis with its shards and sequence numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import stack
from stack.process import Server, ServerError

#: Where `make services` puts it.
HOME = stack.HOME / "kinesis"

# Its own command listens on every address of the machine.
_PROGRAM = """
const [port, path, wait, home] = process.argv.slice(1)
const waits = {createStreamMs: +wait, deleteStreamMs: +wait, updateStreamMs: +wait}
const options = {path, shardLimit: 500, ...waits}
// A client that is killed while it sends would end the server.
process.on('uncaughtException', error => { if (error.code !== 'ECONNRESET') throw error })
require(home)(options).listen(+port, '127.0.0.1')
"""


def missing(home: Path = HOME) -> str | None:
    """What keeps it from starting, with the way out; None if nothing does."""
    if shutil.which("node") is None:
        return "Kinesalite needs Node.js: apt-get install nodejs npm"
    if not (home / "node_modules" / "kinesalite").is_dir():
        return f"Kinesalite is not in {home}: make services"
    return None


def server(port: int, folder: Path, wait_ms: int = 50, home: Path = HOME) -> Server:
    """Kinesis at ``http://127.0.0.1:{port}``, which keeps what it holds in its folder.

    Args:
        port: of 127.0.0.1.
        folder: for its records and its log.
        wait_ms: how long making, changing and deleting a stream takes, in milliseconds.
        home: where it lies.

    Raises:
        ServerError: it is not installed.
    """
    if reason := missing(home):
        raise ServerError(reason)
    data = folder.resolve() / "data"
    data.mkdir(parents=True, exist_ok=True)
    module = (home / "node_modules" / "kinesalite").resolve()
    command = ["node", "-e", _PROGRAM, str(port), str(data), str(wait_ms), str(module)]
    # Options of Node's are for another program: a debugger's port, a module to load first.
    return Server("Kinesis", command, port, folder.resolve(), drop=("NODE_OPTIONS",))
