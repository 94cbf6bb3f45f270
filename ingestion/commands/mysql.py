"""`ingest mysql`: from the source database to bronze."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn

from ingestion.commands.streaming import warn
from ingestion.console import (
    JsonOption,
    LakeOption,
    account_json,
    err,
    out,
    print_account,
    progress,
)

if TYPE_CHECKING:
    from ingestion.landing import Account

DEFAULT_DATABASE = "mysql+pymysql://root@127.0.0.1:3307/pinterest"
DatabaseOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="SOURCE_DATABASE_URL",
        help="The source database: mysql+pymysql://user:password@host:3306/database.",
        metavar="URL",
    ),
]
PatienceOption = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for a server that goes away.")
]


def mysql(
    url: DatabaseOption = DEFAULT_DATABASE,
    lake: LakeOption = "./lake",
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Read every row again, not only rows above.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Rows held in memory at once.")
    ] = 10_000,
    patience: PatienceOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Land the rows of the source database's three tables that have not landed yet.

    A run reads the rows whose key is above the highest landed. It does not see rows inserted
    later with a smaller key, nor rows updated or deleted. `--snapshot` lands every row of the
    tables once more, under the next partition number, and later runs go on from there: of a post
    the latest landed counts, so it brings late and updated rows. A snapshot that is interrupted
    is completed by the next run.

    Rows without a key from 0 to 2^63-1 are found in every run and land among the rejected. A
    table that cannot be read is named and the others land; the exit code is then 1.
    """
    from ingestion.lake import Lake
    from ingestion.records import KINDS
    from ingestion.sources.database import Database
    from ingestion.sources.mysql import Tables, next_reading
    from ingestion.streams import land_stream

    database = Database(url, patience=patience, notice=warn)
    target = Lake(lake)
    target.create()
    readings = [
        next_reading(kind, partial(target.offsets, kind.name), snapshot) for kind in KINDS.values()
    ]
    tables = Tables(database, readings, batch_size)
    seen = 0
    try:
        # Counting may take a scan of the tables; only a bar needs it.
        total = tables.count() if err.is_terminal else 0
        with progress("landing", total, MofNCompleteColumn()) as advance:

            def show(accounts: Sequence[Account]) -> None:
                nonlocal seen
                received = sum(account.received for account in accounts)
                advance(received - seen)
                seen = received

            kinds = {kind.source_table: kind for kind in KINDS.values()}
            accounts = land_stream(target, tables, kinds, progress=show)
    finally:
        tables.close()
    for account in accounts:
        account.failures += tables.failures.get(account.stream, [])
    if as_json:
        streams = [account_json(account) for account in accounts]
        out.print_json(
            json.dumps({"lake": lake, "database": database.location, "streams": streams})
        )
    else:
        for account in accounts:
            print_account(account)
    failures = [failure for account in accounts for failure in account.failures]
    for failure in failures:
        err.print(f"[bold red]error:[/] {escape(failure)}")
    if failures:
        raise typer.Exit(1)
