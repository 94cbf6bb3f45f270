"""`ingest rejected`: the records that could not land, shown and landed again."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.table import Table

from ingestion.console import JsonOption, LakeOption, err, fields, iso, out, progress
from ingestion.errors import PipelineError

ReasonOption = Annotated[
    Literal["malformed", "not_an_object", "invalid_key", "misrouted", "empty"] | None,
    typer.Option(help="Only this reason."),
]
KindOption = Annotated[
    Literal["pin", "geo", "user"] | None, typer.Option(help="Only this kind of record.")
]


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
        out.print_json(json.dumps([_rejected_json(row) for row in rows], default=iso))
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


def rejected_export(
    lake: LakeOption = "./lake",
    reason: ReasonOption = None,
    kind: KindOption = None,
    out_file: Annotated[
        str | None,
        typer.Option("--out", help="The file; standard output by default.", metavar="FILE"),
    ] = None,
) -> None:
    """Write rejected records as JSON lines; `raw_base64` holds the exact bytes."""
    from ingestion.address import resolve_path
    from ingestion.bronze import rejected

    file = None if out_file is None else resolve_path(out_file, "--out")
    rows = rejected(lake, reason, kind)
    lines = (json.dumps(_rejected_json(row), default=iso, ensure_ascii=False) for row in rows)
    if file is None:
        for line in lines:
            sys.stdout.write(line + "\n")
        return
    partial = file.with_name(file.name + ".partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as opened:
            for line in lines:
                opened.write(line + "\n")
                count += 1
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise PipelineError(f"{out_file} cannot be written: {error.strerror}") from error
    err.print(f"{out_file}: {count:,} records")


def replay(
    records: Annotated[
        list[str] | None,
        typer.Argument(
            help="Only these: source/stream/partition/position, as `list` shows them.",
            metavar="ID",
        ),
    ] = None,
    lake: LakeOption = "./lake",
    reason: Annotated[
        Literal["malformed", "not_an_object", "invalid_key", "misrouted", "empty"] | None,
        typer.Option(help="Only what was rejected for this reason."),
    ] = None,
    kind: Annotated[
        Literal["pin", "geo", "user"] | None,
        typer.Option(help="Only what came where this kind of record belongs."),
    ] = None,
    into: Annotated[
        Literal["pin", "geo", "user"] | None,
        typer.Option(
            "--as",
            help="Send what is misrouted, and has fields of this kind alone, to this kind.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would land.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Land rejected records that the rules take now; all of them are tried unless some are chosen.

    Each lands once, however often this is run. What is still rejected stays as it was.
    """
    from ingestion import bronze
    from ingestion.lake import Lake
    from ingestion.records import KINDS
    from ingestion.replay import replay as replay_records

    if records:
        chosen = {
            record.id: record
            for record in (bronze.rejected_record(lake, identity) for identity in records)
            if reason in (None, record.reason) and kind in (None, record.kind)
        }
        found = iter(chosen.values())
        total = len(chosen)
    else:
        found = bronze.rejected(lake, reason, kind)
        total = bronze.count_rejected(lake, reason, kind)
    with progress("replaying", total, MofNCompleteColumn()) as advance:
        account = replay_records(
            Lake(lake), found, KINDS[into] if into else None, dry_run=dry_run, progress=advance
        )
    if as_json:
        out.print_json(json.dumps({"lake": lake, "dry_run": dry_run, **fields(account)}))
        return
    landed = ", ".join(f"{name} {count:,}" for name, count in account.landed.most_common())
    still = ", ".join(f"{name} {count:,}" for name, count in account.rejected.most_common())
    line = (
        f"chosen {account.chosen:,}  {'would land' if dry_run else 'landed'} "
        f"{account.landed.total():,}{f' ({landed})' if landed else ''}  "
        f"landed before {account.before:,}  "
        f"still rejected {account.rejected.total():,}{f' ({still})' if still else ''}"
    )
    if account.elsewhere:
        line += f"  (another replay landed {account.elsewhere:,} meanwhile)"
    out.print(line)


def _rejected_json(row: Any) -> dict[str, Any]:
    import base64

    plain = dataclasses.asdict(row)
    raw = plain.pop("raw")
    plain["raw"] = raw.decode(errors="backslashreplace")
    plain["raw_base64"] = base64.b64encode(raw).decode()
    return {"id": row.id, **plain}
