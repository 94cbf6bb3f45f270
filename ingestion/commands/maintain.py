"""`ingest maintain`: the weekly upkeep of the bronze tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

import typer

from ingestion.console import JsonOption, LakeOption, err, fields, out


def maintain(
    lake: LakeOption = "./lake",
    retention: Annotated[
        int,
        typer.Option(
            min=0,
            max=168,
            help="Keep files that were in use in the last so many hours.",
            metavar="HOURS",
        ),
    ] = 168,
    short: Annotated[
        bool,
        typer.Option(
            "--short-retention", help="Permit fewer than 24 hours: while nothing reads the lake."
        ),
    ] = False,
    every: Annotated[
        bool,
        typer.Option("--all", help="In the tables of dbt, too, remove files out of use."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge small files, write checkpoints, shorten the logs, remove files out of use.

    It may run beside landers, dbt and itself, and be ended at any time; running it again goes on.
    """
    from ingestion import maintenance
    from ingestion.lake import BRONZE, SCHEMAS, Lake, explained

    kept = timedelta(hours=retention)
    if kept < maintenance.SHORTEST_RETENTION and not short:
        raise typer.BadParameter(
            "a reader may need files for longer than that; give 24 hours or more, or "
            "--short-retention while nothing reads the lake",
            param_hint="--retention",
        )
    opened = Lake(lake)
    if not dry_run:
        opened.check_safe()
    done = []
    for table in SCHEMAS:
        location = opened.location(table)
        handle = opened.open(table)
        with explained(location), err.status(table, spinner="line") as status:
            result = maintenance.maintain(
                table,
                handle,
                opened.engine_options,
                kept,
                dry_run=dry_run,
                doing=lambda what, table=table: status.update(f"{table}: {what}"),  # type: ignore[misc]
            )
        done.append(result)
        if not as_json:
            out.print(_line(result, dry_run))
    others = {}
    if every:
        with explained(opened.uri):
            names = maintenance.tables_under(opened.uri, opened.engine_options)
        for name in names:
            if not name.startswith(f"{BRONZE}/"):
                others[name] = _clear(opened, name, kept, dry_run)
        if not as_json:
            for name, count in others.items():
                done_or_not = "would remove" if dry_run else "removed"
                out.print(f"{name.replace('/', '.')}  {done_or_not} {count:,} files out of use")
    if as_json:
        tables = [_plain(result) for result in done]
        told = {"lake": lake, "dry_run": dry_run, "tables": tables, "removed_elsewhere": others}
        out.print_json(json.dumps(told))


def _clear(lake: Any, name: str, kept: timedelta, dry_run: bool) -> int:
    """Remove files out of use of a table that dbt writes; how many."""
    from deltalake import DeltaTable

    from ingestion.lake import explained
    from ingestion.maintenance import remove_out_of_use

    location = f"{lake.uri}/{name}"
    with explained(location):
        handle = DeltaTable(location, storage_options=lake.engine_options)
        return len(remove_out_of_use(handle, lake.engine_options, kept, dry_run=dry_run))


def _line(result: Any, dry_run: bool) -> str:
    before, after = result.before, result.after
    if dry_run:
        return (
            f"bronze.{result.table}  files {before.files:,} ({_bytes(before.bytes)})  "
            f"stored {before.stored_files:,} ({_bytes(before.stored_bytes)})  "
            f"log {before.log_files:,}  would merge {_days(len(result.merged))}, "
            f"would remove {result.removed:,} files out of use"
        )
    line = (
        f"bronze.{result.table}  files {before.files:,} → {after.files:,} "
        f"({_bytes(before.bytes)} → {_bytes(after.bytes)})  "
        f"stored {before.stored_files:,} → {after.stored_files:,} "
        f"({_bytes(before.stored_bytes)} → {_bytes(after.stored_bytes)})  "
        f"log {before.log_files:,} → {after.log_files:,}  {result.seconds:.1f} s"
    )
    if result.skipped:
        line += f"  (another process merged files of {_days(len(result.skipped))} meanwhile)"
    return line


def _plain(result: Any) -> Mapping[str, Any]:
    return fields(result) | {
        "before": fields(result.before),
        "after": fields(result.after),
        "merged": [day.isoformat() for day in result.merged],
        "skipped": [day.isoformat() for day in result.skipped],
        "seconds": round(result.seconds, 3),
    }


def _days(count: int) -> str:
    return f"{count:,} {'day' if count == 1 else 'days'}"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
