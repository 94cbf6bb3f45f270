"""The figures of `benchmarks.scale` as a table and as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import vl_convert

from benchmarks.engines import STEPS
from benchmarks.scale import Result

_NAMES = {"full": "full build", "day": "a day of 1 %", "test": "dbt test"}
_COLORS = {"Sail": "#0b6e4f", "DuckDB": "#d9a400", "Spark": "#b5402a"}


def table(results: Sequence[Result]) -> list[str]:
    """Lines of Markdown: one row a size, step and engine, with ratios to the peers."""
    lines = [
        "| posts | step | engine | seconds | between the queries | CPU seconds | peak memory"
        " | written | Sail takes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cost = result.cost
        sail = find(results, "Sail", result.millions, result.step)
        ratio = ""
        if result.engine != "Sail" and sail is not None:
            ratio = f"{sail.cost.seconds / cost.seconds:.2f} of {result.engine}'s time"
        lines.append(
            f"| {result.millions} million | {_NAMES[result.step]} | {result.engine}"
            f" | {cost.seconds:.1f} | {cost.between:.1f} | {cost.cpu_seconds:.0f}"
            f" | {cost.peak_mb:,.0f} MB | {cost.written_mb:,.0f} MB | {ratio} |"
        )
    return lines


def ratios(results: Sequence[Result]) -> list[tuple[str, str]]:
    """What the figures say: a day to the full build, and how each step grows with the size."""
    said = []
    sizes = sorted({result.millions for result in results})
    for engine in dict.fromkeys(result.engine for result in results):
        for size in sizes:
            full, day = (find(results, engine, size, step) for step in ("full", "day"))
            if full and day:
                said.append((
                    f"{engine}, {size} million: a day to the full build",
                    f"{day.cost.seconds / full.cost.seconds:.0%} of the time, "
                    f"{day.cost.between / full.cost.between:.0%} between the queries, "
                    f"{day.cost.cpu_seconds / full.cost.cpu_seconds:.0%} of the CPU seconds, "
                    f"{day.cost.written_mb / full.cost.written_mb:.1%} of the bytes",
                ))  # fmt: skip
        for small, large in itertools.pairwise(sizes):
            for step in STEPS:
                before, after = (find(results, engine, size, step) for size in (small, large))
                if before and after:
                    said.append((
                        f"{engine}, from {small} to {large} million: {_NAMES[step]}",
                        f"{after.cost.seconds / before.cost.seconds:.1f} times the time",
                    ))  # fmt: skip
    return said


def find(results: Sequence[Result], engine: str, millions: int, step: str) -> Result | None:
    """One result, if it was measured."""
    for result in results:
        if (result.engine, result.millions, result.step) == (engine, millions, step):
            return result
    return None


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the picture: seconds by size on logarithmic scales, one panel a step."""
    rows = [
        {
            "posts": result.millions * 1_000_000,
            "step": _NAMES[result.step],
            "engine": result.engine,
            "seconds": result.cost.seconds,
        }
        for result in results
    ]
    sizes = sorted({result.millions * 1_000_000 for result in results})
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "posts:Q",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(values=sizes, format="~s", grid=False, title="posts"),
        ),
        y=alt.Y(
            "seconds:Q",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(title="seconds, whole process", format="~s"),
        ),
        color=alt.Color(
            "engine:N",
            scale=alt.Scale(domain=list(_COLORS), range=list(_COLORS.values())),
            legend=alt.Legend(title=None, orient="top"),
        ),
    )
    panels = (base.mark_line() + base.mark_point(filled=True, size=60)).properties(
        width=230, height=230
    )
    chart = panels.facet(
        column=alt.Column("step:N", title=None, sort=list(_NAMES.values()))
    ).configure(background="white")
    path.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=2))
