"""The gateway's description of itself, in OpenAPI's terms."""

from __future__ import annotations

from itertools import product
from typing import Any

from ingestion.gateway.answers import JSON, KAFKA_ANSWERS, Reason
from ingestion.gateway.bodies import (
    KAFKA_TYPE,
    KINESIS_TYPES,
    MAX_PARTITION,
    MAX_PARTITION_KEY,
)
from ingestion.gateway.health import CONNECTED, FAILING, UNREACHABLE, UNUSED
from ingestion.gateway.limits import Limits
from ingestion.records import MAX_DEPTH

Json = dict[str, Any]

_ANY_BUT_NULL: Json = {"type": ["object", "array", "string", "number", "boolean"]}
_TEXT: Json = {"type": "string"}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
#: Kinesis' names, and those of the API Gateway's mapping templates.
_SPELLINGS = tuple(product(("Data", "data"), ("PartitionKey", "partition-key")))
_STREAM_NAME: Json = {
    "StreamName": {"type": "null", "description": "If it is given, it is the path's."}
}
_POST: Json = {"index": 7528, "title": "A post", "category": "travel"}

_SAID = {
    Reason.MALFORMED: (
        "The body is not JSON, or not in the form described, or a record of it is nested more than "
        f"{MAX_DEPTH} levels deep."
    ),
    Reason.INVALID: "The body is in the form described, but not what can be sent.",
    Reason.FORBIDDEN: "The header x-api-key holds none of the API keys.",
    Reason.UNKNOWN: "There is no such topic or stream.",
    Reason.UNKNOWN_PARTITION: "The topic has no such partition.",
    Reason.NOT_ACCEPTABLE: "The client accepts none of the media types of answers.",
    Reason.TOO_SLOW: "The body did not arrive in time; the connection is closed.",
    Reason.TOO_LARGE: "The body has too many bytes or too many records.",
    Reason.MEDIA_TYPE: "The body is not of the type described, or encoded.",
    Reason.TOO_OFTEN: "The API key has sent too many requests.",
    Reason.UNAVAILABLE: "None of the records was acknowledged; send the request again.",
}
_RETRIED = (Reason.TOO_OFTEN, Reason.UNAVAILABLE)


def describe(limits: Limits, with_keys: bool) -> Json:
    """The description of a gateway.

    Args:
        limits: of its requests.
        with_keys: whether it asks for API keys.
    """
    description: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Gateway",
            "version": "1",
            "description": (
                "Records for Kafka topics, as the Confluent REST Proxy v2 takes them, and for "
                "Kinesis streams, as an API Gateway in front of Kinesis does. An answer of 200 "
                "with an offset or a sequence number means that the record is stored for good: "
                "by all in-sync replicas. A value's bytes are those that were sent. Any one "
                "segment may stand before the paths, as the stage of an API Gateway: "
                "`/test/topics/…`."
            ),
        },
        "paths": {
            "/topics": {"get": _list_topics()},
            "/topics/{topic}": {"post": _produce(limits)},
            "/streams/{stream}/record": {"put": _put_record()},
            "/streams/{stream}/records": {"put": _put_records(limits)},
            "/healthz": {"get": _health()},
            "/metrics": {"get": _metrics()},
        },
    }
    if with_keys:
        description["components"] = {
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}
        }
        for path, methods in description["paths"].items():
            if path.startswith(("/topics", "/streams")):
                for operation in methods.values():
                    operation["security"] = [{"key": []}]
    else:
        for methods in description["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("403", None)
    return description


def _list_topics() -> Json:
    return {
        "operationId": "listTopics",
        "summary": "The names of all topics.",
        "responses": {
            "200": _response("The names.", {"type": "array", "items": _TEXT}, KAFKA_ANSWERS),
            **_kafka_refusals(
                Reason.FORBIDDEN, Reason.NOT_ACCEPTABLE, Reason.TOO_OFTEN, Reason.UNAVAILABLE
            ),
        },
    }


def _produce(limits: Limits) -> Json:
    fields: Json = {
        "key": {"description": "JSON; with it, records of equal keys go to one partition."},
        "value": {"description": "JSON; null for a tombstone."},
        "partition": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_PARTITION},
    }
    record = {
        "anyOf": [
            {
                "type": "object",
                "properties": {**fields, needed: {**fields[needed], **_ANY_BUT_NULL}},
                "required": [needed],
                "additionalProperties": False,
            }
            for needed in ("value", "key")
        ]
    }
    unused = {"description": "Not used: JSON records have no schema."}
    body: Json = {
        "type": "object",
        "properties": {
            "records": {
                "type": "array",
                "items": record,
                "minItems": 1,
                "maxItems": limits.records,
            },
            "key_schema": {**_TEXT_OR_NULL, **unused},
            "key_schema_id": {"type": ["integer", "null"], **unused},
            "value_schema": {**_TEXT_OR_NULL, **unused},
            "value_schema_id": {"type": ["integer", "null"], **unused},
        },
        "required": ["records"],
        "additionalProperties": False,
    }
    number = {"type": ["integer", "null"]}
    nothing = {"type": "null"}
    answer = _object(
        offsets={
            "type": "array",
            "items": _object(
                partition=number,
                offset=number,
                error_code={"enum": [None, 1, 2]},
                error=_TEXT_OR_NULL,
            ),
        },
        key_schema_id=nothing,
        value_schema_id=nothing,
    )
    return {
        "operationId": "produce",
        "summary": "Send records to a topic.",
        "description": (
            "For each record, in their order, its partition and offset once it is acknowledged, "
            "or an error code: 1 if it cannot be sent, 2 if it may be sent again. Records without "
            "a key and a partition go to one partition, another one with each request."
        ),
        "parameters": [_path_parameter("topic", r"^[a-zA-Z0-9._-]{1,249}$")],
        "requestBody": _request(body, (KAFKA_TYPE,), {"records": [{"value": _POST}]}),
        "responses": {
            "200": _response("What became of each record.", answer, KAFKA_ANSWERS),
            **_kafka_refusals(*Reason),
        },
    }


def _put_record() -> Json:
    schema = {"anyOf": [_put_schema(*names, **_STREAM_NAME) for names in _SPELLINGS]}
    example = {"Data": _POST, "PartitionKey": "partition-1"}
    return {
        "operationId": "putRecord",
        "summary": "Send a record to a stream.",
        "description": (
            "Data is the record: JSON, or text that is taken as it is. `data` and `partition-key` "
            "are taken as well, other fields are not looked at."
        ),
        "parameters": [_path_parameter("stream", r"^[a-zA-Z0-9_.-]{1,128}$")],
        "requestBody": _request(schema, KINESIS_TYPES, example),
        "responses": {
            "200": _response("Where the record is.", _placed("ShardId", "SequenceNumber")),
            **_kinesis_refusals(),
        },
    }


def _put_records(limits: Limits) -> Json:
    items = {
        "type": "array",
        "items": {"anyOf": [_put_schema(*names) for names in _SPELLINGS]},
        "minItems": 1,
        "maxItems": limits.records,
    }
    schema = {
        "anyOf": [
            {
                "type": "object",
                "properties": {name: items, other: {"type": "null"}, **_STREAM_NAME},
                "required": [name],
            }
            for name, other in (("Records", "records"), ("records", "Records"))
        ]
    }
    answer = _object(
        FailedRecordCount={"type": "integer"}, Records={"type": "array", "items": _placed()}
    )
    example = {"Records": [{"Data": _POST, "PartitionKey": "partition-1"}]}
    return {
        "operationId": "putRecords",
        "summary": "Send records to a stream.",
        "description": (
            "For each record, in their order, its shard and sequence number, or an error code "
            "and message. `records` with `data` and `partition-key` are taken as well, other "
            "fields are not looked at."
        ),
        "parameters": [_path_parameter("stream", r"^[a-zA-Z0-9_.-]{1,128}$")],
        "requestBody": _request(schema, KINESIS_TYPES, example),
        "responses": {
            "200": _response("What became of each record.", answer),
            **_kinesis_refusals(),
        },
    }


def _put_schema(data: str, key: str, **more: Json) -> Json:
    names = {name for spelling in _SPELLINGS for name in spelling}
    return {
        "type": "object",
        "properties": {
            data: _ANY_BUT_NULL,
            key: {
                "anyOf": [
                    {"type": "string", "minLength": 1, "maxLength": MAX_PARTITION_KEY},
                    {"type": "number"},
                ]
            },
            **{name: {"type": "null"} for name in sorted(names - {data, key})},
            **more,
        },
        "required": [data, key],
    }


def _placed(*required: str) -> Json:
    return {
        "type": "object",
        "properties": dict.fromkeys(
            ("SequenceNumber", "ShardId", "EncryptionType", "ErrorCode", "ErrorMessage"), _TEXT
        ),
        "required": list(required),
        "additionalProperties": False,
    }


def _health() -> Json:
    def states(status: str, *of_kafka_alone: str) -> Json:
        either = [CONNECTED, UNUSED] + ([UNREACHABLE] if status == "unavailable" else [])
        return _object(
            status={"enum": [status]},
            kafka={"enum": [*either, *of_kafka_alone]},
            kinesis={"enum": either},
        )

    return {
        "operationId": "health",
        "summary": "Whether Kafka and Kinesis answer.",
        "description": (
            "A broker or an endpoint that is gone shows within 10 s. Kafka is `failing` while it "
            "answers and acknowledges nothing. It is `unused` where no address was given and none "
            "was found; Kinesis before the first record."
        ),
        "responses": {
            "200": _response("What is used answers.", states("serving", FAILING)),
            "503": _response("Something does not answer.", states("unavailable", FAILING)),
        },
    }


def _metrics() -> Json:
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "operationId": "metrics",
        "summary": "Counters for Prometheus.",
        "responses": {"200": {"description": "In Prometheus' text format.", "content": text}},
    }


def _kafka_refusals(*reasons: Reason) -> Json:
    codes: dict[int, list[Reason]] = {}
    for reason in reasons:
        codes.setdefault(reason.value[0][0], []).append(reason)
    return {
        str(status): _refusal(
            same,
            _object(error_code={"enum": [reason.value[0][1] for reason in same]}, message=_TEXT),
            KAFKA_ANSWERS,
        )
        for status, same in codes.items()
    }


def _kinesis_refusals() -> Json:
    codes: dict[int, list[Reason]] = {}
    for reason in Reason:
        if reason not in (Reason.UNKNOWN_PARTITION, Reason.NOT_ACCEPTABLE):
            codes.setdefault(reason.value[1][0], []).append(reason)
    return {
        str(status): _refusal(same, _object(__type=_TEXT, message=_TEXT), (JSON,))
        for status, same in codes.items()
    }


def _refusal(reasons: list[Reason], schema: Json, media_types: tuple[str, ...]) -> Json:
    response = _response(" ".join(_SAID[reason] for reason in reasons), schema, media_types)
    if any(reason in _RETRIED for reason in reasons):
        seconds = {"type": "integer", "minimum": 1}
        response["headers"] = {
            "Retry-After": {"required": True, "schema": seconds, "description": "Seconds."}
        }
    return response


def _request(schema: Json, media_types: tuple[str, ...], example: Json) -> Json:
    content = {name: {"schema": schema, "example": example} for name in media_types}
    return {"required": True, "content": content}


def _response(said: str, schema: Json, media_types: tuple[str, ...] = (JSON,)) -> Json:
    return {
        "description": said,
        "content": {name: {"schema": schema} for name in media_types},
    }


def _path_parameter(name: str, pattern: str) -> Json:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _object(**properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
