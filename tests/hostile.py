"""Raw lines made to break a pipeline: ties everywhere, every encoding, every kind of rubbish.

Ties are made by symmetry. A `pair` is two posts that differ in nothing that is counted but the
category and the poster, and those are exchanged for their mirror image; whatever else is in a
group that only pairs enter, its winners tie. Posts outside pairs keep to groups that may have one
winner: the countries in `OPEN_COUNTRIES`, the years in `OPEN_YEARS`, the ages in `OPEN_AGES`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

KINDS = ("pin", "geo", "user")
Fields = Mapping[str, Any]

# Each category's mirror image is its neighbour (0 and 1, 2 and 3, ...).
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
)
POSTERS = (
    "Ada's Attic",
    "Bea & Bo | Ideas",
    "Café Ömür",
    "Café O\u0308mu\u0308r",  # the same to the eye, another text
    "日本のデザイン",
    "👩‍👩‍👧‍👦 Family",
    "مدونة السفر",
    "O'Brien \\ Sons",
)
PAIR_COUNTRIES = ("Åland Islands", "Bolivia (Plurinational State of)", "Cote d'Ivoire")
OPEN_COUNTRIES = ("Albania", "Antarctica (the territory South of 60 deg S)", "Togo", "Türkiye")
PAIR_YEARS = (2019, 2021)
OPEN_YEARS = (2017, 2018, 2020, 2022, 2023)
OPEN_AGES = (17, 18, 20, 24, 25, 30, 35, 51, 60)
FIRST_NAMES = ("Ann", "Bob", "Chloë", "Dương")
LAST_NAMES = ("Lee", "O'Neil", "Ng")

WHITE_SPACE = (
    *(" ", "\t", "\n", "\r\n", "\x0b", "\f"),
    *("\u00a0", "\u1680", "\u2000", "\u2003", "\u200a", "\u202f", "\u205f", "\u3000"),
    *("\u2028", "\u2029", " \u00a0\t\u3000\n"),
)
# White space to some trimming functions, and not to the contract.
NOT_WHITE_SPACE = ("\u200b", "\ufeff", "\u0085", "\x1c", "\x1f", "\u180e", "\x00")
NO_DATA = {
    "title": ("No Title Data Available", "Untitled"),
    "description": (
        "No description available Story format",
        "No description available",
        "Untitled",
    ),
    "poster_name": ("User Info Error",),
    "follower_count": ("User Info Error",),
    "tag_list": ("N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e",),
    "image_src": ("Image src error.",),
}
TEXTS = (
    "'; drop table bronze.pin; --",
    '" or ""="',
    "<script>alert('1')</script>",
    '{"ind": 1, "title": "json in a text"}',
    "back\\slash \\n \\u0041 \\",
    "{{ config() }} {% raw %} ${x} %s %(x)s $1",
    "a,b\tc|d;e\x01f",
    "two\nlines and\r\nthree",
    "line\u2028separator, paragraph\u2029separator, next\u0085line",
    "🧨👍🏽🇹🇷 astral",
    "e\u0301 combining, n\u0303",
    "\u202eright to left\u202c שלום",
    "nul \u0000 inside",
    "\u0000",
    "\ufdd0 noncharacter \U0010ffff",
    "[" * 10_000 + '"{',  # brackets in a text nest nothing
    "null",
    "NaN",
    "None",
    "\\N",
    "9" * 400,
)
FOLLOWER_COUNTS = (
    "0",
    "00",
    "15M",
    "1.5k",
    "1.5K",
    " 3k ",
    "\u00a03k\u2003",
    "2.5B",
    "2.5b",
    "1.123456k",
    "1.1234567k",
    "0.9",
    "0.0009k",
    "999999999999",
    "1234567890123",
    "999999999999B",
    "9999999999B",
    "9223372036.854776B",
    "1e3",
    "1E3",
    "-5",
    "+5",
    "5 k",
    "5kk",
    "5K followers",
    "1,000",
    "1_000",
    ".5k",
    "5.k",
    "1.5.5",
    "k",
    "0x1F",
    "９k",
    "٣k",
    "5K",  # the Kelvin sign, which lower-cases to k
    "Infinity",
    "",
    " ",
    "User Info Error",
    " User Info Error\n",
    "user info error",
    1500,
    1.5,
    True,
    False,
    None,
    ["5k"],
    {"n": 5},
)
# Valid and not, none of them in one of PAIR_YEARS once in UTC, since single posts carry them.
TIMES = (
    "2020-02-29 12:00:00",
    "2000-02-29T00:00:00",
    "2020:02:29 23:59:59",
    "2018-03-25 01:30:00",  # hours that a clock somewhere skipped or had twice
    "2018-03-11 02:30:00",
    "2018-10-28 01:30:00",
    "2018-10-28T01:30:00+01:00",
    "2018-11-04T01:30:00-04:00",
    "2022-06-15 12:00:00.1",
    "2022-06-15 12:00:00.123456",
    "2022-06-15T12:00:00.000001Z",
    "2022-06-15T12:00:00Z",
    "2022-06-15 12:00:00Z",
    "2022-06-15 12:00:00-00:00",
    "2022-06-15T12:00:00+18:00",
    "2022-06-15T12:00:00-18:00",
    "2022-06-15T12:00:00+05:45",
    "\u00a02022-06-15 12:00:00\n",
    "0001-01-01 00:00:00",
    "9999-12-31T23:59:59.999999Z",
    "1582-10-10 00:00:00",
    "1900-01-01 00:00:00",
    "1969-12-31T23:59:59.999999",
    "2262-04-12 00:00:00",
    "0001-01-01T00:00:00+00:01",
    "9999-12-31T23:59:59-00:01",
    "0000-01-01 00:00:00",
    "2018-02-29 00:00:00",
    "1900-02-29 00:00:00",
    "2020-02-30 00:00:00",
    "2020-04-31 00:00:00",
    "2020-13-01 00:00:00",
    "2020-00-10 00:00:00",
    "2020-01-00 00:00:00",
    "2020:02:30 00:00:00",
    "2020-01-01 24:00:00",
    "2020-01-01 23:60:00",
    "2016-12-31 23:59:60",
    "2020-01-01T00:00:00+18:01",
    "2020-01-01T00:00:00+19:00",
    "2020-01-01T00:00:00+01:60",
    "2020-01-01T00:00:00+0100",
    "2020-01-01T00:00:00+01",
    "2020-01-01T00:00:00+1:00",
    "2020-01-01T00:00:00+01:00:00",
    "2020-01-01T00:00:00 +01:00",
    "2020-01-01T00:00:00\u221201:00",
    "2020-01-01T00:00:00 UTC",
    "2020-01-01T00:00:00Europe/Paris",
    "2020-01-01T00:00:00[UTC]",
    "2020-01-01t00:00:00",
    "2020-01-01T00:00:00z",
    "2020-01-01T00:00:00.",
    "2020-01-01T00:00:00.1234567",
    "2020-01-01T00:00:00.123456789Z",
    "2020-01-01T00:00:00,5",
    "2020:01:01 00:00:00.5",
    "2020:01:01 00:00:00Z",
    "2020:01:01T00:00:00",
    "2020-01-01  00:00:00",
    "2020-01-01\t00:00:00",
    "2020-01-01\u00a000:00:00",
    "2020-01-01",
    "2020-01-01 00:00",
    "2020-1-1 0:00:00",
    "20-01-01 00:00:00",
    "+2020-01-01 00:00:00",
    "-2020-01-01 00:00:00",
    "12020-01-01 00:00:00",
    "2020/01/01 00:00:00",
    "01-02-2020 00:00:00",
    "20200101T000000",
    "2020-W01-1 00:00:00",
    "２０２０-01-01 00:00:00",
    "٢٠٢٠-01-01 00:00:00",
    "now",
    "epoch",
    "1577836800",
    1577836800,
    1577836800000,
    2020,
    True,
    None,
    "",
    " \t ",
    ["2020-01-01 00:00:00"],
    {"$date": "2020-01-01T00:00:00Z"},
)
AGES = (
    -1,
    0,
    17,
    18,
    24,
    25,
    35,
    51,
    60,
    200,
    None,
    "34",
    " 34\n",
    "+34",
    "-34",
    "007",
    "0" * 5000 + "20",
    "34.0",
    "3.4e1",
    "\u00a034",
    "３４",
    "thirty",
    "",
    34.0,
    34.5,
    True,
    False,
    [34],
    {"years": 34},
    2**63 - 1,
    -(2**63),
    2**63,
    10**30,
    str(2**63 - 1),
    str(2**63),
)
COORDINATES = (0, -0.0, 90, 91.5, 1e308, 10**30, None, "12.5", "", True, [1.0], {"deg": 1}, "NaN")
RUBBISH: tuple[Any, ...] = (
    None,
    True,
    0,
    -1.5,
    2**70,
    "text",
    "",
    [],
    {},
    [None, [1, {"a": "ü"}]],
    {"ind": 1, "title": "nested"},
)
RUBBISH_NAMES = (
    *("extra", "", "a.b", "`", "IND", "ind ", "Title"),
    *("_rescued", "_source", "_position", "_landed_at"),
)
# As they stand in the line: texts to keep as they came, values a double or a sum would spoil.
NUMBERS = (
    *("1.50", "-0", "-0.0", "1e2", "1E+2", "0.1e-7", "3.4e1", "340e-1", "34.50e1"),
    *("9223372036854775807", "-9223372036854775808", "9223372036854775808"),
    *("9223372036854775807.0", "9223372036854775808.0", "92233720368547758e2"),
    *("9007199254740993.0", "100000000000000000000001", "1" * 5000),
    *("1e308", "1e400", "-1e400", "1e999999999", "1e-999999999", "0e99999999999999999999"),
)

KEYS_INVALID = (
    "null",
    '"7"',
    '""',
    "7.5",
    "7.0",
    "1e2",
    "1E2",
    "0.0",
    "-0.0",
    "-1",
    "true",
    "false",
    "[7]",
    '{"ind": 7}',
    "9223372036854775808",
    "18446744073709551623",
    "9" * 5000,
)
NOT_OBJECTS = (b"null", b"7", b"-0.5e3", b"true", b'"text"', b"[]", b'[{"ind": 1, "title": "x"}]')
MALFORMED = (
    b"{",
    b"}",
    b"{}}",
    b"not json",
    b'{"ind": 1, "title": "cut o',
    b'{"ind": 1, "title": "x"',
    b'{"ind": 1, "title": "x",}',
    b'{"ind": 1 "title": "x"}',
    b'{"ind": 1, "title": "x"} {"ind": 2, "title": "y"}',
    b'{"ind": 1, "title": "x"}]',
    b"{'ind': 1, 'title': 'x'}",
    b'{ind: 1, "title": "x"}',
    b'{"ind": 1, /* why */ "title": "x"}',
    b'{"ind": 01, "title": "x"}',
    b'{"ind": +1, "title": "x"}',
    b'{"ind": 1, "age": 1., "title": "x"}',
    b'{"ind": 1, "age": .5, "title": "x"}',
    b'{"ind": 1, "age": 0x10, "title": "x"}',
    b'{"ind": 1, "latitude": NaN, "title": "x"}',
    b'{"ind": 1, "latitude": Infinity, "title": "x"}',
    b'{"ind": 1, "latitude": -Infinity, "title": "x"}',
    b'{"ind": 1, "title": True}',
    b'{"ind": 1, "title": "raw\ttab"}',
    b'{"ind": 1, "title": "raw\x00nul"}',
    b'{"ind": 1, "title": "\\x41"}',
    b'{"ind": 1, "title": "\\u12"}',
    b'{"ind": 1, "title": "\\ud83d"}',
    b'{"ind": 1, "title": "\\ude00\\ud83d"}',
    b'{"ind": 1, "title": "\\ud83d\\u0041"}',
    b'{"ind": 1, "title": "x", "\\udc00": 1}',
    b'{"ind": 1, "title": "x", "extra": [{"a": "\\ud83d"}]}',
    b'{"ind": 1, "title": "\\ud83d", "title": "the last one is whole"}',
    b'"\\ud83d"',
    b'{"ind": 1, "title": "\xff"}',
    b'{"ind": 1, "title": "\xc3"}',
    b'{"ind": 1, "title": "\xc0\xaf overlong"}',
    b'{"ind": 1, "title": "\xed\xa0\xbd\xed\xb8\x80 surrogates in UTF-8"}',
    b'{"ind": 1, "title": "\xf4\x90\x80\x80 beyond Unicode"}',
    b'{"ind": 1, "title": "x", "extra": "\xff"}',
    b'{"ind": 1, "title": "x", "\xff": 1}',
    b'{"ind": 1, "title": "x", "extra": [1,]}',
    b'{"ind": 1, "title": "caf\xe9"}',
    b"\xef\xbb\xbf" + b'{"ind": 1, "title": "x"}',
    '{"ind": 1, "title": "x"}'.encode("utf-16"),
    b"\x00",
    b"[" * 10_000,
    b"[" * 10_000 + b"]" * 10_000,
    b'{"ind": 1, "title": "x", "extra": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b'{"ind": 1, "title": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
)


@dataclass
class Stream:
    """Lines of the three kinds, each with the moment it is sent at, from 0 to 1."""

    draw: random.Random
    lines: dict[str, list[tuple[float, bytes]]] = field(
        default_factory=lambda: {kind: [] for kind in KINDS}
    )
    next_ind: int = 1

    def key(self) -> int:
        """A post that no other line speaks of."""
        self.next_ind += 1
        return self.next_ind - 1

    def send(self, kind: str, raw: bytes, after: float = 0.0) -> float:
        """Send a line at some moment not before `after`; give the moment back."""
        at = after + (1 - after) * self.draw.random()
        self.lines[kind].append((at, raw))
        return at

    def record(self, kind: str, ind: int, fields: Fields, after: float = 0.0) -> float:
        """Send a record, in one of the many ways to write it; sometimes more than once."""
        raw = written(self.draw, ind, fields)
        at = self.send(kind, raw, after)
        while self.draw.random() < 0.15:
            again = raw if self.draw.random() < 0.5 else written(self.draw, ind, fields)
            self.send(kind, again, at)
        return at

    def post(
        self, pin: Fields | None = None, geo: Fields | None = None, user: Fields | None = None
    ) -> int:
        """Send one post's records; a kind left out is a missing record."""
        ind = self.key()
        for kind, fields in zip(KINDS, (pin, geo, user), strict=True):
            if fields is not None:
                self.record(kind, ind, fields)
        return ind

    def pair(
        self, pin: Fields | None = None, geo: Fields | None = None, user: Fields | None = None
    ) -> None:
        """Send a post and its mirror image."""
        pin = {**pin_fields(self.draw), **pin} if pin is not None else None
        self.post(pin, geo, user)
        if pin is not None:
            pin = {
                **pin,
                "category": mirrored(pin["category"], CATEGORIES),
                "poster_name": mirrored(pin["poster_name"], POSTERS),
            }
        self.post(pin, geo, user)


def mirrored(text: Any, among: tuple[str, ...]) -> Any:
    """The neighbour of a text; what has none is its own mirror image."""
    return among[among.index(text) ^ 1] if text in among else text


def written(draw: random.Random, ind: int, fields: Fields) -> bytes:
    """Serialise a record: key name, order, spacing, escapes and line end as they come."""
    names = draw.choice((("ind",), ("index",), ("ind",), ("index",), ("ind", "index")))
    members = [*((name, ind) for name in names), *fields.items()]
    draw.shuffle(members)
    text = json.dumps(
        dict(members),
        ensure_ascii=draw.random() < 0.5,
        separators=draw.choice(((",", ":"), (", ", ": "), (" ,\t", " : "))),
    )
    before, after = draw.choice((("", ""), ("", ""), ("", "\r"), (" ", " "), ("\t", " \r")))
    return (before + text + after).encode()


def as_text(draw: random.Random, moment: datetime) -> str:
    """One of the encodings of a moment (in UTC), some of them with an offset."""
    form = draw.randrange(6)
    if form == 0:
        return f"{moment:%Y:%m:%d %H:%M:%S}"
    if form < 3:
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    if form == 3:
        return f"{moment:%Y-%m-%dT%H:%M:%S}" + draw.choice(("", "Z", ".0", ".000000Z", "+00:00"))
    minutes = draw.choice((-1080, -570, -60, 60, 345, 840))
    local = moment + timedelta(minutes=minutes)
    hours, rest = divmod(abs(minutes), 60)
    return f"{local:%Y-%m-%dT%H:%M:%S}{'+' if minutes > 0 else '-'}{hours:02}:{rest:02}"


def pin_fields(draw: random.Random) -> dict[str, Any]:
    """An ordinary pin."""
    category = draw.choice(CATEGORIES)
    return {
        "unique_id": f"{draw.getrandbits(64):016x}",
        "title": draw.choice(("A shed", "Ten ideas", "Untitled", "No Title Data Available")),
        "description": draw.choice(("All of it…\u00a0", "No description available", "")),
        "poster_name": draw.choice(POSTERS),
        "follower_count": draw.choice(("0", "3", "8", "437", "1.2k", "5k", "647k", "648k", "15M")),
        "tag_list": draw.choice(("a,b,c", "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e")),
        "is_image_or_video": draw.choice(("image", "video", "multi-video(story page format)")),
        "image_src": draw.choice(("https://example.org/i.jpg", "Image src error.")),
        "downloaded": draw.choice((0, 1)),
        "save_location": f"Local save in /data/{category}",
        "category": category,
    }


def geo_fields(draw: random.Random, country: str, moment: datetime) -> dict[str, Any]:
    """An ordinary geolocation."""
    return {
        "timestamp": as_text(draw, moment),
        "latitude": round(draw.uniform(-90, 90), 4),
        "longitude": round(draw.uniform(-180, 180), 4),
        "country": country,
    }


def moment_in(draw: random.Random, year: int) -> datetime:
    """A second of a year; every third one within two seconds of a New Year."""
    start, end = datetime(year, 1, 1), datetime(year + 1, 1, 1)
    if draw.random() < 0.33:
        return draw.choice((start, start + timedelta(seconds=1), end - timedelta(seconds=1)))
    return start + timedelta(seconds=draw.randrange(int((end - start).total_seconds())))


def hostile_lines(seed: int, posts: int) -> dict[str, list[bytes]]:
    """Lines of each kind in the order they were sent, the same for the same seed.

    `posts` ordinary posts and their mirror images stand among some 1,000 that are there for any
    number. No line contains a line feed, and nothing but a line feed ends a line.
    """
    draw = random.Random(seed)
    stream = Stream(draw)
    send_ordinary(stream, posts)
    send_boundaries(stream)
    send_texts(stream)
    send_encodings(stream)
    send_extremes(stream)
    send_missing(stream)
    send_corrections(stream)
    send_shapes(stream)
    send_rejects(stream)
    return {
        kind: [raw for _, raw in sorted(lines, key=lambda line: line[0])]
        for kind, lines in stream.lines.items()
    }


def parts(lines: Mapping[str, Sequence[bytes]], count: int) -> list[dict[str, Sequence[bytes]]]:
    """The lines in as many consecutive parts of equal size."""
    return [
        {
            kind: raws[len(raws) * number // count : len(raws) * (number + 1) // count]
            for kind, raws in lines.items()
        }
        for number in range(count)
    ]


def send_ordinary(stream: Stream, posts: int) -> None:
    """Posts by people who share names, write their joining date differently and grow older."""
    draw = stream.draw
    people = [
        (
            draw.choice(FIRST_NAMES),
            draw.choice(LAST_NAMES),
            moment_in(draw, draw.randint(2014, 2021)),
            draw.choice((17, 18, 19, 24, 25, 29, 35, 36, 43, 50, 51, 58)),
        )
        for _ in range(3 + posts // 7)
    ]
    for _ in range(posts):
        first, last, joined, age = draw.choice(people)
        age += draw.choice((0, 0, 0, 1))
        user = {
            "first_name": draw.choice(("", " ", "\u00a0")) + first,
            "last_name": last + draw.choice(("", "\t", "\u3000")),
            "age": draw.choice((age, age, str(age), float(age))),
            "date_joined": as_text(draw, joined),
        }
        country = draw.choice(PAIR_COUNTRIES + OPEN_COUNTRIES)
        year = draw.choice(PAIR_YEARS + OPEN_YEARS)
        geo = geo_fields(draw, country, moment_in(draw, year))
        if country in OPEN_COUNTRIES and year in OPEN_YEARS and age in OPEN_AGES:
            stream.post(pin_fields(draw), geo, user)
        else:
            stream.pair({}, geo, user)


def send_boundaries(stream: Stream) -> None:
    """Ages and moments on both sides of every bound, each of them in pairs."""
    draw = stream.draw
    for n, age in enumerate((17, 18, 24, 25, 35, 36, 50, 51, 60, -1, 0, 200, None)):
        # Three people a boundary, so that groups of an even and an odd size occur.
        for followers in ("1", "2", "648k"):
            stream.pair(
                {"follower_count": followers},
                geo_fields(draw, "Åland Islands", moment_in(draw, 2019)),
                person(draw, f"Boundary {n} {followers}", datetime(2016, 5, 4, 10, 20, 30), age),
            )
    for year in (2014, 2015, 2017, 2018, 2020, 2021, 2022, 2023):
        for seconds in (-1, 0, 1):
            moment = datetime(year, 1, 1) + timedelta(seconds=seconds)
            # Thrice: as it is, and written so that the year on paper is the other one.
            for text in (
                f"{moment:%Y-%m-%d %H:%M:%S}",
                f"{moment + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}+01:00",
                f"{moment - timedelta(minutes=30):%Y-%m-%dT%H:%M:%S}.999999-00:30",
            ):
                user = person(draw, f"Joined {text}", moment, 40)
                geo = geo_fields(draw, "Cote d'Ivoire", moment)
                stream.pair({}, {**geo, "timestamp": text}, {**user, "date_joined": text})
    # Where `posts` is 0, alone in their groups of answer 8: a half, one value, a zero.
    for name, age, followers in (("A", 18, "1"), ("B", 24, "2"), ("C", 25, "7"), ("D", 51, "0")):
        stream.pair(
            {"follower_count": followers},
            geo_fields(draw, "Åland Islands", datetime(2021, 7, 1)),
            person(draw, f"Median {name}", datetime(2019, 7, 1, 12), age),
        )
    # People whose posts disagree on age and followers: the highest of each counts.
    for ages in ((24, 25, 24), (51, 50, None), (None, 17, 18), (35, 36, True), (None, None, None)):
        for age, followers in zip(ages, ("647k", "648k", "User Info Error"), strict=True):
            stream.pair(
                {"follower_count": followers},
                geo_fields(draw, "Åland Islands", datetime(2021, 8, 1)),
                person(draw, f"Ages {ages}", datetime(2018, 8, 1, 12), age),
            )
    # Two hours of one night, and half a second: four people of one name.
    for text in (
        "2018-10-28T01:30:00+01:00",
        "2018-10-28T01:30:00+00:00",
        "2018-10-28 02:30:00",
        "2018-10-28 02:30:00.5",
    ):
        night = person(draw, "Night", datetime(2018, 10, 28), 45)
        stream.pair(
            {"follower_count": "3"},
            geo_fields(draw, "Åland Islands", datetime(2019, 7, 1)),
            {**night, "date_joined": text},
        )


def person(draw: random.Random, name: str, joined: datetime, age: Any) -> dict[str, Any]:
    """An ordinary user record."""
    return {
        "first_name": name,
        "last_name": "Person",
        "age": age,
        "date_joined": as_text(draw, joined),
    }


def send_texts(stream: Stream) -> None:
    """Every text in every text field: as category, country and name it becomes a group."""
    draw = stream.draw
    for text in (*TEXTS, *WHITE_SPACE, *(f"x{mark}" for mark in NOT_WHITE_SPACE)):
        single(
            stream,
            {"category": text, "poster_name": text, "title": text, "description": text},
            {"country": text},
            {"first_name": text},
        )
    for mark in (*WHITE_SPACE, *NOT_WHITE_SPACE):
        single(
            stream,
            {
                "category": f"{mark}art{mark}",
                "title": f"{mark}a{mark}b{mark}",
                "save_location": f"{mark}Local save in{mark}/data/art{mark}",
            },
            {"country": f"Togo{mark}"},
            {"first_name": f"{mark}Ann", "last_name": f"{mark}"},
        )
    for name, texts in NO_DATA.items():
        for text in texts:
            for variant in (text, f" {text}\u00a0", text.lower(), text + "!", f"x {text}"):
                single(stream, {name: variant})
    for location in (
        "Local save in",
        " Local save in \u00a0",
        "Local save in/data/x",
        "Local save in\u00a0\u3000/data/x",
        "Local save in Local save in /data/x",
        "local save in /data/x",
        "/data/Local save in /x",
    ):
        single(stream, {"save_location": location})
    # Names that are one after joining, and names that are not.
    for first, last in (
        ("Ann Lee", None),
        (None, "Ann Lee"),
        ("Ann", "Lee"),
        ("\u00a0Ann ", "\tLee\n"),
        ("ann", "lee"),
        ("Ann", " Lee"),
        ("Ann ", ""),
        ("", "  "),
        (None, None),
        (5, True),
        (["Ann"], {"last": "Lee"}),
    ):
        joined = as_text(draw, datetime(2017, 2, 3, 4, 5, 6))
        single(stream, {}, {}, {"first_name": first, "last_name": last, "date_joined": joined})
    long = "long é🧨" * 29_000  # 319 kB, 667 kB where escaped: still within brokers' limit of 1 MB
    single(stream, {"description": long})
    single(stream, {"title": "[" + "\\" * 200_000})
    single(stream, {}, {"country": long})
    single(stream, {}, {}, {"last_name": long})


def single(
    stream: Stream,
    pin: Fields | None = None,
    geo: Fields | None = None,
    user: Fields | None = None,
) -> int:
    """Send a post without a mirror image, in groups that may have one winner."""
    draw = stream.draw
    moment = moment_in(draw, draw.choice(OPEN_YEARS))
    joined = moment_in(draw, draw.randint(2015, 2017))
    return stream.post(
        {**pin_fields(draw), **(pin or {})},
        {**geo_fields(draw, draw.choice(OPEN_COUNTRIES), moment), **(geo or {})},
        {**person(draw, "Single", joined, draw.choice(OPEN_AGES)), **(user or {})},
    )


def send_encodings(stream: Stream) -> None:
    """Every shape of follower count, time, age, coordinate, flag and undeclared field."""
    for followers in FOLLOWER_COUNTS:
        single(stream, {"follower_count": followers})
    for time in TIMES:
        single(stream, {}, {"timestamp": time}, {"date_joined": time})
    for age in AGES:
        single(stream, {"downloaded": age}, {}, {"age": age})
    for degrees in COORDINATES:
        single(stream, {}, {"latitude": degrees})
        single(stream, {}, {"longitude": degrees})
    for value in RUBBISH:
        for name in pin_fields(stream.draw):
            single(stream, {name: value})
        for name in ("timestamp", "latitude", "longitude", "country"):
            single(stream, {}, {name: value})
        for name in ("first_name", "last_name", "age", "date_joined"):
            single(stream, {}, {}, {name: value})
        rubbish = dict.fromkeys(RUBBISH_NAMES, value)
        single(stream, rubbish, rubbish, rubbish)
    # Fields of two kinds in one record, and of all three.
    draw = stream.draw
    fields = {
        "pin": pin_fields(draw),
        "geo": geo_fields(draw, "Togo", datetime(2018, 5, 5)),
        "user": person(draw, "Mixed", datetime(2016, 5, 5), 20),
    }
    for kind in KINDS:
        for other in KINDS:
            stream.record(kind, stream.key(), {**fields[kind], **fields[other]})
        stream.record(kind, stream.key(), {**fields["pin"], **fields["geo"], **fields["user"]})


def send_extremes(stream: Stream) -> None:
    """Follower counts that a double cannot hold, tying for the highest of all.

    They have no user record: a mean of two such numbers is no business of a median's test.
    """
    draw = stream.draw
    for followers, countries in (
        # One follower apart, and one number as doubles.
        ("9007199254.740993M", ("Åland Islands",)),
        ("9007199254.740992M", ("Åland Islands",)),
        # The highest that is written so and fits; the next step up is NULL.
        ("9223372036.854775B", ("Bolivia (Plurinational State of)", "Cote d'Ivoire")),
    ):
        for country in countries:
            stream.pair(
                {"follower_count": followers, "poster_name": POSTERS[0]},
                geo_fields(draw, country, moment_in(draw, 2019)),
            )
    # Known to nobody, or in no country: these never win.
    for pin, geo in (
        ({"poster_name": "User Info Error"}, {}),
        ({"poster_name": None}, {}),
        ({}, {"country": " "}),
        ({}, {"country": None}),
    ):
        bolivia = geo_fields(draw, "Bolivia (Plurinational State of)", datetime(2019, 6, 1))
        stream.pair({**pin, "follower_count": "9223372036.854775B"}, {**bolivia, **geo})
    # One poster's several counts in a country: only the highest stands.
    for followers in ("1k", "2k", "2k", "1.9k"):
        stream.pair(
            {"follower_count": followers, "poster_name": POSTERS[2]},
            geo_fields(draw, "Tie Land", datetime(2019, 8, 8)),
            person(draw, "Tied", datetime(2017, 8, 8), 40),
        )
    # A country whose posters all have nobody, and one whose posters all have nothing known.
    for followers, country in (("0", "Zero Land"), ("User Info Error", "Null Land")):
        stream.pair({"follower_count": followers}, geo_fields(draw, country, datetime(2019, 9, 9)))


def send_missing(stream: Stream) -> None:
    """Every subset of the three records, and records with hardly a field."""
    draw = stream.draw
    for _ in range(4):
        pin: Fields = {"follower_count": "437"}
        geo = geo_fields(draw, draw.choice(PAIR_COUNTRIES), moment_in(draw, 2021))
        user = person(draw, "Partly", datetime(2016, 1, 2, 3, 4, 5), 40)
        stream.pair(pin)
        stream.pair(None, geo)
        stream.pair(None, None, user)
        stream.pair(pin, geo)
        stream.pair(pin, None, user)
        stream.pair(None, geo, user)
    for kind, names in (
        ("pin", tuple(pin_fields(draw))),
        ("geo", ("timestamp", "latitude", "longitude", "country")),
        ("user", ("first_name", "last_name", "age", "date_joined")),
    ):
        for name in names:
            stream.record(kind, stream.key(), {name: None})
        stream.record(kind, stream.key(), dict.fromkeys(names))


def send_corrections(stream: Stream) -> None:
    """Later records that change what earlier ones said, to other values and to none."""
    draw = stream.draw
    corrections: dict[str, Iterable[Fields]] = {
        "pin": (
            {"category": "travel"},
            {"category": None},
            {"category": "  "},
            {"follower_count": "15M"},
            {"follower_count": "User Info Error"},
            {"poster_name": None},
        ),
        "geo": (
            {"country": "Togo"},
            {"country": None},
            {"timestamp": "2022-12-31T23:59:59-00:30"},
            {"timestamp": "2020-02-30 00:00:00"},
            {"latitude": None},
            {"latitude": "north"},
        ),
        "user": (
            {"age": 60},
            {"age": None},
            {"age": True},
            {"first_name": "Corrected"},
            {"date_joined": "2016-06-06T06:06:06Z"},
            {"date_joined": None},
        ),
    }
    for _ in range(3):
        ordinary: dict[str, Fields] = {
            "pin": {**pin_fields(draw), "category": "quotes"},
            "geo": geo_fields(draw, "Albania", moment_in(draw, 2018)),
            "user": person(draw, "Before", datetime(2015, 6, 6), 20),
        }
        for kind in KINDS:
            for changed in corrections[kind]:
                ind = stream.key()
                for other in KINDS:
                    if other != kind:
                        stream.record(other, ind, ordinary[other])
                at = stream.record(kind, ind, ordinary[kind])
                at = stream.record(kind, ind, {**ordinary[kind], **changed}, at)
                if draw.random() < 0.3:  # the first again, and by then the latest
                    stream.record(kind, ind, ordinary[kind], at)
            # A record with one field takes back all the others; a rejected one takes back nothing.
            ind = stream.key()
            at = stream.record(kind, ind, ordinary[kind])
            name, value = next(iter(ordinary[kind].items()))
            stream.record(kind, ind, {name: value}, at)
            ind = stream.key()
            at = stream.record(kind, ind, ordinary[kind])
            stream.send(kind, b'{"ind": %d}' % ind, at)


def send_shapes(stream: Stream) -> None:
    """Valid records in forms that parsers differ over."""
    payload = {
        "pin": '"title": "x", "category": "travel"',
        "geo": '"country": "Togo", "timestamp": "2018-05-05 05:05:05"',
        "user": '"first_name": "Shape", "age": 30, "date_joined": "2016:05:05 05:05:05"',
    }
    for kind in KINDS:
        fields = payload[kind]
        key = stream.key

        def send(text: str, kind: str = kind) -> None:
            stream.send(kind, text.encode())

        send(f'{{"ind": {2**63 - 1}, {fields}}}')
        send(f'{{"ind": 0, {fields}}}')
        send(f'{{"ind": -0, {fields}}}')
        # Which of two keys.
        send(f'{{"ind": {key()}, "index": {key()}, {fields}}}')
        send(f'{{"index": {key()}, "ind": {key()}, {fields}}}')
        for unusable in KEYS_INVALID:
            send(f'{{"ind": {unusable}, "index": {key()}, {fields}}}')
            send(f'{{"ind": {key()}, "index": {unusable}, {fields}}}')
        # A member twice: the last counts, whatever the first was.
        send(f'{{"ind": 1, "ind": {key()}, {fields}}}')
        send(f'{{"ind": "x", {fields}, "ind": {key()}}}')
        send(f'{{"\\u0069nd": {key()}, {fields}}}')
        twice = {
            "pin": '"category": ["x"], "category": "art", "title": "x", "title": null',
            "geo": '"country": {"a": 1}, "country": "Togo", "latitude": 1, "latitude": "x"',
            "user": '"age": "x", "age": 20, "\\u0061ge": 30, "last_name": "a", "last_name": []',
        }
        send(f'{{"ind": {key()}, {twice[kind]}, "extra": 1, "extra": {{"a": 1, "a": 2}}}}')
        # Numbers that must stay the text they came as, or never become a double.
        for number in NUMBERS:
            number_fields = {
                "pin": f'"title": {number}, "follower_count": {number}, "downloaded": {number}',
                "geo": f'"latitude": {number}, "longitude": {number}, "timestamp": {number}',
                "user": f'"first_name": {number}, "age": {number}, "date_joined": {number}',
            }
            send(f'{{"ind": {key()}, {number_fields[kind]}, "extra": [{number}]}}')
        # White space that JSON allows, a line that looks like two, and nesting that is allowed.
        send(f'\r{{\r"ind"\t:\r{key()}\r,\r{fields}\r}}\r')
        send(f'{{"ind": {key()}, {fields}, "extra": "raw \u2028 \u2029 \u0085 \x7f"}}')
        send(f'{{"ind": {key()}, {fields}, "extra": "\\ud83d\\ude00 \\\\ud83d \\/ \\b\\f"}}')
        send(f'{{"ind": {key()}, {fields}, "extra": {"[" * 40}{"]" * 40}}}')
        send(f'{{"ind": {key()}, {fields}, "extra": {"{" + chr(34) + "a" + chr(34) + ":"}1}}}}')


def send_rejects(stream: Stream) -> None:
    """Every reason to reject, in many forms, on every stream; and lines that are no records."""
    payload = {
        "pin": '"title": "x", "category": "travel", "downloaded": 1',
        "geo": '"country": "Togo", "latitude": 1.5',
        "user": '"first_name": "x", "age": 30',
    }
    no_payload = (
        "",
        ', "extra": 1',
        ', "Title": "x", "COUNTRY": "Togo", "age ": 1',
        ', "title\\u0000": "x"',
        ', "nested": {"title": "x", "country": "y", "age": 1}',
    )
    for kind in KINDS:
        texts = [f'{{"ind": {key}, {payload[kind]}}}' for key in KEYS_INVALID]
        texts += [f'{{"index": {key}, {payload[kind]}}}' for key in KEYS_INVALID]
        texts += [
            "{}",
            f"{{{payload[kind]}}}",
            f'{{"ind": "1", "index": "1", {payload[kind]}}}',
            f'{{"ind": 1, "ind": null, {payload[kind]}}}',
            f'{{"IND": 1, "Index": 1, "ind ": 1, {payload[kind]}}}',
            f'{{"nested": {{"ind": 1}}, {payload[kind]}}}',
        ]
        texts += [f'{{"ind": {stream.key()}{rest}}}' for rest in no_payload]
        others = [other for other in KINDS if other != kind]
        for other in others:
            texts += [
                f'{{"ind": {stream.key()}, {payload[other]}}}',
                f'{{"index": {stream.key()}, {payload[other]}, "extra": null}}',
                f'{{"ind": "x", {payload[other]}}}',  # both wrong: the key is said first
            ]
        texts.append(f'{{"ind": {stream.key()}, ' + ", ".join(payload[o] for o in others) + "}")
        texts.append(f'{{"ind": {stream.key()}, "age": null}}' if kind != "user" else '{"ind": 1}')
        for raw in (*MALFORMED, *NOT_OBJECTS, *(text.encode() for text in texts)):
            stream.send(kind, raw)
        for blank in (b"", b"\r", b" ", b"\t \r"):
            stream.send(kind, blank)
