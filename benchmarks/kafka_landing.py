"""How fast `ingest kafka` lands topics, and Spark Structured Streaming beside it."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.process import Cost, run
from ingestion.console import DEFAULT_PIPELINE_ID
from ingestion.records import KINDS
from stack import kafka, process, spark

INGEST = [sys.executable, "-m", "ingestion"]
PARTITIONS = 4
_ROOT = Path(__file__).parents[1]
_TOPICS = [f"{DEFAULT_PIPELINE_ID}.{kind}" for kind in KINDS]
#: What Spark needs besides its distribution to read Kafka.
_CONNECTOR = (
    "org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.1",
    "org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.1.1",
    "org.apache.kafka:kafka-clients:3.9.1",
    "org.apache.commons:commons-pool2:2.12.1",
)


@dataclass(frozen=True)
class Landing:
    """What a run came to.

    Attributes:
        records: that landed or were rejected.
        seconds: from when reading began, to the last commit.
        cost: of the whole process.
    """

    records: int
    seconds: float
    cost: Cost


def measure(
    work: Path, posts: int, runs: int, processes: Sequence[int] = (1, 2), peer: bool = True
) -> Iterator[Figure]:
    """Measure, figure by figure.

    Args:
        work: a folder to write into.
        posts: new posts of the input; about 3.2 records each.
        runs: runs of each, in turn; medians are given.
        processes: how many are to share the partitions.
        peer: whether Spark lands the same topics as well, where it can be had.
    """
    sink = work / f"kafka-sink-{posts}"
    if not sink.exists():
        run([*INGEST, "synth", "--clean", "--posts", str(posts), "--out", str(sink)])
    connector = _connector(work) if peer else None
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        folder = Path(scratch)
        port = process.free_port()
        process.start(kafka.broker(port, process.free_port(), folder / "kafka"))
        try:
            sent = _fill(f"127.0.0.1:{port}", sink)
            yield Figure("records in three topics", sent)
            found: dict[str, list[Landing]] = {}
            for _ in range(runs):
                for count in processes:
                    name = f"{count} process{'es' if count > 1 else ''}"
                    found.setdefault(name, []).append(_ingest(port, folder, count))
                if connector is not None:
                    found.setdefault("Spark", []).append(_spark(port, folder, connector))
        finally:
            process.stop(folder / "kafka")
    for name, landings in found.items():
        if any(landing.records != sent for landing in landings):
            raise RuntimeError(f"{name} landed {[landing.records for landing in landings]}")
        rates = [one.records / one.seconds for one in landings]
        whole = [one.records / one.cost.seconds for one in landings]
        yield Figure(f"records a second, {name}", statistics.median(rates))
        yield Figure(f"records a second by the whole command, {name}", statistics.median(whole))
        if name != "Spark":
            cpu = statistics.median(one.cost.cpu_seconds / one.records for one in landings)
            yield Figure(f"CPU a record, whole command, {name}", cpu * 1e6, "{:.1f} µs")
            peak = max(one.cost.peak_mb for one in landings)
            yield Figure(f"peak memory of a process, {name}", peak, "{:.0f} MB")


def _fill(servers: str, sink: Path) -> int:
    """Send the lines of objects, and give their number."""
    from kafka import KafkaAdminClient, KafkaProducer

    admin = KafkaAdminClient(bootstrap_servers=servers)
    how = {"num_partitions": PARTITIONS, "replication_factor": 1}
    admin.create_topics(dict.fromkeys(_TOPICS, how), wait_for_metadata=True)
    admin.close()
    producer = KafkaProducer(
        bootstrap_servers=servers,
        acks=1,
        enable_idempotence=False,
        batch_size=256 * 1024,
        linger_ms=100,
    )
    sent = 0
    for path in sorted((sink / "topics").rglob("*.json")):
        topic = path.name.partition("+")[0]
        for line in path.read_bytes().splitlines():
            producer.send(topic, line, partition=sent // 1000 % PARTITIONS)
            sent += 1
    producer.close()
    return sent


def _ingest(port: int, folder: Path, processes: int) -> Landing:
    lake = folder / "lake"
    shutil.rmtree(lake, ignore_errors=True)
    where = ["--bootstrap-servers", f"127.0.0.1:{port}", "--lake", str(lake), "--json"]
    cost = run([*INGEST, "kafka", "--processes", str(processes), *where])
    streams = json.loads(cost.output)["streams"]
    landed = sum(stream["landed"] for stream in streams)
    return Landing(landed, max(stream["seconds"] for stream in streams), cost)


def _spark(port: int, folder: Path, connector: Path) -> Landing:
    lake = folder / "spark"
    shutil.rmtree(lake, ignore_errors=True)
    home = (spark.HOME / "python").resolve()
    jars = [*(spark.HOME / "jars").resolve().glob("*.jar"), *connector.resolve().glob("*.jar")]
    cost = run(
        [sys.executable, "-m", "benchmarks.kafka_spark", f"127.0.0.1:{port}", str(lake)],
        {
            "PYTHONPATH": os.pathsep.join([str(home), str(_ROOT)]),
            "SPARK_HOME": str(home / "pyspark"),
            "SPARK_JARS": ",".join(map(str, jars)),
        },
    )
    said = json.loads(cost.output.strip().splitlines()[-1])
    return Landing(said["records"], said["seconds"], cost)


def _connector(work: Path) -> Path | None:
    """The libraries with which Spark reads Kafka; None where they or Spark cannot be had."""
    folder = work / "spark-kafka"
    if spark.missing() or shutil.which("mvn") is None:
        return None
    for artifact in _CONNECTOR:
        name = "-".join(artifact.split(":")[1:]) + ".jar"
        if (folder / name).exists():
            continue
        copy = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}"]
        done = subprocess.run(
            [*copy, f"-DoutputDirectory={folder.resolve()}"], capture_output=True, check=False
        )
        if done.returncode:
            return None
    return folder
