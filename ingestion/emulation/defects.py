"""What is wrong with some synthetic records: every case that landing and cleaning know."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["pin", "geo", "user"]

KINDS: tuple[Kind, ...] = ("pin", "geo", "user")

_Record = dict[str, Any]
# From the proper line to the line that is sent, both without a line feed.
_Write = Callable[[bytes], bytes]


class Defect(NamedTuple):
    """Something wrong or unusual about one record of a post.

    Attributes:
        name: what `Counts.defects` calls it.
        write: gives the line sent in place of the proper one; None if nothing is sent.
        kinds: the kinds of record it befalls.
        reason: what the record is rejected for; None if it can be landed.
        line_of: the kind of record whose line `write` is given, if not the topic's own.
        weight: how much more often than others it occurs.
    """

    name: str
    write: _Write | None
    kinds: tuple[Kind, ...] = KINDS
    reason: str | None = None
    line_of: Kind | None = None
    weight: int = 1


def _dump(record: Any, ascii_only: bool = False) -> bytes:
    return json.dumps(record, ensure_ascii=ascii_only, separators=(",", ":")).encode()


def _edited(edit: Callable[[_Record], Any]) -> _Write:
    """A line that says what `edit` makes of the record."""
    return lambda line: _dump(edit(json.loads(line)))


def _with(name: str, value: Any) -> _Write:
    """A line with one field's value replaced, by `value(old)` where that is a function."""
    return _edited(lambda r: r | {name: value(r[name]) if callable(value) else value})


def _without(*names: str) -> _Write:
    return _edited(lambda r: {name: value for name, value in r.items() if name not in names})


def _with_keys(keys: Callable[[int], _Record]) -> _Write:
    """A line whose key fields are what `keys` makes of the key."""
    return _edited(lambda r: keys(r[_key_name(r)]) | _payload(r))


def _with_key(value: Any) -> _Write:
    """A line with another key, `value(key)` where that is a function."""
    return _edited(
        lambda r: {_key_name(r): value(r[_key_name(r)]) if callable(value) else value} | _payload(r)
    )


def _repeating(name: str | None, first: Any) -> _Write:
    """A line that gives a field, or the key, twice: of such a field the last value counts."""

    def write(line: bytes) -> bytes:
        record = json.loads(line)
        return _dump({name or _key_name(record): first})[:-1] + b"," + line[1:]

    return write


def _key_name(record: _Record) -> str:
    return "index" if "index" in record else "ind"


def _payload(record: _Record) -> _Record:
    return {name: value for name, value in record.items() if name not in ("ind", "index")}


def _respelt(pattern: str, hours: float = 0) -> Callable[[str], str]:
    """The same instant in another spelling, with the clock `hours` ahead of UTC."""
    return lambda text: f"{dt.datetime.fromisoformat(text) + dt.timedelta(hours=hours):{pattern}}"


_MALFORMED: tuple[_Write, ...] = (
    lambda line: line[: len(line) // 2],
    lambda line: line.replace(b':"', b':"caf\xe9 ', 1),  # Latin-1
    lambda _: b"upstream connect error or disconnect before headers",
    lambda line: repr(json.loads(line)).encode(),
    lambda line: line + line,
)
_NOT_AN_OBJECT: tuple[Callable[[_Record], Any], ...] = (
    lambda record: [record],
    str,
    lambda _: 42,
    lambda _: None,
    lambda _: True,
)
_INVALID_KEYS: tuple[Any, ...] = (
    str,
    lambda key: key + 0.5,
    lambda key: [key],
    lambda key: -1 - key,
    True,
    None,
    2**63,
    10**30,
)
_WRONG_TYPES: tuple[tuple[Kind, str, Any], ...] = (
    ("pin", "title", 2022),
    ("pin", "title", True),
    ("pin", "title", lambda title: {"text": title}),
    ("pin", "follower_count", 3000),
    ("pin", "tag_list", lambda tags: tags.split(",")),
    ("pin", "downloaded", str),
    ("pin", "downloaded", float),
    ("pin", "downloaded", bool),
    ("pin", "downloaded", "yes"),
    ("geo", "country", lambda country: [country]),
    ("geo", "timestamp", 1_600_000_000),
    ("geo", "latitude", str),
    ("geo", "latitude", int),
    ("geo", "longitude", True),
    ("user", "first_name", 7),
    ("user", "last_name", lambda name: [name]),
    ("user", "age", str),
    ("user", "age", float),
    ("user", "age", lambda age: age + 0.5),
    ("user", "age", "thirty"),
    ("user", "age", False),
    ("user", "age", 10**20),
    ("user", "date_joined", lambda text: {"date": text}),
)
_NO_VALUES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("pin", ("title",)),
    ("pin", ("poster_name", "follower_count")),
    ("pin", ("follower_count",)),
    ("pin", ("category",)),
    ("geo", ("latitude",)),
    ("geo", ("latitude", "longitude")),
    ("geo", ("country",)),
    ("geo", ("timestamp",)),
    ("user", ("age",)),
    ("user", ("first_name",)),
    ("user", ("first_name", "last_name")),
    ("user", ("date_joined",)),
)
_WHITE_SPACE: tuple[tuple[Kind, str, Any], ...] = (
    ("pin", "title", "\xa0{}\n"),
    ("pin", "title", " No Title Data Available\xa0"),
    ("pin", "description", "\xa0 \n"),
    ("pin", "poster_name", "\n{}"),
    ("pin", "poster_name", "User Info Error "),
    ("pin", "follower_count", "\xa0{} "),
    ("pin", "category", "{}\n"),
    ("pin", "save_location", "\u3000{}\t"),
    ("geo", "country", "\xa0{}\xa0"),
    ("geo", "timestamp", " {}\n"),
    ("user", "first_name", " {}\xa0"),
    ("user", "first_name", " "),
    ("user", "last_name", "\u2003{}\r\n"),
    ("user", "last_name", ""),
    ("user", "date_joined", "\t{} "),
)
# The last two fall into another year than they say.
_TIMES: tuple[tuple[Kind, str, Any], ...] = (
    ("geo", "timestamp", _respelt("%Y-%m-%dT%H:%M:%SZ")),
    ("geo", "timestamp", _respelt("%Y-%m-%d %H:%M:%S-08:00", -8)),
    ("geo", "timestamp", _respelt("%Y-%m-%dT%H:%M:%S.25+05:30", 5.5)),
    ("geo", "timestamp", _respelt("%Y:%m:%d %H:%M:%S")),
    ("user", "date_joined", _respelt("%Y-%m-%d %H:%M:%SZ")),
    ("user", "date_joined", _respelt("%Y-%m-%dT%H:%M:%S.000000-03:00", -3)),
    ("user", "date_joined", _respelt("%Y:%m:%d %H:%M:%S")),
    ("geo", "timestamp", "2019-12-31T22:30:00-03:00"),
    ("geo", "timestamp", "2021-01-01 00:30:00+01:00"),
)
_IMPOSSIBLE_TIMES = (
    "2021-02-30 10:00:00",
    "2019-02-29T08:15:00",
    "2018-13-01 00:00:00",
    "0000-00-00 00:00:00",
    "2020-01-01 25:61:61",
    "2020-6-1 9:30:00",
    "2017-05-17",
    "yesterday",
    "",
)
# None so high that the most followed person would be one with a defect.
_FOLLOWER_COUNTS = (
    "1.5k",
    "2.25M",
    "3m",
    "0.0025B",
    "12K",
    "0.0004k",
    "1.2345678k",
    "12,345",
    "1e3",
    "-5",
    "k",
    "٣k",
    "9999999999999k",
    "12 k",
)


def _defects() -> Iterator[Defect]:
    for write in _MALFORMED:
        yield Defect("malformed", write, reason="malformed")
    for edit in _NOT_AN_OBJECT:
        yield Defect("not_an_object", _edited(edit), reason="not_an_object")
    for value in _INVALID_KEYS:
        yield Defect("invalid_key", _with_key(value), reason="invalid_key")
    yield Defect("invalid_key", _without("ind", "index"), reason="invalid_key")
    for topic in KINDS:
        for other in KINDS:
            if other != topic:
                yield Defect("misrouted", bytes, (topic,), "misrouted", other)
    yield Defect("empty", _edited(_key_alone), reason="empty")
    yield Defect("empty", _edited(lambda r: _key_alone(r) | {"note": "retry"}), reason="empty")

    # Nothing is sent.
    for kind in KINDS:
        yield Defect("missing", None, (kind,), weight=6)

    # From here on, what can be landed.
    yield Defect("swapped_key", _edited(_swapped), weight=30)
    yield Defect("both_keys", _with_keys(lambda key: {"index": key + 1, "ind": key}))
    yield Defect("both_keys", _with_keys(lambda key: {"ind": None, "index": key}))
    yield Defect("both_keys", _with_keys(lambda key: {"ind": str(key), "index": key}))
    yield Defect("undeclared_field", _edited(lambda r: r | {"client": {"name": "app", "v": [2]}}))
    yield Defect("undeclared_field", _edited(lambda r: r | {"age": 33}), ("pin", "geo"))
    yield Defect("undeclared_field", _edited(lambda r: r | {"category": "art"}), ("geo", "user"))
    yield Defect("repeated_field", _repeating(None, 0))
    yield Defect("repeated_field", _repeating("category", "none"), ("pin",))
    yield Defect("repeated_field", _repeating("country", "Nowhere"), ("geo",))
    yield Defect("repeated_field", _repeating("age", 99), ("user",))
    yield Defect("field_order", _edited(lambda r: dict(reversed(r.items()))), weight=4)
    yield Defect(
        "escaped_text",
        lambda line: _dump(json.loads(line), ascii_only=True).replace(b"/", rb"\/"),
        ("pin",),
        weight=4,
    )
    for kind, name, value in _WRONG_TYPES:
        yield Defect("wrong_type", _with(name, value), (kind,))
    for kind, names in _NO_VALUES:
        yield Defect("no_value", _nulled(names), (kind,))
        yield Defect("no_value", _without(*names), (kind,))
    for kind, name, pattern in _WHITE_SPACE:
        yield Defect("white_space", _with(name, pattern.format), (kind,))
    for kind, name, value in _TIMES:
        yield Defect("time_spelling", _with(name, value), (kind,), weight=4)
    for text in _IMPOSSIBLE_TIMES:
        yield Defect("impossible_time", _with("timestamp", text), ("geo",))
        yield Defect("impossible_time", _with("date_joined", text), ("user",))
    for age in (17, 18, 25, 35, 36, 50, 51):
        yield Defect("age_at_a_boundary", _with("age", age), ("user",))
    for text in _FOLLOWER_COUNTS:
        yield Defect("follower_count_spelling", _with("follower_count", text), ("pin",))


def _nulled(names: Sequence[str]) -> _Write:
    return _edited(lambda r: r | dict.fromkeys(names))


def _key_alone(record: _Record) -> _Record:
    return {_key_name(record): record[_key_name(record)]}


def _swapped(record: _Record) -> _Record:
    swap = {"ind": "index", "index": "ind"}
    return {swap.get(name, name): value for name, value in record.items()}


#: Every variety; a post has at most one of them.
DEFECTS = tuple(_defects())
