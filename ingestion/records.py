"""The three kinds of record: raw bytes in, Arrow rows and rejections out; no I/O.

A record is landed or rejected, never dropped. The common case, an object whose fields all have
their declared types, is decoded by one typed call; everything else takes the careful path, which
applies the rules of the contract field by field and keeps what has no column in ``_rescued``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from math import isfinite
from typing import Annotated, Any

import msgspec
import pyarrow as pa

MAX_INT64 = 2**63 - 1
MIN_INT64 = -(2**63)
#: Nesting beyond this is treated as malformed: decoders differ in where they give up.
MAX_DEPTH = 500

_Key = Annotated[int, msgspec.Meta(ge=0, le=MAX_INT64)]
_Int64 = Annotated[int, msgspec.Meta(ge=MIN_INT64, le=MAX_INT64)]


class Type(StrEnum):
    """How a payload field is stored in bronze."""

    TEXT = "string"
    INTEGER = "bigint"
    DOUBLE = "double"


class Reason(StrEnum):
    """Why a record cannot land, in the order in which the reasons are tried."""

    MALFORMED = "malformed"
    NOT_AN_OBJECT = "not_an_object"
    INVALID_KEY = "invalid_key"
    MISROUTED = "misrouted"
    EMPTY = "empty"


_ARROW = {Type.TEXT: pa.string(), Type.INTEGER: pa.int64(), Type.DOUBLE: pa.float64()}
_ANNOTATION: dict[Type, Any] = {
    Type.TEXT: str | None,
    Type.INTEGER: _Int64 | None,
    Type.DOUBLE: float | None,
}


@dataclass(frozen=True)
class Kind:
    """One kind of record.

    Attributes:
        name: ``pin``, ``geo`` or ``user``; also the name of its bronze table and the last part
            of its topic.
        fields: payload fields in the order of the bronze columns, with their types.
        source_table: the table of the source database it comes from.
    """

    name: str
    fields: dict[str, Type]
    source_table: str

    @property
    def schema(self) -> pa.Schema:
        """Columns of a landed record before its provenance: key, payload, ``_rescued``."""
        payload = [pa.field(name, _ARROW[type_]) for name, type_ in self.fields.items()]
        return pa.schema(
            [pa.field("ind", pa.int64()), *payload, pa.field("_rescued", pa.string())]
        )


PIN = Kind(
    "pin",
    {
        "unique_id": Type.TEXT,
        "title": Type.TEXT,
        "description": Type.TEXT,
        "poster_name": Type.TEXT,
        "follower_count": Type.TEXT,
        "tag_list": Type.TEXT,
        "is_image_or_video": Type.TEXT,
        "image_src": Type.TEXT,
        "downloaded": Type.INTEGER,
        "save_location": Type.TEXT,
        "category": Type.TEXT,
    },
    "pinterest_data",
)
GEO = Kind(
    "geo",
    {
        "timestamp": Type.TEXT,
        "latitude": Type.DOUBLE,
        "longitude": Type.DOUBLE,
        "country": Type.TEXT,
    },
    "geolocation_data",
)
USER = Kind(
    "user",
    {
        "first_name": Type.TEXT,
        "last_name": Type.TEXT,
        "age": Type.INTEGER,
        "date_joined": Type.TEXT,
    },
    "user_data",
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in (PIN, GEO, USER)}

_PAYLOAD_OF_ANY_KIND = frozenset(name for kind in KINDS.values() for name in kind.fields)


@dataclass(frozen=True)
class Rejection:
    """A record that cannot land.

    Attributes:
        index: its place among the raw records of the call, counted from 0.
        reason: why, in the contract's word.
        detail: why, for a person.
    """

    index: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Decoded:
    """What a call of :func:`decode` made of its raw records.

    Attributes:
        rows: the records that land, columns as in :attr:`Kind.schema`, in the order they came.
        indices: for each row, its place among the raw records.
        rejected: the others, in the order they came.
    """

    rows: pa.RecordBatch
    indices: Sequence[int]
    rejected: list[Rejection]


def is_blank(raw: bytes) -> bool:
    """Whether a line holds no record: nothing, or only JSON's white space."""
    return not raw.strip(b" \t\r\n")


def decode(kind: Kind, raws: Sequence[bytes]) -> Decoded:
    """Decode raw records of one kind.

    Args:
        kind: the kind that their topic, stream or table carries.
        raws: one JSON text each, without line end; none of them blank (see :func:`is_blank`).

    Returns:
        Rows and rejections; together as many as ``raws``.
    """
    typed, absent = _typed_decoder(kind)
    rows: list[tuple[Any, ...]] = []
    indices: list[int] = []
    rejected: list[Rejection] = []
    keep, place = rows.append, indices.append
    for index, raw in enumerate(raws):
        try:
            row = typed(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            row = None
        if row is None or row[1:] == absent or row[0] is None:
            try:
                row = _decode_carefully(kind, raw)
            except _RejectedError as error:
                rejected.append(Rejection(index, error.reason, error.detail))
                continue
        keep(row)
        place(index)
    return Decoded(_to_arrow(kind, rows), indices, rejected)


# --- the common case -------------------------------------------------------------------------

_typed_decoders: dict[str, tuple[Callable[[bytes], tuple[Any, ...]], tuple[None, ...]]] = {}


def _typed_decoder(kind: Kind) -> tuple[Callable[[bytes], tuple[Any, ...]], tuple[None, ...]]:
    """A function from JSON to a row, and what the row's payload is when no field was given."""
    if kind.name not in _typed_decoders:
        keys: list[tuple[str, Any, Any]] = [
            ("ind", _Key | None, None),
            ("index", _Key | None, None),
        ]
        payload = [(name, _ANNOTATION[type_], None) for name, type_ in kind.fields.items()]
        struct = msgspec.defstruct(
            f"{kind.name.title()}Record", keys + payload, forbid_unknown_fields=True, gc=False
        )
        parse = msgspec.json.Decoder(struct).decode
        as_tuple = msgspec.structs.astuple

        def typed(raw: bytes) -> tuple[Any, ...]:
            values = as_tuple(parse(raw))
            ind, index = values[0], values[1]
            if ind is None:
                return (index, *values[2:], None)
            if index is None or index == ind:
                return (ind, *values[2:], None)
            return (None, *values[2:], None)  # two keys that differ: the careful path keeps both

        _typed_decoders[kind.name] = (typed, (None,) * (len(payload) + 1))
    return _typed_decoders[kind.name]


# --- the careful path ------------------------------------------------------------------------


class _RejectedError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class _WrongTypeError(Exception):
    """A payload value that its column cannot hold."""


_parse_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_parse_text = msgspec.json.Decoder(str).decode
_INTEGER = re.compile(rb"-?(0|[1-9][0-9]*)")
_INTEGER_IN_TEXT = re.compile(r"[ \t\n\r\f\v]*([+-]?[0-9]+)[ \t\n\r\f\v]*")
_STRING_IN_JSON = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _decode_carefully(kind: Kind, raw: bytes) -> tuple[Any, ...]:
    given = _object_of(raw)
    key, key_name = _key_of(given)
    carried = given.keys() & kind.fields.keys()
    if not carried:
        foreign = sorted(given.keys() & _PAYLOAD_OF_ANY_KIND)
        if foreign:
            raise _RejectedError(
                Reason.MISROUTED, f"carries no field of a {kind.name} record but {foreign[0]!r}"
            )
        raise _RejectedError(Reason.EMPTY, "carries no payload field of any kind")

    rescued: dict[str, msgspec.Raw] = {}
    values: list[Any] = []
    for name, type_ in kind.fields.items():
        value = None
        if name in given:
            try:
                value = _READ[type_](bytes(given[name]))
            except _WrongTypeError:
                rescued[name] = given[name]
        values.append(value)
    for name, text in given.items():
        if name in kind.fields or name == key_name:
            continue
        if name in ("ind", "index") and _key_value(bytes(text)) == key:
            continue
        rescued[name] = text
    return (key, *values, msgspec.json.encode(rescued).decode() if rescued else None)


def _object_of(raw: bytes) -> dict[str, msgspec.Raw]:
    try:
        raw.decode()
        if _depth(raw) > MAX_DEPTH:
            raise _RejectedError(Reason.MALFORMED, f"nested more than {MAX_DEPTH} levels deep")
        return _parse_object(raw)
    except UnicodeDecodeError as error:
        detail = f"not UTF-8: byte {error.start} cannot be read"
        raise _RejectedError(Reason.MALFORMED, detail) from None
    except RecursionError:
        raise _RejectedError(Reason.MALFORMED, "nested too deeply") from None
    except msgspec.ValidationError:
        pass  # may still be malformed behind the first token: a check of the whole text decides
    except msgspec.DecodeError as error:
        raise _RejectedError(Reason.MALFORMED, f"not JSON: {error}") from None
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _RejectedError(Reason.MALFORMED, f"not JSON: {error}") from None
    raise _RejectedError(Reason.NOT_AN_OBJECT, f"JSON, but {_what(raw.lstrip())} and no object")


def _depth(raw: bytes) -> int:
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for byte in _STRING_IN_JSON.sub(b"", raw):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _key_of(given: dict[str, msgspec.Raw]) -> tuple[int, str]:
    for name in ("ind", "index"):
        if name in given:
            key = _key_value(bytes(given[name]))
            if key is not None:
                return key, name
    found = [f"{name} is {_shorten(bytes(given[name]))}" for name in ("ind", "index") if name in given]
    detail = "; ".join(found) if found else "neither ind nor index"
    raise _RejectedError(Reason.INVALID_KEY, f"no integer key from 0 to 2^63-1: {detail}")


def _key_value(text: bytes) -> int | None:
    value = _int64(text) if _INTEGER.fullmatch(text) else None
    return value if value is not None and value >= 0 else None


def _int64(text: str | bytes) -> int | None:
    digits = text.decode() if isinstance(text, bytes) else text
    sign, digits = ("-", digits[1:]) if digits[0] == "-" else ("", digits.removeprefix("+"))
    digits = digits.lstrip("0") or "0"
    if len(digits) > 19:  # int() would refuse thousands of digits
        return None
    value = int(sign + digits)
    return value if MIN_INT64 <= value <= MAX_INT64 else None


def _read_text(text: bytes) -> str | None:
    first = text[:1]
    if first == b'"':
        return _parse_text(text)
    if first in (b"{", b"["):
        raise _WrongTypeError
    return None if first == b"n" else text.decode()


def _read_integer(text: bytes) -> int | None:
    first = text[:1]
    if first == b"n":
        return None
    value: int | None = None
    if first == b'"':
        match = _INTEGER_IN_TEXT.fullmatch(_parse_text(text))
        value = _int64(match[1]) if match else None
    elif first == b"-" or first.isdigit():
        try:
            number = Decimal(text.decode())
        except InvalidOperation:  # an exponent that even Decimal cannot hold
            raise _WrongTypeError from None
        # Compared before it is converted: 1e999999999 has a billion digits as an integer.
        if MIN_INT64 <= number <= MAX_INT64 and number == number.to_integral_value():
            value = int(number)
    if value is None:
        raise _WrongTypeError
    return value


def _read_double(text: bytes) -> float | None:
    first = text[:1]
    if first == b"n":
        return None
    if first == b"-" or first.isdigit():
        value = float(text)
        if isfinite(value):
            return value
    raise _WrongTypeError


_READ: dict[Type, Callable[[bytes], Any]] = {
    Type.TEXT: _read_text,
    Type.INTEGER: _read_integer,
    Type.DOUBLE: _read_double,
}


def _what(text: bytes) -> str:
    names = {b'"': "a string", b"[": "an array", b"t": "a boolean", b"f": "a boolean", b"n": "null"}
    return names.get(text[:1], "a number")


def _shorten(text: bytes, limit: int = 40) -> str:
    shown = text.decode(errors="replace")
    return shown if len(shown) <= limit else shown[:limit] + "…"


# --- columns ---------------------------------------------------------------------------------


def _to_arrow(kind: Kind, rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    schema = kind.schema
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [
        pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
