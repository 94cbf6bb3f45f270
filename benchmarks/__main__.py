"""`python -m benchmarks`: measure, print, keep."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import building, landing

console = Console(highlight=False)


def main(
    posts: Annotated[int, typer.Option(help="Posts of the full build.")] = 5_000_000,
    landing_posts: Annotated[int, typer.Option(help="Posts to land.")] = 1_000_000,
    runs: Annotated[int, typer.Option(help="Runs of each landing.")] = 3,
    work: Annotated[Path, typer.Option(help="Where inputs and lakes are written.")] = Path(
        "benchmarks/data"
    ),
    only: Annotated[str, typer.Option(help="landing or building; both by default.")] = "",
) -> None:
    """Measure landing and building on this machine; inputs are kept for the next time."""
    work.mkdir(parents=True, exist_ok=True)
    lines = [f"{os.cpu_count()} cores, {_memory()} of memory, Python {platform.python_version()}"]
    console.print(lines[0])
    if only in ("", "landing"):
        lines += _say("Landing", landing.measure(work, landing_posts, runs))
    if only in ("", "building"):
        lines += _say("Building", building.measure(work, posts))
    (work / "latest.md").write_text("\n".join(lines) + "\n")
    console.print(f"kept in {work / 'latest.md'}")


def _say(title: str, figures: Iterator[tuple[str, str]]) -> list[str]:
    lines = ["", f"## {title}", "", "| what | figure |", "|---|---|"]
    console.print(f"\n{title}")
    for name, figure in figures:
        console.print(f"  {name:<50} {figure}")
        lines.append(f"| {name} | {figure} |")
    return lines


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"


if __name__ == "__main__":
    typer.run(main)
