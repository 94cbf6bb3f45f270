"""`ingest emulate`: posts drawn and sent to the gateway."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ingestion.commands.mysql import DEFAULT_DATABASE, DatabaseOption, PatienceOption
from ingestion.commands.seed import people_of
from ingestion.commands.streaming import warn
from ingestion.console import DEFAULT_PIPELINE_ID, JsonOption, PipelineOption, err, out

if TYPE_CHECKING:
    from ingestion.emulation.posting import Source, Tally


def emulate(
    to: Annotated[
        Literal["kafka", "kinesis", "both"], typer.Option(help="Which of its resources to post to.")
    ] = "both",
    gateway: Annotated[
        str, typer.Option(envvar="GATEWAY_URL", help="The gateway's address.", metavar="URL")
    ] = "http://127.0.0.1:8080",
    api_key: Annotated[
        str | None,
        typer.Option(envvar="GATEWAY_API_KEY", help="Sent as x-api-key.", show_default=False),
    ] = None,
    count: Annotated[
        int, typer.Option(min=0, help="Posts to draw; 0 goes on until interrupted.")
    ] = 1_000,
    rate: Annotated[
        float, typer.Option(min=0, help="Posts a second; 0 is as fast as they are taken.")
    ] = 0,
    batch: Annotated[
        int, typer.Option(min=1, max=500, help="Records of a kind that share a request.")
    ] = 1,
    connections: Annotated[
        int, typer.Option(min=1, max=64, help="Requests at once; more than 1 gives up the order.")
    ] = 1,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Invent the posts; no database is read.")
    ] = False,
    url: DatabaseOption = DEFAULT_DATABASE,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same posts.")] = 100,
    rows: Annotated[int, typer.Option(min=0, help="The highest row number drawn.")] = 11_000,
    pipeline_id: PipelineOption = DEFAULT_PIPELINE_ID,
    patience: PatienceOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Draw posts from the source database and send their three records to the gateway.

    The row numbers are those that the published emulator draws: with its seed, 100, and its
    11,000 rows, in its order, repetitions included. A number that no row has posts nothing.
    `--synthetic` draws from the posts that `ingest seed-database` would have invented.

    Requests that meet 429, 5xx or no answer are sent again, waiting longer each time. A request
    whose answer was lost may thus be taken twice: each record is sent at least once, and of a
    post the latest landed counts. Any other refusal ends the run. The exit code is 1 then, and
    130 where it is interrupted before the last of `--count` posts.
    """
    from ingestion.emulation.posting import (
        Gateway,
        KafkaTarget,
        KinesisTarget,
        Tally,
        Target,
        draws,
    )
    from ingestion.emulation.posting import emulate as post

    targets: list[Target] = []
    if to in ("kafka", "both"):
        targets.append(KafkaTarget(pipeline_id))
    if to in ("kinesis", "both"):
        targets.append(KinesisTarget(pipeline_id))
    source = _invented(rows) if synthetic else _stored(url, rows, patience)
    tally, begun = Tally(), time.monotonic()
    numbers = draws(seed, rows)
    interrupted = False
    with _stopping() as stopping:
        try:
            with _display(tally, count) as show:
                post(
                    source,
                    islice(numbers, count) if count else numbers,
                    Gateway(gateway, tally, stopping, api_key, patience),
                    targets,
                    tally,
                    stopping,
                    batch=batch,
                    connections=connections,
                    rate=rate,
                    progress=show,
                )
            interrupted = stopping.is_set() and tally.posts < count
        finally:
            _print(tally, time.monotonic() - begun, as_json)
    if interrupted:
        raise typer.Exit(130)


def _stored(url: str, rows: int, patience: float) -> Source:
    from ingestion.emulation.database import StoredPosts
    from ingestion.sources.database import Database

    stored = StoredPosts(Database(url, patience=patience, notice=warn), rows + 1)
    for table, length in stored.lengths.items():
        if length <= rows:
            warn(
                f"{table} has {length:,} rows and numbers up to {rows:,} are drawn: those beyond "
                f"post nothing; --rows {length - 1} draws from what is there"
            )
    return stored


def _invented(rows: int) -> Source:
    from ingestion.emulation.posting import SyntheticPosts
    from ingestion.emulation.posts import Plan

    return SyntheticPosts(Plan(rows + 1, people_of(rows + 1), 1, clean=True))


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM; the second does what it always did."""
    event = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: Any) -> None:
        event.set()
        restore()

    for number in before:
        signal.signal(number, stop)
    try:
        yield event
    finally:
        restore()


@contextmanager
def _display(tally: Tally, count: int) -> Iterator[Callable[[], None]]:
    """Posts, rate and retries on a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn

    begun = time.monotonic()
    with Progress(
        TextColumn("posting"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} posts"),
        TextColumn("{task.fields[rate]:,.1f}/s"),
        TextColumn("{task.fields[retries]:,} retries"),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as bar:
        task = bar.add_task("posting", total=count or None, rate=0.0, retries=0)

        def show() -> None:
            rate = tally.posts / max(time.monotonic() - begun, 1e-9)
            bar.update(task, completed=tally.posts, rate=rate, retries=tally.retries)

        yield show


def _print(tally: Tally, seconds: float, as_json: bool) -> None:
    rate = tally.posts / seconds if seconds else 0.0
    if as_json:
        out.print_json(
            json.dumps(
                {
                    "posts": tally.posts,
                    "missing": tally.missing,
                    "records": dict(tally.records),
                    "retries": tally.retries,
                    "unconfirmed": tally.unconfirmed,
                    "seconds": round(seconds, 3),
                }
            )
        )
        return
    parts = [f"posts {tally.posts:,}"]
    parts += [f"{name} {number:,} records" for name, number in tally.records.items()]
    parts.append(f"retries {tally.retries:,}")
    if tally.missing:
        parts.append(f"no such row {tally.missing:,}")
    if tally.unconfirmed:
        parts.append(f"given up {tally.unconfirmed:,}, may have been taken")
    out.print("  ".join([*parts, f"{seconds:.1f} s", f"{rate:,.1f} posts/s"]))
