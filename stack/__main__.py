"""`python -m stack`: start and stop the servers of this machine."""

from __future__ import annotations

import os
from enum import StrEnum
from urllib.parse import urlsplit

import typer
from rich.console import Console

from stack import process, spark

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Real servers on this machine, reachable from it alone.\n\n"
    "Examples:\n\n"
    "  python -m stack up spark\n\n"
    "  python -m stack status\n\n"
    "  python -m stack down spark",
)
console = Console(highlight=False, soft_wrap=True)
problems = Console(stderr=True, highlight=False, soft_wrap=True)


class Known(StrEnum):
    """The servers that can be started."""

    SPARK = "spark"


def _spark() -> process.Server:
    """The server that the spark target's default is, or another port that SPARK_REMOTE names."""
    address = urlsplit(os.environ.get("SPARK_REMOTE") or "sc://127.0.0.1:15002")
    if address.hostname not in ("127.0.0.1", "localhost"):
        raise process.ServerError(
            f"SPARK_REMOTE names a server on {address.hostname}; unset it to start one here"
        )
    return spark.connect_server(address.port or 15002, FOLDERS[Known.SPARK])


SERVERS = {Known.SPARK: _spark}
FOLDERS = {Known.SPARK: spark.HOME / "run"}


@app.command()
def up(name: Known) -> None:
    """Start a server, unless it runs, and say where it listens."""
    try:
        server = SERVERS[name]()
        pid = process.start(server)
    except process.ServerError as error:
        problems.print(f"error: {error}")
        raise typer.Exit(1) from error
    console.print(f"{server.name} listens on sc://127.0.0.1:{server.port} (process {pid})")
    console.print("  dbt build --target spark   builds with it")
    console.print("  make spark-down            ends it")


@app.command()
def down(name: Known) -> None:
    """End a server; nothing happens where none runs."""
    ended = process.stop(FOLDERS[name])
    console.print(f"{name.capitalize()} {'ended' if ended else 'was not running'}")


@app.command()
def status() -> None:
    """Say which servers run."""
    for name, folder in FOLDERS.items():
        running = process.find(folder)
        console.print(
            f"{name.capitalize()}: {f'process {running.pid}' if running else 'not running'}"
        )


if __name__ == "__main__":
    app()
