"""Records to Kinesis: calls within its limits, what fails again and again, what errors mean."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoRegionError
from botocore.parsers import ResponseParserError

from ingestion.gateway.answers import Placed, Reason, Refused
from ingestion.gateway.bodies import KinesisRecord
from ingestion.gateway.kinesis import KinesisSink, calls, put_all, put_one

THROTTLED = "ProvisionedThroughputExceededException"


def records(*data: str) -> list[KinesisRecord]:
    return [KinesisRecord(text.encode(), f"key-{text}") for text in data]


class Client:
    """A Kinesis that refuses each record as often as it is told."""

    def __init__(self, **refusals: int) -> None:
        self.refusals = refusals
        self.stored: list[str] = []
        self.calls: list[int] = []
        self.waits: list[float] = []
        self.error: Exception | None = None

    def put_records(self, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
        assert StreamName == "s"
        self.calls.append(len(Records))
        if self.error is not None:
            raise self.error
        return {"Records": [self._put(record) for record in Records]}

    def put_record(self, StreamName: str, Data: bytes, PartitionKey: str) -> dict[str, Any]:
        assert StreamName == "s"
        self.calls.append(1)
        if self.error is not None:
            raise self.error
        found = self._put({"Data": Data, "PartitionKey": PartitionKey})
        if "ErrorCode" in found:
            raise client_error(found["ErrorCode"])
        return {**found, "EncryptionType": "KMS", "ResponseMetadata": {}}

    def _put(self, record: dict[str, Any]) -> dict[str, Any]:
        text = record["Data"].decode()
        assert record["PartitionKey"] == f"key-{text}"
        if self.refusals.get(text, 0):
            self.refusals[text] -= 1
            return {"ErrorCode": THROTTLED, "ErrorMessage": "slow down"}
        self.stored.append(text)
        return {"ShardId": "shardId-0", "SequenceNumber": str(len(self.stored))}

    def close(self) -> None:
        pass


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": f"said {code}"}}, "PutRecords")


def test_calls_are_within_the_limits_of_kinesis() -> None:
    small = records(*map(str, range(1_200)))
    assert [len(call) for call in calls(small)] == [500, 500, 200]
    large = [KinesisRecord(b"x" * 2**20, "k")] * 11
    assert [len(call) for call in calls(large)] == [4, 4, 3]
    assert [record for call in calls(small) for record in call] == small
    assert list(calls([])) == []


def test_what_fails_is_put_again_and_answers_keep_their_order() -> None:
    client = Client(b=2, d=1)
    placed = put_all(client, "s", records("a", "b", "c", "d"), client.waits.append)
    assert client.stored == ["a", "c", "d", "b"]
    assert [one.SequenceNumber for one in placed] == ["1", "4", "2", "3"]
    assert client.calls == [4, 2, 1]
    assert client.waits == [0.1, 0.2]


def test_what_goes_on_failing_is_said_record_by_record() -> None:
    client = Client(b=99)
    placed = put_all(client, "s", records("a", "b"), client.waits.append)
    assert [one.SequenceNumber for one in placed] == ["1", None]
    assert placed[1] == Placed(ErrorCode=THROTTLED, ErrorMessage="slow down")
    assert client.calls == [2, 1, 1, 1]


def test_if_nothing_is_put_the_request_may_be_sent_again() -> None:
    client = Client(a=99, b=99)
    with pytest.raises(Refused) as refused:
        put_all(client, "s", records("a", "b"), client.waits.append)
    assert refused.value.reason is Reason.UNAVAILABLE
    assert refused.value.kind == THROTTLED
    assert refused.value.retry_after
    assert client.stored == []


def test_a_call_that_fails_after_others_is_said_record_by_record() -> None:
    client = Client()
    many = records(*map(str, range(501)))
    put_records = client.put_records

    def then_fail(**arguments: Any) -> dict[str, Any]:
        found = put_records(**arguments)
        client.error = EndpointConnectionError(endpoint_url="x")
        return found

    client.put_records = then_fail  # type: ignore[method-assign]
    placed = put_all(client, "s", many, client.waits.append)
    assert sum(bool(one.SequenceNumber) for one in placed) == 500
    assert placed[500].ErrorCode == "ServiceUnavailableException"


def test_one_record_is_put_again_while_it_is_throttled() -> None:
    client = Client(a=3)
    placed = put_one(client, "s", records("a")[0], client.waits.append)
    assert placed == Placed(ShardId="shardId-0", SequenceNumber="1", EncryptionType="KMS")
    assert client.waits == [0.1, 0.2, 0.4]
    client = Client(a=4)
    with pytest.raises(Refused) as refused:
        put_one(client, "s", records("a")[0], client.waits.append)
    assert refused.value.kind == THROTTLED


@pytest.mark.parametrize(
    ("error", "reason", "kind"),
    [
        (client_error("ResourceNotFoundException"), Reason.UNKNOWN, ""),
        (client_error("ValidationException"), Reason.INVALID, "ValidationException"),
        (client_error("InvalidArgumentException"), Reason.INVALID, "InvalidArgumentException"),
        (client_error("AccessDeniedException"), Reason.UNAVAILABLE, ""),
        (client_error("InternalFailure"), Reason.UNAVAILABLE, ""),
        (EndpointConnectionError(endpoint_url="http://x"), Reason.UNAVAILABLE, ""),
        (NoRegionError(), Reason.UNAVAILABLE, ""),
        (ResponseParserError("invalid JSON"), Reason.UNAVAILABLE, ""),
        (AttributeError("'list' object has no attribute 'get'"), Reason.UNAVAILABLE, ""),
    ],
)
def test_errors_of_kinesis(error: Exception, reason: Reason, kind: str) -> None:
    client = Client()
    client.error = error
    for put in (
        lambda: put_one(client, "s", records("a")[0], client.waits.append),
        lambda: put_all(client, "s", records("a", "b"), client.waits.append),
    ):
        with pytest.raises(Refused) as refused:
            put()
        assert (refused.value.reason, refused.value.kind) == (reason, kind)
    assert client.calls == [1, 2]
    assert client.waits == []


@pytest.mark.parametrize(
    "answer",
    [{}, {"Records": None}, {"Records": []}, {"Records": [{}, {}]}, {"Records": [None] * 2}],
)
def test_what_kinesis_does_not_say_it_took_is_not_acknowledged(answer: dict[str, Any]) -> None:
    """The client makes an empty answer of any 200, one of a proxy's say."""
    client = Client()
    client.put_record = lambda **_: answer  # type: ignore[method-assign]
    client.put_records = lambda **_: answer  # type: ignore[method-assign]
    for put in (
        lambda: put_one(client, "s", records("a")[0], client.waits.append),
        lambda: put_all(client, "s", records("a", "b"), client.waits.append),
    ):
        with pytest.raises(Refused) as refused:
            put()
        assert refused.value.reason is Reason.UNAVAILABLE
        assert refused.value.retry_after
        assert "may have been written" in refused.value.message


def test_only_records_with_a_place_count_as_taken() -> None:
    client = Client()
    taken = {"ShardId": "shardId-0", "SequenceNumber": "1"}
    client.put_records = lambda Records, **_: {  # type: ignore[method-assign]
        "Records": [taken if one["Data"] == b"a" else {"ShardId": "shardId-0"} for one in Records]
    }
    placed = put_all(client, "s", records("a", "b"), client.waits.append)
    assert [(one.SequenceNumber, one.ErrorCode) for one in placed] == [
        ("1", None),
        (None, "InternalFailure"),
    ]


def test_no_call_is_begun_when_the_time_is_over() -> None:
    client = Client()
    with pytest.raises(Refused):
        put_one(client, "s", records("a")[0], client.waits.append, lambda: True)
    many = records(*map(str, range(1_200)))
    with pytest.raises(Refused):
        put_all(client, "s", many, client.waits.append, lambda: True)
    assert client.calls == []
    placed = put_all(client, "s", many, client.waits.append, lambda: len(client.calls) > 0)
    assert client.calls == [500]
    assert [one.ErrorCode for one in placed] == [None] * 500 + ["ServiceUnavailableException"] * 700


def test_a_request_that_was_given_up_begins_no_further_call() -> None:
    client = Client()
    go_on = threading.Event()
    put_records = client.put_records

    def slow(**arguments: Any) -> dict[str, Any]:
        go_on.wait(30)
        return put_records(**arguments)

    client.put_records = slow  # type: ignore[method-assign]

    async def run() -> None:
        sink = KinesisSink(0.05, lambda: client)
        with pytest.raises(Refused):
            await sink.put_many("s", records(*map(str, range(1_200))))
        go_on.set()
        await sink.stop()

    asyncio.run(run())
    assert client.calls == [500]


def test_a_call_that_takes_too_long() -> None:
    client = Client()
    go_on = threading.Event()
    put_record = client.put_record

    def slow(**arguments: Any) -> dict[str, Any]:
        go_on.wait(30)
        return put_record(**arguments)

    client.put_record = slow  # type: ignore[method-assign]

    async def run() -> Refused:
        sink = KinesisSink(0.05, lambda: client)
        with pytest.raises(Refused) as refused:
            await sink.put("s", records("a")[0])
        go_on.set()
        await sink.stop()
        return refused.value

    refused = asyncio.run(run())
    assert refused.reason is Reason.UNAVAILABLE
    assert "may have been written" in refused.message
    assert client.stored == ["a"]


def test_a_client_that_cannot_be_made_is_tried_again() -> None:
    client = Client()
    attempts: list[Exception] = [NoRegionError(), ValueError("Invalid endpoint: nonsense")]

    def open_client() -> Client:
        if attempts:
            raise attempts.pop(0)
        return client

    async def run() -> None:
        sink = KinesisSink(5, open_client)
        for _ in range(2):
            with pytest.raises(Refused):
                await sink.put("s", records("a")[0])
        assert (await sink.put("s", records("a")[0])).SequenceNumber == "1"
        assert len(await sink.put_many("s", records("b", "c"))) == 2
        await sink.stop()

    asyncio.run(run())
