"""The contract in plain Python, slow and literal: what landing and the models are held against.

It shares no code with either, on purpose: where the two agree, two readings of the contract do.
The order of work is that of the data: `land` a line, `stage` what landed, `answers` of the stage.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

KINDS = ("pin", "geo", "user")

FIELDS: dict[str, dict[str, str]] = {
    "pin": {
        "unique_id": "text",
        "title": "text",
        "description": "text",
        "poster_name": "text",
        "follower_count": "text",
        "tag_list": "text",
        "is_image_or_video": "text",
        "image_src": "text",
        "downloaded": "integer",
        "save_location": "text",
        "category": "text",
    },
    "geo": {"timestamp": "text", "latitude": "double", "longitude": "double", "country": "text"},
    "user": {"first_name": "text", "last_name": "text", "age": "integer", "date_joined": "text"},
}

COLUMNS: dict[str, tuple[str, ...]] = {
    "popular_category_by_country": ("country", "category", "category_count"),
    "popular_category_by_year": ("post_year", "category", "category_count"),
    "top_user_by_country": ("country", "poster_name", "follower_count"),
    "country_of_top_user": ("country", "poster_name", "follower_count"),
    "popular_category_by_age_group": ("age_group", "category", "category_count"),
    "median_followers_by_age_group": ("age_group", "median_follower_count"),
    "users_joined_by_year": ("join_year", "number_users_joined"),
    "median_followers_by_join_year": ("join_year", "median_follower_count"),
    "median_followers_by_join_year_and_age_group": (
        "join_year",
        "age_group",
        "median_follower_count",
    ),
}

MAX_BIGINT = 2**63 - 1
MAX_DEPTH = 500
POST_YEARS = range(2018, 2023)
JOIN_YEARS = range(2015, 2021)


# ---------------------------------------------------------------------------------- JSON


@dataclass(frozen=True)
class Number:
    """A JSON number as it was written: `1.50` and `1.5` are different texts."""

    text: str


BRACKET = re.compile(r"[\[\]{}]")
STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
ESCAPE = re.compile(
    r"""
      \\ [^u]                                                    # so that \\ud800 is no escape
    | \\u [dD][89abAB][0-9a-fA-F]{2} \\u [dD][c-fC-F][0-9a-fA-F]{2}  # a pair
    | (?P<unpaired> \\u [dD][89a-fA-F][0-9a-fA-F]{2})
    | \\u
    """,
    re.VERBOSE,
)
NUMBER = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")


def parse(text: str, number: Callable[[str], Any] | None = None) -> Any:
    """Read a JSON text as the contract does; raise `ValueError` where it is none.

    Numbers come out exact (`int`, or `Decimal`), so two texts of one value compare equal: read a
    `_rescued` column with this function to compare it with `Landed.rescued`.
    """
    if _depth(text) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    number = number or _exact
    value = json.loads(text, parse_int=number, parse_float=number, parse_constant=_refuse)
    if any(escape["unpaired"] for escape in ESCAPE.finditer(text)):
        raise ValueError("half of a surrogate pair is not text")
    return value


def _depth(text: str) -> int:
    """Count on the text itself: a parser that nests with its input would give out first."""
    depth = deepest = 0
    for bracket in BRACKET.findall(STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _exact(text: str) -> int | Decimal | float:
    integer = _integer_of(text) if text.lstrip("-").isdigit() else None
    if integer is not None:
        return integer
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond 10^18
        return float(text)


def _integer_of(text: str) -> int | None:
    """The integer a decimal text stands for, exactly, if it is one and fits a bigint.

    Works on digits: `1e999999999` must neither be computed nor pass through a double.
    """
    match = NUMBER.fullmatch(text)
    if not match:
        return None
    sign, whole, fraction, exponent_sign, exponent = match.groups(default="")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return 0
    # Twenty digits of exponent say as much as any more would.
    scale = int(exponent_sign + (exponent.lstrip("0")[:20] or "0")) - len(fraction)
    scale += len(digits) - len(digits.rstrip("0"))
    digits = digits.rstrip("0")
    if scale < 0 or len(digits) + scale > 19:
        return None
    value = int(sign + digits) * 10**scale
    return value if -MAX_BIGINT - 1 <= value <= MAX_BIGINT else None


# ------------------------------------------------------------------------------- landing


@dataclass(frozen=True)
class Rejected:
    """A record that is none of its kind, and why."""

    kind: str
    reason: str
    raw: bytes


@dataclass(frozen=True)
class Landed:
    """A bronze row: every payload field of the kind, None where missing or of a wrong type."""

    kind: str
    ind: int
    values: dict[str, Any]
    rescued: dict[str, Any] | None


def land(kind: str, raw: bytes) -> Landed | Rejected | None:
    """Land or reject one line of a kind's stream; an empty line is no record and gives None."""
    if not raw.strip():
        return None
    try:
        text = raw.decode("utf-8")
        record, plain = parse(text, Number), parse(text)
    except ValueError:
        return Rejected(kind, "malformed", raw)
    if not isinstance(record, dict):
        return Rejected(kind, "not_an_object", raw)

    keys = {name: _key(record[name]) for name in ("ind", "index") if name in record}
    usable = [key for key in keys.values() if key is not None]
    if not usable:
        return Rejected(kind, "invalid_key", raw)
    ind = keys["ind"] if keys.get("ind") is not None else keys["index"]
    assert ind is not None

    carried = {other for other in KINDS if not FIELDS[other].keys().isdisjoint(record)}
    if kind not in carried:
        return Rejected(kind, "misrouted" if carried else "empty", raw)

    values: dict[str, Any] = dict.fromkeys(FIELDS[kind])
    rescued: dict[str, Any] = {}
    for name, value in record.items():
        if name in keys:
            kept = keys[name] != ind
        elif name in FIELDS[kind]:
            values[name] = None if value is None else READ[FIELDS[kind][name]](value)
            kept = value is not None and values[name] is None
        else:
            kept = True
        if kept:
            rescued[name] = plain[name]
    return Landed(kind, ind, values, rescued or None)


def _key(value: Any) -> int | None:
    """A key is written as an integer: `7.0` and `1e2` are numbers, not keys."""
    if not (isinstance(value, Number) and re.fullmatch("-?[0-9]+", value.text)):
        return None
    key = _integer_of(value.text)
    return key if key is not None and key >= 0 else None


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return value.text
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    if isinstance(value, Number):
        return _integer_of(value.text)
    if isinstance(value, str) and re.fullmatch("[+-]?[0-9]+", value.strip(ASCII_SPACE)):
        return _integer_of(value.strip(ASCII_SPACE))
    return None


def _double(value: Any) -> float | None:
    if not isinstance(value, Number):
        return None
    double = float(value.text)
    return double if math.isfinite(double) else None


READ: dict[str, Callable[[Any], Any]] = {"text": _text, "integer": _integer, "double": _double}


# ------------------------------------------------------------------------------- staging

ASCII_SPACE = " \t\n\x0b\f\r"
# \s and \p{Z}, written out: a zero-width space, a byte order mark or a NEL is none of them.
SPACE = ASCII_SPACE + (
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
NO_DATA = {
    "title": {"No Title Data Available", "Untitled"},
    "description": {
        "No description available Story format",
        "No description available",
        "Untitled",
    },
    "poster_name": {"User Info Error"},
    "follower_count": {"User Info Error"},
    "tag_list": {"N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"},
    "image_src": {"Image src error."},
}
FOLLOWERS = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([kKmMbB]?)")
SCALE = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
CLOCK = "([0-9]{2}):([0-9]{2}):([0-9]{2})"
DASHED = re.compile(
    "([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]"
    + CLOCK
    + r"(?:\.([0-9]{1,6}))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))?"
)
COLONED = re.compile("([0-9]{4}):([0-9]{2}):([0-9]{2}) " + CLOCK)


def stage(kind: str, landed: Iterable[tuple[Any, Landed]]) -> dict[int, dict[str, Any]]:
    """Clean the latest record of every post; `order` is whatever says which is later."""
    latest: dict[int, tuple[Any, Landed]] = {}
    for order, record in landed:
        if record.ind in latest:
            known_order, known = latest[record.ind]
            if order == known_order and record != known:
                raise ValueError(f"{kind} {record.ind}: two records at {order!r}, neither later")
            if order <= known_order:
                continue
        latest[record.ind] = (order, record)
    return {ind: CLEAN[kind](ind, record.values) for ind, (_, record) in latest.items()}


def clean_pin(ind: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `stg_pin`."""
    text = {name: clean_text(values[name], name) for name in FIELDS["pin"] if name != "downloaded"}
    location = text["save_location"]
    if location is not None:
        location = clean_text(location.removeprefix("Local save in"))
    return {
        "ind": ind,
        "unique_id": text["unique_id"],
        "title": text["title"],
        "description": text["description"],
        "follower_count": follower_count(text["follower_count"]),
        "poster_name": text["poster_name"],
        "tag_list": text["tag_list"],
        "is_image_or_video": text["is_image_or_video"],
        "image_src": text["image_src"],
        "save_location": location,
        "category": text["category"],
    }


def clean_geo(ind: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `stg_geo`."""
    coordinates = [values["latitude"], values["longitude"]]
    return {
        "ind": ind,
        "country": clean_text(values["country"]),
        "coordinates": None if None in coordinates else coordinates,
        "timestamp": moment(values["timestamp"]),
    }


def clean_user(ind: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `stg_user`."""
    names = [clean_text(values["first_name"]), clean_text(values["last_name"])]
    return {
        "ind": ind,
        "user_name": " ".join(name for name in names if name) or None,
        "age": values["age"],
        "date_joined": moment(values["date_joined"]),
    }


CLEAN = {"pin": clean_pin, "geo": clean_geo, "user": clean_user}


def clean_text(value: str | None, field: str = "") -> str | None:
    """Trim; empty and "no data" texts (of that field) are None."""
    trimmed = (value or "").strip(SPACE)
    return None if not trimmed or trimmed in NO_DATA.get(field, ()) else trimmed


def follower_count(value: str | None) -> int | None:
    """`1.5k` is 1500; exact, truncated, None where it does not fit a bigint."""
    match = FOLLOWERS.fullmatch((value or "").strip(SPACE))
    if not match:
        return None
    count = int(Decimal(match[1]) * SCALE[match[2].lower()])
    return count if count <= MAX_BIGINT else None


def moment(value: str | None) -> datetime | None:
    """A time in one of the contract's encodings, in UTC and without a time zone."""
    text = (value or "").strip(SPACE)
    match = DASHED.fullmatch(text) or COLONED.fullmatch(text)
    if not match:
        return None
    try:
        local = datetime(*(int(part) for part in match.groups()[:6]))  # type: ignore[arg-type]
        if match.re is COLONED:
            return local
        fraction, sign, hours, minutes = match.groups()[6:]
        local = local.replace(microsecond=int((fraction or "").ljust(6, "0")))
        if sign is None:
            return local
        ahead = timedelta(hours=int(hours), minutes=int(minutes))
        if int(minutes) > 59 or ahead > timedelta(hours=18):
            return None
        return local - ahead if sign == "+" else local + ahead
    except (ValueError, OverflowError):  # no such date or time; outside years 1 to 9999
        return None


# ------------------------------------------------------------------------------- answers

Staged = Mapping[int, Mapping[str, Any]]


class Person(NamedTuple):
    """A row of `int_users`."""

    user_name: str
    date_joined: datetime
    age: int | None
    follower_count: int | None


def age_group(age: int | None) -> str | None:
    """The group of an age; under 18 and unknown have none."""
    if age is None or age < 18:
        return None
    if age <= 24:
        return "18-24"
    if age <= 35:
        return "25-35"
    return "36-50" if age <= 50 else "50+"


def people(pin: Staged, user: Staged) -> list[Person]:
    """One row a person (a name and a joining date), with the highest age and follower count."""
    ages: dict[tuple[str, datetime], list[int]] = {}
    counts: dict[tuple[str, datetime], list[int]] = {}
    for ind, row in user.items():
        if row["user_name"] is None or row["date_joined"] is None:
            continue
        person = (row["user_name"], row["date_joined"])
        post = pin.get(ind, {})
        ages.setdefault(person, []).extend(_known(row["age"]))
        counts.setdefault(person, []).extend(_known(post.get("follower_count")))
    return [
        Person(*person, max(ages[person], default=None), max(counts[person], default=None))
        for person in sorted(ages)
    ]


def answers(pin: Staged, geo: Staged, user: Staged) -> dict[str, list[tuple[Any, ...]]]:
    """The nine marts, each as sorted rows of the contract's columns."""
    nothing: dict[str, Any] = {}
    by_country: list[tuple[Any, Any]] = []
    by_year: list[tuple[Any, Any]] = []
    by_age_group: list[tuple[Any, Any]] = []
    highest: dict[tuple[str, str], int] = {}
    for ind, post in pin.items():
        where, who = geo.get(ind, nothing), user.get(ind, nothing)
        country, timestamp = where.get("country"), where.get("timestamp")
        by_country.append((country, post["category"]))
        if timestamp is not None and timestamp.year in POST_YEARS:
            by_year.append((timestamp.year, post["category"]))
        by_age_group.append((age_group(who.get("age")), post["category"]))
        poster, followers = post["poster_name"], post["follower_count"]
        if country is not None and poster is not None and followers is not None:
            seen = highest.get((country, poster), followers)
            highest[country, poster] = max(seen, followers)

    top_users = _winners(highest)
    top = max((row[2] for row in top_users), default=None)

    persons = people(pin, user)
    joined = [person for person in persons if person.date_joined.year in JOIN_YEARS]
    return {
        "popular_category_by_country": _winners(_counted(by_country)),
        "popular_category_by_year": _winners(_counted(by_year)),
        "top_user_by_country": top_users,
        "country_of_top_user": [row for row in top_users if row[2] == top],
        "popular_category_by_age_group": _winners(_counted(by_age_group)),
        "median_followers_by_age_group": _medians(
            ((age_group(person.age),), person.follower_count) for person in persons
        ),
        "users_joined_by_year": sorted(Counter(p.date_joined.year for p in joined).items()),
        "median_followers_by_join_year": _medians(
            ((person.date_joined.year,), person.follower_count) for person in joined
        ),
        "median_followers_by_join_year_and_age_group": _medians(
            ((person.date_joined.year, age_group(person.age)), person.follower_count)
            for person in joined
        ),
    }


def _known(value: int | None) -> list[int]:
    return [] if value is None else [value]


def _counted(pairs: Iterable[tuple[Any, Any]]) -> Counter[tuple[Any, Any]]:
    """How often each pair occurs whose both halves are known."""
    return Counter(pair for pair in pairs if None not in pair)


def _winners(scores: Mapping[tuple[Any, Any], int]) -> list[tuple[Any, ...]]:
    """(group, candidate, score) of every candidate that no other of its group exceeds."""
    best: dict[Any, int] = {}
    for (group, _), score in scores.items():
        best[group] = max(score, best.get(group, score))
    return sorted(
        (group, candidate, score)
        for (group, candidate), score in scores.items()
        if score == best[group]
    )


def _medians(values: Iterable[tuple[tuple[Any, ...], int | None]]) -> list[tuple[Any, ...]]:
    """(*group, median) of the known values of every wholly known group."""
    grouped: dict[tuple[Any, ...], list[int]] = {}
    for group, value in values:
        if value is not None and None not in group:
            grouped.setdefault(group, []).append(value)
    return sorted((*group, float(statistics.median(known))) for group, known in grouped.items())
