"""The gateway's answers, in the process of the test: whatever is asked, one of those described."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from ingestion.gateway.answers import Offset, Placed, Reason, Refused
from ingestion.gateway.app import Gateway
from ingestion.gateway.bodies import KafkaRecord, KinesisRecord
from ingestion.gateway.keys import Keys
from ingestion.gateway.limits import Limits

KAFKA = "application/vnd.kafka.json.v2+json"
PIN, STREAM = "/topics/0a60b9a8a831.pin", "/streams/streaming-0a60b9a8a831-pin"


class FakeKafka:
    """Topics in memory; what is called like a missing one is not there."""

    state = "connected"

    def __init__(self) -> None:
        self.records: list[KafkaRecord] = []
        self.failures: dict[int, Offset] = {}
        self.go_on: asyncio.Event | None = None
        self.stopped = False

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True

    async def names(self) -> list[str]:
        return ["a", "b"]

    async def send(self, name: str, records: Sequence[KafkaRecord]) -> list[Offset]:
        if self.go_on is not None:
            await self.go_on.wait()
        if name.startswith("missing") or not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", name):
            raise Refused(Reason.UNKNOWN, f"Topic {name!r} not found.")
        if any((record.partition or 0) > 2 for record in records):
            raise Refused(Reason.UNKNOWN_PARTITION, "Partition not found.")
        self.records += records
        return [self.failures.get(at, Offset(0, at)) for at in range(len(records))]


class FakeKinesis:
    """Streams in memory; what is called like a missing one is not there."""

    state = "unused"

    def __init__(self) -> None:
        self.records: list[KinesisRecord] = []
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True

    async def put(self, stream: str, record: KinesisRecord) -> Placed:
        return (await self.put_many(stream, [record]))[0]

    async def put_many(self, stream: str, records: Sequence[KinesisRecord]) -> list[Placed]:
        if stream.startswith("missing") or not re.fullmatch(r"[a-zA-Z0-9._-]{1,128}", stream):
            raise Refused(Reason.UNKNOWN, f"Stream {stream} under account 0 not found.")
        self.records += records
        return [
            Placed(ErrorCode="ProvisionedThroughputExceededException", ErrorMessage="slow down")
            if record.partition_key == "slow"
            else Placed(SequenceNumber=str(at), ShardId="shardId-000000000000")
            for at, record in enumerate(records)
        ]


class Answer(NamedTuple):
    """What a request was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Asked:
    """A gateway to ask within an event loop."""

    def __init__(self, limits: Limits, *keys: str) -> None:
        self.kafka, self.kinesis = FakeKafka(), FakeKinesis()
        self.gateway = Gateway(limits, Keys(keys) if keys else None, self.kafka, self.kinesis)
        self.app = self.gateway.application()

    async def ask(
        self, method: str, path: str, body: bytes = b"", parts: int = 1, **headers: str
    ) -> Answer:
        """Ask; a header's name has _ for -."""
        size = max(1, -(-len(body) // parts))
        left = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        answer: dict[str, Any] = {"body": b""}

        async def receive() -> dict[str, Any]:
            part = left.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(left)}

        async def send(message: dict[str, Any]) -> None:
            answer["body"] += message.pop("body", b"")
            answer.update(message)

        named = [
            (name.replace("_", "-").encode(), text.encode("latin-1"))
            for name, text in headers.items()
        ]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": path, "raw_path": path.encode(), "query_string": b"", "headers": named,
            "root_path": "", "scheme": "http", "server": ("t", 80), "client": ("t", 1),
        }  # fmt: skip
        await self.app(scope, receive, send)
        found = {name.decode(): text.decode() for name, text in answer["headers"]}
        return Answer(answer["status"], found, answer["body"])

    async def post(self, body: bytes, path: str = PIN, **headers: str) -> Answer:
        return await self.ask("POST", path, body, **{"content_type": KAFKA, **headers})

    async def put(self, body: bytes, path: str = STREAM + "/record", **headers: str) -> Answer:
        return await self.ask("PUT", path, body, **{"content_type": "application/json", **headers})


def asked(
    test: Callable[[Asked], Awaitable[None]], *keys: str, limits: Limits | None = None
) -> None:
    asyncio.run(test(Asked(limits or Limits(), *keys)))


def records(*values: str) -> bytes:
    return b'{"records":[%s]}' % ",".join(f'{{"value":{value}}}' for value in values).encode()


ONE = b'{"Data":{"a":1.10},"PartitionKey":"partition-1"}'


def test_records_for_a_topic() -> None:
    async def test(gateway: Asked) -> None:
        answer = await gateway.post(records('{"a":1.10}', "1e400"), "/test" + PIN)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/vnd.kafka.v2+json"
        assert answer.json == {
            "offsets": [
                {"partition": 0, "offset": 0, "error_code": None, "error": None},
                {"partition": 0, "offset": 1, "error_code": None, "error": None},
            ],
            "key_schema_id": None,
            "value_schema_id": None,
        }
        assert [record.value for record in gateway.kafka.records] == [b'{"a":1.10}', b"1e400"]
        answer = await gateway.post(records("1"), accept="application/json")
        assert answer.headers["content-type"] == "application/json"
        assert (await gateway.ask("GET", "/topics")).json == ["a", "b"]

    asked(test)


def test_records_for_a_stream() -> None:
    async def test(gateway: Asked) -> None:
        answer = await gateway.put(ONE, "/dev" + STREAM + "/record")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json == {"ShardId": "shardId-000000000000", "SequenceNumber": "0"}
        many = b'{"records":[{"data":1,"partition-key":"k"},{"data":2,"partition-key":"slow"}]}'
        answer = await gateway.put(many, STREAM + "/records")
        assert answer.status == 200
        assert answer.json == {
            "FailedRecordCount": 1,
            "Records": [
                {"ShardId": "shardId-000000000000", "SequenceNumber": "0"},
                {
                    "ErrorCode": "ProvisionedThroughputExceededException",
                    "ErrorMessage": "slow down",
                },
            ],
        }
        assert [record.data for record in gateway.kinesis.records] == [b'{"a":1.10}', b"1", b"2"]

    asked(test)


def test_records_that_fail() -> None:
    """One by one within a 200; all of them, if they may be sent again, as a 503."""

    async def test(gateway: Asked) -> None:
        may, must_not = Offset(None, None, 2, "timed out"), Offset(None, None, 1, "too large")
        gateway.kafka.failures = {1: may}
        answer = await gateway.post(records("1", "2", "3"))
        assert answer.status == 200
        assert [one["error_code"] for one in answer.json["offsets"]] == [None, 2, None]
        gateway.kafka.failures = {0: may, 1: may}
        answer = await gateway.post(records("1", "2"))
        assert answer.status == 503
        assert answer.json == {
            "error_code": 503,
            "message": "Kafka took none of the records: timed out",
        }
        assert answer.headers["retry-after"] == "1"
        gateway.kafka.failures = {0: may, 1: must_not}
        answer = await gateway.post(records("1", "2"))
        assert answer.status == 200
        assert [one["error_code"] for one in answer.json["offsets"]] == [2, 1]

    asked(test)


def test_refusals_have_the_form_of_their_resource() -> None:
    async def test(gateway: Asked) -> None:
        for answer, status, code in (
            (await gateway.post(b"{"), 422, 42203),
            (await gateway.post(b'{"records":[]}'), 422, 422),
            (await gateway.post(records("1"), "/topics/missing"), 404, 40401),
            (await gateway.post(b'{"records":[{"value":1,"partition":3}]}'), 404, 40402),
            (await gateway.post(records("1"), accept="text/html"), 406, 406),
            (await gateway.post(records("1"), content_type="application/json"), 415, 415),
            (await gateway.post(records("1"), content_encoding="gzip"), 415, 415),
            (await gateway.post(records(*"1234")), 413, 413),
            (await gateway.post(b"x" * 101), 413, 413),
        ):
            assert (answer.status, answer.json["error_code"]) == (status, code)
            assert sorted(answer.json) == ["error_code", "message"]
            assert answer.headers["content-type"] == "application/vnd.kafka.v2+json"
        for answer, status, kind in (
            (await gateway.put(b"{"), 400, "SerializationException"),
            (await gateway.put(b'{"Data":1}'), 400, "ValidationException"),
            (
                await gateway.put(ONE, "/streams/missing/record"),
                404,
                "ResourceNotFoundException",
            ),
            (await gateway.put(ONE, content_type=KAFKA), 415, "UnsupportedMediaTypeException"),
            (await gateway.put(b"x" * 101), 413, "RequestEntityTooLargeException"),
        ):
            assert (answer.status, answer.json["__type"]) == (status, kind)
            assert sorted(answer.json) == ["__type", "message"]
            assert answer.headers["content-type"] == "application/json"
        answer = await gateway.post(b"{", accept="application/json")
        assert answer.headers["content-type"] == "application/json"
        for method, path, status in (
            ("GET", "/", 404),
            ("GET", PIN, 405),
            ("PATCH", STREAM + "/record", 405),
            ("POST", PIN + "/partitions/0", 404),
            ("POST", "/a/b" + PIN, 404),
            ("POST", PIN + "/", 404),
        ):
            answer = await gateway.ask(method, path)
            assert (answer.status, answer.json["error_code"]) == (status, status)
        assert gateway.kafka.records == []

    asked(test, limits=Limits(request_bytes=100, records=3))


def test_only_those_with_a_key_are_let_in() -> None:
    async def test(gateway: Asked) -> None:
        for key in ({}, {"x_api_key": ""}, {"x_api_key": "Right"}, {"x_api_key": "right,"}):
            for answer in (await gateway.post(records("1"), **key), await gateway.put(ONE, **key)):
                assert answer.status == 403
                assert "x-api-key" in answer.json["message"]
        assert (await gateway.ask("GET", "/topics")).status == 403
        assert gateway.kafka.records == []
        for key in ("right", "other"):
            assert (await gateway.post(records("1"), x_api_key=key)).status == 200
        assert (await gateway.ask("GET", "/healthz")).status == 200

    asked(test, "right", "other")


def test_a_key_is_let_in_at_its_rate() -> None:
    async def test(gateway: Asked) -> None:
        for key in ("one", "two"):
            answers = [await gateway.post(records("1"), x_api_key=key) for _ in range(4)]
            assert [answer.status for answer in answers] == [200, 200, 429, 429]
            assert answers[3].headers["retry-after"] == "1000"
            assert answers[3].json["error_code"] == 429

    asked(test, "one", "two", limits=Limits(rate=0.001, burst=2))


def test_what_is_too_much_at_once_is_to_be_sent_again() -> None:
    async def test(gateway: Asked) -> None:
        gateway.kafka.go_on = asyncio.Event()
        waiting = [asyncio.create_task(gateway.post(records("1"))) for _ in range(3)]
        await asyncio.sleep(0.01)
        answer = await gateway.post(records("1"))
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert b"gateway_in_flight_requests 3.0\n" in (await gateway.ask("GET", "/metrics")).body
        gateway.kafka.go_on.set()
        assert [(await answer).status for answer in waiting] == [200, 200, 200]
        assert (await gateway.post(records("1"))).status == 200
        # The bytes of bodies are bounded as well.
        answer = await gateway.post(records(*["1"] * 40))
        assert answer.status == 503
        assert len(gateway.kafka.records) == 4
        metrics = (await gateway.ask("GET", "/metrics")).body
        assert b"gateway_in_flight_requests 0.0\n" in metrics
        assert b"gateway_in_flight_bytes 0.0\n" in metrics

    asked(test, limits=Limits(in_flight_requests=3, in_flight_bytes=40_000))


@pytest.mark.parametrize(
    ("kafka", "kinesis", "status"),
    [
        ("connected", "connected", 200),
        ("unused", "connected", 200),
        ("failing", "unused", 200),
        ("unreachable", "connected", 503),
        ("connected", "unreachable", 503),
        ("unreachable", "unreachable", 503),
    ],
)
def test_health_is_of_what_is_used(kafka: str, kinesis: str, status: int) -> None:
    async def test(gateway: Asked) -> None:
        gateway.kafka.state, gateway.kinesis.state = kafka, kinesis
        answer = await gateway.ask("GET", "/healthz")
        assert answer.status == status
        said = "serving" if status == 200 else "unavailable"
        assert answer.json == {"status": said, "kafka": kafka, "kinesis": kinesis}
        described = (await gateway.ask("GET", "/openapi.json")).json["paths"]["/healthz"]["get"]
        content = described["responses"][str(status)]["content"]["application/json"]
        for name, value in answer.json.items():
            assert value in content["schema"]["properties"][name]["enum"]

    asked(test)


def test_health_and_metrics() -> None:
    async def test(gateway: Asked) -> None:
        gateway.kafka.failures = {1: Offset(None, None, 1, "x")}
        await gateway.post(records("1", "2"))
        await gateway.post(b"{")
        await gateway.put(ONE)
        answer = await gateway.ask("GET", "/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        lines = answer.body.decode().splitlines()
        for line in (
            'gateway_requests_total{resource="topic",status="200"} 1.0',
            'gateway_requests_total{resource="topic",status="422"} 1.0',
            'gateway_requests_total{resource="record",status="200"} 1.0',
            'gateway_request_seconds_count{resource="topic"} 2.0',
            f'gateway_request_bytes_total{{resource="topic"}} {len(records("1", "2")) + 1}.0',
            'gateway_records_total{outcome="acknowledged",resource="topic"} 1.0',
            'gateway_records_total{outcome="failed",resource="topic"} 1.0',
            'gateway_records_total{outcome="acknowledged",resource="record"} 1.0',
            "gateway_kafka_connected 1.0",
        ):
            assert line in lines
        answer = await gateway.ask("GET", "/healthz")
        assert (answer.status, answer.json) == (
            200,
            {"status": "serving", "kafka": "connected", "kinesis": "unused"},
        )
        async with gateway.app.router.lifespan_context(gateway.app):
            pass
        assert gateway.kafka.stopped
        assert gateway.kinesis.stopped

    asked(test)


def test_the_description() -> None:
    async def test(gateway: Asked) -> None:
        page = (await gateway.ask("GET", "/docs")).body.decode()
        assert "/openapi.json" in page
        needed = [urlsplit(found).path for found in re.findall(r'(?:href|src)="([^"]+)"', page)]
        assert len(needed) == 3
        for path in needed:
            assert (await gateway.ask("GET", path)).status == 200
        description = (await gateway.ask("GET", "/openapi.json")).json
        produce = description["paths"]["/topics/{topic}"]["post"]
        assert list(produce["requestBody"]["content"]) == [KAFKA]
        statuses = ["200", "403", "404", "406", "408", "413", "415", "422", "429", "503"]
        assert sorted(produce["responses"]) == statuses
        assert produce["responses"]["404"]["content"]["application/json"]["schema"]["properties"][
            "error_code"
        ] == {"enum": [40401, 40402]}
        put = description["paths"]["/streams/{stream}/record"]["put"]
        statuses = ["200", "400", "403", "404", "408", "413", "415", "429", "503"]
        assert sorted(put["responses"]) == statuses
        assert put["security"] == [{"key": []}]

    asked(test, "key")


# -------------------------------------------------------------------------- hostile

GOOD = (
    (
        "POST",
        PIN,
        KAFKA,
        b'{"records":[{"key":"k","value":{"index":7528,"title":"\\u00c5land \xf0\x9f\xa7\xa8"}},'
        b'{"value":[1.10,-0,1e5,true,null],"partition":2}],"key_schema_id":null}',
    ),
    (
        "PUT",
        STREAM + "/record",
        "application/json",
        b'{"StreamName":"streaming-0a60b9a8a831-pin","Data":{"ind":1,"age":20},'
        b'"PartitionKey":"partition-1"}',
    ),
    (
        "PUT",
        STREAM + "/records",
        "application/json",
        b'{"records":[{"data":{"ind":1},"partition-key":"a"},'
        b'{"data":"{\\"ind\\": 2}","partition-key":7}]}',
    ),
)
FRAGMENTS = [
    b"null", b"true", b"-", b"0x1", b"01", b"1e999", b"1" * 400, b"-1", b"NaN", b"Infinity", b"[]",
    b"{}", b'""', b'"', b"\\", b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\x"', b'"\\u12"', b"\x00",
    b"\x7f", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"'",
    b"[" * 2_000, b'{"a":' * 600, b"]" * 50, b'"records":[]', b'"records":', b'"value":',
    b'"partition":99999999999999999999', b'"partition":"0"', b'"key":', b'"Data":', b'"data":1',
    b'"PartitionKey":[]', b'"StreamName":0', b",", b":", b"{", b"}", b"/**/", b"\r\n\t ",
]  # fmt: skip
TYPES = ["", "text/plain", "application/json;", "application/x-www-form-urlencoded", KAFKA + "x",
         "\xff", "application/octet-stream", "multipart/form-data; boundary=x"]  # fmt: skip
PATHS = ["/topics/missing", "/streams/missing/record", "/x/topics/\x00", "/topics/" + "t" * 300,
         "/streams/../record", "/streams/\N{PILE OF POO}/records", "//topics//",
         "/topics"]  # fmt: skip


def mangled(draw: random.Random, body: bytes) -> bytes:
    """A body with a few things wrong, or none."""
    for _ in range(draw.choice((0, 1, 1, 1, 2, 5))):
        at, to = sorted(draw.choices(range(len(body) + 1), k=2))
        body = draw.choice(
            (
                lambda body=body, at=at: body[:at],
                lambda body=body, at=at, to=to: body[:at] + body[to:],
                lambda body=body, at=at, to=to: body[:to] + body[at:],
                lambda body=body, at=at: body[:at] + draw.choice(FRAGMENTS) + body[at:],
                lambda body=body, at=at, to=to: body[:at] + draw.choice(FRAGMENTS) + body[to:],
                lambda body=body, at=at: body[:at] + draw.randbytes(draw.randint(1, 9)) + body[at:],
                lambda body=body: body.decode("latin-1").encode(draw.choice(("utf-16", "utf-8"))),
                lambda body=body: replaced(draw, body),
            )
        )()
    return body


def replaced(draw: random.Random, body: bytes) -> bytes:
    """A body with one of its values, wherever it lies, of another type."""
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError):
        return body
    place, inside = None, whole
    while isinstance(inside, dict | list) and inside and (place is None or draw.random() < 0.7):
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        place = inside, draw.choice(keys)
        inside = inside[place[1]]
    if place is not None:
        place[0][place[1]] = draw.choice(
            (None, True, 0, -1, 1.5, 2**70, "", "x" * 300, "\ud800", [], {}, [[]], {"a": {}})
        )
    return json.dumps(whole).encode()


def test_ten_thousand_hostile_requests() -> None:
    """Each is answered as described; what is acknowledged has the bytes that were sent."""
    draw = random.Random(7)
    counts: dict[int, int] = {}

    async def test(gateway: Asked) -> None:
        for _ in range(10_000):
            method, path, media_type, body = draw.choice(GOOD)
            if draw.random() < 0.03:
                path = draw.choice(PATHS)
            if draw.random() < 0.03:
                media_type = draw.choice(TYPES)
            body = mangled(draw, body)
            gateway.kafka.records.clear()
            gateway.kinesis.records.clear()
            answer = await gateway.ask(
                method, path, body, draw.choice((1, 1, 7)), content_type=media_type
            )
            counts[answer.status] = counts.get(answer.status, 0) + 1
            assert answer.status in (200, 400, 404, 405, 413, 415, 422)
            found = answer.json
            if answer.status != 200:
                assert sorted(found) in (["error_code", "message"], ["__type", "message"])
                assert len(answer.body) < 1_000
                assert not gateway.kafka.records
                assert not gateway.kinesis.records
            for record in gateway.kafka.records:
                assert all(text is None or text in body for text in record[:2])
            for one in gateway.kinesis.records:
                assert one.data in body or one.data.decode() in texts(json.loads(body))
        for method, path, media_type, body in GOOD:
            answer = await gateway.ask(method, path, body, content_type=media_type)
            assert answer.status == 200
        metrics = (await gateway.ask("GET", "/metrics")).body
        assert b"gateway_in_flight_requests 0.0\n" in metrics
        assert b"gateway_in_flight_bytes 0.0\n" in metrics
        assert len(metrics.splitlines()) < 200  # none for each path that was asked for

    asked(test)
    assert {200, 400, 404, 415, 422} <= set(counts)
    assert counts[200] > 1_000


def texts(value: Any) -> list[str]:
    """All strings within a JSON value."""
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inside for text in texts(one)]


@pytest.mark.parametrize(
    ("depth", "status"), [(500, 200), (501, 422), (900, 422), (5_000, 422), (10**6, 422)]
)
def test_nesting(depth: int, status: int) -> None:
    async def test(gateway: Asked) -> None:
        assert (await gateway.post(records("[" * depth + "]" * depth))).status == status
        assert (await gateway.post(records("1"))).status == 200

    asked(test)
