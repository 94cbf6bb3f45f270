"""What requests carry: their bodies become records whose bytes are those that came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from ingestion.gateway.answers import Reason, Refused
from ingestion.records import MAX_DEPTH, is_too_deep

#: The media type of the REST Proxy's requests with JSON records.
KAFKA_TYPE = "application/vnd.kafka.json.v2+json"
KINESIS_TYPES = ("application/json", "application/x-amz-json-1.1")

MAX_PARTITION = 2**31 - 1
MAX_PARTITION_KEY = 256

#: The levels of a request around a record: {"records":[{"value":…}]}, and {"Data":…}.
_AROUND_MANY, _AROUND_ONE = 3, 1

_NULL = msgspec.Raw(b"null")


class KafkaRecord(NamedTuple):
    """A record for a topic.

    Attributes:
        key: JSON text, or None.
        value: JSON text, or None for a tombstone.
        partition: the one asked for.
    """

    key: bytes | None
    value: bytes | None
    partition: int | None


class KinesisRecord(NamedTuple):
    """A record for a stream, with the key that chooses its shard."""

    data: bytes
    partition_key: str


# JSON has no integers: 2.0 is one as well.
_Partition = (
    Annotated[int, msgspec.Meta(ge=0, le=MAX_PARTITION)]
    | Annotated[float, msgspec.Meta(ge=0, le=MAX_PARTITION, multiple_of=1)]
)


class _Record(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    value: msgspec.Raw = _NULL
    key: msgspec.Raw = _NULL
    partition: _Partition | None = None


class _Produce(msgspec.Struct, forbid_unknown_fields=True):
    records: list[_Record]
    # Taken and not used: JSON records have no schema.
    key_schema: str | None = None
    key_schema_id: int | float | None = None
    value_schema: str | None = None
    value_schema_id: int | float | None = None


class _Put(msgspec.Struct):
    # Both spellings are in use: Kinesis' own and the one of the API Gateway's mapping templates.
    Data: msgspec.Raw = _NULL
    data: msgspec.Raw = _NULL
    PartitionKey: msgspec.Raw = _NULL
    partition_key: msgspec.Raw = msgspec.field(default=_NULL, name="partition-key")


class _PutOne(_Put):
    StreamName: str | None = None


class _PutMany(msgspec.Struct):
    Records: list[_Put] | None = None
    records: list[_Put] | None = None
    StreamName: str | None = None


_T = TypeVar("_T")
_produce = msgspec.json.Decoder(_Produce)
_put_one = msgspec.json.Decoder(_PutOne)
_put_many = msgspec.json.Decoder(_PutMany)
_text = msgspec.json.Decoder(str)


def kafka_records(body: bytes, max_records: int) -> list[KafkaRecord]:
    """The records of a request to a topic.

    Raises:
        Refused: the body is not what the REST Proxy takes.
    """
    found = _decoded(_produce, body, _AROUND_MANY).records
    _check_count(len(found), max_records)
    records = [_kafka_record(at, record) for at, record in enumerate(found)]
    # An object for each record, and most of them with an object in it.
    objects = sum((record.value or b"").startswith((b"{", b"[")) for record in records)
    _check_depth(body, _AROUND_MANY, len(records) - 1 + max(0, objects - 1))
    return records


def _kafka_record(at: int, record: _Record) -> KafkaRecord:
    key = None if record.key is _NULL else _json_or_none(record.key)
    value = _json_or_none(record.value)
    if key is None and value is None:
        raise Refused(Reason.INVALID, f"records[{at}] has neither a value nor a key")
    partition = None if record.partition is None else int(record.partition)
    return KafkaRecord(key, value, partition)


def _json_or_none(raw: msgspec.Raw) -> bytes | None:
    text = bytes(raw)
    return None if text == b"null" else text


def kinesis_record(body: bytes, stream: str) -> KinesisRecord:
    """The one record of a request to a stream.

    Raises:
        Refused: the body is not what the resource takes.
    """
    put = _decoded(_put_one, body, _AROUND_ONE)
    _check_stream(put.StreamName, stream)
    _check_depth(body, _AROUND_ONE)
    return _kinesis_record("", put)


def kinesis_records(body: bytes, stream: str, max_records: int) -> list[KinesisRecord]:
    """The records of a request to a stream.

    Raises:
        Refused: the body is not what the resource takes.
    """
    put = _decoded(_put_many, body, _AROUND_MANY)
    _check_stream(put.StreamName, stream)
    found = _one("Records", put.Records, put.records)
    _check_count(len(found), max_records)
    records = [_kinesis_record(f"Records[{at}].", record) for at, record in enumerate(found)]
    _check_depth(body, _AROUND_MANY, len(records) - 1)
    return records


def _kinesis_record(place: str, put: _Put) -> KinesisRecord:
    raw = _one(f"{place}Data", _json_or_none(put.Data), _json_or_none(put.data))
    # Text that is JSON itself is what some clients send: it is the record, not a string with it.
    data = raw
    if raw.startswith(b'"'):
        data = _text.decode(raw).encode()
        _check_depth(data, 0)
    name = f"{place}PartitionKey"
    key = _one(name, _json_or_none(put.PartitionKey), _json_or_none(put.partition_key))
    return KinesisRecord(data, _partition_key(name, key))


def _one(name: str, one: _T | None, other: _T | None) -> _T:
    """The value of a field in whichever spelling it is given."""
    if one is not None and other is not None:
        raise Refused(Reason.INVALID, f"{name} is given twice, in two spellings")
    found = other if one is None else one
    if found is None:
        raise Refused(Reason.INVALID, f"{name} is missing")
    return found


def _partition_key(name: str, raw: bytes) -> str:
    if raw[:1] in (b"[", b"{", b"t", b"f"):
        raise Refused(Reason.INVALID, f"{name} is no text")
    key = _text.decode(raw) if raw.startswith(b'"') else raw.decode()
    if not 1 <= len(key) <= MAX_PARTITION_KEY:
        raise Refused(Reason.INVALID, f"{name} has {len(key)} characters, not 1 to 256")
    return key


def _check_stream(named: str | None, stream: str) -> None:
    if named is not None and named != stream:
        raise Refused(Reason.INVALID, f"StreamName is not {stream!r}, the stream of the path")


def _check_count(count: int, most: int) -> None:
    if count == 0:
        raise Refused(Reason.INVALID, "records must not be empty")
    if count > most:
        raise Refused(
            Reason.TOO_LARGE, f"{count:,} records are more than {most:,}: send them in parts"
        )


def _decoded(decoder: msgspec.json.Decoder[_T], body: bytes, around: int) -> _T:
    try:
        body.decode()  # values that are only passed on are not looked at otherwise
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise _malformed(f"not UTF-8 at byte {error.start}") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        # Which of the two a deep body meets depends on the interpreter.
        _check_depth(body, around)
        raise _malformed(str(error)) from None


def _check_depth(text: bytes, around: int, siblings: int = 0) -> None:
    """Refuse a record whose depth makes it malformed for landing.

    Args:
        text: the request's body, or a record.
        around: levels of the request around a record.
        siblings: see :func:`is_too_deep`.
    """
    if is_too_deep(text, MAX_DEPTH + around, siblings):
        raise _malformed(f"a record is nested more than {MAX_DEPTH} levels deep")


def _malformed(why: str) -> Refused:
    return Refused(Reason.MALFORMED, f"Conversion of JSON to Object failed: {why}")


def check_type(headers: Mapping[str, Any], *types: str) -> None:
    """See that a request's body is of a type that can be read.

    Raises:
        Refused: it is not.
    """
    given = headers.get("content-type")
    if (given or "").partition(";")[0].strip().lower() not in types:
        named = f"Content-Type {given!r}" if given else "a body without a Content-Type"
        raise Refused(Reason.MEDIA_TYPE, f"{named} is not taken; send {types[0]}")
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refused(
            Reason.MEDIA_TYPE, f"Content-Encoding {encoding!r} is not taken; send the body as it is"
        )
