"""`python -m stack`: start and stop the servers of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

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

Name = Annotated[str, typer.Argument(help="spark.")]


def _server(name: str) -> process.Server:
    if name != "spark":
        raise process.ServerError(f"no server is called {name!r}; there is: spark")
    port = int(os.environ.get("SPARK_PORT") or 15002)
    return spark.connect_server(port, spark.HOME / "run")


@app.command()
def up(name: Name) -> None:
    """Start a server, unless it runs, and say where it listens."""
    try:
        server = _server(name)
        pid = process.start(server)
    except process.ServerError as error:
        problems.print(f"error: {error}")
        raise typer.Exit(1) from error
    console.print(f"{server.name} listens on sc://127.0.0.1:{server.port} (process {pid})")
    console.print("  dbt build --target spark   builds with it")
    console.print("  make spark-down            ends it")


@app.command()
def down(name: Name) -> None:
    """End a server; nothing happens where none runs."""
    try:
        server = _server(name)
    except process.ServerError as error:
        problems.print(f"error: {error}")
        raise typer.Exit(1) from error
    ended = process.stop(server.folder)
    console.print(f"{server.name} {'ended' if ended else 'was not running'}")


@app.command()
def status() -> None:
    """Say which servers run."""
    folder: Path = spark.HOME / "run"
    running = process.find(folder)
    console.print(f"Spark: {f'process {running.pid}' if running else 'not running'}")


if __name__ == "__main__":
    app()
