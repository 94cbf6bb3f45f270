"""Every benchmark that needs servers, once, on tiny data: figures come out, nothing is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import process
from stack import airflow, kafka, kinesis, s3, spark
from stack.process import Server
from tests.benchmarks.conftest import Measure
from tests.dags.deployments import PRELOADED
from tests.dbt import small_spark
from tests.servers import skip


def test_kafka(measure: Measure) -> None:
    """Everything lands by one process and by two, or it fails."""
    skip(kafka.missing())
    figures = measure("kafka", "--engines", "duckdb")
    assert 1_000 * 3 < figures.pop("records in three topics") < 1_000 * 4
    assert set(figures) == {
        f"{what}, {count}"
        for count in ("1 process", "2 processes")
        for what in (
            "records a second",
            "records a second by the whole command",
            "CPU a record, whole command",
            "peak memory of a process",
        )
    }
    assert min(figures.values()) > 0


def test_gateway(measure: Measure) -> None:
    skip(kafka.missing())
    figures = measure("gateway")
    steadily = ("half that rate", "10,000 a second")
    assert set(figures) == {
        "records a second, 100 a request",
        "the gateway's CPU, a record",
        "the load generator's CPU, a record",
        *(f"{point} at that rate" for point in ("p50", "p99")),
        *(f"{point} at {rate}" for rate in steadily for point in ("p50", "p99")),
        *(f"records a second, {rate} sent" for rate in steadily),
        "memory when warm",
        "memory after all of it",
    }
    assert min(figures.values()) > 0


def test_freshness(measure: Measure) -> None:
    """Every acknowledged record comes, or it fails."""
    skip(kafka.missing())
    figures = measure("freshness")
    assert 0 < figures.pop("records a second") <= 500
    assert figures.pop("memory of the lander then") > 50
    assert list(figures) == [
        "from acknowledgement to bronze, median",
        "the same, 99th of a hundred",
        "the same, longest",
    ]
    median, p99, longest = figures.values()
    assert 0 < median <= p99 <= longest


def test_kills() -> None:
    sources = {"s3": s3, "kafka": kafka, "kinesis": kinesis}
    for server in sources.values():
        skip(server.missing())
    counts = ["--records", "3000", "--kills", "3", "--landers", "2"]
    command = [sys.executable, "-m", "benchmarks.kills", "--sources", ",".join(sources), *counts]
    rows = process.run(command).output.strip().splitlines()[-len(sources) :]
    for source, row in zip(sources, rows, strict=True):
        name, kills, busy, records, unfit, lost, twice, _ = row.strip("| ").split(" | ")
        assert name.lower() == source
        assert (kills, records, unfit, lost, twice) == ("3", "3,000", "29", "0", "0")
        assert int(busy) <= int(kills)


def test_spark_beside_sail(measure: Measure, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full build whose answers are those of the embedded engine, or it fails."""
    skip(spark.missing())
    monkeypatch.setattr(spark, "SETTINGS", {**spark.SETTINGS, **small_spark.SETTINGS})
    figures = measure("building", "--engines", "spark", "--steps", "full")
    assert figures["Spark, 2,000 posts: full build"] > figures["Sail, 2,000 posts: full build"] > 0
    sail, peer = json.loads((work / "building.json").read_text())
    assert (sail["engine"], peer["engine"]) == ("Sail", "Spark")
    assert set(sail["cost"]["nodes"]) == set(peer["cost"]["nodes"])
    assert peer["cost"]["written_mb"] > 0


def test_the_daily_dag(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("airflow", reason="Airflow is not installed: make .venv/.bench")
    known = airflow.server

    def preloaded(port: int, folder: Path) -> Server:
        """Its tasks are forked from a scheduler that has imported what each would import."""
        server = known(port, folder)
        (folder / "config").mkdir()
        (folder / "config" / "airflow_local_settings.py").write_text(PRELOADED)
        return server

    monkeypatch.setattr(airflow, "server", preloaded)
    # The file is there from the beginning, and stays as it is.
    for name in ("REFRESH_INTERVAL", "MIN_FILE_PROCESS_INTERVAL"):
        monkeypatch.setenv(f"AIRFLOW__DAG_PROCESSOR__{name}", "3600")
    # Each task that watches the build asks for it every two seconds: a few at a time are enough.
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "4")
    monkeypatch.setenv("AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME", "0.5")
    figures = measure("dag")
    assert figures.pop("tasks of the DAG, twice the models") > figures["tasks of the DAG"] > 20
    assert figures.pop("tasks of the DAG") == figures.pop("tasks of a run")
    assert set(figures) == {
        "reading the DAG's file",
        "reading the DAG's file, twice the models",
        "ingest, dbt build, report, one after another",
        "the DAG, from its trigger to success",
        "the DAG's share",
    }
    assert min(figures.values()) > 0
