"""How many records the gateway takes, how long they wait, and what it holds in memory.

Run as a process of its own, ``python -m benchmarks.gateway PORT REQUESTS RATE``, it is the load
generator and prints a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from benchmarks.figures import Figure
from benchmarks.process import environment
from stack import kafka, process

TOPIC = "bench.pin"
PARTITIONS = 3
RECORDS = 100
#: Records a second that come in steadily.
STEADY = 10_000
_CONNECTIONS = 16
_POST = {
    "index": 7528, "unique_id": "fbe53c66-3442-4773-b19e-d3ec6f54dddf", "title": "A post",
    "description": "What a person wrote about it, in a sentence or two as people do.",
    "poster_name": "Somebody", "follower_count": "437", "tag_list": "Cars,Lowrider,Old Cars",
    "is_image_or_video": "image", "downloaded": 1, "category": "vehicles",
    "image_src": "https://images.example/originals/0d/29/9f/0d299f3df020395aa7ce8387f40fbeed.jpg",
    "save_location": "Local save in /data/vehicles",
}  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What a load generator saw.

    Attributes:
        requests: answered, each with all of its records acknowledged.
        seconds: from the first to the last answer.
        p50: milliseconds from when a request was due to its answer.
        p99: the same, of the slowest in a hundred.
        cpu_seconds: of the generator itself.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    cpu_seconds: float


def measure(work: Path, requests: int, seconds: float) -> Iterator[Figure]:
    """Measure, figure by figure.

    Args:
        work: a folder to write into.
        requests: to send as fast as they are answered, after half as many to warm up.
        seconds: to send half as many a second as that, then ``STEADY``.
    """
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        folder = Path(scratch)
        broker_port = process.free_port()
        process.start(kafka.broker(broker_port, process.free_port(), folder / "kafka"))
        gateway = None
        try:
            _create_topic(broker_port)
            port = process.free_port()
            gateway = _start_gateway(port, broker_port, folder)
            _load(port, requests // 2)
            before = _memory(gateway)
            cpu = _cpu(gateway)
            fastest = _load(port, requests)
            cpu = _cpu(gateway) - cpu
            rate = fastest.requests / fastest.seconds
            sent = fastest.requests * RECORDS
            yield Figure(f"records a second, {RECORDS} a request", rate * RECORDS)
            yield Figure("the gateway's CPU, a record", cpu / sent * 1e6, "{:.1f} µs")
            generator = fastest.cpu_seconds / sent * 1e6
            yield Figure("the load generator's CPU, a record", generator, "{:.1f} µs")
            yield Figure("p50 at that rate", fastest.p50, "{:.1f} ms")
            yield Figure("p99 at that rate", fastest.p99, "{:.1f} ms")
            steadily = {"half that rate": rate / 2, f"{STEADY:,} a second": STEADY / RECORDS}
            for name, steady in steadily.items():
                load = _load(port, max(1, round(steady * seconds)), steady)
                reached = load.requests / load.seconds * RECORDS
                yield Figure(f"records a second, {name} sent", reached)
                yield Figure(f"p50 at {name}", load.p50, "{:.1f} ms")
                yield Figure(f"p99 at {name}", load.p99, "{:.1f} ms")
            yield Figure("memory when warm", before, "{:.0f} MB")
            yield Figure("memory after all of it", _memory(gateway), "{:.0f} MB")
        finally:
            if gateway is not None:
                gateway.terminate()
                gateway.wait(60)
            process.stop(folder / "kafka")


def _create_topic(broker_port: int) -> None:
    from kafka.admin import KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{broker_port}")
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
    admin.close()


def _start_gateway(port: int, broker_port: int, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "gateway.log").open("wb") as log:
        gateway = subprocess.Popen(
            [sys.executable, "-m", "ingestion", "gateway", "--open", "--port", str(port)],
            env=environment({"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{broker_port}"}),
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                if json.load(answer)["kafka"] == "connected":
                    return gateway
        except (URLError, ConnectionError):
            pass
        if gateway.poll() is not None or time.monotonic() > deadline:
            gateway.kill()
            raise RuntimeError((folder / "gateway.log").read_text()[-3000:])
        time.sleep(0.1)


def _load(port: int, requests: int, rate: float = 0.0) -> Load:
    """What another process sees that sends requests."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gateway",
        str(port),
        str(requests),
        str(rate),
    ]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return Load(**json.loads(done.stdout))


def _memory(gateway: subprocess.Popen[bytes]) -> float:
    return float(psutil.Process(gateway.pid).memory_info().rss) / 2**20


def _cpu(gateway: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(gateway.pid).cpu_times()
    return float(times.user + times.system)


class _Connection(asyncio.Protocol):
    """A connection that sends the same request again and again."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._answer = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, due: float) -> None:
        self._due = due
        self._transport.write(self._generator.request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].split()[0]):
            return
        if not head.startswith(b"HTTP/1.1 200") or body.count(b'"error_code":null') != RECORDS:
            raise SystemExit(f"not acknowledged: {self._answer[:500]!r}")
        self._answer = b""
        self._generator.answered(self, time.perf_counter() - self._due)

    def connection_lost(self, _: Exception | None) -> None:
        self._generator.lost()


class Generator:
    """Sends requests over some connections and notes how long each takes.

    Args:
        port: the gateway's.
        requests: how many.
        rate: a second; 0 for as fast as they are answered.
    """

    def __init__(self, port: int, requests: int, rate: float) -> None:
        body = json.dumps({"records": [{"value": _POST}] * RECORDS}).encode()
        self.request = (
            f"POST /topics/{TOPIC} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Content-Type: application/vnd.kafka.json.v2+json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._port = port
        self._requests = requests
        self._rate = rate
        self._sent = 0
        self._free: deque[_Connection] = deque()
        self._waiting: deque[float] = deque()
        self._latencies: list[float] = []

    async def run(self) -> Load:
        """Send them all."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        for _ in range(_CONNECTIONS):
            _, connection = await loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
            self._free.append(connection)
        begun = time.perf_counter()
        if self._rate:
            for number in range(self._requests):
                due = begun + number / self._rate
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                self._waiting.append(due)
                self._send()
        else:
            self._waiting.extend([0.0] * self._requests)
            self._send()
        await self._done
        seconds = time.perf_counter() - begun
        ordered = sorted(self._latencies)
        return Load(
            len(ordered),
            seconds,
            ordered[len(ordered) // 2] * 1000,
            ordered[len(ordered) * 99 // 100] * 1000,
            time.process_time(),
        )

    def _send(self) -> None:
        while self._free and self._waiting:
            due = self._waiting.popleft()
            # Without a rate a request is due when it can be sent.
            self._free.popleft().send(due or time.perf_counter())

    def answered(self, connection: _Connection, seconds: float) -> None:
        """Note an answer; the connection is free again."""
        self._latencies.append(seconds)
        self._free.append(connection)
        self._send()
        if len(self._latencies) == self._requests:
            self._done.set_result(None)

    def lost(self) -> None:
        """End the run, unless it is over."""
        if not self._done.done():
            self._done.set_exception(ConnectionError("the gateway closed a connection"))


if __name__ == "__main__":
    import uvloop

    generator = Generator(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    print(json.dumps(asdict(uvloop.run(generator.run()))))
