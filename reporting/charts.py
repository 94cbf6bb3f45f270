"""The charts: Vega-Lite specifications whose colours are the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from reporting.answers import Report
from reporting.formats import compact, counted, full, listed, printable, share
from reporting.marts import (
    DataQuality,
    MedianByAgeGroup,
    MedianByJoinYear,
    MedianByJoinYearAndAgeGroup,
    Rejected,
    UsersJoined,
)
from reporting.sentences import JOIN_YEARS
from reporting.winners import Winners, groups_led, ranked

Spec = dict[str, Any]

TOP_COUNTRIES = 25
# Drawn as rows of their own; a tie of more is told in the last one.
TOP_USERS_DRAWN = 6

INK, MUTED, TRACK = "var(--ink)", "var(--muted)", "var(--track)"
ACCENT = "var(--accent)"
CATEGORY_COLORS = 16

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
ROW_HEIGHT, GROUP_WIDTH = 44, 52


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar chart: its texts, its length, and how much of that is drawn solid."""

    label: str
    reading: str
    length: float
    tooltip: Mapping[str, str]
    group: str = ""
    solid: float | None = None
    color: str = ACCENT


def charts(report: Report) -> dict[str, Spec]:
    """A specification for each answer that has rows, and for the quality of the data."""
    marts = report.marts
    color = category_colors(report.categories)
    drawn = {
        "1": bars(countries_led(report.categories_by_country, color)),
        "2": bars(leaders(report.categories_by_year, "Year", color), group_width=GROUP_WIDTH),
        "3": bars(top_users(report.users_by_country)),
        "3b": top_user_among_countries(report.top_users, report.users_by_country),
        "4": bars(leaders(report.categories_by_age_group, "Age", color), group_width=GROUP_WIDTH),
        "5": bars(medians_by_age(marts.median_followers_by_age_group), group_width=GROUP_WIDTH),
        "6": columns(joined_by_year(marts.users_joined_by_year)),
        "7": columns(medians_by_year(marts.median_followers_by_join_year)),
        "8": medians_by_year_and_age(marts.median_followers_by_join_year_and_age_group),
        "landed": bars(landed(marts.data_quality)),
        "rejected": bars(rejected(marts.rejected_by_reason)),
    }
    return {name: spec for name, spec in drawn.items() if spec is not None}


def category_colors(categories: Sequence[str]) -> dict[str, int]:
    """The number of each category's colour, the same in every chart and table."""
    return {category: place % CATEGORY_COLORS for place, category in enumerate(categories)}


def countries_led(winners: Sequence[Winners], color: Mapping[str, int]) -> list[Bar]:
    """In how many countries each category leads: alone (solid) or tied (pale)."""
    return [
        Bar(
            label=name,
            reading=counted(groups, "country", "countries")
            + (f" · {shared:,} tied" if shared else ""),
            length=groups,
            solid=groups - shared,
            color=_category(color[name]),
            tooltip={
                "Category": name,
                "Countries": full(groups),
                "Alone": full(groups - shared),
                "Tied": full(shared),
            },
        )
        for name, groups, shared in groups_led(winners)
    ]


def leaders(winners: Sequence[Winners], group: str, color: Mapping[str, int]) -> list[Bar]:
    """The leading category of each group, all of them where they tie."""
    return [
        Bar(
            group=winner.group if name == winner.names[0] else "",
            label=name,
            reading=("tie · " if winner.tied else "")
            + f"{winner.value:,} of {counted(winner.posts or 0, 'post', 'posts')}",
            length=winner.value,
            color=_category(color[name]),
            tooltip={
                group: winner.group,
                "Category": name,
                "Posts": full(winner.value),
                "Share": share(winner.value, winner.posts or 0),
            }
            | _tie(winner),
        )
        for winner in winners
        for name in winner.names
    ]


def top_users(winners: Sequence[Winners]) -> list[Bar]:
    """The countries whose top users have the most followers, tied users of a country together."""
    return [
        Bar(
            label=f"{winner.group} · {listed(winner.names, 4)}",
            reading=("tie · " if winner.tied else "") + compact(winner.value),
            length=winner.value,
            tooltip={
                "Country": winner.group,
                "User": listed(winner.names),
                "Followers": full(winner.value),
            }
            | _tie(winner),
        )
        for winner in ranked(winners)[:TOP_COUNTRIES]
    ]


def medians_by_age(rows: Sequence[MedianByAgeGroup]) -> list[Bar]:
    """The median follower count of each age group, with the people behind it."""
    return [
        Bar(
            group=printable(row.age_group),
            label=counted(row.number_users, "person", "people"),
            reading=compact(row.median_follower_count),
            length=row.median_follower_count,
            tooltip={
                "Age": printable(row.age_group),
                "Median followers": full(row.median_follower_count),
                "People": full(row.number_users),
            },
        )
        for row in rows
    ]


def joined_by_year(rows: Sequence[UsersJoined]) -> list[Bar]:
    """The people who joined in each year, years without any included."""
    people = {row.join_year: row.number_users_joined for row in rows}
    return [
        Bar(
            label=str(year),
            reading=full(people.get(year, 0)),
            length=people.get(year, 0),
            tooltip={"Year": str(year), "People": full(people.get(year, 0))},
        )
        for year in _years(people)
    ]


def medians_by_year(rows: Sequence[MedianByJoinYear]) -> list[Bar]:
    """The median follower count by joining year, with the people behind it beneath the year."""
    medians = {row.join_year: row for row in rows}
    return [
        Bar(
            label=f"{year}\t{full(medians[year].number_users)}\tpeople",
            reading=compact(medians[year].median_follower_count),
            length=medians[year].median_follower_count,
            tooltip={
                "Year": str(year),
                "Median followers": full(medians[year].median_follower_count),
                "People": full(medians[year].number_users),
            },
        )
        if year in medians
        else Bar(
            label=f"{year}\t–",
            reading="",
            length=0,
            tooltip={"Year": str(year), "Median followers": "–", "People": "0"},
        )
        for year in _years(medians)
    ]


def landed(rows: Sequence[DataQuality]) -> list[Bar]:
    """The landed records of each kind: one a post (solid) and replays (pale)."""
    return [
        Bar(
            label=printable(row.kind),
            reading=f"{counted(row.posts, 'post', 'posts')}"
            f" + {counted(row.replays, 'replay', 'replays')}",
            length=row.landed,
            solid=row.landed - row.replays,
            tooltip={
                "Kind": printable(row.kind),
                "Landed": full(row.landed),
                "Distinct posts": full(row.posts),
                "Replays": full(row.replays),
                "Rejected": full(row.rejected),
            },
        )
        for row in rows
    ]


def rejected(rows: Sequence[Rejected]) -> list[Bar]:
    """The rejected records by reason, most first, and of which kinds they are."""
    reasons: dict[str, list[Rejected]] = {}
    for row in sorted(rows, key=lambda row: -row.rejected):
        reasons.setdefault(printable(row.reason), []).append(row)
    totals = {reason: sum(row.rejected for row in found) for reason, found in reasons.items()}
    return [
        Bar(
            label=reason,
            reading=", ".join(f"{row.rejected:,} {printable(row.kind)}" for row in reasons[reason]),
            length=total,
            color="var(--warning)",
            tooltip={"Reason": reason, "Rejected": full(total)}
            | {printable(row.kind): full(row.rejected) for row in reasons[reason]},
        )
        for reason, total in sorted(totals.items(), key=lambda item: -item[1])
    ]


def bars(rows: Sequence[Bar], group_width: int = 0) -> Spec | None:
    """Horizontal bars with their texts above them, which leaves room for long names on a phone."""
    if not rows:
        return None
    longest = max(row.length for row in rows) or 1
    # The label gets what the longest reading leaves of the width, seven pixels a character.
    label_width = f"max(width * 0.36, width - {7 * max(len(row.reading) for row in rows) + 14})"
    data = [
        {
            "row": f"{place:05d}\t{row.group}",
            "label": row.label,
            "reading": row.reading,
            "length": row.length,
            "solid": row.length if row.solid is None else row.solid,
            "color": row.color,
            "tooltip": dict(row.tooltip),
        }
        for place, row in enumerate(rows)
    ]
    groups = alt.Axis(
        labelExpr="split(datum.value, '\t')[1]",
        labelFontSize=14,
        labelFontWeight=600,
        labelColor=INK,
        labelLimit=group_width,
        labelPadding=10,
        labelOverlap=False,
        minExtent=group_width,
        domain=False,
        ticks=False,
        title=None,
    )
    y = alt.Y("row:N", sort=None, axis=groups if group_width else None)
    length = alt.Scale(domain=[0, longest], nice=False)

    def bar(column: str, **mark: Any) -> alt.Chart:
        return (
            alt.Chart()
            .mark_bar(height=9, yOffset=9, cornerRadius=2, **mark)
            .encode(
                x=alt.X(f"{column}:Q", scale=length, axis=None),
                color=alt.Color("color:N", scale=None),
            )
        )

    def text(column: str, x: Any, **mark: Any) -> alt.Chart:
        return (
            alt.Chart().mark_text(baseline="middle", dy=-7, **mark).encode(x=x, text=f"{column}:N")
        )

    track = (
        alt.Chart()
        .mark_bar(height=9, yOffset=9, cornerRadius=2, color=TRACK, orient="horizontal")
        .encode(x=alt.value(0), x2=alt.value("width"))
    )
    hover = (
        alt.Chart()
        .mark_rect(opacity=0)
        .encode(x=alt.value(0), x2=alt.value("width"), tooltip=alt.Tooltip("tooltip:N"))
    )
    chart = alt.layer(
        track,
        bar("length", opacity=0.42),
        bar("solid"),
        text("label", alt.value(0), align="left", limit=alt.ExprRef(label_width), color=INK),
        text(
            "reading",
            alt.value("width"),
            align="right",
            limit=alt.ExprRef("width * 0.64"),
            color=MUTED,
        ),
        hover,
        data=alt.InlineData(values=data),
    ).encode(y=y)
    return _finished(chart, ROW_HEIGHT * len(rows))


def columns(rows: Sequence[Bar]) -> Spec | None:
    """Vertical bars for years, each with its value on top."""
    if not rows:
        return None
    longest = max(row.length for row in rows) or 1
    data = [
        {
            "label": row.label,
            "reading": row.reading,
            "length": row.length,
            "color": row.color,
            "tooltip": dict(row.tooltip),
        }
        for row in rows
    ]
    years = alt.Axis(
        # Where there is room for it the last word stands beside the number.
        labelExpr="split(width < 480 ? datum.value : replace(datum.value, '\tpeople', ' people'),"
        " '\t')",
        labelAngle=0,
        labelOverlap=False,
        labelPadding=8,
        labelLineHeight=16,
        ticks=False,
        domainColor=TRACK,
        title=None,
    )
    x = alt.X("label:N", sort=None, axis=years, scale=alt.Scale(paddingInner=0.3, paddingOuter=0.1))
    y = alt.Y("length:Q", axis=None, scale=alt.Scale(domain=[0, longest], nice=False))
    chart = alt.layer(
        alt.Chart()
        .mark_bar(cornerRadiusTopLeft=2, cornerRadiusTopRight=2)
        .encode(y=y, color=alt.Color("color:N", scale=None)),
        alt.Chart()
        .mark_text(dy=-9, fontSize=14, fontWeight=600, color=INK)
        .encode(y=y, text="reading:N"),
        alt.Chart()
        .mark_rect(opacity=0)
        .encode(y=alt.value(0), y2=alt.value("height"), tooltip=alt.Tooltip("tooltip:N")),
        data=alt.InlineData(values=data),
    ).encode(x=x)
    return _finished(chart, 200)


def medians_by_year_and_age(rows: Sequence[MedianByJoinYearAndAgeGroup]) -> Spec | None:
    """A cell for each joining year and age group: the median, and the people behind it."""
    if not rows:
        return None
    years = sorted({row.join_year for row in rows})
    logs = [math.log1p(row.median_follower_count) for row in rows]
    span = max(logs) - min(logs) or 1
    data = [
        {
            "year": str(row.join_year),
            "age": printable(row.age_group),
            "median": compact(row.median_follower_count),
            "people": counted(row.number_users, "person", "people"),
            "number": full(row.number_users),
            # Never so dark that the text on it would be hard to read.
            "shade": round(0.08 + 0.47 * (log - min(logs)) / span, 3),
            "tooltip": {
                "Joined": str(row.join_year),
                "Age": printable(row.age_group),
                "Median followers": full(row.median_follower_count),
                "People": full(row.number_users),
            },
        }
        for row, log in zip(rows, logs, strict=True)
    ]
    axis = {
        "labelFontSize": 14,
        "labelFontWeight": 600,
        "labelColor": INK,
        "labelPadding": 8,
        "domain": False,
        "ticks": False,
        "title": None,
        "labelOverlap": False,
    }
    narrow = f"width < {88 * len(years)}"
    chart = alt.layer(
        alt.Chart()
        .mark_rect(color="var(--cell)", cornerRadius=3)
        .encode(
            fillOpacity=alt.FillOpacity("shade:Q", scale=None),
            tooltip=alt.Tooltip("tooltip:N"),
        ),
        alt.Chart()
        .mark_text(dy=-8, fontSize=15, fontWeight=600, color=INK)
        .encode(text="median:N"),
        alt.Chart()
        .transform_calculate(shown=f"{narrow} ? datum.number : datum.people")
        .mark_text(dy=11, color=INK)
        .encode(text="shown:N"),
        data=alt.InlineData(values=data),
    ).encode(
        x=alt.X("year:N", axis=alt.Axis(orient="top", labelAngle=0, **axis), scale=_GAPS),
        y=alt.Y("age:N", axis=alt.Axis(labelLimit=90, **axis), scale=_GAPS),
    )
    return _finished(chart, 58 * len({row.age_group for row in rows}) + 26)


def top_user_among_countries(top: Sequence[Winners], others: Sequence[Winners]) -> Spec | None:
    """Every country's top user as a dot by followers; the highest ones named above the rest."""
    if not top:
        return None
    named = [(winner.group, name, winner.value) for winner in top for name in winner.names]
    tie = len(named) > 1
    leaders_drawn = named[:TOP_USERS_DRAWN]
    rest = [winner for winner in others if winner.value < top[0].value]
    lanes = len(leaders_drawn)
    values = [max(1, winner.value) for winner in (*top, *rest)]
    low = 10 ** math.floor(math.log10(min(values)))
    high = max(values) * 1.15
    zeros = "; none drawn as 1" if min(winner.value for winner in (*top, *rest)) < 1 else ""
    powers = [10**power for power in range(13) if low <= 10**power <= high]
    followers = alt.X(
        "followers:Q",
        scale=alt.Scale(type="log", domain=[low, max(high, low * 10)], nice=False),
        axis=alt.Axis(
            values=powers,
            format="~s",
            labelExpr="replace(datum.label, 'G', 'B')",
            grid=True,
            gridColor=TRACK,
            domain=False,
            ticks=False,
            labelPadding=8,
            labelOverlap=True,
            labelFlush=False,
            title="followers, each step ten times as many" + zeros,
            titleColor=MUTED,
            titleFontSize=13,
            titleFontWeight="normal",
            titlePadding=8,
        ),
    )
    unseen = len(named) - lanes
    winners = [
        {
            "followers": max(1, value),
            "lane": lanes - place,
            "label": ("tie · " if tie else "")
            + f"{country} · {name}"
            + (f" · and {unseen:,} more" if unseen and place == lanes - 1 else ""),
            "tooltip": {"Country": country, "User": name, "Followers": full(value)}
            | ({"Tie": f"{len(named):,} share the lead"} if tie else {}),
        }
        for place, (country, name, value) in enumerate(leaders_drawn)
    ]
    dots = [
        {
            "followers": max(1, winner.value),
            # Spread by the golden ratio: even, and the same in every build.
            "lane": -2.6 + 2.4 * (place * 0.618034 % 1),
            "tooltip": {
                "Country": winner.group,
                "User": listed(winner.names),
                "Followers": full(winner.value),
            }
            | _tie(winner),
        }
        for place, winner in enumerate(rest)
    ]
    y = alt.Y(
        "lane:Q",
        axis=None,
        scale=alt.Scale(domain=[-2.8 if dots else 0.2, lanes + 0.6], nice=False),
    )
    crowd = (
        alt.Chart(alt.InlineData(values=dots))
        .mark_circle(size=46, color=ACCENT, opacity=0.45)
        .encode(x=followers, y=y, tooltip=alt.Tooltip("tooltip:N"))
    )
    dot = (
        alt.Chart(alt.InlineData(values=winners))
        .mark_circle(size=150, color="var(--highlight)", opacity=1)
        .encode(x=followers, y=y, tooltip=alt.Tooltip("tooltip:N"))
    )
    label = (
        alt.Chart(alt.InlineData(values=winners))
        .mark_text(
            align="right", dx=-13, fontWeight=600, color=INK, limit=alt.ExprRef("width * 0.8")
        )
        .encode(x=followers, y=y, text="label:N")
    )
    return _finished(alt.layer(crowd, dot, label), 90 + 30 * lanes if dots else 30 + 30 * lanes)


_GAPS = alt.Scale(paddingInner=0.04, paddingOuter=0)


def _finished(chart: alt.LayerChart, height: int) -> Spec:
    spec: Spec = (
        chart.properties(
            width="container",
            height=height,
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        )
        .configure(aria=False, font=FONT, background="transparent", padding=2)
        .configure_view(stroke=None)
        .configure_text(fontSize=13)
        .configure_axis(labelFontSize=13, labelColor=MUTED)
        .to_dict()
    )
    return spec


def _category(number: int) -> str:
    return f"var(--category-{number})"


def _tie(winner: Winners) -> dict[str, str]:
    return {"Tie": f"{len(winner.names):,} share the lead"} if winner.tied else {}


def _years(present: Mapping[int, object]) -> list[int]:
    """The years asked about, and any beyond them that the data has."""
    return sorted({*JOIN_YEARS, *present}) if present else []
