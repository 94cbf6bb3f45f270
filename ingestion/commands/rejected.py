"""`ingest rejected replay`: rejected records through the rules again."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer
from rich.progress import MofNCompleteColumn

from ingestion.console import JsonOption, LakeOption, fields, out, progress


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
