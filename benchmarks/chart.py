"""The figures of `benchmarks.scale` as a table and as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import altair as alt
import vl_convert

from benchmarks.figures import Figure
from benchmarks.scale import Result

_COLORS = {"Sail": "#0b6e4f", "DuckDB": "#d9a400", "Spark": "#b5402a"}


def called(result: Result) -> str:
    """A step as the table names it."""
    day = f"a day of {100 / result.days:.2g} %"
    names = {
        "full": "full build",
        "day": day,
        "test": "data tests",
        "daily": f"{day} with data tests",
    }
    return names[result.step]


def counted(posts: int) -> str:
    """A number of posts in words."""
    return f"{posts / 1e6:g} million posts" if posts >= 1_000_000 else f"{posts:,} posts"


def table(results: Sequence[Result]) -> list[str]:
    """Lines of Markdown: one row a size, step and engine, with ratios to the peers."""
    lines = [
        "| lake | step | engine | seconds, whole process | between the queries | CPU seconds"
        " | peak memory | written | Sail takes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cost = result.cost
        sail = find(results, "Sail", result.posts, result.step)
        ratio = ""
        if result.engine != "Sail" and sail is not None:
            ratio = f"{sail.cost.seconds / cost.seconds:.2f} of {result.engine}'s time"
        lines.append(
            f"| {counted(result.posts)} | {called(result)} | {result.engine}"
            f" | {cost.seconds:.1f} | {cost.between:.1f} | {cost.cpu_seconds:.0f}"
            f" | {cost.peak_mb:,.0f} MB | {cost.written_mb:,.0f} MB | {ratio} |"
        )
    return lines


def ratios(results: Sequence[Result]) -> Iterator[Figure]:
    """What the figures say: a day to the full build, and how each step grows with the size."""
    sizes = sorted({result.posts for result in results})
    for engine in dict.fromkeys(result.engine for result in results):
        for size in sizes:
            full = find(results, engine, size, "full")
            for step in ("day", "daily"):
                day = find(results, engine, size, step)
                if full is None or day is None:
                    continue
                what = f"{engine}, {counted(size)}: {called(day)} to the full build"
                for name, part, whole in (
                    ("time", day.cost.seconds, full.cost.seconds),
                    ("time between the queries", day.cost.between, full.cost.between),
                    ("CPU seconds", day.cost.cpu_seconds, full.cost.cpu_seconds),
                    ("bytes", day.cost.written_mb, full.cost.written_mb),
                ):
                    yield Figure(f"{what}, {name}", part / whole, "{:.1%}")
        for small, large in itertools.pairwise(sizes):
            for step in dict.fromkeys(result.step for result in results):
                before, after = (find(results, engine, size, step) for size in (small, large))
                if before and after:
                    yield Figure(
                        f"{engine}, from {counted(small)} to {counted(large)}: {called(after)}",
                        after.cost.seconds / before.cost.seconds,
                        "{:.1f} times the time",
                    )


def find(results: Sequence[Result], engine: str, posts: int, step: str) -> Result | None:
    """One result, if it was measured."""
    for result in results:
        if (result.engine, result.posts, result.step) == (engine, posts, step):
            return result
    return None


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the picture: seconds by size on logarithmic scales, one panel a step."""
    rows = [
        {
            "posts": result.posts,
            "step": called(result),
            "engine": result.engine,
            "seconds": result.cost.seconds,
        }
        for result in results
    ]
    sizes = sorted({result.posts for result in results})
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
        column=alt.Column("step:N", title=None, sort=[row["step"] for row in rows])
    ).configure(background="white")
    path.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=2))
