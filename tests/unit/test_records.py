"""Decoding, held against the oracle: what lands, what is rejected, and that nothing is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestion import records
from ingestion.records import KINDS, Decoded, Kind, decode, is_blank, is_too_deep
from tests import hostile, oracle
from tests.oracle import Landed, Rejected, land

PIN = KINDS["pin"]
kinds = st.sampled_from(list(KINDS.values()))


def outcomes(kind: Kind, raws: Sequence[bytes]) -> list[Landed | Rejected]:
    """What became of each record, in the oracle's words."""
    decoded = decode(kind, raws)
    assert decoded.rows.schema.equals(kind.schema)
    assert list(decoded.indices) == sorted(decoded.indices)
    found: dict[int, Landed | Rejected] = {}
    for index, row in zip(decoded.indices, decoded.rows.to_pylist(), strict=True):
        found[index] = as_landed(kind, row)
    for rejection in decoded.rejected:
        assert rejection.index not in found
        assert rejection.detail
        found[rejection.index] = Rejected(kind.name, rejection.reason.value, raws[rejection.index])
    assert sorted(found) == list(range(len(raws)))
    return [found[index] for index in range(len(raws))]


def as_landed(kind: Kind, row: dict[str, Any]) -> Landed:
    rest = row.pop("_rescued")
    return Landed(kind.name, row.pop("ind"), row, oracle.parse(rest) if rest is not None else None)


def expected(kind: Kind, raws: Sequence[bytes]) -> list[Landed | Rejected]:
    results = [land(kind.name, raw) for raw in raws]
    assert None not in results
    return [result for result in results if result is not None]


def fields(kind: Kind, text: str) -> Landed:
    (found,) = outcomes(kind, [text.encode()])
    assert isinstance(found, Landed), found
    return found


# ------------------------------------------------------------------ against the oracle


@pytest.mark.parametrize("stream", KINDS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_hostile_lines_land_as_the_oracle_says(kind: Kind, stream: str) -> None:
    raws = [raw for raw in hostile.hostile_lines(seed=7, posts=100)[stream] if not is_blank(raw)]
    for raw, found, due in zip(raws, outcomes(kind, raws), expected(kind, raws), strict=True):
        assert found == due, raw[:500]


# Names and values as they stand in a line, so that every spelling can come up.


def spelt(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(json.dumps, texts, ensure_ascii=st.booleans())


foreign_names = spelt(
    st.one_of(
        st.sampled_from([name for kind in KINDS.values() for name in kind.fields]),
        st.sampled_from(["extra", "", "IND", "_rescued", "_position", "Title"]),
        st.text(max_size=5),
    )
)
numbers = st.one_of(
    st.integers().map(str),
    st.integers(-(2**65), 2**65).map(str),
    st.sampled_from([f"{2**63 + step}" for step in (-2, -1, 0, 1)]),
    st.sampled_from(hostile.NUMBERS),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,22})?", fullmatch=True),
)
texts = st.one_of(
    st.text(),
    numbers,
    st.sampled_from([" 12 ", "+7", "-0", "٣", "12\u00a0", "1_000", "\t9\n"]),
    st.sampled_from(hostile.TEXTS),
)
values = st.recursive(
    st.one_of(
        st.sampled_from(["null", "true", "false", "NaN", "-Infinity", "01", "1.", "+1", "'x'"]),
        numbers,
        spelt(texts),
        spelt(texts),
        st.sampled_from(
            [r'"\ud83d"', r'"\ud83d\ude00"', r'"\\ud83d"', r'"\u0000"', r'"\/"', r'"\q"']
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(foreign_names, inner), max_size=3).map(
            lambda items: "{" + ", ".join(f"{name}: {value}" for name, value in items) + "}"
        ),
    ),
    max_leaves=5,
)
good_keys = st.integers(0, 2**63 - 1).map(str)
keys = st.one_of(good_keys, good_keys, st.sampled_from(hostile.KEYS_INVALID), values)
spaces = st.sampled_from(["", "", "", " ", "\t", "\r", "  "])


@st.composite
def objects(draw: st.DrawFn, kind: Kind) -> bytes:
    """A line that is an object, or nearly: names may come twice, values may be no JSON."""
    own = st.sampled_from([json.dumps(name) for name in kind.fields])
    key_names = st.sampled_from(['"ind"', '"index"', '"\\u0069nd"'])
    members = [
        *draw(st.lists(st.tuples(key_names, good_keys), max_size=1)),
        *draw(st.lists(st.tuples(own, values), max_size=3)),
        *draw(st.lists(st.tuples(key_names, keys) | st.tuples(foreign_names, values), max_size=2)),
    ]
    before, after = draw(spaces), draw(spaces)
    colon, comma = f"{draw(spaces)}:{draw(spaces)}", f"{draw(spaces)},{draw(spaces)}"
    body = comma.join(f"{name}{colon}{value}" for name, value in draw(st.permutations(members)))
    return one_line(f"{before}{{{body}}}{after}")


def one_line(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass").replace(b"\n", b" ")


@st.composite
def usual(draw: st.DrawFn, kind: Kind) -> bytes:
    """A record of a kind whose fields have their types, some of them missing or null."""
    record: dict[str, Any] = {
        draw(st.sampled_from(["ind", "index"])): draw(st.integers(0, 2**63 - 1))
    }
    value_of = {
        records.Type.TEXT: st.text(),
        records.Type.INTEGER: st.integers(-(2**63), 2**63 - 1),
        records.Type.DOUBLE: st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
    }
    for name, type_ in kind.fields.items():
        if draw(st.integers(0, 4)):
            record[name] = draw(st.none() | value_of[type_])
    return one_line(json.dumps(record, ensure_ascii=draw(st.booleans())))


@st.composite
def torn(draw: st.DrawFn, kind: Kind) -> bytes:
    """A line with some of its bytes cut out, doubled or replaced."""
    raw = draw(objects(kind) | usual(kind))
    start = draw(st.integers(0, len(raw)))
    end = draw(st.integers(start, min(len(raw), start + 6)))
    put = draw(st.one_of(st.just(b""), st.binary(max_size=3), st.just(raw[start:end] * 2)))
    return (raw[:start] + put + raw[end:]).replace(b"\n", b" ")


def any_line(kind: Kind) -> st.SearchStrategy[bytes]:
    rest = st.binary() | values.map(one_line)
    some = st.one_of(objects(kind), objects(kind), torn(kind), usual(kind), rest)
    return some.filter(lambda raw: not is_blank(raw))


def with_kind(
    of: Callable[[Kind], st.SearchStrategy[bytes]], most: int
) -> st.SearchStrategy[tuple[Kind, list[bytes]]]:
    return kinds.flatmap(
        lambda kind: st.tuples(st.just(kind), st.lists(of(kind), min_size=1, max_size=most))
    )


@settings(max_examples=250, deadline=None)
@given(with_kind(any_line, 1))
@example((PIN, [b'{"ind": null, "index": 8, "title": "x"}']))
@example((PIN, [b'{"ind": 1, "downloaded": 0e99999999999999999999}']))
@example((PIN, [b'{"ind": 1, "title": "x", "extra": "\\ud83d"}']))
@example((PIN, [b'{"ind": 1, "title": null}']))
def test_any_line_lands_or_is_rejected_as_the_oracle_says(case: tuple[Kind, list[bytes]]) -> None:
    assert outcomes(*case) == expected(*case)


@settings(max_examples=50, deadline=None)
@given(with_kind(any_line, 12))
def test_a_record_fares_the_same_whatever_its_neighbours(case: tuple[Kind, list[bytes]]) -> None:
    kind, raws = case
    assert outcomes(kind, raws) == [found for raw in raws for found in outcomes(kind, [raw])]


@settings(max_examples=100, deadline=None)
@given(with_kind(lambda kind: usual(kind) | any_line(kind), 4))
def test_both_ways_of_decoding_agree(case: tuple[Kind, list[bytes]]) -> None:
    fast = decode(*case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_decode_typed", lambda _, raws: [None] * len(raws))
        careful = decode(*case)
    assert fast.rows.equals(careful.rows)
    assert list(fast.indices) == list(careful.indices)
    assert fast.rejected == careful.rejected


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_ordinary_records_take_the_fast_way(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Kind, raw: bytes) -> Any:
        raise AssertionError(f"decoded carefully: {raw!r}")

    values: dict[records.Type, Any] = {"string": "é", "bigint": 3, "double": 1.5}
    payload = {name: values[type_] for name, type_ in kind.fields.items()}
    first, *_ = payload
    monkeypatch.setattr(records, "_decode_carefully", refuse)
    for record in (
        {"ind": 1, **payload},
        {"index": 2**63 - 1, **payload},
        {**payload, "ind": 0},
        {"ind": 1, **payload, first: None},
        {"ind": 1, first: payload[first]},
    ):
        assert decode(kind, [json.dumps(record).encode()]).rows.num_rows == 1


# ----------------------------------------------------------------- by hand, what matters most


def test_nothing_makes_no_rows() -> None:
    decoded = decode(PIN, [])
    assert (decoded.rows.num_rows, list(decoded.indices), decoded.rejected) == (0, [], [])
    assert decoded.rows.schema.equals(PIN.schema)


def test_rows_and_rejections_keep_the_order_they_came_in() -> None:
    raws = [
        b'{"ind": 5, "title": "typed"}',
        b"{",
        b'{"ind": 4, "downloaded": "1"}',
        b'{"ind": 3, "title": "typed", "index": 3}',
        b"7",
        b'{"ind": 2, "title": "typed"}',
        b'{"ind": 1, "extra": 1, "title": ""}',
    ]
    decoded = decode(PIN, raws)
    assert decoded.rows.column("ind").to_pylist() == [5, 4, 3, 2, 1]
    assert decoded.rows.column("downloaded").to_pylist() == [None, 1, None, None, None]
    assert decoded.rows.column("_rescued").to_pylist() == [None] * 4 + ['{"extra":1}']
    assert list(decoded.indices) == [0, 2, 3, 5, 6]
    assert [(item.index, item.reason) for item in decoded.rejected] == [
        (1, "malformed"),
        (4, "not_an_object"),
    ]


def test_what_a_column_cannot_hold_is_rescued_as_it_stood() -> None:
    found = fields(
        KINDS["geo"], '{"ind": 1, "latitude": "12.50", "country": ["a"], "planet": 1.50}'
    )
    assert found.values == {"timestamp": None, "latitude": None, "longitude": None, "country": None}
    (row,) = decode(
        KINDS["geo"], [b'{"ind": 1, "latitude": "12.50", "planet": 1.50, "k\\u00e9": {"a" : [ ]}}']
    ).rows.to_pylist()
    assert json.loads(row["_rescued"]) == {"latitude": "12.50", "planet": 1.5, "ké": {"a": []}}
    assert "1.50" in row["_rescued"]


def test_a_number_given_for_a_text_keeps_its_spelling() -> None:
    found = fields(PIN, '{"ind": 1, "title": 1.50, "description": 1E3, "follower_count": true}')
    assert found.values["title"] == "1.50"
    assert found.values["description"] == "1E3"
    assert found.values["follower_count"] == "true"


def test_a_record_of_another_kind_is_misrouted_and_one_of_both_is_not() -> None:
    found = outcomes(
        KINDS["user"],
        [
            b'{"ind": 1, "category": "art"}',
            b'{"ind": 1, "category": "art", "age": 20}',
            b'{"ind": 1}',
            b'{"ind": 1, "age": null, "category": "art"}',
        ],
    )
    assert [getattr(item, "reason", "landed") for item in found] == [
        "misrouted",
        "landed",
        "empty",
        "landed",
    ]


@pytest.mark.parametrize("bad", hostile.MALFORMED, ids=lambda raw: repr(raw[:30]))
def test_a_malformed_record_harms_no_neighbour(bad: bytes) -> None:
    good = b'{"ind": 1, "title": "x"}'
    decoded: Decoded = decode(PIN, [good, bad, good])
    assert list(decoded.indices) == [0, 2]
    assert [(item.index, item.reason) for item in decoded.rejected] == [(1, "malformed")]


@pytest.mark.parametrize("levels", [499, 500, 501])
@pytest.mark.parametrize("opened", ["[", '{"a":'])
def test_the_deepest_nesting_that_lands(levels: int, opened: str) -> None:
    closed = "]" if opened == "[" else "}"
    inside = opened * (levels - 1) + '"]}[{"' + closed * (levels - 1)
    raw = f'{{"ind": 1, "title": "[{{", "extra": {inside}}}'.encode()
    found = outcomes(PIN, [raw])
    assert found == expected(PIN, [raw])
    assert isinstance(found[0], Rejected if levels > 500 else Landed)


@given(
    st.lists(
        st.sampled_from(['"', "\\", "[", "]", "{", "}", "a", "]" * 9, "[" * 9, '"[" ']), max_size=80
    ),
    st.integers(0, 12),
    st.sampled_from([1, 2, 7, 1 << 20]),
)
def test_depth_is_counted_outside_of_strings(parts: list[str], limit: int, block: int) -> None:
    """The oracle removes strings with a regular expression; records.py counts block by block."""
    text = "".join(parts)
    if not oracle.STRING.sub("", text).count('"') and "\\" not in oracle.STRING.sub("", text):
        with patch.object(records, "_DEPTH_BLOCK", block):
            assert is_too_deep(text.encode(), limit) is (oracle._depth(text) > limit)


def test_depth_of_text_that_is_not_json_is_decided_in_linear_time() -> None:
    """A pattern for strings would try every escaped quote as the start of another one."""
    raw = b'"' + b'\\"' * 2**16 + b"[" * 501
    began = time.perf_counter()
    assert not is_too_deep(raw)
    assert decode(PIN, [raw]).rejected[0].reason == "malformed"
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("levels", [501, 990, 1_500, 9_000, 100_000])
@pytest.mark.parametrize("field", ["extra", "ind", "title", "downloaded"])
def test_no_decoder_sees_deep_nesting(levels: int, field: str) -> None:
    """How deep one may recurse depends on the interpreter: 1,000 in 3.11, 10,000 in 3.13."""
    whole = f'{{"ind": 1, "title": "x", "{field}": {"[" * (levels - 1) + "]" * (levels - 1)}}}'
    torn = f'{{"{field}": {"[" * levels}'
    for text in (whole, torn, "[" * levels, "[" * levels + "]" * levels):
        (rejection,) = decode(PIN, [text.encode()]).rejected
        assert rejection.reason == "malformed"
        assert rejection.detail == "nested more than 500 levels deep"


@pytest.mark.parametrize("raw", [b"", b" ", b"\r", b"\t \r\n", b"\x0b\x0c"])
def test_white_space_is_no_record(raw: bytes) -> None:
    assert is_blank(raw)
    assert land("pin", raw) is None


def test_a_record_as_large_as_a_broker_takes() -> None:
    title = "€" * 3_500_000
    found = fields(PIN, json.dumps({"ind": 1, "title": title}, ensure_ascii=False))
    assert found.values["title"] == title
