"""The `ingest` command."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.table import Table

from ingestion.console import (
    DEFAULT_PIPELINE_ID,
    JsonOption,
    LakeOption,
    PipelineOption,
    account_json,
    err,
    fields,
    out,
    print_account,
    progress,
)
from ingestion.errors import PipelineError, SourceError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Land records as bronze Delta tables, and look at what has landed.",
    epilog="Example: `ingest synth --posts 10000 --out sink && ingest s3 --uri sink`",
)
rejected_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look at the records that could not land.",
)
app.add_typer(rejected_app, name="rejected")


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


@app.command(epilog="Example: `ingest init --lake ./lake`")
def init(lake: LakeOption = "./lake") -> None:
    """Create the bronze tables that are missing; the others stay as they are."""
    from ingestion.lake import Lake

    created = Lake(lake).create()
    out.print(
        f"{lake}: created {', '.join(f'bronze.{name}' for name in created)}"
        if created
        else f"{lake}: all bronze tables are there"
    )


@app.command(
    epilog="Examples: `ingest s3 --uri ./sink` · `ingest s3 --uri s3://my-bucket/msk --json`"
)
def s3(
    uri: Annotated[
        str,
        typer.Option(
            help="Where `topics/` lies: a folder or s3://bucket/prefix.", metavar="FOLDER|S3"
        ),
    ],
    lake: LakeOption = "./lake",
    pipeline_id: PipelineOption = DEFAULT_PIPELINE_ID,
    as_json: JsonOption = False,
) -> None:
    """Land every object of the S3 sink's layout that has not landed yet.

    Running it again lands nothing twice. Objects that cannot be read are named and the others
    land; the exit code is then 1.
    """
    from ingestion.lake import Lake
    from ingestion.landing import land_objects
    from ingestion.records import KINDS
    from ingestion.sources.s3 import open_store

    store = open_store(uri)
    objects, ignored = _sink_objects(store, pipeline_id)
    target = Lake(lake)
    target.create()
    accounts = []
    total = sum(item.size for items in objects.values() for item in items)
    with progress("landing", total) as advance:
        for kind in KINDS.values():
            topic = f"{pipeline_id}.{kind.name}"
            accounts.append(
                land_objects(target, store, kind, topic, objects.get(topic, []), advance)
            )
    if as_json:
        out.print_json(
            json.dumps(
                {
                    "lake": lake,
                    "ignored": ignored,
                    "streams": [account_json(a) for a in accounts],
                }
            )
        )
    else:
        for account in accounts:
            print_account(account)
        if ignored:
            err.print(
                f"[yellow]warning:[/] {len(ignored)} other objects below topics/ were left alone, "
                f"the first {escape(ignored[0])}"
            )
    failures = [failure for account in accounts for failure in account.failures]
    if failures:
        for failure in failures:
            err.print(f"[bold red]error:[/] {escape(failure)}")
        raise typer.Exit(1)


def _sink_objects(store: Any, pipeline_id: str) -> tuple[dict[str, list[Any]], list[str]]:
    """The objects of our topics, and the keys of everything else."""
    from ingestion.records import KINDS
    from ingestion.sources.s3 import parse_name

    topics = {f"{pipeline_id}.{kind}" for kind in KINDS}
    objects: dict[str, list[Any]] = {}
    ignored: list[str] = []
    others: set[str] = set()
    for key, size in store.list():
        item = parse_name(key, size)
        if item is not None and item.topic in topics:
            objects.setdefault(item.topic, []).append(item)
            continue
        ignored.append(key)
        if item is not None:
            others.add(item.topic)
    if not objects and others:
        raise SourceError(
            f"{store.uri} holds no topic of pipeline {pipeline_id} "
            f"but {', '.join(sorted(others))}; "
            "give the id before the dot with --pipeline-id or PIPELINE_ID"
        )
    if not objects and ignored:
        raise SourceError(
            f"{store.uri} is not in the S3 sink's layout: {ignored[0]} is no "
            "topics/<topic>/partition=<p>/<topic>+<p>+<10-digit start offset>.json"
        )
    return objects, ignored


@app.command(
    epilog="Examples: `ingest synth --posts 10000 --out sink` · "
    "`ingest synth --posts 1000000 --people 150000 --seed 7 --days 30 --out sink`"
)
def synth(
    out_folder: Annotated[
        Path, typer.Option("--out", help="The folder to write `topics/` into.", metavar="FOLDER")
    ],
    posts: Annotated[int, typer.Option(min=1, help="New posts, over all days.")] = 10_000,
    people: Annotated[
        int | None, typer.Option(min=2, help="People they are by.", show_default="posts / 1.4")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same bytes.")] = 1,
    days: Annotated[int, typer.Option(min=1, help="Slices; no object spans two.")] = 1,
    compress: Annotated[bool, typer.Option("--gzip", help="Compress the objects.")] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Only replays and missing texts, no other defects.")
    ] = False,
    pipeline_id: PipelineOption = DEFAULT_PIPELINE_ID,
    as_json: JsonOption = False,
) -> None:
    """Write invented posts as objects of the S3 sink's layout, with the flaws of real ones."""
    from ingestion.emulation.posts import FolderInUse, Plan, write_posts

    try:
        plan = Plan(
            posts=posts,
            people=people or max(2, round(posts / 1.4)),
            seed=seed,
            pipeline_id=pipeline_id,
            gzip=compress,
            clean=clean,
            days=days,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        with progress("inventing", posts, MofNCompleteColumn()) as advance:
            summary = write_posts(out_folder, plan, advance)
    except FolderInUse as error:
        raise PipelineError(str(error)) from error
    except OSError as error:
        raise PipelineError(f"{out_folder} cannot be written: {error.strerror}") from error
    counts = summary.counts
    if as_json:
        out.print_json(json.dumps({kind: fields(count) for kind, count in counts.items()}))
        return
    for kind, count in counts.items():
        out.print(
            f"{pipeline_id}.{kind}  objects {count.objects:,}  records {count.records:,}  "
            f"posts {count.posts:,}  replays {count.replays:,}  "
            f"to be rejected {count.records - count.landed:,}"
        )


@app.command(epilog="Example: `ingest status --json`")
def status(lake: LakeOption = "./lake", as_json: JsonOption = False) -> None:
    """Show each source, stream and partition: last position, rows, rejected, last landed."""
    from ingestion.bronze import positions

    found = positions(lake)
    if as_json:
        out.print_json(json.dumps([dataclasses.asdict(row) for row in found], default=_iso))
        return
    if not found:
        out.print(f"{lake}: nothing has landed yet")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("source", "stream", "partition"):
        table.add_column(title, no_wrap=True)
    for title in ("last position", "rows", "rejected"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("last landed (UTC)", no_wrap=True)
    for row in found:
        table.add_row(
            row.source,
            row.stream,
            row.partition,
            row.last_position.lstrip("0") or "0",
            f"{row.rows:,}",
            f"{row.rejected:,}",
            f"{row.last_landed:%Y-%m-%d %H:%M:%S}",
        )
    out.print(table)


ReasonOption = Annotated[
    Literal["malformed", "not_an_object", "invalid_key", "misrouted", "empty"] | None,
    typer.Option(help="Only this reason."),
]
KindOption = Annotated[
    Literal["pin", "geo", "user"] | None, typer.Option(help="Only this kind of record.")
]


@rejected_app.command("list", epilog="Example: `ingest rejected list --reason misrouted`")
def rejected_list(
    lake: LakeOption = "./lake",
    reason: ReasonOption = None,
    kind: KindOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows at the most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List rejected records, the newest first, with the number that `show` takes."""
    from ingestion.bronze import count_rejected, rejected

    rows = list(rejected(lake, reason, kind, limit))
    if as_json:
        out.print_json(json.dumps([_rejected_json(row) for row in rows], default=_iso))
        return
    total = count_rejected(lake, reason, kind)
    if not total:
        out.print("no record was rejected" + (" for this reason" if reason or kind else ""))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("id", "reason", "detail", "raw"):
        table.add_column(title, no_wrap=title != "detail", overflow="ellipsis")
    for row in rows:
        raw = row.raw[:60].decode(errors="backslashreplace")
        reason_shown = f"{row.reason}, replayed" if row.replayed_at else row.reason
        table.add_row(row.id, reason_shown, escape(row.detail), escape(raw.strip()))
    out.print(table)
    if total > len(rows):
        out.print(f"… {total - len(rows):,} more; --limit shows them, export writes all")


@rejected_app.command("show", epilog="Example: `ingest rejected show s3/0a60b9a8a831.pin/0/1234`")
def rejected_show(
    record: Annotated[str, typer.Argument(help="source/stream/partition/position", metavar="ID")],
    lake: LakeOption = "./lake",
    raw: Annotated[bool, typer.Option("--raw", help="Only the record's bytes.")] = False,
) -> None:
    """Show one rejected record with its raw bytes."""
    from ingestion.bronze import rejected_record

    row = rejected_record(lake, record)
    if raw:
        sys.stdout.buffer.write(row.raw)
        sys.stdout.buffer.flush()
        return
    out.print(f"id        {escape(row.id)}")
    out.print(f"kind      {row.kind}")
    out.print(f"reason    {row.reason}: {escape(row.detail)}")
    out.print(f"rejected  {row.landed_at:%Y-%m-%d %H:%M:%S} UTC")
    if row.replayed_at:
        out.print(f"replayed  {row.replayed_at:%Y-%m-%d %H:%M:%S} UTC")
    out.print(f"raw       {len(row.raw):,} bytes")
    out.print(escape(row.raw.decode(errors="backslashreplace")))


@rejected_app.command("export", epilog="Example: `ingest rejected export --out rejected.jsonl`")
def rejected_export(
    lake: LakeOption = "./lake",
    reason: ReasonOption = None,
    kind: KindOption = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The file; standard output by default.")
    ] = None,
) -> None:
    """Write rejected records as JSON lines; `raw_base64` holds the exact bytes."""
    from ingestion.bronze import rejected

    rows = rejected(lake, reason, kind)
    lines = (json.dumps(_rejected_json(row), default=_iso, ensure_ascii=False) for row in rows)
    if out_file is None:
        for line in lines:
            sys.stdout.write(line + "\n")
        return
    partial = out_file.with_name(out_file.name + ".partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
        partial.replace(out_file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise PipelineError(f"{out_file} cannot be written: {error.strerror}") from error
    err.print(f"{out_file}: {count:,} records")


def _rejected_json(row: Any) -> dict[str, Any]:
    import base64

    fields = dataclasses.asdict(row)
    raw = fields.pop("raw")
    fields["raw"] = raw.decode(errors="backslashreplace")
    fields["raw_base64"] = base64.b64encode(raw).decode()
    return {"id": row.id, **fields}


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value)}")


# The commands with a module of their own.

from ingestion.commands.kinesis import kinesis  # noqa: E402

app.command(
    name="kinesis",
    epilog="Examples: `ingest kinesis` · `ingest kinesis --follow --max-latency 5` · "
    "`ingest kinesis --endpoint-url http://127.0.0.1:4567 --json`",
)(kinesis)

from ingestion.commands.emulate import emulate  # noqa: E402
from ingestion.commands.mysql import mysql  # noqa: E402
from ingestion.commands.seed import seed_database  # noqa: E402

app.command(
    name="mysql",
    epilog="Examples: `ingest mysql` · `ingest mysql --snapshot` · "
    "`SOURCE_DATABASE_URL=mysql+pymysql://reader:PASSWORD@db.example/pinterest ingest mysql`",
)(mysql)
app.command(
    name="seed-database",
    epilog="Examples: `ingest seed-database` · "
    "`ingest seed-database --posts 500000 --people 60000 --seed 7 --replace`",
)(seed_database)
app.command(
    name="emulate",
    epilog="Examples: `ingest emulate --to kafka --count 500` · "
    "`ingest emulate --synthetic --rate 50 --count 0` · "
    "`ingest emulate --batch 100 --connections 8 --count 100000`",
)(emulate)

from ingestion.commands.gateway import gateway  # noqa: E402

app.command(
    name="gateway",
    epilog="Examples: `ingest gateway --open` · "
    "`GATEWAY_API_KEYS=… ingest gateway --host 0.0.0.0 --rate 50` · "
    "`ingest gateway --api-keys-file keys.txt --port 8081 --access-log`",
)(gateway)

from ingestion.commands.kafka import kafka  # noqa: E402

app.command(
    name="kafka",
    epilog="Examples: `ingest kafka` · `ingest kafka --follow --max-latency 5 --processes 2` · "
    "`ingest kafka --bootstrap-servers broker:9092 --json`",
)(kafka)

from ingestion.commands.maintain import maintain  # noqa: E402
from ingestion.commands.rejected import replay  # noqa: E402

app.command(
    name="maintain",
    epilog="Examples: `ingest maintain` · `ingest maintain --all --dry-run` · "
    "`ingest maintain --retention 48 --json`",
)(maintain)
rejected_app.command(
    name="replay",
    epilog="Examples: `ingest rejected replay --reason invalid_key --dry-run` · "
    "`ingest rejected replay --kind user --as pin` · "
    "`ingest rejected replay s3/0a60b9a8a831.pin/0/1234`",
)(replay)

from ingestion.commands.archive import archive  # noqa: E402

app.command(
    name="archive",
    epilog="Examples: `ingest archive --uri ./sink` · "
    "`ingest archive --uri s3://my-bucket/msk --gzip --follow`",
)(archive)
