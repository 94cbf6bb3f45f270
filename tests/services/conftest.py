"""Real servers, one of each for a worker's tests, on free ports of 127.0.0.1."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack import kafka, kinesis, mysql, process, s3
from tests.services.landers import Nursery


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Kafka broker: ``host:port``."""
    _skip(kafka.missing())
    port = process.free_port()
    folder = tmp_path_factory.mktemp("kafka")
    process.start(kafka.broker(port, process.free_port(), folder))
    yield f"127.0.0.1:{port}"
    process.stop(folder)


@pytest.fixture(scope="session")
def kinesis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Kinesis; any key and region will do."""
    _skip(kinesis.missing())
    port = process.free_port()
    folder = tmp_path_factory.mktemp("kinesis")
    process.start(kinesis.server(port, folder))
    yield f"http://127.0.0.1:{port}"
    process.stop(folder)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead clients to an S3 store."""
    _skip(s3.missing())
    port = process.free_port()
    folder = tmp_path_factory.mktemp("s3")
    process.start(s3.server(port, folder))
    environment = s3.environment(port)
    eventually(lambda: client("s3", environment).list_buckets())
    yield environment
    if found := process.find(folder):
        found.kill()  # asked to end, it takes a quarter of a minute
    process.stop(folder)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The SQLAlchemy address of an empty source database."""
    _skip(mysql.missing())
    port = process.free_port()
    folder = tmp_path_factory.mktemp("mysql")
    process.start(mysql.server(port, folder))
    yield mysql.url(port)
    process.stop(folder)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What starts landers quickly, and kills those that still run in the end."""
    with Nursery() as started:
        yield started


def client(service: str, environment: dict[str, str]) -> Any:
    """A boto3 client of a server on this machine."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment.get("AWS_REGION", "us-east-1"),
        aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID", "any"),
        aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY", "any"),
    )


def eventually(action: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The result of an action as soon as it raises nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _skip(reason: str | None) -> None:
    if reason:
        pytest.skip(reason)


def folder_of(tmp_path: Path, name: str) -> Path:
    """A new folder for a server that a test starts and ends by itself."""
    path = tmp_path / name
    path.mkdir()
    return path
