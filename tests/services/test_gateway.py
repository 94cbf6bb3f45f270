"""The gateway in front of a real broker and a real Kinesis: what is acknowledged is there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import requests
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.partitioner import murmur2

from stack import kafka, kinesis, process
from tests.services.conftest import client, eventually

DATA = Path(__file__).parents[3] / "shared" / "data" / "RegnixS_rest_proxy_consumer"
KAFKA = {"Content-Type": "application/vnd.kafka.json.v2+json"}
JSON = {"Content-Type": "application/json"}
MEGABYTE = 2**20


class Gateway(NamedTuple):
    """A gateway that runs."""

    process: subprocess.Popen[str]
    url: str

    def post(self, topic: str, *values: str) -> requests.Response:
        """Post values of JSON to a topic."""
        return self.send(topic, *(f'{{"value":{value}}}' for value in values))

    def send(self, topic: str, *records: str) -> requests.Response:
        """Post records of JSON to a topic."""
        body = f'{{"records":[{",".join(records)}]}}'.encode()
        return requests.post(f"{self.url}/topics/{topic}", data=body, headers=KAFKA, timeout=30)

    def put(self, stream: str, body: str, resource: str = "record") -> requests.Response:
        """Put JSON to a stream."""
        url = f"{self.url}/streams/{stream}/{resource}"
        return requests.put(url, data=body.encode(), headers=JSON, timeout=60)

    def health(self) -> Any:
        """What it says of itself."""
        return requests.get(f"{self.url}/healthz", timeout=30).json()

    def health_status(self) -> int:
        """The status that it says that with."""
        return requests.get(f"{self.url}/healthz", timeout=30).status_code


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[Gateway]:
    """A gateway as a process of its own, which ends with 0 when asked to."""
    child = subprocess.Popen(
        [sys.executable, "-m", "ingestion", "gateway", "--open", "--port", "0", *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    found = re.search(r"http://\S+", child.stdout.readline())
    try:
        if found is None:
            raise AssertionError(child.communicate(timeout=30)[1])
        gateway = Gateway(child, found.group())
        eventually(gateway.health)
        yield gateway
        child.terminate()
        _, said = child.communicate(timeout=60)
        assert child.returncode == 0
        assert "Traceback" not in said, said[-3000:]
    finally:
        child.kill()


@pytest.fixture(scope="module")
def gateway(broker: str, kinesis_url: str) -> Iterator[Gateway]:
    with running(
        "--body-timeout", "3",
        KAFKA_BOOTSTRAP_SERVERS=broker,
        AWS_ENDPOINT_URL_KINESIS=kinesis_url,
        AWS_ACCESS_KEY_ID="any",
        AWS_SECRET_ACCESS_KEY="any",
        AWS_REGION="us-east-1",
    ) as found:  # fmt: skip
        eventually(lambda: connected(found))
        yield found


def connected(gateway: Gateway) -> None:
    assert gateway.health()["kafka"] == "connected"


def new_topic(broker: str, partitions: int = 1, **settings: str) -> str:
    name = f"{uuid.uuid4().hex[:12]}.pin"
    admin = KafkaAdminClient(bootstrap_servers=broker)
    configs = {key.replace("_", "."): value for key, value in settings.items()}
    admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])

    def known() -> None:
        (topic,) = admin.describe_topics([name])
        assert len(topic["partitions"]) == partitions

    eventually(known)
    admin.close()
    return name


def stored(broker: str, topic: str) -> dict[tuple[int, int], tuple[bytes | None, bytes | None]]:
    """Key and value of every record of a topic, by partition and offset."""
    consumer = KafkaConsumer(bootstrap_servers=broker, auto_offset_reset="earliest")
    partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    found = {}
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for records in consumer.poll(timeout_ms=500).values():
            for one in records:
                found[one.partition, one.offset] = (one.key, one.value)
    consumer.close()
    return found


def stored_at(
    broker: str, topic: str, answer: requests.Response
) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of the records of an answer, where it says that they are."""
    found = stored(broker, topic)
    return [found[place] for place in places(answer)]


def places(answer: requests.Response) -> list[tuple[int, int]]:
    """Where the records of a request are."""
    assert answer.status_code == 200, answer.text
    offsets = answer.json()["offsets"]
    assert [one["error_code"] for one in offsets] == [None] * len(offsets)
    return [(one["partition"], one["offset"]) for one in offsets]


def new_stream(url: str, shards: int = 1) -> str:
    name = f"streaming-{uuid.uuid4().hex[:12]}-pin"
    kinesis = client("kinesis", {"AWS_ENDPOINT_URL": url})
    kinesis.create_stream(StreamName=name, ShardCount=shards)
    eventually(lambda: kinesis.list_shards(StreamName=name)["Shards"][shards - 1])
    kinesis.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
    return name


def in_stream(url: str, stream: str) -> dict[tuple[str, str], tuple[str, bytes]]:
    """Partition key and data of every record of a stream, by shard and sequence number."""
    kinesis = client("kinesis", {"AWS_ENDPOINT_URL": url})
    found = {}
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while page := kinesis.get_records(ShardIterator=iterator):
            for one in page["Records"]:
                place = shard["ShardId"], one["SequenceNumber"]
                found[place] = one["PartitionKey"], one["Data"]
            iterator = page["NextShardIterator"]
            if not page["Records"]:
                break
    return found


# ------------------------------------------------------------------- the two resources


def test_records_as_the_emulators_post_them_to_topics(gateway: Gateway, broker: str) -> None:
    topic = new_topic(broker, 3)
    row = {"index": 7528, "title": "Åland 🧨", "timestamp": datetime(2020, 8, 28, 3, 52, 47)}
    payload = json.dumps({"records": [{"value": row}]}, default=str)
    # A stage stands before the resource, or not.
    for stage in ("", "/test", "/dev"):
        answer = requests.request(
            "POST", f"{gateway.url}{stage}/topics/{topic}", headers=KAFKA, data=payload, timeout=30
        )
        ((_, value),) = stored_at(broker, topic, answer)
        assert value == json.dumps(row, default=str).encode()
    assert len(stored(broker, topic)) == 3


def test_records_as_the_emulators_put_them_to_streams(gateway: Gateway, kinesis_url: str) -> None:
    stream = new_stream(kinesis_url)
    row = {"ind": 1, "country": "Åland Islands", "latitude": -89.9787}
    for data in (row, json.dumps(row)):  # an object, or its text
        answer = requests.request(
            "PUT",
            f"{gateway.url}/test/streams/{stream}/record",
            headers=JSON,
            data=json.dumps({"StreamName": stream, "Data": data, "PartitionKey": "partition-1"}),
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        place = answer.json()["ShardId"], answer.json()["SequenceNumber"]
        assert in_stream(kinesis_url, stream)[place] == (
            "partition-1",
            json.dumps(row).encode(),
        )
    assert len(in_stream(kinesis_url, stream)) == 2


def test_the_bytes_of_a_record_are_those_that_were_sent(
    gateway: Gateway, broker: str, kinesis_url: str
) -> None:
    texts = ['{"a": 1.10,"a":2 , "b":[1e400, -0,1180591620717411303424]}', '"\\u00e5\\/"', "[ ]"]
    topic = new_topic(broker)
    assert stored_at(broker, topic, gateway.post(topic, *texts)) == [
        (None, text.encode()) for text in texts
    ]
    records = f'{{"key": {texts[0]}, "value":null}}', '{"value":1,"key":"k"}'
    answer = gateway.send(topic, *records)
    found = stored_at(broker, topic, answer)
    assert found == [(texts[0].encode(), None), (b'"k"', b"1")]
    stream = new_stream(kinesis_url)
    answer = gateway.put(stream, f'{{"Data": {texts[0]} ,"PartitionKey":7}}')
    assert answer.status_code == 200
    assert list(in_stream(kinesis_url, stream).values()) == [("7", texts[0].encode())]


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data missing")
def test_records_of_a_rest_proxy(gateway: Gateway, broker: str) -> None:
    """What a consumer of the REST Proxy was given back, posted again."""
    for file in sorted(DATA.glob("*.json")):
        values = [json.dumps(one["value"]) for one in json.loads(file.read_text())]
        topic = new_topic(broker)
        found = stored_at(broker, topic, gateway.post(topic, *values))
        assert found == [(None, value.encode()) for value in values]


def test_keys_and_partitions_decide_as_with_every_producer(gateway: Gateway, broker: str) -> None:
    topic = new_topic(broker, 5)
    keys = [json.dumps(f"key {number}") for number in range(20)]
    records = [f'{{"key":{key},"value":{at}}}' for at, key in enumerate(keys)]
    records += [f'{{"value":{at},"partition":{at}}}' for at in range(5)]
    partitions = [partition for partition, _ in places(gateway.send(topic, *records))]
    assert partitions[20:] == [0, 1, 2, 3, 4]
    assert partitions[:20] == [(murmur2(key.encode()) & 0x7FFFFFFF) % 5 for key in keys]


def test_many_records_for_a_stream(gateway: Gateway, kinesis_url: str) -> None:
    stream = new_stream(kinesis_url, 2)
    records = [{"Data": {"ind": at}, "PartitionKey": str(at)} for at in range(1_200)]
    body = json.dumps({"StreamName": stream, "Records": records})
    answer = gateway.put(stream, body, "records")
    assert answer.status_code == 200, answer.text
    assert answer.json()["FailedRecordCount"] == 0
    found = in_stream(kinesis_url, stream)
    assert len(found) == 1_200
    for at, one in enumerate(answer.json()["Records"]):
        assert found[one["ShardId"], one["SequenceNumber"]] == (
            str(at),
            json.dumps({"ind": at}).encode(),
        )


# ----------------------------------------------------------------------------- errors


def test_a_topic_that_is_not_there_until_it_is(gateway: Gateway, broker: str) -> None:
    name = f"{uuid.uuid4().hex[:12]}.geo"
    answer = gateway.post(name, "1")
    assert (answer.status_code, answer.json()["error_code"]) == (404, 40401)
    admin = KafkaAdminClient(bootstrap_servers=broker)
    assert name not in admin.list_topics()  # asking for it did not make it
    admin.create_topics([NewTopic(name, 1, 1)])
    admin.close()
    eventually(lambda: places(gateway.post(name, "1")))
    answer = gateway.send(name, '{"value":1,"partition":1}')
    assert (answer.status_code, answer.json()["error_code"]) == (404, 40402)
    assert name in requests.get(f"{gateway.url}/topics", timeout=30).json()


def test_a_record_that_a_topic_does_not_take_spoils_no_other(gateway: Gateway, broker: str) -> None:
    small = new_topic(broker, max_message_bytes="1000")
    compacted = new_topic(broker, cleanup_policy="compact")
    eventually(lambda: places(gateway.send(compacted, '{"key":1,"value":1}')))
    for topic, values, codes in (
        (small, ["1", json.dumps("x" * 2_000), "2"], [None, 1, None]),
        (small, [json.dumps("x" * 600)] * 20, [None] * 20),  # each fits, all of them do not
        (compacted, ["1"], [1]),
    ):
        answer = gateway.post(topic, *values)
        assert answer.status_code == 200
        offsets = answer.json()["offsets"]
        assert [one["error_code"] for one in offsets] == codes
        for one in offsets:
            assert (
                (one["error"] is None) == (one["offset"] is not None) == (one["error_code"] is None)
            )
    assert len(stored(broker, small)) == 22
    assert len(stored(broker, compacted)) == 1


def test_errors_of_streams(gateway: Gateway, kinesis_url: str) -> None:
    stream = new_stream(kinesis_url)
    big = "x" * (MEGABYTE + 1)
    for name, body, status, kind in (
        ("nowhere", {"Data": 1, "PartitionKey": "x"}, 404, "ResourceNotFoundException"),
        ("%20", {"Data": 1, "PartitionKey": "x"}, 400, "ValidationException"),
        (stream, {"Data": big, "PartitionKey": "x"}, 400, "ValidationException"),
    ):
        for answer in (
            gateway.put(name, json.dumps(body)),
            gateway.put(name, json.dumps({"Records": [body]}), "records"),
        ):
            assert (answer.status_code, answer.json()["__type"]) == (status, kind)
    assert in_stream(kinesis_url, stream) == {}


def test_a_body_that_does_not_come(gateway: Gateway) -> None:
    def trickle() -> Iterator[bytes]:
        for _ in range(100):
            yield b" "
            time.sleep(0.1)

    answer = requests.post(f"{gateway.url}/topics/x", data=trickle(), headers=KAFKA, timeout=30)
    assert (answer.status_code, answer.json()["error_code"]) == (408, 408)


# ------------------------------------------------------------------- ends, and brokers


class Posting:
    """Threads that post records with numbers until they are told to stop."""

    def __init__(self, gateway: Gateway, topic: str, threads: int = 8, records: int = 20) -> None:
        self._gateway = gateway
        self._topic = topic
        self._records = records
        self._stop = threading.Event()
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        self.acknowledged: dict[int, tuple[int, int]] = {}
        self.statuses: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._post) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _post(self) -> None:
        session = requests.Session()
        while not self._stop.is_set():
            with self._lock:
                numbers = [next(self._numbers) for _ in range(self._records)]
            body = json.dumps({"records": [{"value": number} for number in numbers]})
            url = f"{self._gateway.url}/topics/{self._topic}"
            try:
                answer = session.post(url, data=body, headers=KAFKA, timeout=30)
            except requests.ConnectionError:
                time.sleep(0.05)
                continue
            with self._lock:
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    for number, one in zip(numbers, answer.json()["offsets"], strict=True):
                        if one["error_code"] is None:
                            self.acknowledged[number] = one["partition"], one["offset"]

    def stop(self) -> None:
        """Post no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def assert_stored_once(self, broker: str) -> None:
        """What was acknowledged is in the topic, where it was said to be, and nothing twice."""
        found = stored(broker, self._topic)
        counts = Counter(value for _, value in found.values())
        assert set(counts.values()) == {1}
        assert self.acknowledged
        for number, place in self.acknowledged.items():
            assert found[place] == (None, str(number).encode())


def wait_until(condition: Any) -> None:
    def check() -> None:
        assert condition()

    eventually(check, 60)


def test_ended_under_load_it_loses_nothing_that_it_acknowledged(broker: str) -> None:
    topic = new_topic(broker, 3)
    with running(KAFKA_BOOTSTRAP_SERVERS=broker) as gateway:
        posting = Posting(gateway, topic)
        wait_until(lambda: len(posting.acknowledged) > 1_000)
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(60)
        posting.stop()
    posting.assert_stored_once(broker)
    assert set(posting.statuses) <= {200, 503}


def test_a_broker_that_comes_late_freezes_and_goes(tmp_path: Path) -> None:
    """Meanwhile requests are answered 503, soon; afterwards it goes on by itself."""
    if reason := kafka.missing():
        pytest.skip(reason)
    port = process.free_port()
    address = f"127.0.0.1:{port}"
    server = kafka.broker(port, process.free_port(), tmp_path / "kafka")
    with running(
        "--ack-timeout", "2", "--max-in-flight-bytes", str(4 * MEGABYTE),
        "--max-request-bytes", str(MEGABYTE), "--max-records", "1000",
        KAFKA_BOOTSTRAP_SERVERS=address,
    ) as gateway:  # fmt: skip
        try:
            answer = gateway.post("x", "1")
            assert (answer.status_code, answer.json()["error_code"]) == (503, 503)
            assert int(answer.headers["Retry-After"]) >= 1
            assert gateway.health() == {
                "status": "unavailable",
                "kafka": "unreachable",
                "kinesis": "unused",
            }

            process.start(server)
            topic, other = new_topic(address, 2), new_topic(address, 2)
            for name in (topic, other):
                eventually(lambda name=name: places(gateway.post(name, '"first"')))
            posting = Posting(gateway, topic, threads=4)
            wait_until(lambda: len(posting.acknowledged) > 200)

            java = process.find(tmp_path / "kafka")
            assert java is not None
            java.suspend()
            try:
                frozen(gateway, other)
            finally:
                java.resume()
            goes_on(posting)
            process.stop(tmp_path / "kafka")
            before = posting.statuses[503]
            wait_until(lambda: posting.statuses[503] > before)
            process.start(server)
            goes_on(posting)
            posting.stop()
            assert set(posting.statuses) <= {200, 503}
            posting.assert_stored_once(address)
            eventually(lambda: connected(gateway))
        finally:
            process.stop(tmp_path / "kafka")


def test_health_follows_a_broker_though_nobody_posts(tmp_path: Path) -> None:
    if reason := kafka.missing():
        pytest.skip(reason)
    folder = tmp_path / "kafka"
    server = kafka.broker(process.free_port(), process.free_port(), folder)
    process.start(server)
    try:
        with running(KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{server.port}") as gateway:
            eventually(lambda: connected(gateway))
            assert gateway.health_status() == 200
            java = process.find(folder)
            assert java is not None
            java.suspend()
            try:
                notices(gateway, 503)
            finally:
                java.resume()
            notices(gateway, 200)
            java.kill()
            java.wait(30)
            notices(gateway, 503)
            assert gateway.health()["kafka"] == "unreachable"
            process.start(server)
            notices(gateway, 200)
            topic = new_topic(f"127.0.0.1:{server.port}")
            eventually(lambda: places(gateway.post(topic, "1")))
    finally:
        process.stop(folder)


def test_health_follows_a_kinesis_that_was_used(tmp_path: Path) -> None:
    if reason := kinesis.missing():
        pytest.skip(reason)
    folder = tmp_path / "kinesis"
    server = kinesis.server(process.free_port(), folder)
    process.start(server)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }
    try:
        # No address of Kafka is given, and none is missed.
        with running(**environment, KAFKA_BOOTSTRAP_SERVERS="") as gateway:
            assert gateway.health()["kinesis"] == "unused"
            assert gateway.health_status() == 200
            gateway.put("nosuch", '{"Data":1,"PartitionKey":"k"}')
            assert gateway.health()["kinesis"] == "connected"
            node = process.find(folder)
            assert node is not None
            node.kill()
            node.wait(30)
            notices(gateway, 503)
            assert gateway.health()["kinesis"] == "unreachable"
            process.start(server)
            notices(gateway, 200)
    finally:
        process.stop(folder)


def notices(gateway: Gateway, status: int) -> None:
    """The gateway's health has another status within 10 s, and keeps it."""
    began = time.monotonic()
    while gateway.health_status() != status:
        assert time.monotonic() - began < 10
        time.sleep(0.05)
    for _ in range(40):
        assert gateway.health_status() == status
        time.sleep(0.05)


def frozen(gateway: Gateway, topic: str) -> None:
    """Much is asked for while no broker answers: it is refused soon and takes no more memory.

    What was refused may be stored all the same, later: the topic is for nothing else.
    """
    values = ['"%s"' % ("x" * 4_000)] * 100
    memory = psutil.Process(gateway.process.pid)
    gateway.post(topic, *values)
    before = memory.memory_info().rss
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: gateway.post(topic, *values), range(100)))
    assert {answer.status_code for answer in answers} == {503}
    assert any("too much is under way" in answer.text for answer in answers)
    assert all("Retry-After" in answer.headers for answer in answers)
    assert max(answer.elapsed.total_seconds() for answer in answers) < 15
    assert memory.memory_info().rss - before < 64 * MEGABYTE
    assert gateway.health()["kafka"] != "connected"


def goes_on(posting: Posting) -> None:
    before = len(posting.acknowledged)
    wait_until(lambda: len(posting.acknowledged) > before + 200)
