"""The same posts by the batch path and by the stream paths: the same tables.

Invented lines, which no gateway would take, are put into Kafka and Kinesis; real posts follow them
through the gateway.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from ingestion.lake import REJECTED
from ingestion.records import KINDS
from tests import hostile, oracle
from tests.commands.test_ingest_command import ingest as ingest_here
from tests.dbt.lakes import ROOT, Built, Row, assert_oracle_agrees
from tests.services.conftest import client, eventually
from tests.services.test_gateway import Gateway, connected, running
from tests.unit.test_lake import rows

DATA = ROOT.parent / "shared" / "data"

#: What counts records, of which each path has its own provenance.
COUNTED = ("data_quality", "rejected_by_reason")


def lines() -> dict[str, list[bytes]]:
    """Everything hostile that is a record: a line of white space is none in an object."""
    return {
        kind: [raw for raw in raws if raw.strip()]
        for kind, raws in hostile.hostile_lines(seed=11, posts=40).items()
    }


def real_lines() -> dict[str, list[bytes]]:
    """What a REST proxy returned, what a broken producer sent, what the public emulator sent."""
    found: dict[str, list[bytes]] = {}
    for kind in KINDS:
        proxy = json.loads((DATA / f"RegnixS_rest_proxy_consumer/{kind}_consumer.json").read_text())
        found[kind] = [json.dumps(record["value"]).encode() for record in proxy]
        for name in ("polygonwindow_kinesis_850/kinesis_raw", "seed100_stream/raw"):
            found[kind] += (DATA / f"{name}_{kind}.jsonl").read_bytes().splitlines()
    return found


def ingest(lake: Built, pipeline: str, *arguments: str, **settings: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ingestion", *arguments],
        env={**os.environ, "LAKE_URI": str(lake.uri), "PIPELINE_ID": pipeline, **settings},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def send_to_kafka(broker: str, pipeline: str, raws: Mapping[str, Sequence[bytes]]) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics([NewTopic(f"{pipeline}.{kind}", 1, 1) for kind in raws])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=broker, acks="all")
    sent = [producer.send(f"{pipeline}.{kind}", value=raw) for kind in raws for raw in raws[kind]]
    producer.flush()
    assert all(future.succeeded() for future in sent)
    producer.close()


def send_to_kinesis(url: str, pipeline: str, raws: Mapping[str, Sequence[bytes]]) -> None:
    kinesis = client("kinesis", {"AWS_ENDPOINT_URL": url})
    for kind in raws:
        name = f"streaming-{pipeline}-{kind}"
        kinesis.create_stream(StreamName=name, ShardCount=1)

        def active(name: str = name) -> None:
            summary = kinesis.describe_stream(StreamName=name)["StreamDescription"]
            assert summary["StreamStatus"] == "ACTIVE"

        eventually(active)
        for raw in raws[kind]:
            kinesis.put_record(StreamName=name, Data=raw, PartitionKey="one")


def post(gateway: Gateway, pipeline: str, raws: Mapping[str, Sequence[bytes]]) -> None:
    """Post records to the gateway's Kafka resource and to its Kinesis resource."""
    for kind in raws:
        values = [raw.decode() for raw in raws[kind]]
        for start in range(0, len(values), 500):
            some = values[start : start + 500]
            answer = gateway.post(f"{pipeline}.{kind}", *some)
            assert answer.status_code == 200, answer.text
            assert {one["error_code"] for one in answer.json()["offsets"]} == {None}
            name = f"streaming-{pipeline}-{kind}"
            entries = ",".join(f'{{"Data":{value},"PartitionKey":"one"}}' for value in some)
            body = f'{{"StreamName":"{name}","Records":[{entries}]}}'
            answer = gateway.put(name, body, "records")
            assert answer.status_code == 200, answer.text
            assert answer.json()["FailedRecordCount"] == 0


@pytest.fixture(scope="module")
def gateway(broker: str, kinesis_url: str) -> Iterator[Gateway]:
    aws = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
    addresses = {"KAFKA_BOOTSTRAP_SERVERS": broker, "AWS_ENDPOINT_URL_KINESIS": kinesis_url}
    with running(**addresses, **aws) as found:
        eventually(lambda: connected(found))
        yield found


@pytest.fixture(scope="module")
def paths(
    gateway: Gateway,
    broker: str,
    kinesis_url: str,
    store: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Built]:
    """A lake for each path, with the same posts landed and built."""
    pipeline, sent = f"p{uuid4().hex[:12]}", lines()
    send_to_kafka(broker, pipeline, sent)
    send_to_kinesis(kinesis_url, pipeline, sent)
    if DATA.is_dir():
        real = real_lines()
        post(gateway, pipeline, real)
        sent = {kind: sent[kind] + real[kind] for kind in sent}
    bucket = f"b{uuid4().hex[:12]}"
    client("s3", store).create_bucket(Bucket=bucket)
    lakes = {name: Built(tmp_path_factory.mktemp(name)) for name in ("objects", "kafka", "kinesis")}
    aws = {**store, "KAFKA_BOOTSTRAP_SERVERS": broker, "AWS_ENDPOINT_URL_KINESIS": kinesis_url}
    objects = f"s3://{bucket}/msk"
    ingest(lakes["objects"], pipeline, "archive", "--uri", objects, "--flush-size", "50", **aws)
    ingest(lakes["objects"], pipeline, "s3", "--uri", objects, **aws)
    ingest(lakes["kafka"], pipeline, "kafka", **aws)
    ingest(lakes["kinesis"], pipeline, "kinesis", **aws)
    for lake in lakes.values():
        lake.know(sent, datetime(2024, 1, 1, tzinfo=UTC))
        with lake.dbt() as dbt:
            dbt.succeed("run")
    return lakes


def answers(lake: Built) -> dict[str, list[Row]]:
    return {name: found for name, found in lake.tables().items() if name not in COUNTED}


@pytest.mark.parametrize("path", ["kafka", "kinesis"])
def test_both_paths_give_the_same_tables(paths: dict[str, Built], path: str) -> None:
    assert answers(paths[path]) == answers(paths["objects"])


@pytest.mark.parametrize("path", ["objects", "kafka", "kinesis"])
def test_what_a_path_gives_is_right(paths: dict[str, Built], path: str) -> None:
    assert_oracle_agrees(paths[path])


def test_both_paths_reject_the_same(paths: dict[str, Built]) -> None:
    rejected = {
        name: sorted(rows(str(lake.uri), REJECTED, "kind, reason, raw"))
        for name, lake in paths.items()
    }
    assert rejected["kafka"] == rejected["kinesis"] == rejected["objects"] != []


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data missing")
@pytest.mark.parametrize("path", ["objects", "kafka", "kinesis"])
def test_real_records_came_by_every_path(paths: dict[str, Built], path: str) -> None:
    """Two of them misrouted, 594 without a key, and one post seven times in a single response."""
    lake, real = str(paths[path].uri), real_lines()
    refused = Counter(
        (kind, reason)
        for kind, reason, raw in rows(lake, REJECTED, "kind, reason, raw")
        if raw in real[kind]
    )
    assert refused == {("user", "misrouted"): 2, ("geo", "invalid_key"): 594}
    for kind, raws in real.items():
        taken = (oracle.land(kind, raw) for raw in raws)
        sent = Counter(one.ind for one in taken if isinstance(one, oracle.Landed))
        assert sent.total() == len(raws) - sum(n for (of, _), n in refused.items() if of == kind)
        landed = Counter(ind for (ind,) in rows(lake, kind, "ind"))
        assert sent <= landed  # replays too
        staged = [row["ind"] for row in paths[path].rows("staging", f"stg_{kind}")]
        assert Counter(staged) == Counter(landed.keys())


def test_by_both_paths_at_once_a_post_counts_once(
    paths: dict[str, Built], gateway: Gateway, broker: str, kinesis_url: str, tmp_path: Path
) -> None:
    pipeline, sent = f"p{uuid4().hex[:12]}", lines()
    send_to_kafka(broker, pipeline, sent)
    send_to_kinesis(kinesis_url, pipeline, sent)
    if DATA.is_dir():
        post(gateway, pipeline, real_lines())
    both = Built(tmp_path)
    aws = {
        "KAFKA_BOOTSTRAP_SERVERS": broker,
        "AWS_ENDPOINT_URL_KINESIS": kinesis_url,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }
    ingest(both, pipeline, "kafka", **aws)
    ingest(both, pipeline, "kinesis", **aws)
    with both.dbt() as dbt:
        dbt.succeed("run")
    assert answers(both) == answers(paths["objects"])
    landed = rows(str(both.uri), "pin", "distinct _source")
    assert sorted(landed) == [("kafka",), ("kinesis",)]


def test_every_path_leads_to_a_lake_in_a_bucket_too(
    broker: str, kinesis_url: str, database: str, store: dict[str, str], tmp_path: Path
) -> None:
    """Each record lands there once, however often it is asked for."""
    pipeline, bucket = f"p{uuid4().hex[:12]}", f"b{uuid4().hex[:12]}"
    sent = {kind: [b'{"ind":1,"title":"x","country":"y","age":3}', b"{"] for kind in KINDS}
    send_to_kafka(broker, pipeline, sent)
    send_to_kinesis(kinesis_url, pipeline, sent)
    client("s3", store).create_bucket(Bucket=bucket)
    settings = {
        **store,
        "KAFKA_BOOTSTRAP_SERVERS": broker,
        "AWS_ENDPOINT_URL_KINESIS": kinesis_url,
        "SOURCE_DATABASE_URL": database,
        "PIPELINE_ID": pipeline,
        "LAKE_URI": f"s3://{bucket}/lake",
    }

    def run(*arguments: str) -> Any:
        done = ingest_here(*arguments, "--json", cwd=tmp_path, **settings)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run("seed-database", "--posts", "2")
    run("archive", "--uri", f"s3://{bucket}/msk")
    due = {"kafka": 3, "kinesis": 3, "mysql": 6, "s3": 3}
    for command, number in due.items():
        options = ["--uri", f"s3://{bucket}/msk"] if command == "s3" else []
        streams = [run(command, *options)["streams"] for _ in range(2)]
        assert [sum(one["landed"] for one in found) for found in streams] == [number, 0], command
    found = Counter[tuple[str, str]]()
    for row in run("status"):
        found.update({(row["source"], name): row[name] for name in ("rows", "rejected")})
    assert {source: found[source, "rows"] for source in due} == due
    refused = Counter(row["source"] for row in run("rejected", "list"))
    assert refused == {"kafka": 3, "kinesis": 3, "s3": 3}
    assert all(found[source, "rejected"] == refused[source] for source in due)
