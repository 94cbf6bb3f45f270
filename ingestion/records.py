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
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_INT64 = 2**63 - 1
MIN_INT64 = -(2**63)
#: Nesting beyond this is treated as malformed: decoders differ in where they give up. The record's
#: own object is the first level.
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
        return pa.schema([pa.field("ind", pa.int64()), *payload, pa.field("_rescued", pa.string())])


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
    """Whether a line holds no record: nothing, or only white space."""
    return not raw.strip()


_QUOTE = ord('"')
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKET_OR_QUOTE = bytes(set(range(256)) - set(b'[{]}"'))
#: Up to so many bytes bytes.count is faster than numpy.
_FEW_BYTES = 4096
#: Brackets and quotes that are counted at a time: the arrays take ten bytes for each.
_DEPTH_BLOCK = 1 << 20


def is_too_deep(raw: bytes, limit: int = MAX_DEPTH, siblings: int = 0) -> bool:
    """Whether a JSON text is nested more than ``limit`` levels deep.

    A decoder that reads a text for which this is False recurses at most ``limit`` times, even where
    the text is not JSON. How deep it may recurse depends on the interpreter: 1,000 levels in
    Python 3.11, 10,000 in 3.13, the thread's stack in 3.14.

    Args:
        raw: the text.
        limit: levels that are allowed.
        siblings: of its arrays and objects, so many are known to enclose none of the others. With
            them a text of many flat records need not be scanned.
    """
    if len(raw) <= limit or _count_opening(raw) - siblings <= limit:
        return False
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    # What is left of strings without brackets is a pair of quotes.
    bare = raw.translate(_STEPS, _NO_BRACKET_OR_QUOTE).replace(b'""', b"")
    depth, inside = 0, np.False_
    for start in range(0, len(bare), _DEPTH_BLOCK):
        steps = np.frombuffer(bare[start : start + _DEPTH_BLOCK], np.int8)
        quotes = steps == _QUOTE
        in_string = np.logical_xor.accumulate(quotes) ^ inside
        depths = depth + np.cumsum(np.where(in_string | quotes, 0, steps), dtype=np.int32)
        if depths.max() > limit:
            return True
        depth, inside = depths[-1], in_string[-1]
    return False


def _count_opening(raw: bytes) -> int:
    if len(raw) <= _FEW_BYTES:
        return raw.count(b"[") + raw.count(b"{")
    text = np.frombuffer(raw, np.uint8)
    return int(np.count_nonzero(text | 0x20 == ord("{")))  # the one bit in which "[" differs


def decode(kind: Kind, raws: Sequence[bytes]) -> Decoded:
    """Decode raw records of one kind; a few thousand at a time are decoded fastest.

    Args:
        kind: the kind that their topic, stream or table carries.
        raws: one JSON text each, without line end; none of them blank (see :func:`is_blank`).

    Returns:
        Rows and rejections; together as many as ``raws``.
    """
    rows = _decode_typed(kind, raws)
    rescued: dict[int, str | None] = {}
    rejected: list[Rejection] = []
    for index in _unsettled(kind, rows):
        try:
            rows[index], rescued[index] = _decode_carefully(kind, raws[index])
        except _RejectedError as error:
            rows[index] = None
            rejected.append(Rejection(index, error.reason, error.detail))
    indices = [index for index, row in enumerate(rows) if row is not None]
    landing = [row for row in rows if row is not None]
    rest = [rescued.get(index) for index in indices]
    return Decoded(_to_arrow(kind, landing, rest), indices, rejected)


# --- the common case -------------------------------------------------------------------------

#: ``ind``, ``index`` and the payload. The key is the one of the two that was given.
_Row = tuple[Any, ...]
_NOT_GIVEN = -1

_typed_decoders: dict[str, Callable[[bytes], Any]] = {}


def _typed_decoder(kind: Kind) -> Callable[[bytes], Any]:
    if kind.name not in _typed_decoders:
        keys: list[tuple[str, Any, Any]] = [("ind", _Key, _NOT_GIVEN), ("index", _Key, _NOT_GIVEN)]
        payload = [(name, _ANNOTATION[type_], None) for name, type_ in kind.fields.items()]
        struct = msgspec.defstruct(
            f"{kind.name.title()}Record", keys + payload, forbid_unknown_fields=True, gc=False
        )
        _typed_decoders[kind.name] = msgspec.json.Decoder(struct).decode
    return _typed_decoders[kind.name]


def _decode_typed(kind: Kind, raws: Sequence[bytes]) -> list[_Row | None]:
    """A row for each record, None where a field is not what was declared."""
    as_row = msgspec.structs.astuple
    rows: list[_Row | None] = []
    remaining = map(as_row, map(_typed_decoder(kind), raws))
    while len(rows) < len(raws):
        try:
            rows.extend(remaining)  # an error ends it, what came before is kept
        except (msgspec.MsgspecError, UnicodeDecodeError):
            rows.append(None)
    return rows


def _unsettled(kind: Kind, rows: Sequence[_Row | None]) -> list[int]:
    """The places of the records that typed decoding does not settle.

    Those are: a field of another type, no key or two, and a payload of nothing but None, which
    may have been given as null or not at all.
    """
    nothing = len(kind.fields)
    return [
        index
        for index, row in enumerate(rows)
        if row is None or (row[0] < 0) is (row[1] < 0) or row.count(None) == nothing
    ]


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
_ZERO = re.compile(rb"-?0(\.0+)?([eE]|$)")  # whatever its exponent
_INTEGER_IN_TEXT = re.compile(r"[ \t\n\r\f\v]*([+-]?[0-9]+)[ \t\n\r\f\v]*")


def _decode_carefully(kind: Kind, raw: bytes) -> tuple[_Row, str | None]:
    """The row, and what has no column as JSON."""
    rest = _object_of(raw)
    key = _key_of(rest)
    if not rest.keys() & kind.fields.keys():
        foreign = sorted(rest.keys() & _PAYLOAD_OF_ANY_KIND)
        if foreign:
            raise _RejectedError(
                Reason.MISROUTED, f"carries no field of a {kind.name} record but {foreign[0]!r}"
            )
        raise _RejectedError(Reason.EMPTY, "carries no payload field of any kind")

    for name in ("ind", "index"):
        if name in rest and _key_value(bytes(rest[name])) == key:
            del rest[name]
    values = []
    for name, type_ in kind.fields.items():
        value = None
        if name in rest:
            given = rest.pop(name)
            try:
                value = _READ[type_](bytes(given))
            except _WrongTypeError:
                rest[name] = given
        values.append(value)
    rescued = msgspec.json.encode(rest).decode() if rest else None
    return (key, _NOT_GIVEN, *values), rescued


def _object_of(raw: bytes) -> dict[str, msgspec.Raw]:
    try:
        raw.decode()
        if is_too_deep(raw):
            raise _RejectedError(Reason.MALFORMED, f"nested more than {MAX_DEPTH} levels deep")
        return _parse_object(raw)
    except UnicodeDecodeError as error:
        detail = f"not UTF-8: byte {error.start} cannot be read"
        raise _RejectedError(Reason.MALFORMED, detail) from None
    except msgspec.ValidationError:
        pass  # may still be malformed behind the first token: a check of the whole text decides
    except msgspec.DecodeError as error:
        raise _RejectedError(Reason.MALFORMED, f"not JSON: {error}") from None
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        raise _RejectedError(Reason.MALFORMED, f"not JSON: {error}") from None
    raise _RejectedError(Reason.NOT_AN_OBJECT, f"JSON, but {_what(raw.lstrip())} and no object")


def _key_of(given: dict[str, msgspec.Raw]) -> int:
    for name in ("ind", "index"):
        if name in given:
            key = _key_value(bytes(given[name]))
            if key is not None:
                return key
    found = [
        f"{name} is {_shorten(bytes(given[name]))}" for name in ("ind", "index") if name in given
    ]
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
        if _ZERO.match(text):
            return 0
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
    shown = text[: 4 * limit].decode(errors="replace")
    return shown if len(text) <= limit else shown[:limit] + "…"


# --- columns ---------------------------------------------------------------------------------


def _to_arrow(kind: Kind, rows: Sequence[_Row], rescued: Sequence[str | None]) -> pa.RecordBatch:
    schema = kind.schema
    types = [pa.int64(), *schema.types[:-1]]
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [()] * len(types)
    ind, index, *payload = map(pa.array, columns, types)
    key = pc.max_element_wise(ind, index)
    return pa.RecordBatch.from_arrays(
        [key, *payload, pa.array(rescued, pa.string())], schema=schema
    )
