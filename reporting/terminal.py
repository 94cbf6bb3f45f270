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
from reporting.answers import Answer, Cell, Report
from reporting.formats import full, lake_label, listed, shortened

ROWS_SHOWN = 10
NAME_WIDTH = 48
PIPE_WIDTH = 240


def print_answers(report: Report, now: datetime, limit: int, out: IO[str]) -> None:
    """Print every answer with at most `limit` rows each; without colour unless `out` is a tty."""
    console = Console(file=out, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # A pipe or a file has no width to fit into.
        console = Console(file=out, highlight=False, markup=False, emoji=False, width=PIPE_WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=not console.is_terminal)

    for answer in report.answers:
        say(f"{answer.number}  {answer.question}", "bold")
        say(answer.sentence)
        if answer.rows:
            console.print(_table(answer, limit, console.is_terminal))
        if len(answer.rows) > limit:
            say(f"… and {len(answer.rows) - limit:,} more", "dim")
        say("")
    say("How good is the data?", "bold")
    for sentence in _quality(report, now):
        say(sentence)


def answers_as_json(report: Report, lake: str, now: datetime, limit: int | None) -> str:
    """The answers with their rows as the marts hold them, in ASCII-only JSON."""
    marts = asdict(report.marts)
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
            "sentences": _quality(report, now),
            "rows": marts["data_quality"],
            "rejected_by_reason": marts["rejected_by_reason"],
        },
        "marts": marts["snapshots"],
    }
    return json.dumps(document, indent=2, default=datetime.isoformat)


def _quality(report: Report, now: datetime) -> list[str]:
    quality = report.marts.data_quality
    told = (
        sentences.landed(quality),
        sentences.rejected(quality, report.marts.rejected_by_reason),
        sentences.freshness(quality, now, "ago"),
    )
    return [sentence for sentence in told if sentence]


def _table(answer: Answer, limit: int, is_terminal: bool) -> Table:
    table = Table(
        box=SIMPLE_HEAD if is_terminal else None,
        pad_edge=False,
        show_edge=False,
        header_style="dim",
        padding=(0, 2, 0, 0),
    )
    for column in answer.columns:
        if column.kind == "number":
            table.add_column(column.title, justify="right", no_wrap=True)
        else:
            table.add_column(column.title, overflow="ellipsis")
    for row in answer.rows[:limit]:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def _cell(cell: Cell) -> Text:
    if isinstance(cell, tuple):
        names = listed([shortened(name, NAME_WIDTH) for name in cell], most=5)
        text = Text.assemble(("tie " if len(cell) > 1 else "", "yellow"), names)
    else:
        text = Text(shortened(cell, NAME_WIDTH) if isinstance(cell, str) else full(cell))
    # Names give way to a narrow terminal before numbers do.
    text.no_wrap = True
    return text
