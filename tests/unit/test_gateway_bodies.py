"""Bodies become records whose bytes are those that came; what does not fit is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.gateway.answers import Reason, Refused
from ingestion.gateway.bodies import (
    KafkaRecord,
    KinesisRecord,
    check_type,
    kafka_records,
    kinesis_record,
    kinesis_records,
)
from ingestion.records import KINDS, MAX_DEPTH, decode

#: JSON texts that a parser that writes again what it has read would change.
TEXTS = [
    b"1.10",
    b"1e400",
    b"-0",
    b"1180591620717411303424",
    b'{"a":1,"a":2}',
    b'{ "a" :\t[ 1 ,2 ] }',
    b'"\\u0041\\/\\ud83d\\ude00"',
    '"Åland 🧨"'.encode(),
    b'"a\x7f"',
    b"true",
    b"[]",
    b'""',
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_and_a_key_stay_as_they_came(text: bytes) -> None:
    body = b'{"records": [{"value":  %s , "key":%s}]}' % (text, text)
    assert kafka_records(body, 9) == [KafkaRecord(text, text, None)]


@given(st.recursive(st.none() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=9))
def test_what_json_writes_arrives(value: object) -> None:
    text = json.dumps([value]).replace("NaN", "0").replace("Infinity", "1e999").encode()
    body = b'{"records":[{"value":%s},{"key":%s,"partition":2,"value":null}]}' % (text, text)
    assert kafka_records(body, 2) == [
        KafkaRecord(None, text, None),
        KafkaRecord(text, None, 2),
    ]


def test_a_schema_is_taken_and_not_used() -> None:
    body = b'{"key_schema":"x","value_schema_id":7,"key_schema_id":null,"records":[{"value":1}]}'
    assert kafka_records(body, 1) == [KafkaRecord(None, b"1", None)]


MALFORMED = [
    b"",
    b"null",
    b"[]",
    b'"records"',
    b"{}",
    b'{"records":{}}',
    b'{"records":null}',
    b'{"records":[1]}',
    b'{"records":[{"value":1}]',
    b'{"records":[{"value":1}]} x',
    b'\xef\xbb\xbf{"records":[{"value":1}]}',
    b'{"records":[{"value":"\xff"}]}',
    b'{"records":[{"value":"\xed\xa0\x80"}]}',
    b'{"records":[{"value":"\\ud800 alone"}]}',
    b'{"records":[{"value":"a\nb"}]}',
    b'{"records":[{"value":01}]}',
    b'{"records":[{"value":NaN}]}',
    b'{"records":[{"value":' + b"[" * 100_000,
    b'{"records":[{"value":' + b"[" * 5_000 + b"]" * 5_000 + b"}]}",
    b'{"records":[{"vlaue":1}]}',
    b'{"records":[{"value":1,"partition":-1}]}',
    b'{"records":[{"value":1,"partition":2147483648}]}',
    b'{"records":[{"value":1,"partition":1.5}]}',
    b'{"records":[{"value":1,"partition":1e10}]}',
    b'{"records":[{"value":1,"partition":"0"}]}',
    b'{"records":[{"value":1,"partition":true}]}',
    b'{"record":[{"value":1}]}',
    '{"records":[{"value":1}]}'.encode("utf-16"),
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
def test_a_body_that_is_no_request_to_a_topic(body: bytes) -> None:
    refused = refusal(kafka_records, body, 9)
    assert refused.reason is Reason.MALFORMED
    assert refused.message.startswith("Conversion of JSON to Object failed: ")
    assert len(refused.message) < 200


def nested(levels: int) -> bytes:
    """A record of so many levels, its own object among them."""
    return b'{"ind":1,"title":"]}[{","extra":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def landed(raw: bytes) -> bool:
    """Whether landing takes a record; it is malformed otherwise."""
    decoded = decode(KINDS["pin"], [raw])
    assert [one.reason for one in decoded.rejected] in ([], ["malformed"])
    return not decoded.rejected


def kafka_value(body: bytes) -> bytes | None:
    return kafka_records(body, 999)[-1].value


def kafka_key(body: bytes) -> bytes | None:
    return kafka_records(body, 999)[-1].key


def kinesis_data(body: bytes) -> bytes:
    return kinesis_record(body, "s").data


def kinesis_last_data(body: bytes) -> bytes:
    return kinesis_records(body, "s", 999)[-1].data


@pytest.mark.parametrize("levels", [499, 500, 501, 503, 990, 1_500, 5_000, 9_000, 100_000])
def test_a_record_is_refused_for_its_depth_where_landing_rejects_it(levels: int) -> None:
    raw = nested(levels)
    text = json.dumps(raw.decode()).encode()
    flat = b'{"value":{"ind":1}},' * 600
    escaped = b'{"Data":"\\u007b}","PartitionKey":"k"},' * 600
    for take, body in (
        (kafka_value, b'{"records":[{"value":%s}]}' % raw),
        (kafka_value, b'{"records":[%s{"value":%s}]}' % (flat, raw)),
        (kafka_key, b'{"records":[{"key":%s}]}' % raw),
        (kinesis_data, b'{"Data":%s,"PartitionKey":"k"}' % raw),
        (kinesis_data, b'{"Data":%s,"PartitionKey":"k"}' % text),
        (kinesis_last_data, b'{"Records":[{"Data":%s,"PartitionKey":"k"}]}' % raw),
        (kinesis_last_data, b'{"Records":[%s{"Data":%s,"PartitionKey":"k"}]}' % (escaped, raw)),
        (kinesis_last_data, b'{"records":[{"data":%s,"partition-key":"k"}]}' % text),
    ):
        if levels <= MAX_DEPTH:
            assert take(body) == raw
            assert landed(raw)
        else:
            refused = refusal(take, body)
            assert refused.reason is Reason.MALFORMED
            assert refused.message.endswith("a record is nested more than 500 levels deep")
            assert not landed(raw)


@pytest.mark.parametrize("levels", [501, 990, 1_500, 5_000, 9_000])
def test_fields_that_are_not_looked_at_are_not_nested_without_limit(levels: int) -> None:
    """The decoder passes over them, as deep as the interpreter lets it."""
    deep = b"[" * levels + b"]" * levels
    body = b'{"Data":1,"PartitionKey":"k","other":%s}' % deep
    assert refusal(kinesis_record, body, "s").reason is Reason.MALFORMED
    body = b'{"Records":[{"Data":1,"PartitionKey":"k","other":%s}]}' % deep
    assert refusal(kinesis_records, body, "s", 9).reason is Reason.MALFORMED


def test_many_flat_records_are_not_deep() -> None:
    value = json.dumps({"ind": 1, "title": '[[[{\\"', "tags": [["a", {}]] * 40}).encode()
    body = b'{"records":[' + b",".join([b'{"value":%s}' % value] * 600) + b"]}"
    assert kafka_records(body, 600) == [KafkaRecord(None, value, None)] * 600


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        (b'{"records":[]}', Reason.INVALID, "must not be empty"),
        (b'{"records":[{"value":1},{}]}', Reason.INVALID, "records[1] has neither"),
        (b'{"records":[{"value":null}]}', Reason.INVALID, "records[0] has neither"),
        (b'{"records":[{"value":1},{"value":2},{"value":3}]}', Reason.TOO_LARGE, "more than 2"),
    ],
)
def test_a_request_to_a_topic_that_cannot_be_sent(body: bytes, reason: Reason, said: str) -> None:
    refused = refusal(kafka_records, body, 2)
    assert refused.reason is reason
    assert said in refused.message


@pytest.mark.parametrize("text", [text for text in TEXTS if not text.startswith(b'"')])
def test_the_data_of_a_record_stays_as_it_came(text: bytes) -> None:
    body = b'{"StreamName":"s","Data": %s ,"PartitionKey":"k"}' % text
    assert kinesis_record(body, "s") == KinesisRecord(text, "k")


def test_a_number_as_a_key_is_its_text() -> None:
    for number in ("7528", "-1", "1.50", "1e400"):
        body = f'{{"Data":1,"PartitionKey":{number}}}'.encode()
        assert kinesis_record(body, "s").partition_key == number


def test_a_partition_in_any_notation() -> None:
    body = b'{"records":[{"value":1,"partition":2},{"value":1,"partition":2.0}]}'
    assert [record.partition for record in kafka_records(body, 2)] == [2, 2]
    assert all(type(record.partition) is int for record in kafka_records(body, 2))


def test_data_that_is_text_is_the_record() -> None:
    """Some clients send JSON within JSON."""
    inner = '{"title": "\\"Åland\\" \\ud83e\\udde8", "n": 1.10}'
    body = json.dumps({"Data": inner, "PartitionKey": "partition-1"}).encode()
    assert kinesis_record(body, "s").data == inner.encode()


def test_both_spellings_of_a_stream_s_records() -> None:
    for body in (
        b'{"Records":[{"Data":{"a":1},"PartitionKey":"x"},{"Data":"2","PartitionKey":7}]}',
        b'{"records":[{"data":{"a":1},"partition-key":"x"},{"data":"2","partition-key":7}],'
        b'"StreamName":"s"}',
    ):
        assert kinesis_records(body, "s", 2) == [
            KinesisRecord(b'{"a":1}', "x"),
            KinesisRecord(b"2", "7"),
        ]


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        (
            b'{"Data":1,"PartitionKey":"x","StreamName":"other"}',
            Reason.INVALID,
            "StreamName is not 's'",
        ),
        (b'{"Data":1}', Reason.INVALID, "PartitionKey is missing"),
        (b'{"Data":1,"PartitionKey":""}', Reason.INVALID, "0 characters"),
        (b'{"Data":1,"PartitionKey":"%s"}' % (b"x" * 257), Reason.INVALID, "257 characters"),
        (b'{"Data":1,"data":1,"PartitionKey":"x"}', Reason.INVALID, "Data is given twice"),
        (b'{"Data":1,"PartitionKey":["x"]}', Reason.INVALID, "PartitionKey is no text"),
        (b'{"Data":1,"PartitionKey":true}', Reason.INVALID, "PartitionKey is no text"),
        (b'{"Data":1,"PartitionKey":"\\ud800 "}', Reason.MALFORMED, ""),
        (b'{"PartitionKey":"x"}', Reason.INVALID, "Data is missing"),
        (b'{"Data":null,"PartitionKey":"x"}', Reason.INVALID, "Data is missing"),
        (b'{"Data":"\\udc00","PartitionKey":"x"}', Reason.MALFORMED, ""),
        (b'{"Data":{},"PartitionKey":"x"', Reason.MALFORMED, "truncated"),
    ],
)
def test_a_record_that_no_stream_takes(body: bytes, reason: Reason, said: str) -> None:
    refused = refusal(kinesis_record, body, "s")
    assert refused.reason is reason
    assert said in refused.message


def test_records_that_no_stream_takes() -> None:
    assert refusal(kinesis_records, b"{}", "s", 2).message == "Records is missing"
    assert refusal(kinesis_records, b'{"Records":[]}', "s", 2).reason is Reason.INVALID
    refused = refusal(kinesis_records, b'{"Records":[{"Data":1}]}', "s", 2)
    assert refused.message == "Records[0].PartitionKey is missing"
    many = json.dumps({"Records": [{"Data": 1, "PartitionKey": "x"}] * 3}).encode()
    assert refusal(kinesis_records, many, "s", 2).reason is Reason.TOO_LARGE


def test_types_of_bodies() -> None:
    check_type({"content-type": "Application/JSON; charset=utf-8"}, "application/json")
    check_type({"content-type": "b/c", "content-encoding": "identity"}, "a/b", "b/c")
    for headers in (
        {},
        {"content-type": ""},
        {"content-type": "application/jsonx"},
        {"content-type": "text/plain"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ):
        assert refusal(check_type, headers, "application/json").reason is Reason.MEDIA_TYPE


def refusal(function: object, *arguments: object) -> Refused:
    with pytest.raises(Refused) as refused:
        function(*arguments)  # type: ignore[operator]
    return refused.value
