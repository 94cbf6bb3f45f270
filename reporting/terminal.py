"""The answers on a terminal, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reporting import sentences
from reporting.answers import Answer, Cell, Report, cell_text
from reporting.formats import lake_label, listed

ROWS_SHOWN = 10


def print_answers(report: Report, now: datetime, limit: int, out: IO[str]) -> None:
    """Print every answer with at most `limit` rows each; without colour unless `out` is a tty."""
    console = Console(file=out, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # A pipe or a file has no width to fit into.
        console = Console(
            file=out, highlight=False, markup=False, emoji=False, width=240, color_system=None
        )
    for answer in report.answers:
        _heading(console, f"{answer.number}  {answer.question}")
        console.print(answer.sentence)
        if answer.rows:
            console.print(_table(answer, limit, console.is_terminal))
        if len(answer.rows) > limit:
            console.print(Text(f"… and {len(answer.rows) - limit:,} more", "dim"))
        console.print()
    quality = report.marts.data_quality
    _heading(console, "How good is the data?")
    console.print(sentences.landed(quality))
    console.print(sentences.rejected(quality, report.marts.rejected_by_reason))
    console.print(sentences.freshness(quality, now, "ago"))


def answers_as_json(report: Report, lake: str, now: datetime, limit: int | None) -> str:
    """The answers with their rows as the marts hold them, in ASCII-only JSON."""
    marts = asdict(report.marts)
    quality = report.marts.data_quality
    document: dict[str, Any] = {
        "read_at": now,
        "lake": lake_label(lake),
        "answers": [
            {
                "number": answer.number,
                "question": answer.question,
                "sentence": answer.sentence,
                "mart": answer.mart,
                "rows": marts[answer.mart][:limit],
            }
            for answer in report.answers
        ],
        "data_quality": {
            "sentences": [
                sentences.landed(quality),
                sentences.rejected(quality, report.marts.rejected_by_reason),
                sentences.freshness(quality, now, "ago"),
            ],
            "rows": marts["data_quality"],
            "rejected_by_reason": marts["rejected_by_reason"],
        },
        "marts": marts["snapshots"],
    }
    return json.dumps(document, indent=2, default=datetime.isoformat)


def _heading(console: Console, text: str) -> None:
    console.print(Text(text, style="bold"))


def _table(answer: Answer, limit: int, is_terminal: bool) -> Table:
    table = Table(
        box=SIMPLE_HEAD if is_terminal else None,
        pad_edge=False,
        header_style="dim",
        padding=(0, 2, 0, 0),
    )
    for column in answer.columns:
        table.add_column(
            column.title,
            justify="right" if column.kind == "number" else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in answer.rows[:limit]:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def _cell(cell: Cell) -> Text:
    if isinstance(cell, tuple) and len(cell) > 1:
        return Text.assemble(("tie ", "yellow"), listed(cell, most=5))
    return Text(cell_text(cell))
