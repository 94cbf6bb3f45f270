"""`python -m stack`: start and stop the servers of this machine."""

from __future__ import annotations

import os
import shlex
import signal
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import stack
from stack import airflow, local, mysql, process
from stack.steps import Steps

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Real servers on this machine, reachable from it alone.\n\n"
    "Examples:\n\n"
    "  python -m stack install kafka     puts Kafka into .stack\n\n"
    "  python -m stack up                all but Spark and Airflow\n\n"
    "  python -m stack up kafka spark    only these\n\n"
    '  eval "$(python -m stack env)"     tells this shell where they are\n\n'
    "  python -m stack daily             Airflow, and the daily DAG in it\n\n"
    "  python -m stack down              ends all but Spark and Airflow",
)
console = Console(highlight=False, soft_wrap=True)
problems = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


class Known(StrEnum):
    """The servers that can be started."""

    MYSQL = "mysql"
    KAFKA = "kafka"
    KINESIS = "kinesis"
    S3 = "s3"
    GATEWAY = "gateway"
    SPARK = "spark"
    AIRFLOW = "airflow"


class Installed(StrEnum):
    """The servers that are installed into `.stack`, and the one that the system has."""

    SPARK = "spark"
    KAFKA = "kafka"
    KINESIS = "kinesis"
    S3 = "s3"
    MWAA = "mwaa"
    MYSQL = "mysql"


Names = Annotated[list[Known] | None, typer.Argument(help="Which; the pipeline's by default.")]


@app.command()
def install(
    names: Annotated[list[Installed], typer.Argument(help="Which.")],
) -> None:
    """Install servers into `.stack`; one in use is replaced when the new one is complete."""
    from stack.install import InstallError
    from stack.install import install as install_all
    from stack.recipes import RECIPES

    # As the keyboard does: what was begun is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        reason = mysql.missing() if Installed.MYSQL in names else None
        recipes = [recipe for recipe in RECIPES if recipe.name in names]
        install_all(recipes, stack.HOME, Steps(console), lacks=[reason] if reason else [])
    except InstallError as error:
        problems.print(f"error: {error}")
        raise typer.Exit(1) from error


@app.command()
def up(names: Names = None) -> None:
    """Start servers, unless they run, and say where they listen."""
    servers = local.servers()
    for name in names or [Known(name) for name in local.PIPELINE]:
        try:
            pid = _start(servers[name], Steps(console))
        except process.ServerError as error:
            problems.print(f"error: {error}")
            raise typer.Exit(1) from error
        console.print(f"{name:<8} listens on {servers[name].address()} (process {pid})")
    if names == [Known.SPARK]:
        console.print("  dbt build --target spark   builds with it")
        console.print("  make spark-down            ends it")


def _start(server: local.Local, steps: Steps) -> int:
    """Start a server, unless it runs, and say before how long that takes; its process."""
    if process.find(server.folder) is not None:
        return server.up()
    started = steps.clock()
    with steps.step(f"starting {server.name} ({server.about})"):
        pid = server.up()
    steps.say(f"  {steps.clock() - started:.1f} s")
    return pid


@app.command()
def down(names: Names = None) -> None:
    """End servers, those of the pipeline by default; what they hold stays."""
    servers = local.servers()
    # Those that use others end before them.
    for name in reversed(names or [Known(name) for name in local.PIPELINE]):
        with console.status(f"ending {name}"):
            ended = servers[name].down()
        if ended:
            console.print(f"{name:<8} ended")
        elif names:
            console.print(f"{name:<8} was not running")


@app.command()
def status() -> None:
    """Say which servers run."""
    for name, server in local.servers().items():
        running = process.find(server.folder)
        console.print(f"{name:<8} {f'process {running.pid}' if running else 'not running'}")


@app.command()
def demo(
    posts: Annotated[int, typer.Option(min=1, help="How many the emulator sends.")] = 500,
) -> None:
    """Start all of it, drive posts through, land, build, and compare the two paths."""
    from stack.demo import BATCH, LAKES, STREAM, DemoError, run

    try:
        agreeing = run(posts, os.environ.get("PIPELINE_ID") or "0a60b9a8a831", Steps(console))
    except (process.ServerError, DemoError) as error:
        problems.print(f"error: {error}")
        raise typer.Exit(1) from error
    table = Table("table", "rows by both paths", box=None)
    table.columns[1].justify = "right"
    for name, rows in agreeing:
        table.add_row(name.replace("/", "."), f"{rows:,}")
    console.print()
    console.print(table)
    console.print(f"\nthe batch path and the stream path agree in {len(agreeing)} tables")
    console.print(f"  {LAKES / BATCH}   the lake of the batch path; LAKE_URI chooses a lake")
    console.print(f"  {LAKES / STREAM}  the lake of the stream path")
    console.print(f"  {local.environment()['GATEWAY_URL']}/docs      the gateway, to try by hand")
    console.print('  eval "$(python -m stack env)"   leads this shell to the servers')


@app.command()
def daily(
    wait: Annotated[bool, typer.Option("--wait", help="Until the run is over.")] = False,
) -> None:
    """Start Airflow, take the daily DAG out of its pause, run it now."""
    server = local.servers()["airflow"]
    dag = "pinterest_daily"
    steps = Steps(console)
    try:
        _start(server, steps)
        client = local.airflow_client()
        with steps.step(f"waiting until Airflow has read the DAG {dag} (10 s to 1 min)"):
            client.wait_for_dag(dag)
            run = client.run_now(dag)
        console.print(f"Airflow runs {dag}")
        console.print(f"  {client.address}/dags/{dag}/runs/{run}")
        console.print(f"  user {airflow.USER}, password {airflow.password(server.folder)}")
        console.print("  make airflow-down   ends it")
        if wait:
            with steps.step("waiting for the end of the run (2 to 10 min)"):
                state = client.wait(dag, run, patience=900)
            console.print(f"  the run ended: {state}")
            if state != "success":
                raise typer.Exit(1)
    except process.ServerError as error:
        problems.print(f"error: {error}")
        raise typer.Exit(1) from error


@app.command()
def env() -> None:
    """Print what leads this project's commands to the servers, for a shell to evaluate."""
    led = local.led_here(os.environ)
    for variable in sorted(os.environ.keys() - led.keys()):
        console.print(f"unset {variable}")
    for variable, value in local.environment().items():
        console.print(f"export {variable}={shlex.quote(value)}")


if __name__ == "__main__":
    app()
