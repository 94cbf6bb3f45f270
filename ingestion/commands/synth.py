"""`ingest synth`: invented posts as objects of the S3 sink's layout."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from ingestion.console import (
    DEFAULT_PIPELINE_ID,
    JsonOption,
    PipelineOption,
    fields,
    out,
    progress,
)
from ingestion.errors import PipelineError


def synth(
    out_folder: Annotated[
        str, typer.Option("--out", help="The folder to write `topics/` into.", metavar="FOLDER")
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
    from ingestion.address import resolve_path
    from ingestion.emulation.posts import FolderInUse, Plan, write_posts

    folder = resolve_path(out_folder, "--out")
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
            summary = write_posts(folder, plan, advance)
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
