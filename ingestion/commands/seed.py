"""`ingest seed-database`: invented posts in the source database."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from ingestion.commands.mysql import DEFAULT_DATABASE, DatabaseOption, PatienceOption
from ingestion.commands.streaming import warn
from ingestion.console import JsonOption, out, progress

#: One row for each number that the emulator draws.
POSTS = 11_001

PeopleOption = Annotated[
    int | None, typer.Option(min=2, help="People they are by.", show_default="posts / 1.4")
]


def seed_database(
    url: DatabaseOption = DEFAULT_DATABASE,
    posts: Annotated[int, typer.Option(min=1, help="Rows of each table.")] = POSTS,
    people: PeopleOption = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed invents the same posts.")] = 1,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop tables that hold something else.")
    ] = False,
    patience: PatienceOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Make the source database's three tables and fill them with invented posts.

    Tables that hold these posts already are left as they are, so running it again changes
    nothing. A table that holds anything else is an error, and nothing is written then.
    """
    from ingestion.emulation.database import Holds, fill
    from ingestion.emulation.posts import Plan
    from ingestion.sources.database import Database

    plan = Plan(posts, people or people_of(posts), seed, clean=True)
    database = Database(url, patience=patience, notice=warn)
    with progress("filling", 3 * posts, MofNCompleteColumn()) as advance:
        held = fill(database, plan, replace, advance)
    did = {Holds.NOTHING: "filled", Holds.THESE: "unchanged", Holds.OTHERS: "replaced"}
    if as_json:
        tables = {table: {"rows": posts, "was": did[before]} for table, before in held.items()}
        out.print_json(json.dumps({"database": database.location, "tables": tables}))
        return
    for table, before in held.items():
        out.print(f"{database.location}  {table}  rows {posts:,}  {did[before]}")


def people_of(posts: int) -> int:
    """As many people as the public data has for so many posts."""
    return max(2, round(posts / 1.4))
