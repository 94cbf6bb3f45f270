"""How long a record takes from its acknowledgement until it can be read in bronze."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil

from benchmarks.figures import Figure
from benchmarks.process import environment
from ingestion.console import DEFAULT_PIPELINE_ID
from ingestion.emulation.defects import KINDS
from ingestion.emulation.posts import Plan, records
from ingestion.lake import Lake, Origin
from stack import kafka, process

#: Sent a second and to be landed as fast, by a lander that may let a record wait for this long.
MAX_LATENCY = 1.0
PARTITIONS = 2
_TICK = 0.02
_POSTS = 5_000


def measure(work: Path, rate: int, seconds: float) -> Iterator[Figure]:
    """Measure, figure by figure.

    Args:
        work: a folder to write into.
        rate: records a second, over three topics.
        seconds: to send for.
    """
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        folder = Path(scratch)
        port = process.free_port()
        process.start(kafka.broker(port, process.free_port(), folder / "kafka"))
        lander = None
        try:
            lander = _start_lander(port, folder)
            watch = _Watch(str(folder / "lake"))
            _send(port, rate, 1, watch)
            watch.finish()  # now it runs and follows
            watch = _Watch(str(folder / "lake"))
            sent = _send(port, rate, seconds, watch)
            peak = psutil.Process(lander.pid).memory_info().rss / 2**20
            seen = watch.finish()
        finally:
            if lander is not None:
                lander.terminate()
                lander.wait(60)
            process.stop(folder / "kafka")
    if len(seen) != sent:
        raise RuntimeError(f"{sent:,} records were acknowledged, {len(seen):,} came")
    waits = statistics.quantiles(seen, n=1000, method="inclusive")
    yield Figure("records a second", sent / seconds)
    yield Figure("from acknowledgement to bronze, median", waits[499], "{:.2f} s")
    yield Figure("the same, 99th of a hundred", waits[989], "{:.2f} s")
    yield Figure("the same, longest", max(seen), "{:.2f} s")
    yield Figure("memory of the lander then", peak, "{:.0f} MB")


def _start_lander(port: int, folder: Path) -> subprocess.Popen[bytes]:
    from kafka import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}")
    how = {"num_partitions": PARTITIONS, "replication_factor": 1}
    admin.create_topics({_topic(kind): how for kind in KINDS}, wait_for_metadata=True)
    admin.close()
    lake = folder / "lake"
    Lake(str(lake)).create()
    command = [sys.executable, "-m", "ingestion", "kafka", "--follow"]
    with (folder / "lander.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--max-latency", str(MAX_LATENCY)],
            env=environment(
                {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}", "LAKE_URI": str(lake)}
            ),
            stdout=log,
            stderr=log,
        )


def _topic(kind: str) -> str:
    return f"{DEFAULT_PIPELINE_ID}.{kind}"


class _Watch:
    """Sees, as a reader of the lake does, how far each partition has landed.

    Args:
        lake: its address.
    """

    def __init__(self, lake: str) -> None:
        self._lake = Lake(lake)
        self._sent: dict[Origin, deque[tuple[int, float]]] = {}
        self._waits: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def acknowledged(self, record: Any) -> None:
        """Note that a record is Kafka's now."""
        origin = Origin("kafka", record.topic, str(record.partition))
        self._sent.setdefault(origin, deque()).append((record.offset, time.monotonic()))

    def finish(self) -> list[float]:
        """Wait for the last of them; how long each took, in seconds."""
        self._over.set()
        self._thread.join()
        return self._waits

    def _look(self) -> None:
        deadline = float("inf")
        while time.monotonic() < deadline:
            if self._over.is_set():
                deadline = min(deadline, time.monotonic() + 30)
            for kind in KINDS:
                self._lake.handle(kind).update_incremental()
            now = time.monotonic()
            for origin, waiting in list(self._sent.items()):
                table = origin.stream.rpartition(".")[2]
                end = self._lake.offsets(table, origin).end
                while waiting and waiting[0][0] < end:
                    self._waits.append(now - waiting.popleft()[1])
            if self._over.is_set() and not any(self._sent.values()):
                return
            time.sleep(_TICK)


def _send(port: int, rate: int, seconds: float, watch: _Watch) -> int:
    """Send at a steady rate; how many were acknowledged."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=f"127.0.0.1:{port}", acks="all", linger_ms=5)
    lines = [
        (_topic(kind), raw)
        for kind in KINDS
        for raw in records(Plan(_POSTS, _POSTS, 1), kind, np.arange(_POSTS))
    ]
    Random(1).shuffle(lines)
    begun, sent = time.monotonic(), 0
    while (now := time.monotonic()) < begun + seconds:
        due = int((now - begun) * rate)
        for number in range(sent, due):
            topic, raw = lines[number % len(lines)]
            future = producer.send(topic, raw, partition=number % PARTITIONS)
            future.add_callback(watch.acknowledged)
        sent = max(sent, due)
        time.sleep(_TICK)
    producer.flush()
    producer.close()
    return sent
