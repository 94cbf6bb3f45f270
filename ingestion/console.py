"""What the commands share: where they print, their common options, bars and accounts."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

# A pipe has no width: tables are not folded to fit one.
_WIDTH = None if sys.stdout.isatty() else 240
out = Console(highlight=False, soft_wrap=True, width=_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)

DEFAULT_PIPELINE_ID = "0a60b9a8a831"

LakeOption = Annotated[
    str,
    typer.Option(
        "--lake", envvar="LAKE_URI", help="The lake: a folder or s3://bucket/prefix.", metavar="URI"
    ),
]
PipelineOption = Annotated[
    str,
    typer.Option(
        envvar="PIPELINE_ID",
        help="The deployment's id: topics ID.pin, ID.geo, ID.user; streams streaming-ID-pin, …",
        metavar="ID",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@contextmanager
def progress(
    what: str, total: int, amount: ProgressColumn | None = None
) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; the amount is in bytes unless said otherwise."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        amount or DownloadColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.advance(task, size)


def account_json(account: Any) -> dict[str, Any]:
    """An account as JSON has it."""
    plain = fields(account) | {"seconds": round(account.seconds, 3)}
    plain["gaps"] = [
        {"partition": partition, "first": first, "last": last}
        for partition, first, last in account.gaps
    ]
    return plain


def fields(record: Any) -> dict[str, Any]:
    """A dataclass as a dictionary; its counters, which asdict garbles, stay as they are."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def print_account(account: Any, gap: str = "they land when their object arrives") -> None:
    """A line for an account, and a warning for what is missing in it.

    Args:
        account: of one stream.
        gap: what is to be said of missing offsets.
    """
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in account.rejected.most_common())
    objects = f"objects {account.objects:,}  " if account.objects is not None else ""
    line = (
        f"{account.stream}  {objects}landed {account.landed:,}  "
        f"rejected {account.rejected.total():,}{f' ({reasons})' if reasons else ''}  "
        f"{account.seconds:.1f} s"
    )
    if account.elsewhere:
        line += f"  (another lander committed {account.elsewhere:,} meanwhile)"
    out.print(line)
    if account.overlapping:
        err.print(
            f"[yellow]warning:[/] {account.stream}: {account.overlapping:,} records lie at offsets "
            "that another object holds too; the first copy landed"
        )
    for partition, first, last in account.gaps[:5]:
        err.print(
            f"[yellow]warning:[/] {account.stream}: partition {partition} lacks offsets "
            f"{first:,} to {last:,}; {gap}"
        )
    if len(account.gaps) > 5:
        err.print(f"[yellow]warning:[/] {account.stream}: and {len(account.gaps) - 5:,} more gaps")


def iso(value: Any) -> str:
    """A time as JSON has it, for ``json.dumps(default=…)``."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value)}")
