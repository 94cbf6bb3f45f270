"""The `ingest` command: its subcommands in groups, and what its failures look like."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer
from rich.markup import escape

from ingestion.commands.archive import archive
from ingestion.commands.emulate import emulate
from ingestion.commands.gateway import gateway
from ingestion.commands.kafka import kafka
from ingestion.commands.kinesis import kinesis
from ingestion.commands.lake import init, status
from ingestion.commands.maintain import maintain
from ingestion.commands.mysql import mysql
from ingestion.commands.rejected import rejected_export, rejected_list, rejected_show, replay
from ingestion.commands.s3 import s3
from ingestion.commands.seed import seed_database
from ingestion.commands.synth import synth
from ingestion.console import err, out
from ingestion.errors import PipelineError

DISTRIBUTION = "pinterest-data-pipeline"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Land records as bronze Delta tables, and look at what has landed.",
    epilog="Example: `ingest synth --posts 10000 --out sink && ingest s3 --uri sink`. "
    "Completion of commands and options in your shell: `ingest --install-completion`, "
    "then start a new shell.",
)
rejected_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look at the records that could not land.",
)


def main() -> None:
    """Run the command; failures with a defined outcome become one line and exit code 1."""
    try:
        app()
    except PipelineError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        err.print("interrupted; run the same command again: nothing is lost or repeated")
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of a pipe went away, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def _show_version(wanted: bool) -> None:
    from importlib.metadata import PackageNotFoundError, version

    if not wanted:
        return
    try:
        found = version(DISTRIBUTION)
    except PackageNotFoundError:  # the files alone, as on MWAA
        found = "(not installed as a package)"
    out.print(f"ingest {found}")
    raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


class _Group(NamedTuple):
    """Commands that `--help` shows together."""

    app: typer.Typer
    title: str | None


def _add(group: _Group, name: str, command: Callable[..., Any], *examples: str) -> None:
    title = "Example" if len(examples) == 1 else "Examples"
    shown = " · ".join(f"`{example}`" for example in examples)
    group.app.command(name, rich_help_panel=group.title, epilog=f"{title}: {shown}")(command)


_LAND = _Group(app, "Land records")
_STREAMS = _Group(app, "Fill streams and the archive")
_INVENT = _Group(app, "Invent posts")
_LAKE = _Group(app, "Look after the lake")
_REJECTED = _Group(rejected_app, None)

_add(_LAND, "s3", s3, "ingest s3 --uri ./sink", "ingest s3 --uri s3://my-bucket/msk --json")
_add(
    _LAND,
    "kafka",
    kafka,
    "ingest kafka",
    "ingest kafka --follow --max-latency 5 --processes 2",
    "ingest kafka --bootstrap-servers broker:9092 --json",
)
_add(
    _LAND,
    "kinesis",
    kinesis,
    "ingest kinesis",
    "ingest kinesis --follow --max-latency 5",
    "ingest kinesis --endpoint-url http://127.0.0.1:4567 --json",
)
_add(
    _LAND,
    "mysql",
    mysql,
    "ingest mysql",
    "ingest mysql --snapshot",
    "SOURCE_DATABASE_URL=mysql+pymysql://reader:PASSWORD@db.example/pinterest ingest mysql",
)
_add(
    _STREAMS,
    "gateway",
    gateway,
    "ingest gateway --open",
    "GATEWAY_API_KEYS=… ingest gateway --host 0.0.0.0 --rate 50",
    "ingest gateway --api-keys-file keys.txt --port 8081 --access-log",
)
_add(
    _STREAMS,
    "archive",
    archive,
    "ingest archive --uri ./sink",
    "ingest archive --uri s3://my-bucket/msk --gzip --follow",
)
_add(
    _INVENT,
    "synth",
    synth,
    "ingest synth --posts 10000 --out sink",
    "ingest synth --posts 1000000 --people 150000 --seed 7 --days 30 --out sink",
)
_add(
    _INVENT,
    "seed-database",
    seed_database,
    "ingest seed-database",
    "ingest seed-database --posts 500000 --people 60000 --seed 7 --replace",
)
_add(
    _INVENT,
    "emulate",
    emulate,
    "ingest emulate --to kafka --count 500",
    "ingest emulate --synthetic --rate 50 --count 0",
    "ingest emulate --batch 100 --connections 8 --count 100000",
)
_add(_LAKE, "init", init, "ingest init --lake ./lake")
_add(_LAKE, "status", status, "ingest status --json")
_add(
    _LAKE,
    "maintain",
    maintain,
    "ingest maintain",
    "ingest maintain --all --dry-run",
    "ingest maintain --retention 48 --json",
)
app.add_typer(rejected_app, name="rejected", rich_help_panel=_LAKE.title)

_add(_REJECTED, "list", rejected_list, "ingest rejected list --reason misrouted")
_add(_REJECTED, "show", rejected_show, "ingest rejected show s3/0a60b9a8a831.pin/0/1234")
_add(_REJECTED, "export", rejected_export, "ingest rejected export --out rejected.jsonl")
_add(
    _REJECTED,
    "replay",
    replay,
    "ingest rejected replay --reason invalid_key --dry-run",
    "ingest rejected replay --kind user --as pin",
    "ingest rejected replay s3/0a60b9a8a831.pin/0/1234",
)
