"""Numbers, names, lists and times as people read them."""

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import PurePath
from urllib.parse import urlsplit

LONGEST_NAME = 200

# Line ends and tabs are only white space here. Other control characters could move a terminal's
# cursor, and direction overrides make one text look like another.
_SPACE = re.compile(r"[\s\x85\u2028\u2029]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text on one line, without characters that act on what shows it, and of bounded length."""
    return shortened(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", _SPACE.sub(" ", text)), LONGEST_NAME)


def shortened(text: str, length: int) -> str:
    """The text, with an ellipsis where it is longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def compact(number: float) -> str:
    """The number in about three digits: 912, 1.2k, 46k, 15M."""
    for factor, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999,950 is 1M, not 1000k: the unit is chosen after rounding.
        if number >= factor * 0.9995:
            scaled = number / factor
            return (f"{scaled:.0f}" if scaled >= 99.95 else _trimmed(f"{scaled:.1f}")) + suffix
    return _trimmed(f"{number:.1f}")


def full(number: float) -> str:
    """Every digit, in thousands: 46,000; a half where a median has one."""
    return _trimmed(f"{number:,.1f}") if isinstance(number, float) else f"{number:,}"


def _trimmed(text: str) -> str:
    return text.removesuffix(".0")


def share(part: float, whole: float) -> str:
    """The part in percent of the whole; never rounded to nothing or to all."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "<1%"
    if 99 < percent < 100:
        return ">99%"
    return f"{math.floor(percent + 0.5)}%"


def counted(number: int, one: str, many: str) -> str:
    """The number with its noun: 1 post, 2,019 posts."""
    return f"{number:,} {one if number == 1 else many}"


def listed(items: Sequence[str], most: int = 6) -> str:
    """The items as a list in a sentence: a, b and c; beyond `most`, how many more."""
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1:,} more"]
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def year_ranges(years: Sequence[int]) -> list[str]:
    """Ascending years with runs drawn together: 2015, 2018–2020."""
    runs: list[list[int]] = []
    for year in years:
        if runs and runs[-1][-1] == year - 1:
            runs[-1].append(year)
        else:
            runs.append([year])
    return [
        text
        for run in runs
        for text in (map(str, run) if len(run) < 3 else [f"{run[0]}–{run[-1]}"])
    ]


def moment(time: datetime | None) -> str:
    """A time in UTC to the minute."""
    return "–" if time is None else f"{time.day} {time:%b %Y, %H:%M} UTC"


def duration(span: timedelta) -> str:
    """A length of time in its largest sensible unit: 3 hours, 2 days."""
    minutes = max(0, int(span.total_seconds() // 60))
    if minutes < 1:
        return "less than a minute"
    if minutes < 60:
        return counted(minutes, "minute", "minutes")
    if minutes < 48 * 60:
        return counted(minutes // 60, "hour", "hours")
    return counted(minutes // (24 * 60), "day", "days")


def without_credentials(uri: str) -> str:
    """The address without the user, password and query that could hold a secret."""
    parts = urlsplit(uri)
    if not (parts.scheme and parts.netloc):
        return uri
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def lake_label(lake: str) -> str:
    """The lake as its user named it, without credentials and without this machine's folders."""
    parts = urlsplit(lake)
    if parts.scheme and parts.netloc:
        return without_credentials(lake).rstrip("/")
    path = PurePath(parts.path if parts.scheme == "file" else lake)
    return f"…/{path.name}" if path.is_absolute() else str(path)
