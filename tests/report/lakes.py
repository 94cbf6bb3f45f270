"""Small lakes of marts, written as Delta tables from invented rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

Rows = Mapping[str, Sequence[tuple[Any, ...]]]

SCRIPT = "</script><script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(2)>"
TEMPLATE = "{{ 7 * 7 }} ${alert(3)} %s [red]"
ESCAPE = "\x1b[2J\x1b[31mred\u202etxet\u0007\tend\nnext"
EMOJI = "👩‍👩‍👧‍👦 Café Zoë 🎄"
LONG = "Very Long Name " * 12 + "its end"
UNBROKEN = "W" * 250

LANDED_FIRST = datetime(2024, 5, 1, 6, 0, tzinfo=UTC)
LANDED_LAST = datetime(2024, 5, 3, 9, 30, tzinfo=UTC)

_TEXT, _YEAR, _COUNT, _MEDIAN = pa.string(), pa.int32(), pa.int64(), pa.float64()
_TIME = pa.timestamp("us", "UTC")
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "popular_category_by_country": {
        "country": _TEXT,
        "category": _TEXT,
        "category_count": _COUNT,
        "posts": _COUNT,
    },
    "popular_category_by_year": {
        "post_year": _YEAR,
        "category": _TEXT,
        "category_count": _COUNT,
        "posts": _COUNT,
    },
    "top_user_by_country": {"country": _TEXT, "poster_name": _TEXT, "follower_count": _COUNT},
    "country_of_top_user": {"country": _TEXT, "poster_name": _TEXT, "follower_count": _COUNT},
    "popular_category_by_age_group": {
        "age_group": _TEXT,
        "category": _TEXT,
        "category_count": _COUNT,
        "posts": _COUNT,
    },
    "median_followers_by_age_group": {
        "age_group": _TEXT,
        "median_follower_count": _MEDIAN,
        "number_users": _COUNT,
    },
    "users_joined_by_year": {"join_year": _YEAR, "number_users_joined": _COUNT},
    "median_followers_by_join_year": {
        "join_year": _YEAR,
        "median_follower_count": _MEDIAN,
        "number_users": _COUNT,
    },
    "median_followers_by_join_year_and_age_group": {
        "join_year": _YEAR,
        "age_group": _TEXT,
        "median_follower_count": _MEDIAN,
        "number_users": _COUNT,
    },
    "data_quality": {
        "kind": _TEXT,
        "landed": _COUNT,
        "posts": _COUNT,
        "replays": _COUNT,
        "rejected": _COUNT,
        "first_landed_at": _TIME,
        "last_landed_at": _TIME,
    },
    "rejected_by_reason": {
        "kind": _TEXT,
        "reason": _TEXT,
        "rejected": _COUNT,
        "last_rejected_at": _TIME,
    },
}

CATEGORIES = (
    "art",
    "beauty",
    "christmas",
    "diy-and-crafts",
    "education",
    "event-planning",
    "finance",
    "home-decor",
    "mens-fashion",
    "quotes",
    "tattoos",
    "travel",
    "vehicles",
)
COUNTRIES = [f"Land {number:03d}" for number in range(238)]
AGES = ("18-24", "25-35", "36-50", "50+")

# 243 countries, ties in most questions, and names meant to break a page or a terminal.
SAMPLE: Rows = {
    "popular_category_by_country": [
        *((country, CATEGORIES[n % 13], 3 + n % 40, 90) for n, country in enumerate(COUNTRIES)),
        *(
            (country, CATEGORIES[(n + 4) % 13], 3 + n % 40, 90)
            for n, country in enumerate(COUNTRIES)
            if n % 2
        ),
        *(("Everything Ties", category, 2, 26) for category in CATEGORIES),
        (SCRIPT, IMAGE, 5, 9),
        (EMOJI, "art", 4, 8),
        (UNBROKEN, TEMPLATE, 4, 8),
        ("Côte d'Or & Söhne", "travel", 7, 8),
    ],
    "popular_category_by_year": [
        (2021, "travel", 12, 70),
        (2021, "art", 12, 70),
        (2018, "christmas", 47, 429),
        (2020, "christmas", 40, 407),
        (2019, SCRIPT, 1, 1),
        (2022, UNBROKEN, 43, 344),
    ],
    "top_user_by_country": [
        *((country, f"Poster {n % 60}", n * n * 90) for n, country in enumerate(COUNTRIES)),
        ("Everything Ties", LONG, 12_000_000),
        ("Everything Ties", "Short", 12_000_000),
        (SCRIPT, IMAGE, 9_000_000),
        (EMOJI, EMOJI, 12_000_000),
        (UNBROKEN, UNBROKEN, 11_000_000),
        ("Côte d'Or & Söhne", ESCAPE, 10_000_000),
    ],
    "country_of_top_user": [
        ("Everything Ties", LONG, 12_000_000),
        ("Everything Ties", "Short", 12_000_000),
        (EMOJI, EMOJI, 12_000_000),
    ],
    "popular_category_by_age_group": [
        ("50+", "vehicles", 24, 159),
        ("18-24", "tattoos", 99, 890),
        ("25-35", "christmas", 64, 550),
        ("36-50", "finance", 45, 420),
        ("36-50", "home-decor", 45, 420),
        ("36-50", "art", 45, 420),
    ],
    "median_followers_by_age_group": [
        ("18-24", 46_000.0, 408),
        ("25-35", 17_500.5, 448),
        ("36-50", 6_000.0, 396),
        ("50+", 837.0, 1),
    ],
    "users_joined_by_year": [(2017, 320), (2015, 332), (2016, 759)],
    "median_followers_by_join_year": [
        (2015, 55_000.0, 331),
        (2016, 13_000.0, 1_759),
        (2017, 13_000.0, 320),
    ],
    "median_followers_by_join_year_and_age_group": [
        (year, age, 120_000.0 / (1 + n) / (1 + m) ** 2, 40 * n + m + 1)
        for n, year in enumerate(range(2015, 2021))
        for m, age in enumerate(AGES)
    ],
    "data_quality": [
        ("pin", 2_262, 2_019, 243, 3, LANDED_FIRST, LANDED_LAST),
        ("geo", 2_262, 2_019, 243, 0, LANDED_FIRST, LANDED_FIRST),
        ("user", 2_262, 2_019, 243, 2, LANDED_FIRST, LANDED_FIRST),
    ],
    "rejected_by_reason": [
        ("pin", "malformed", 3, LANDED_LAST),
        ("user", SCRIPT, 2, LANDED_LAST),
    ],
}


def write_lake(lake: Path, rows: Rows) -> Path:
    """Write every mart, with the rows given for it or with none."""
    for name in COLUMNS:
        write_mart(lake, name, rows.get(name, ()))
    return lake


def write_mart(lake: Path, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write one mart, replacing the version before."""
    columns = COLUMNS[name]
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    table = pa.Table.from_pylist(records, schema=pa.schema(list(columns.items())))
    write_deltalake(str(lake / "marts" / name), table, mode="overwrite")
