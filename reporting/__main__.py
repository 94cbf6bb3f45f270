"""The report's commands: `python -m reporting page`, `docs` and `answers`."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from ingestion.errors import LakeError
from reporting.errors import ReportError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="The answers, read from the lake's marts.",
    epilog="Example: python -m reporting page --lake ./lake --out report/index.html",
)

Lake = Annotated[
    str,
    typer.Option(
        envvar="LAKE_URI",
        help="The lake: a folder or s3://bucket/prefix.",
        show_default=True,
    ),
]


Out = Annotated[
    str, typer.Option(help="What to write: a file, or s3://bucket/name.", show_default=True)
]


@app.command(epilog="Example: python -m reporting page --out report/index.html")
def page(lake: Lake = "./lake", out: Out = "report/index.html") -> None:
    """Write one self-contained page with a chart for every answer."""
    from reporting.answers import report
    from reporting.marts import read_marts
    from reporting.page import render
    from reporting.publishing import publish

    html = render(report(read_marts(lake)), lake, datetime.now(UTC))
    publish(html, out)
    typer.echo(f"{out} ({len(html.encode()) / 1e6:.2f} MB): open it in a browser")


@app.command(epilog="Example: python -m reporting docs --out s3://my-bucket/docs.html")
def docs(
    out: Out = "report/docs.html",
    target: Annotated[
        Path, typer.Option(envvar="DBT_TARGET_PATH", help="dbt's target folder.")
    ] = Path("target"),
) -> None:
    """Put the page that `dbt docs generate --static` wrote where people find it."""
    from reporting.publishing import dbt_docs, publish

    html = dbt_docs(target)
    publish(html, out)
    typer.echo(f"{out} ({len(html.encode()) / 1e6:.2f} MB): open it in a browser")


@app.command(epilog="Example: python -m reporting answers --limit 3")
def answers(
    lake: Lake = "./lake",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every row.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows an answer.  [default: 10; all with --json]")
    ] = None,
) -> None:
    """Print the answers."""
    from reporting.answers import report
    from reporting.marts import read_marts
    from reporting.terminal import ROWS_SHOWN, answers_as_json, print_answers

    found = report(read_marts(lake))
    now = datetime.now(UTC)
    # A terminal that cannot show a name should show the rest of the answer.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        if as_json:
            print(answers_as_json(found, lake, now, limit))
        else:
            print_answers(found, now, limit or ROWS_SHOWN, sys.stdout)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `| head` has seen enough
            return
        raise ReportError(f"cannot print the answers: {error.strerror}; make room") from error


def main() -> None:
    """Run the command line; what stops the report is told in one line, with exit code 1."""
    try:
        app(prog_name="python -m reporting")
    except (ReportError, LakeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
