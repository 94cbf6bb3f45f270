"""The page: one HTML file that holds its charts, tables, styles and scripts."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from reporting import formats, sentences
from reporting.answers import Report
from reporting.charts import TOP_COUNTRIES, category_colors, charts

HERE = Path(__file__).parent
TITLE = "Pinterest posts: eight questions, answered"
# Tables of more rows can be filtered and sorted.
FILTER_FROM = 30
# Winners named in a cell: every category can tie, and any number of users.
MOST_NAMES = {"category": 13, "user": 5}
CAPTIONS = {
    "1": "Countries in which a category has the most posts; the pale part of a bar is where it "
    "shares the lead. Point at a bar, or tap it, for its figures.",
    "2": "Posts of the leading category, of all the year's posts with a known category.",
    "3b": "Each dot is the top user of one country.",
    "4": "Posts of the leading category, of all the age group's posts with a known category.",
    "5": "The median follower count, and how many people it is the median of.",
    "7": "The median follower count; under each year, how many people it is the median of.",
    "8": "The median follower count; under it, how many people it is the median of.",
    "landed": "The pale part of a bar is replays and corrections: further records of a post.",
}


def render(report: Report, lake: str, now: datetime) -> str:
    """The whole page as text."""
    specs = charts(report)
    drawing = _drawing_script()
    behaviour = (HERE / "page.js").read_text(encoding="utf-8")
    quality = report.marts.data_quality
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=TITLE,
        captions=CAPTIONS
        | {"3": sentences.countries_shown(report.users_by_country, TOP_COUNTRIES)},
        filter_from=FILTER_FROM,
        most_names=MOST_NAMES,
        answers=report.answers,
        charts=specs,
        specs=Markup(_json_for_html(specs)),
        color=category_colors(report.categories),
        landed=sentences.landed(quality),
        rejected=sentences.rejected(quality, report.marts.rejected_by_reason),
        freshness=sentences.freshness(quality, now, "before this page"),
        quality=quality,
        reasons=report.marts.rejected_by_reason,
        snapshots=report.marts.snapshots,
        built=formats.moment(now),
        lake=formats.lake_label(lake),
        formats=formats,
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        drawing=Markup(drawing),
        behaviour=Markup(behaviour),
        script_hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in (drawing, behaviour)),
    )


def _drawing_script() -> str:
    """Vega, Vega-Lite and the tooltips, once for all charts, in a scope of their own."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Nothing in a script element may look like its end or like a comment's start.
    bundle = bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return f"(() => {{\n{bundle}\n}})();"


def _json_for_html(value: Any) -> str:
    """JSON that a script element can hold: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
