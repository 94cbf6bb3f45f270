"""The oracle against examples worked by hand, against published answers, and on hostile lines."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import hostile, oracle
from tests.oracle import Landed, Person, Rejected, land, moment, parse, stage

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data missing")

MAX = 2**63 - 1
OWN = {"pin": '"title": "x"', "geo": '"country": "x"', "user": '"age": 30'}


def landed(kind: str, text: str) -> Landed:
    result = land(kind, text.encode())
    assert isinstance(result, Landed), result
    return result


def reason(kind: str, raw: bytes | str) -> str:
    raw = raw.encode() if isinstance(raw, str) else raw
    result = land(kind, raw)
    assert isinstance(result, Rejected), result
    assert (result.kind, result.raw) == (kind, raw)
    return result.reason


def value(kind: str, field: str, json_text: str) -> tuple[Any, Any]:
    """What a field lands as, and what of it is rescued."""
    record = landed(kind, f'{{"ind": 1, "{field}": {json_text}}}')
    return record.values[field], (record.rescued or {}).get(field, "nothing")


def cleaned(kind: str, **fields: Any) -> dict[str, Any]:
    record = landed(kind, json.dumps({"ind": 1, **fields}))
    return stage(kind, [(0, record)])[1]


# ------------------------------------------------------------------------- landing


@pytest.mark.parametrize("raw", [b"", b" ", b"\r", b"\t \r\n"])
def test_an_empty_line_is_no_record(raw: bytes) -> None:
    assert land("pin", raw) is None


@pytest.mark.parametrize("raw", hostile.MALFORMED, ids=lambda raw: repr(raw[:40]))
@pytest.mark.parametrize("kind", oracle.KINDS)
def test_what_is_not_json_in_utf8_is_malformed(kind: str, raw: bytes) -> None:
    assert reason(kind, raw) == "malformed"


@pytest.mark.parametrize("raw", hostile.NOT_OBJECTS, ids=repr)
def test_json_that_is_no_object(raw: bytes) -> None:
    assert reason("user", raw) == "not_an_object"


@pytest.mark.parametrize("key", hostile.KEYS_INVALID, ids=lambda key: key[:25])
@pytest.mark.parametrize("name", ["ind", "index"])
@pytest.mark.parametrize("kind", oracle.KINDS)
def test_a_key_is_an_integer_from_0_to_the_highest_bigint(kind: str, name: str, key: str) -> None:
    assert reason(kind, f'{{"{name}": {key}, {OWN[kind]}}}') == "invalid_key"


def test_a_record_without_a_key() -> None:
    assert reason("pin", '{"title": "x"}') == "invalid_key"
    assert reason("pin", '{"IND": 1, "title": "x"}') == "invalid_key"
    assert reason("pin", '{"ind": 1, "ind": null, "title": "x"}') == "invalid_key"


@pytest.mark.parametrize(
    ("keys", "ind", "rescued"),
    [
        ('"ind": 7', 7, None),
        ('"index": 7', 7, None),
        ('"ind": 0', 0, None),
        ('"ind": -0', 0, None),
        (f'"ind": {MAX}', MAX, None),
        ('"ind": 7, "index": 8', 7, {"index": 8}),
        ('"index": 8, "ind": 7', 7, {"index": 8}),
        ('"ind": 7, "index": 7', 7, None),
        ('"ind": -0, "index": 0', 0, None),
        ('"ind": "7", "index": 8', 8, {"ind": "7"}),
        ('"ind": null, "index": 8', 8, {"ind": None}),
        ('"ind": 7, "index": null', 7, {"index": None}),
        ('"ind": 7, "index": 7.0', 7, {"index": Decimal(7)}),
        (f'"ind": {MAX + 1}, "index": 8', 8, {"ind": MAX + 1}),
        ('"ind": 6, "ind": 7', 7, None),
        ('"\\u0069nd": 7', 7, None),
    ],
)
@pytest.mark.parametrize("kind", oracle.KINDS)
def test_which_key_counts_and_what_becomes_of_the_other(
    kind: str, keys: str, ind: int, rescued: dict[str, Any] | None
) -> None:
    record = landed(kind, f"{{{keys}, {OWN[kind]}}}")
    assert (record.ind, record.rescued) == (ind, rescued)


@pytest.mark.parametrize("kind", oracle.KINDS)
@pytest.mark.parametrize("other", oracle.KINDS)
def test_misrouted_is_another_kinds_fields_and_none_of_its_own(kind: str, other: str) -> None:
    for field in oracle.FIELDS[other]:
        raw = f'{{"ind": 1, "{field}": null, "extra": 1}}'
        if kind == other:
            assert isinstance(land(kind, raw.encode()), Landed)
        else:
            assert reason(kind, raw) == "misrouted"
            both = landed(kind, f'{{"ind": 1, "{field}": 5, {OWN[kind]}}}')
            assert both.rescued == {field: 5}


def test_a_record_without_a_payload_field_of_any_kind_is_empty() -> None:
    assert reason("pin", '{"ind": 1}') == "empty"
    assert reason("pin", '{"ind": 1, "extra": "x", "Title": "x"}') == "empty"
    assert reason("geo", '{"ind": 1, "nested": {"country": "x"}}') == "empty"


def test_the_first_reason_of_the_table_is_given() -> None:
    assert reason("pin", "{}") == "invalid_key"
    assert reason("pin", '{"ind": "x", "country": "x"}') == "invalid_key"
    assert reason("pin", "[]") == "not_an_object"
    assert reason("pin", '["\\ud800"]') == "malformed"


def test_nesting_is_allowed_to_a_depth_and_brackets_in_texts_nest_nothing() -> None:
    def nested(levels: int) -> str:
        return f'{{"ind": 1, "title": "x", "extra": {"[" * (levels - 1)}{"]" * (levels - 1)}}}'

    assert isinstance(land("pin", nested(500).encode()), Landed)
    assert reason("pin", nested(501)) == "malformed"
    brackets = '[{"' * 5000 + "\\"
    record = landed("pin", json.dumps({"ind": 1, "title": brackets}))
    assert record.values["title"] == brackets


@pytest.mark.parametrize(
    ("json_text", "text", "rescued"),
    [
        ('"as it came "', "as it came ", "nothing"),
        ('""', "", "nothing"),
        ("null", None, "nothing"),
        ('"\\u0000\\ud83d\\ude00 \\\\ud83d"', "\x00😀 \\ud83d", "nothing"),
        ("1.50", "1.50", "nothing"),
        ("-0", "-0", "nothing"),
        ("1E+2", "1E+2", "nothing"),
        ("1" * 5000, "1" * 5000, "nothing"),
        ("1e400", "1e400", "nothing"),
        ("true", "true", "nothing"),
        ("false", "false", "nothing"),
        ("[]", None, []),
        ('{"a": [1.5, null]}', None, {"a": [Decimal("1.5"), None]}),
    ],
    ids=lambda text: str(text)[:20],
)
def test_string_fields(json_text: str, text: str | None, rescued: Any) -> None:
    strings = [
        (kind, field)
        for kind in oracle.KINDS
        for field, sort in oracle.FIELDS[kind].items()
        if sort == "text"
    ]
    assert len(strings) == 15
    for kind, field in strings:
        assert value(kind, field, json_text) == (text, rescued)


INTEGERS: list[tuple[str, int]] = [
    ("34", 34),
    ("-1", -1),
    ("-0", 0),
    ("34.0", 34),
    ("3.4e1", 34),
    ("340e-1", 34),
    ("-0.0", 0),
    ("0e99999999999999999999", 0),
    (str(MAX), MAX),
    (f"{MAX}.0", MAX),
    (str(-MAX - 1), -MAX - 1),
    ("9007199254740993.0", 9007199254740993),
    ('"34"', 34),
    ('" \\t34\\n"', 34),
    ('"+34"', 34),
    ('"-34"', -34),
    ('"007"', 7),
    (f'"{"0" * 5000}7"', 7),
    (f'"{MAX}"', MAX),
]
NO_INTEGERS: list[tuple[str, Any]] = [
    ("34.5", Decimal("34.5")),
    ("1e-1", Decimal("0.1")),
    ("true", True),
    ("false", False),
    ("[34]", [34]),
    ("{}", {}),
    (str(MAX + 1), MAX + 1),
    (f"{MAX + 1}.0", MAX + 1),
    ("1e999999999", Decimal("1e999999999")),
    ("1e-999999999", Decimal("1e-999999999")),
    ("1" * 5000, Decimal("1" * 5000)),
    (f'"{MAX + 1}"', str(MAX + 1)),
    ('"34.0"', "34.0"),
    ('"3.4e1"', "3.4e1"),
    ('"+ 34"', "+ 34"),
    ('"\\u00a034"', "\u00a034"),
    ('"３４"', "３４"),
    ('""', ""),
    ('"thirty"', "thirty"),
]


@pytest.mark.parametrize(("kind", "field"), [("pin", "downloaded"), ("user", "age")])
def test_integer_fields(kind: str, field: str) -> None:
    assert value(kind, field, "null") == (None, "nothing")
    for json_text, integer in INTEGERS:
        assert value(kind, field, json_text) == (integer, "nothing"), json_text[:40]
    for json_text, rescued in NO_INTEGERS:
        assert value(kind, field, json_text) == (None, rescued), json_text[:40]


@pytest.mark.parametrize("field", ["latitude", "longitude"])
def test_double_fields(field: str) -> None:
    for json_text, double in (
        ("1.5", 1.5),
        ("7", 7.0),
        ("-91", -91.0),
        ("1e308", 1e308),
        ("1e-999999999", 0.0),
        ("1" + "0" * 30, 1e30),
        ("null", None),
    ):
        assert value("geo", field, json_text) == (double, "nothing")
    for json_text, rescued in (
        ("1e400", Decimal("1e400")),
        ("1" * 5000, Decimal("1" * 5000)),
        ('"1.5"', "1.5"),
        ("true", True),
        ("[1.5]", [1.5]),
    ):
        assert value("geo", field, json_text) == (None, rescued)


def test_missing_fields_are_null_and_undeclared_ones_are_rescued() -> None:
    record = landed("geo", '{"ind": 1, "latitude": 1, "title": null, "": {"a": 1, "a": 2.0}}')
    assert record.values == {"timestamp": None, "latitude": 1.0, "longitude": None, "country": None}
    assert record.rescued == {"title": None, "": {"a": 2}}
    assert landed("geo", '{"index": 1, "country": "x"}').rescued is None


def test_of_a_member_given_twice_the_last_counts() -> None:
    record = landed("user", '{"ind": 1, "age": "x", "first_name": "a", "age": 3, "first_name": []}')
    assert (record.values["age"], record.values["first_name"]) == (3, None)
    assert record.rescued == {"first_name": []}


@given(st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\uD800", "\\\\", "\\n", "u", "d8", "é"])))
def test_a_text_is_refused_where_it_cannot_be_utf8(parts: list[str]) -> None:
    text = '"' + "".join(parts) + '"'
    try:
        json.loads(text).encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match="surrogate"):
            parse(text)
    else:
        assert parse(text) == json.loads(text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_any_value_in_an_undeclared_field_is_rescued_whole(rubbish: Any) -> None:
    record = landed("pin", json.dumps({"ind": 1, "title": "x", "extra": rubbish}))
    assert record.rescued == {"extra": json.loads(json.dumps(rubbish), parse_float=Decimal)}


# ------------------------------------------------------------------------- staging


def test_the_latest_of_a_post_is_staged_whatever_the_order_it_is_read_in() -> None:
    old, new = landed("user", '{"ind": 1, "age": 20}'), landed("user", '{"ind": 1, "last_name":1}')
    other = landed("user", '{"ind": 2, "age": 30}')
    for rows in ([(1, old), (2, new), (0, other)], [(0, other), (2, new), (1, old)]):
        staged = stage("user", rows)
        assert {ind: row["age"] for ind, row in staged.items()} == {1: None, 2: 30}
        assert staged[1]["user_name"] == "1"
    assert stage("user", [(1, old), (2, new), (3, old)])[1]["age"] == 20
    assert stage("user", [(1, old), (1, old)])[1]["age"] == 20
    with pytest.raises(ValueError, match="neither later"):
        stage("user", [(1, old), (1, new)])


def test_columns_in_their_order() -> None:
    assert list(cleaned("pin", title="x")) == [
        *("ind", "unique_id", "title", "description", "follower_count", "poster_name"),
        *("tag_list", "is_image_or_video", "image_src", "save_location", "category"),
    ]
    assert list(cleaned("geo", country="x")) == ["ind", "country", "coordinates", "timestamp"]
    assert list(cleaned("user", age=1)) == ["ind", "user_name", "age", "date_joined"]


def test_white_space_is_ascii_white_space_and_unicode_separators() -> None:
    everything = map(chr, range(sys.maxunicode + 1))
    separators = {c for c in everything if unicodedata.category(c) in ("Zs", "Zl", "Zp")}
    assert set(oracle.SPACE) == separators | set("\t\n\x0b\f\r")


@pytest.mark.parametrize(
    "field",
    [
        *("unique_id", "title", "description", "poster_name", "tag_list"),
        *("is_image_or_video", "image_src", "save_location", "category"),
    ],
)
def test_pin_texts_are_trimmed_and_empty_ones_are_null(field: str) -> None:
    def clean(text: str | None) -> Any:
        return cleaned("pin", **{field: text})[field]

    assert clean(f"{oracle.SPACE}a \u00a0b{oracle.SPACE}") == "a \u00a0b"
    assert clean(oracle.SPACE) is None
    assert clean("") is None
    assert clean(None) is None
    for mark in hostile.NOT_WHITE_SPACE:
        assert clean(f" {mark} ") == mark


@pytest.mark.parametrize(
    ("field", "text"),
    [(field, text) for field, texts in hostile.NO_DATA.items() for text in texts],
)
def test_no_data_texts_are_null_in_their_field_only(field: str, text: str) -> None:
    assert cleaned("pin", **{field: text})[field] is None
    assert cleaned("pin", **{field: f"\u00a0{text}\n"})[field] is None
    if field != "follower_count":
        assert cleaned("pin", **{field: text.lower()})[field] == text.lower()
        assert cleaned("pin", **{field: f"{text} x"})[field] == f"{text} x"
    assert cleaned("pin", category=text)["category"] == text
    assert cleaned("geo", country=text)["country"] == text


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("Local save in /data/art", "/data/art"),
        (" Local save in\u00a0\n/data/art ", "/data/art"),
        ("Local save in/data/art", "/data/art"),
        ("Local save in", None),
        ("Local save in  ", None),
        ("Local save in Local save in /x", "Local save in /x"),
        ("local save in /x", "local save in /x"),
        ("/x Local save in", "/x Local save in"),
    ],
)
def test_save_location(text: str, location: str | None) -> None:
    assert cleaned("pin", save_location=text)["save_location"] == location


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("00", 0),
        ("437", 437),
        ("1.9", 1),
        ("5k", 5_000),
        ("5K", 5_000),
        (" 3k\u00a0", 3_000),
        ("1.5k", 1_500),
        ("0.0009k", 0),
        ("1.123456k", 1_123),
        ("15M", 15_000_000),
        ("15m", 15_000_000),
        ("4.35M", 4_350_000),
        ("2.5B", 2_500_000_000),
        ("2.5b", 2_500_000_000),
        ("999999999999", 999_999_999_999),
        ("9007199254.740993M", 9_007_199_254_740_993),
        ("9223372036.854775B", 9_223_372_036_854_775_000),
        (1500, 1500),
        (1.5, 1),
        ("9223372036.854776B", None),
        ("9999999999B", None),
        ("999999999999B", None),
        ("1234567890123", None),
        ("1.1234567k", None),
        ("1e3", None),
        ("-5", None),
        ("+5", None),
        ("5 k", None),
        ("5kk", None),
        (".5k", None),
        ("5.k", None),
        ("1,000", None),
        ("９k", None),
        ("٣", None),
        ("5\u212a", None),
        ("k", None),
        ("", None),
        (None, None),
        (True, None),
        (["5k"], None),
        ("User Info Error", None),
    ],
)
def test_follower_count(text: Any, count: int | None) -> None:
    assert cleaned("pin", follower_count=text, title="x")["follower_count"] == count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-08-28 03:52:47", datetime(2020, 8, 28, 3, 52, 47)),
        ("2020-08-28T03:52:47", datetime(2020, 8, 28, 3, 52, 47)),
        ("2020:08:28 03:52:47", datetime(2020, 8, 28, 3, 52, 47)),
        ("\u00a02020-08-28 03:52:47\n", datetime(2020, 8, 28, 3, 52, 47)),
        ("2020-08-28 03:52:47.5", datetime(2020, 8, 28, 3, 52, 47, 500_000)),
        ("2020-08-28T03:52:47.000001Z", datetime(2020, 8, 28, 3, 52, 47, 1)),
        ("2020-08-28 03:52:47Z", datetime(2020, 8, 28, 3, 52, 47)),
        ("2020-08-28T03:52:47-00:00", datetime(2020, 8, 28, 3, 52, 47)),
        ("2021-01-01T00:30:00+01:00", datetime(2020, 12, 31, 23, 30)),
        ("2020-12-31 23:45:00.25-00:30", datetime(2021, 1, 1, 0, 15, 0, 250_000)),
        ("2020-01-01T00:00:00+18:00", datetime(2019, 12, 31, 6)),
        ("2020-01-01T00:00:00-18:00", datetime(2020, 1, 1, 18)),
        ("2020-01-01T00:00:00+05:45", datetime(2019, 12, 31, 18, 15)),
        ("2020-02-29 00:00:00", datetime(2020, 2, 29)),
        ("2000:02:29 00:00:00", datetime(2000, 2, 29)),
        ("0001-01-01 00:00:00", datetime(1, 1, 1)),
        ("9999-12-31T23:59:59.999999Z", datetime.max),
        ("0001-01-01T00:00:00+00:01", None),
        ("9999-12-31T23:59:59-00:01", None),
        ("0000-01-01 00:00:00", None),
        ("0000-12-31T23:59:59-18:00", None),
        ("2018-02-29 00:00:00", None),
        ("1900-02-29 00:00:00", None),
        ("2020-02-30 00:00:00", None),
        ("2020:02:30 00:00:00", None),
        ("2020-01-01 24:00:00", None),
        ("2016-12-31 23:59:60", None),
        ("2020-01-01T00:00:00+18:01", None),
        ("2020-01-01T00:00:00-19:00", None),
        ("2020-01-01T00:00:00+01:60", None),
        ("2020-01-01T00:00:00+0100", None),
        ("2020-01-01T00:00:00+01", None),
        ("2020-01-01T00:00:00 +01:00", None),
        ("2020-01-01T00:00:00\u221201:00", None),
        ("2020-01-01t00:00:00", None),
        ("2020-01-01T00:00:00z", None),
        ("2020-01-01T00:00:00.", None),
        ("2020-01-01T00:00:00.1234567", None),
        ("2020-01-01T00:00:00,5", None),
        ("2020:01:01 00:00:00.5", None),
        ("2020:01:01 00:00:00Z", None),
        ("2020:01:01T00:00:00", None),
        ("2020-01-01  00:00:00", None),
        ("2020-01-01", None),
        ("2020-1-1 0:00:00", None),
        ("12020-01-01 00:00:00", None),
        ("２０２０-01-01 00:00:00", None),
        ("1577836800", None),
        ("now", None),
        ("", None),
        (None, None),
    ],
)
def test_times(text: str | None, expected: datetime | None) -> None:
    assert moment(text) == expected
    assert cleaned("geo", timestamp=text)["timestamp"] == expected
    assert cleaned("user", date_joined=text)["date_joined"] == expected


@pytest.mark.parametrize(
    ("first", "last", "name"),
    [
        ("Ann", "Lee", "Ann Lee"),
        ("\u00a0Ann ", "\tLee\n", "Ann Lee"),
        ("Ann  B", "Lee", "Ann  B Lee"),
        ("Ann", None, "Ann"),
        (" ", "Lee", "Lee"),
        (None, "", None),
        (None, None, None),
        (5, True, "5 true"),
        (["Ann"], "Lee", "Lee"),
    ],
)
def test_user_name(first: Any, last: Any, name: str | None) -> None:
    assert cleaned("user", first_name=first, last_name=last)["user_name"] == name


def test_coordinates_need_both() -> None:
    assert cleaned("geo", latitude=0, longitude=-1.5)["coordinates"] == [0.0, -1.5]
    assert cleaned("geo", latitude=0, longitude=None)["coordinates"] is None
    assert cleaned("geo", longitude=1)["coordinates"] is None
    assert cleaned("geo", latitude="1", longitude=1)["coordinates"] is None


# ------------------------------------------------------------------------- answers


def pins(*rows: tuple[int, str | None, str | None, int | None]) -> dict[int, dict[str, Any]]:
    return {
        ind: {"category": category, "poster_name": poster, "follower_count": count}
        for ind, category, poster, count in rows
    }


def geos(*rows: tuple[int, str | None, str | None]) -> dict[int, dict[str, Any]]:
    return {ind: {"country": country, "timestamp": moment(time)} for ind, country, time in rows}


def users(*rows: tuple[int, str | None, int | None, str | None]) -> dict[int, dict[str, Any]]:
    return {
        ind: {"user_name": name, "age": age, "date_joined": moment(joined)}
        for ind, name, age, joined in rows
    }


def test_every_answer_is_given_with_its_columns() -> None:
    assert oracle.answers({}, {}, {}) == {mart: [] for mart in oracle.COLUMNS}
    pin = pins((1, "art", "p", 5))
    geo, user = geos((1, "X", "2018-01-01 00:00:00")), users((1, "A", 18, "2015-01-01 00:00:00"))
    given_rows = oracle.answers(pin, geo, user)
    assert {name: len(row) for name, (row,) in given_rows.items()} == {
        name: len(columns) for name, columns in oracle.COLUMNS.items()
    }


def test_popular_category_keeps_ties_and_leaves_nulls_out() -> None:
    pin = pins(
        *((n, "art", None, None) for n in (1, 2)),
        *((n, "travel", None, None) for n in (3, 4)),
        (5, "beauty", None, None),
        *((n, None, None, None) for n in (6, 7, 8)),
        *((n, "quotes", None, None) for n in (9, 10, 11)),
    )
    times = ("2018-01-01 00:00:00", "2018-12-31 23:59:59", "2018-06-01 00:00:00")
    geo = geos(
        *((n, "X", times[n % 3]) for n in range(1, 9)),
        (9, None, None),
        (10, None, "2017-12-31 23:59:59"),
        (11, None, "2023-01-01 00:00:00"),
        (12, "Y", "2019-01-01 00:00:00"),  # its pin is missing
    )
    user = users(*((n, None, 24, None) for n in range(1, 9)), (9, "A", 17, None))
    result = oracle.answers(pin, geo, user)
    assert result["popular_category_by_country"] == [("X", "art", 2), ("X", "travel", 2)]
    assert result["popular_category_by_year"] == [(2018, "art", 2), (2018, "travel", 2)]
    assert result["popular_category_by_age_group"] == [
        ("18-24", "art", 2),
        ("18-24", "travel", 2),
    ]
    # A country and a year count without any user record.
    alone = oracle.answers(pin, geo, {})
    assert alone["popular_category_by_country"] == result["popular_category_by_country"]
    assert alone["popular_category_by_year"] == result["popular_category_by_year"]


def test_category_by_age_group_takes_the_age_on_the_posts_own_record() -> None:
    joined = "2016-01-01 00:00:00"
    result = oracle.answers(
        pins((1, "art", None, 1), (2, "travel", None, 9)),
        {},
        users((1, "A", 24, joined), (2, "A", 25, joined)),
    )
    assert result["popular_category_by_age_group"] == [("18-24", "art", 1), ("25-35", "travel", 1)]
    assert result["median_followers_by_age_group"] == [("25-35", 9.0)]


def test_years_are_those_of_utc_within_their_bounds() -> None:
    geo = geos(
        (1, None, "2018-01-01T00:30:00+01:00"),
        (2, None, "2017-12-31T23:30:00-01:00"),
        (3, None, "2022-12-31T23:59:59.999999Z"),
        (4, None, "2022-12-31T23:30:00-01:00"),
    )
    pin = pins(*((n, f"c{n}", None, 5) for n in range(1, 9)))
    assert oracle.answers(pin, geo, {})["popular_category_by_year"] == [
        (2018, "c2", 1),
        (2022, "c3", 1),
    ]
    user = users(
        (1, "A", 20, "2015-01-01T00:30:00+01:00"),
        (2, "A", 20, "2014-12-31T23:30:00-01:00"),
        (3, "A", 20, "2020-12-31 23:59:59"),
        (4, "A", 20, "2021-01-01 00:00:00"),
    )
    result = oracle.answers(pin, {}, user)
    assert result["users_joined_by_year"] == [(2015, 1), (2020, 1)]
    assert result["median_followers_by_join_year"] == [(2015, 5.0), (2020, 5.0)]
    assert result["median_followers_by_join_year_and_age_group"] == [
        (2015, "18-24", 5.0),
        (2020, "18-24", 5.0),
    ]


def test_top_users_by_country() -> None:
    pin = pins(
        (1, None, "p", 5),
        (2, None, "p", 9),  # its highest in X counts, once
        (3, None, "p", 9),
        (4, None, "q", 9),
        (5, None, "r", 8),
        (6, None, None, 100),
        (7, None, "s", None),
        (8, None, "p", 3),
        (9, None, "t", 9),
        (10, None, "t", 0),
        (11, None, "u", 999),  # in no country
        (12, None, "v", None),
    )
    geo = geos(
        *((n, "X", None) for n in range(1, 8)),
        (8, "Y", None),
        (9, "Z", None),
        (10, "O", None),
        (11, None, None),
        (12, "N", None),
    )
    result = oracle.answers(pin, geo, {})
    top = [("X", "p", 9), ("X", "q", 9), ("Z", "t", 9)]
    assert result["top_user_by_country"] == [("O", "t", 0), top[0], top[1], ("Y", "p", 3), top[2]]
    assert result["country_of_top_user"] == top


@pytest.mark.parametrize(
    ("age", "group"),
    [
        (None, None),
        (-1, None),
        (17, None),
        (18, "18-24"),
        (24, "18-24"),
        (25, "25-35"),
        (35, "25-35"),
        (36, "36-50"),
        (50, "36-50"),
        (51, "50+"),
        (200, "50+"),
    ],
)
def test_age_groups(age: int | None, group: str | None) -> None:
    assert oracle.age_group(age) == group


def test_a_person_is_a_name_and_a_joining_date() -> None:
    early, late = "2015-06-01 00:00:00", "2016:06:01 00:00:00"
    user = users(
        (1, "A", 24, early),
        (2, "A", 25, early),
        (3, "A", None, "2015-06-01T02:00:00+02:00"),
        (4, "A", None, late),
        (5, "B", 30, early),
        (6, None, 30, early),
        (7, "C", 30, None),
    )
    pin = pins(
        (1, None, None, 647_000),
        (2, None, None, None),
        (3, None, None, 648_000),
        (5, None, None, None),
        (6, None, None, 1),
        (7, None, None, 1),
        (8, None, None, 1),
    )
    assert oracle.people(pin, user) == [
        Person("A", datetime(2015, 6, 1), 25, 648_000),
        Person("A", datetime(2016, 6, 1), None, None),
        Person("B", datetime(2015, 6, 1), 30, None),
    ]
    result = oracle.answers(pin, {}, user)
    assert result["users_joined_by_year"] == [(2015, 2), (2016, 1)]
    assert result["median_followers_by_age_group"] == [("25-35", 648_000.0)]
    assert result["median_followers_by_join_year"] == [(2015, 648_000.0)]


def test_a_median_is_over_people_and_the_mean_of_the_middle_two() -> None:
    joined = ("2015-01-01 00:00:00", "2016-01-01 00:00:00")
    user = users(
        *((n, "A", 20, joined[0]) for n in range(1, 6)),  # five posts, one person
        (6, "B", 20, joined[0]),
        (7, "C", 20, joined[1]),
        (8, "D", 40, joined[1]),
        (9, "E", None, joined[1]),  # a year, no group
        (10, "F", 60, "2013-01-01 00:00:00"),  # a group, no year
    )
    pin = pins(*((n, None, None, n) for n in range(1, 11)))
    result = oracle.answers(pin, {}, user)
    assert result["median_followers_by_age_group"] == [
        ("18-24", 6.0),
        ("36-50", 8.0),
        ("50+", 10.0),
    ]
    assert result["median_followers_by_join_year"] == [(2015, 5.5), (2016, 8.0)]
    assert result["median_followers_by_join_year_and_age_group"] == [
        (2015, "18-24", 5.5),
        (2016, "18-24", 7.0),
        (2016, "36-50", 8.0),
    ]


# -------------------------------------------------------------------- public data


def staged_files(folder: str, pattern: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Stage one raw file a kind, in the order of its lines; nothing in it is rejected."""
    staged = {}
    for kind in oracle.KINDS:
        lines = (DATA / folder / pattern.format(kind)).read_bytes().split(b"\n")
        records = [landed(kind, line.decode()) for line in lines if line]
        assert not any(record.rescued for record in records)
        staged[kind] = stage(kind, enumerate(records))
    return staged


def published(name: str) -> Counter[tuple[str, ...]]:
    with (DATA / "ref_chefdata_322" / name).open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return Counter(map(tuple, rows))


def as_written(rows: Iterable[tuple[Any, ...]]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(map(str, row)) for row in rows)


@needs_data
def test_answers_1_2_and_4_are_the_published_ones() -> None:
    staged = staged_files("ref_chefdata_322", "raw_{}.jsonl")
    result = oracle.answers(**staged)
    for mart, name in (
        ("popular_category_by_country", "q1_top_category_per_country.csv"),
        ("popular_category_by_year", "q2_top_category_per_year.csv"),
        ("popular_category_by_age_group", "q4_top_category_per_age_group.csv"),
    ):
        assert as_written(result[mart]) == published(name)


@needs_data
def test_answers_3_and_3b_differ_from_the_published_ones_as_known() -> None:
    """They list every poster of a country, untrimmed, and one of two countries that tie."""
    result = oracle.answers(**staged_files("ref_chefdata_322", "raw_{}.jsonl"))
    every_poster = published("q3_top_user_per_country.csv")
    trimmed = {(country, poster.strip(), n) for country, poster, n in every_poster if n}
    ours = as_written(result["top_user_by_country"])
    assert set(ours) < trimmed
    highest: dict[str, int] = {}
    for country, _, count in trimmed:
        highest[country] = max(int(count), highest.get(country, 0))
    assert set(ours) == {row for row in trimmed if int(row[2]) == highest[row[0]]}
    top = [(country, str(count)) for country, _, count in result["country_of_top_user"]]
    assert top == [("American Samoa", "8000000"), ("Angola", "8000000")]
    assert published("q3b_country_with_top_user.csv") == Counter(top[1:])


@needs_data
def test_answers_5_to_8_are_the_published_ones_where_people_are_what_they_took_for_people() -> None:
    """Their medians are over posts; their count is of distinct names within a year."""
    staged = staged_files("ref_chefdata_322", "raw_{}.jsonl")
    ours = oracle.answers(**staged)
    post_by_post = {
        ind: {**row, "user_name": f"the author of {ind}"} for ind, row in staged["user"].items()
    }
    theirs = oracle.answers(staged["pin"], staged["geo"], post_by_post)
    for mart, name, columns in (
        ("median_followers_by_age_group", "q5_median_by_age_group.csv", (0, 1)),
        ("median_followers_by_join_year", "q7_median_by_join_year.csv", (0, 1)),
        (
            "median_followers_by_join_year_and_age_group",
            "q8_median_by_join_year_age_group.csv",
            (1, 0, 2),
        ),
    ):
        rows = [tuple(row[column] for column in columns) for row in theirs[mart]]
        assert as_written(rows) == published(name)
        assert theirs[mart] != ours[mart]

    by_name_and_year = {
        ind: {**row, "date_joined": datetime(row["date_joined"].year, 1, 1)}
        for ind, row in staged["user"].items()
    }
    names = oracle.answers({}, {}, by_name_and_year)["users_joined_by_year"]
    assert as_written(names) == published("q6_users_joined_per_year.csv")
    assert names == [(2015, 97), (2016, 120), (2017, 56)]
    assert ours["users_joined_by_year"] == [(2015, 99), (2016, 120), (2017, 56)]


@needs_data
def test_cleaned_tables_are_the_published_ones_but_for_white_space() -> None:
    """They do not trim: a description ends in a no-break space, a location begins with a space."""
    staged = staged_files("ref_chefdata_322", "raw_{}.jsonl")
    differing: Counter[str] = Counter()
    for kind in oracle.KINDS:
        text = (DATA / "ref_chefdata_322" / f"clean_{kind}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.split("\n") if line]
        assert {row["ind"] for row in rows} == set(staged[kind])
        assert len(rows) == len(staged[kind]) == 316
        for row in rows:
            ours = staged[kind][row["ind"]]
            for column, theirs in row.items():
                if column in ("timestamp", "date_joined"):
                    assert theirs == f"{ours[column]:%Y-%m-%dT%H:%M:%S}.000+0000"
                elif theirs != ours[column]:
                    assert theirs.strip(oracle.SPACE) == ours[column]
                    differing[column] += 1
    assert differing == {"save_location": 316, "description": 123, "poster_name": 5, "title": 1}


@needs_data
def test_the_public_emulators_stream_lands_whole_and_its_replays_change_nothing() -> None:
    """The emulator was started twice: its first 23 posts stand twice at the beginning."""
    drawn = [int(ind) for ind in (DATA / "seed100_stream" / "draw_order.txt").read_text().split()]
    once: dict[str, dict[int, dict[str, Any]]] = {}
    for kind in oracle.KINDS:
        text = (DATA / "seed100_stream" / f"raw_{kind}.jsonl").read_text(encoding="utf-8")
        records = [landed(kind, line) for line in text.split("\n") if line]
        assert [record.ind for record in records] == drawn[:23] + drawn
        first = {record.ind: record for record in reversed(records)}
        once[kind] = stage(kind, enumerate(first.values()))
        assert len(once[kind]) == 2019
    replayed = staged_files("seed100_stream", "raw_{}.jsonl")
    assert replayed == once
    assert oracle.answers(**replayed) == oracle.answers(**once)


@needs_data
def test_a_broken_producers_records_without_a_key_are_rejected() -> None:
    """594 of its geolocations say `"ind": null`; its pins of nothing but nulls are records."""
    reasons: dict[str, Counter[str]] = {}
    staged: dict[str, dict[int, dict[str, Any]]] = {}
    for kind in oracle.KINDS:
        path = DATA / "polygonwindow_kinesis_850" / f"kinesis_raw_{kind}.jsonl"
        results = [land(kind, line) for line in path.read_bytes().split(b"\n")]
        reasons[kind] = Counter(r.reason for r in results if isinstance(r, Rejected))
        staged[kind] = stage(kind, ((n, r) for n, r in enumerate(results) if isinstance(r, Landed)))
    assert reasons == {"pin": {}, "geo": {"invalid_key": 594}, "user": {}}
    assert {kind: len(rows) for kind, rows in staged.items()} == {
        "pin": 355,
        "geo": 212,
        "user": 356,
    }
    assert {row["coordinates"] for row in staged["geo"].values()} == {None}


@needs_data
def test_what_a_rest_proxy_returned_holds_two_misrouted_records() -> None:
    reasons: dict[str, Counter[str]] = {}
    for kind in oracle.KINDS:
        path = DATA / "RegnixS_rest_proxy_consumer" / f"{kind}_consumer.json"
        values = [record["value"] for record in json.loads(path.read_text(encoding="utf-8"))]
        results = [land(kind, json.dumps(record).encode()) for record in values]
        reasons[kind] = Counter(r.reason for r in results if isinstance(r, Rejected))
    assert reasons == {"pin": {}, "geo": {}, "user": {"misrouted": 2}}


# ------------------------------------------------------------------- hostile lines

SAMPLES = [(0, 0), (1, 1), (2, 40), (3, 400)]


def results_of(seed: int, posts: int) -> dict[str, list[Landed | Rejected | None]]:
    lines = hostile.hostile_lines(seed, posts)
    return {kind: [land(kind, raw) for raw in lines[kind]] for kind in oracle.KINDS}


def stage_of(seed: int, posts: int) -> dict[str, dict[int, dict[str, Any]]]:
    return {
        kind: stage(kind, ((n, r) for n, r in enumerate(results) if isinstance(r, Landed)))
        for kind, results in results_of(seed, posts).items()
    }


def test_hostile_lines_are_the_same_for_the_same_seed_in_any_process() -> None:
    program = (
        "import hashlib; from tests.hostile import hostile_lines;"
        "print(hashlib.sha256(repr(hostile_lines(7, 60)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1
    assert hostile.hostile_lines(7, 60) != hostile.hostile_lines(8, 60)


@pytest.mark.parametrize(("seed", "posts"), SAMPLES)
def test_hostile_lines_land_in_every_way(seed: int, posts: int) -> None:
    lines = hostile.hostile_lines(seed, posts)
    for kind, results in results_of(seed, posts).items():
        assert not any(b"\n" in raw for raw in lines[kind])
        assert any(raw.endswith(b"}\r") for raw in lines[kind])
        assert max(map(len, lines[kind])) > 200_000
        reasons = Counter(r.reason for r in results if isinstance(r, Rejected))
        assert set(reasons) == {"malformed", "not_an_object", "invalid_key", "misrouted", "empty"}
        assert min(reasons.values()) > 4
        assert None in results
        good = [r for r in results if isinstance(r, Landed)]
        assert len({r.ind for r in good}) < len(good)
        assert {0, MAX} < {r.ind for r in good}
        rescued = [v for r in good for v in (r.rescued or {}).values()]
        assert {type(v) for v in rescued} >= {dict, list, str, int, Decimal, bool, type(None)}
        for field in oracle.FIELDS[kind]:
            assert any(field in (r.rescued or {}) for r in good)
            assert any(r.values[field] is not None for r in good)


@pytest.mark.parametrize(("seed", "posts"), SAMPLES)
def test_hostile_lines_tie_in_every_answer_that_has_winners(seed: int, posts: int) -> None:
    result = oracle.answers(**stage_of(seed, posts))
    for mart, group in (
        *(("popular_category_by_country", country) for country in hostile.PAIR_COUNTRIES),
        *(("top_user_by_country", country) for country in hostile.PAIR_COUNTRIES[1:]),
        *(("country_of_top_user", country) for country in hostile.PAIR_COUNTRIES[1:]),
        *(("popular_category_by_year", year) for year in hostile.PAIR_YEARS),
        ("popular_category_by_age_group", "36-50"),
        ("top_user_by_country", "Zero Land"),
    ):
        assert sum(row[0] == group for row in result[mart]) > 1, (mart, group)
    # One follower apart, and the same number to a double.
    (winner,) = {row[2] for row in result["top_user_by_country"] if row[0] == "Åland Islands"}
    assert winner == 9_007_199_254_740_993
    assert "Null Land" not in {row[0] for row in result["top_user_by_country"]}
    assert {row[0] for row in result["users_joined_by_year"]} == set(oracle.JOIN_YEARS)


def test_hostile_medians_come_from_one_two_and_more_people() -> None:
    medians = oracle.answers(**stage_of(0, 0))["median_followers_by_join_year_and_age_group"]
    assert {(2019, "18-24", 1.5), (2019, "25-35", 7.0), (2019, "50+", 0.0)} <= set(medians)


@pytest.mark.parametrize(
    "shortcut",
    [
        pytest.param(lambda people: {(p.user_name) for p in people}, id="by name alone"),
        pytest.param(lambda people: {p.date_joined for p in people}, id="by date alone"),
    ],
)
def test_hostile_people_share_names_and_dates(
    shortcut: Callable[[list[Person]], set[Any]],
) -> None:
    staged = stage_of(2, 40)
    people = oracle.people(staged["pin"], staged["user"])
    assert len(shortcut(people)) < len(people) < len(staged["user"])
