from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reporting.answers import Report, report
from reporting.charts import charts, rejected
from reporting.marts import PopularCategoryByCountry, Rejected, TopUser
from reporting.page import render
from tests.report.conftest import NOW
from tests.report.lakes import CATEGORIES, COUNTRIES, EMOJI, IMAGE, LONG, SAMPLE, SCRIPT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

SIZE_LIMIT = 1_500_000
CHARTS = ["1", "2", "3", "3b", "4", "5", "6", "7", "8", "landed", "rejected"]


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of each script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and not self.scripts[-1]:
            self.scripts[-1] = data


def test_the_page_is_small_enough(sample_page: Path) -> None:
    assert sample_page.stat().st_size < SIZE_LIMIT


def test_a_page_of_many_ties_between_long_names_is_small_enough_too(sample: Report) -> None:
    tied = [
        TopUser(f"{country} {'c' * 60}", f"{'n' * 80} {number}", 9)
        for country in COUNTRIES
        for number in range(8)
    ]
    categories = [
        PopularCategoryByCountry(country, category, 1, 13)
        for country in COUNTRIES
        for category in CATEGORIES
    ]
    marts = replace(
        sample.marts,
        popular_category_by_country=categories,
        top_user_by_country=tied,
        country_of_top_user=tied,
    )
    html = render(report(marts), "lake", NOW)
    assert len(html.encode()) < SIZE_LIMIT
    assert "and 3 more" in html


def test_names_cannot_become_markup(sample_page: Path) -> None:
    html = sample_page.read_text()
    found = Elements(html)
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 3
    assert "img" not in tags
    assert IMAGE not in html
    assert SCRIPT not in html
    assert all(not name.startswith("on") for _, attributes in found.elements for name in attributes)
    specs = json.loads(found.scripts[0])
    assert sorted(specs) == sorted(CHARTS)
    assert IMAGE in json.dumps(specs)


def test_nothing_in_the_page_points_elsewhere(sample_page: Path) -> None:
    for _, attributes in Elements(sample_page.read_text()).elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


def rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows a chart of one data set draws."""
    (values,) = spec["datasets"].values()
    assert isinstance(values, list)
    return values


def test_charts_hold_every_winner_and_mark_ties(sample: Report) -> None:
    specs = charts(sample)
    years = rows(specs["2"])
    tied = [row for row in years if row["reading"].startswith("tie · ")]
    assert [(row["label"], row["reading"]) for row in tied] == [
        ("art", "tie · 12 of 70 posts"),
        ("travel", "tie · 12 of 70 posts"),
    ]
    ages = rows(specs["4"])
    assert sum(row["reading"].startswith("tie") for row in ages) == 3
    assert len(rows(specs["3"])) == 25
    # A category has one colour, wherever it is drawn.
    colors: dict[str, set[str]] = {}
    for name in ("1", "2", "4"):
        for row in rows(specs[name]):
            colors.setdefault(row["label"], set()).add(row["color"])
    assert {len(of_one) for of_one in colors.values()} == {1}


def test_rejections_are_drawn_by_reason_with_their_kinds() -> None:
    found = [("geo", "empty", 2), ("pin", "malformed", 4), ("pin", "empty", 3)]
    bars = rejected([Rejected(kind, reason, number, None) for kind, reason, number in found])
    assert [(bar.label, bar.length, bar.reading) for bar in bars] == [
        ("empty", 5, "3 pin, 2 geo"),
        ("malformed", 4, "4 pin"),
    ]


def test_people_behind_a_median_are_drawn(sample: Report) -> None:
    specs = charts(sample)
    assert [row["label"] for row in rows(specs["5"])][-1] == "1 person"
    assert rows(specs["7"])[1]["label"].split("\t") == ["2016", "1,759", "people"]
    assert rows(specs["8"])[0]["people"] == "1 person"


def test_an_empty_lake_has_nothing_to_draw(empty: Report) -> None:
    assert charts(empty) == {}


@pytest.fixture(params=[390, 1280], ids=["phone", "desktop"])
def width(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


class Visit:
    """A page as a browser shows it, with what it asked for and complained about."""

    def __init__(self, browser: Browser, path: Path, width: int, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._requested)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(path.as_uri())
        charts = self.page.locator(".chart").count()
        self.page.wait_for_function(
            f"document.querySelectorAll('.chart[data-drawn]').length === {charts}", timeout=20_000
        )

    def _requested(self, request: Request) -> None:
        self.requests.append(request.url)


@pytest.fixture
def visit(browser: Browser, sample_page: Path, width: int) -> Iterator[Visit]:
    seen = Visit(browser, sample_page, width)
    yield seen
    seen.context.close()


def test_every_chart_is_drawn_without_complaint_or_request(visit: Visit, sample_page: Path) -> None:
    for name in CHARTS:
        marks = visit.page.locator(f"#chart-{name} svg [class*=mark-] path, #chart-{name} svg text")
        assert marks.count() > 2, name
        box = visit.page.locator(f"#chart-{name} svg").bounding_box()
        assert box is not None
        assert box["height"] > 40
    assert visit.complaints == []
    assert visit.requests == [sample_page.as_uri()]


def test_nothing_is_wider_than_the_window(visit: Visit, width: int) -> None:
    visit.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    for svg in visit.page.locator(".chart svg").all():
        box = svg.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_texts_of_a_chart_stay_within_it_and_apart(visit: Visit) -> None:
    for name in ("1", "2", "3", "4", "5", "landed"):
        overlaps = visit.page.evaluate(
            """name => {
                const texts = [...document.querySelectorAll(`#chart-${name} svg text`)]
                    .filter(t => t.textContent.trim()).map(t => t.getBoundingClientRect());
                const box = document.querySelector(`#chart-${name}`).getBoundingClientRect();
                const outside = texts.filter(t => t.left < box.left - 1 || t.right > box.right + 1);
                const over = texts.flatMap((a, i) => texts.slice(i + 1).filter(b =>
                    a.left < b.right - 1 && b.left < a.right - 1
                    && a.top < b.bottom - 4 && b.top < a.bottom - 4));
                return outside.length + over.length;
            }""",
            name,
        )
        assert overlaps == 0, name


def test_countries_can_be_filtered(visit: Visit) -> None:
    section = visit.page.locator("#answer-1")
    if section.locator("details").get_attribute("open") is None:
        section.locator("summary").click()
    shown = section.locator("tbody tr:visible")
    assert shown.count() == len(COUNTRIES) + 5
    box = section.get_by_label("Filter")
    box.fill("cote d'or")
    assert shown.count() == 1
    assert section.locator("output").inner_text() == "1 of 243"
    box.fill("tie art")
    assert 0 < shown.count() < 243
    box.fill("no such country")
    assert shown.count() == 0
    box.fill("")
    assert shown.count() == 243


def test_countries_can_be_sorted(visit: Visit) -> None:
    section = visit.page.locator("#answer-3")
    if section.locator("details").get_attribute("open") is None:
        section.locator("summary").click()
    followers = section.locator("tbody td:last-child")
    section.get_by_role("button", name="Country").click()
    assert section.locator("th").first.get_attribute("aria-sort") == "ascending"
    section.get_by_role("button", name="Followers").click()
    assert followers.first.inner_text() == "12,000,000"
    section.get_by_role("button", name="Followers").click()
    assert followers.first.inner_text() == "0"


def test_a_tooltip_tells_the_whole_name_within_the_window(visit: Visit, width: int) -> None:
    chart = visit.page.locator("#chart-3 svg")
    chart.scroll_into_view_if_needed()
    visit.page.evaluate("document.querySelector('#chart-3').scrollIntoView({block: 'start'})")
    box = chart.bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 10)
    visit.page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 20)
    tip = visit.page.locator("#tip")
    assert LONG in tip.inner_text().replace("\n", " ")
    shown = tip.bounding_box()
    assert shown is not None
    assert shown["x"] >= 0
    assert shown["x"] + shown["width"] <= width


def test_a_narrowed_window_redraws_the_charts(browser: Browser, sample_page: Path) -> None:
    seen = Visit(browser, sample_page, 1280)
    seen.page.set_viewport_size({"width": 390, "height": 800})
    seen.page.wait_for_timeout(300)
    assert seen.page.evaluate("document.documentElement.scrollWidth") == 390
    assert seen.complaints == []
    seen.context.close()


def luminance(color: str) -> float:
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (int(part) / 255 for part in re.findall(r"\d+", color)[:3])
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_can_be_read(browser: Browser, sample_page: Path, scheme: str) -> None:
    seen = Visit(browser, sample_page, 1280, scheme)

    def color(selector: str, name: str) -> str:
        value = seen.page.locator(selector).first.evaluate(
            f"element => getComputedStyle(element)['{name}']"
        )
        assert isinstance(value, str)
        return value

    paper = color("body", "backgroundColor")
    assert (luminance(paper) < 0.1) == (scheme == "dark")
    for selector in ("h1", ".sentence", ".lede", "summary", "figcaption", ".mark", "td b", "td"):
        assert contrast(color(selector, "color"), paper) >= 4.5, selector
    for text in ("#chart-1 svg text", "#chart-5 svg text", "#chart-8 svg text"):
        assert contrast(color(text, "fill"), paper) >= 4.5
    bars = seen.page.locator("#chart-1 .mark-rect path[fill^='var(--category']").evaluate_all(
        "bars => bars.map(bar => getComputedStyle(bar).fill)"
    )
    assert len(set(bars)) > 10
    assert min(contrast(bar, paper) for bar in bars) >= 3
    seen.context.close()


def test_charts_and_tables_have_names_and_headings_are_in_order(visit: Visit) -> None:
    levels = visit.page.locator("h1, h2, h3").evaluate_all("all => all.map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert levels.count(2) == 10
    assert all(after - before <= 1 for before, after in pairwise(levels))
    charts = visit.page.locator("[role=img]:has(> .chart)")
    assert charts.count() == len(CHARTS)
    for chart in charts.all():
        assert len(chart.get_attribute("aria-label") or "") > 20
    # Every question has its figures as a table.
    assert visit.page.locator("section:has(.chart) details table").count() >= 10


def test_an_empty_page_is_whole(browser: Browser, empty_page: Path, width: int) -> None:
    seen = Visit(browser, empty_page, width)
    assert seen.page.locator(".nothing:visible").count() == 11
    assert seen.page.get_by_text("No posts yet.").count() == 1
    assert seen.page.evaluate("document.documentElement.scrollWidth") == width
    assert seen.complaints == []
    seen.context.close()


def test_the_page_says_where_its_figures_are_from(visit: Visit) -> None:
    footer = visit.page.locator("footer")
    assert "Built 3 May 2024, 12:45 UTC from the lake lake." in footer.inner_text()
    footer.locator("summary").click()
    assert footer.locator("tbody tr").count() == len(SAMPLE)
    assert "(3 hours before this page)" in visit.page.locator("#quality").inner_text()


def test_the_tables_can_be_read_without_scripts(browser: Browser, sample_page: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(sample_page.as_uri())
    assert page.locator("noscript p").is_visible()
    page.locator("#answer-3 summary").click()
    assert page.locator("#answer-3 tbody tr").count() == 243
    assert page.locator("#answer-3").get_by_text(EMOJI, exact=True).first.is_visible()
    context.close()
