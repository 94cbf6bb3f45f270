"""`ingest init` and `ingest status`: the lake's bronze tables."""

from __future__ import annotations

import dataclasses
import json

from rich.table import Table

from ingestion.console import JsonOption, LakeOption, iso, out


def init(lake: LakeOption = "./lake") -> None:
    """Create the bronze tables that are missing; the others stay as they are."""
    from ingestion.lake import Lake

    created = Lake(lake).create()
    out.print(
        f"{lake}: created {', '.join(f'bronze.{name}' for name in created)}"
        if created
        else f"{lake}: all bronze tables are there"
    )


def status(lake: LakeOption = "./lake", as_json: JsonOption = False) -> None:
    """Show each source, stream and partition: last position, rows, rejected, last landed."""
    from ingestion.bronze import positions

    found = positions(lake)
    if as_json:
        out.print_json(json.dumps([dataclasses.asdict(row) for row in found], default=iso))
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
