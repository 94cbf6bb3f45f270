"""Real servers, one of each for a worker's tests, on free ports of 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import kafka, kinesis, mysql, process
from tests.servers import client, eventually, skip
from tests.services.landers import Nursery

__all__ = ["client", "eventually", "folder_of"]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Kafka broker: ``host:port``."""
    skip(kafka.missing())
    port = process.free_port()
    folder = tmp_path_factory.mktemp("kafka")
    process.start(kafka.broker(port, process.free_port(), folder))
    yield f"127.0.0.1:{port}"
    process.stop(folder)


@pytest.fixture(scope="session")
def kinesis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Kinesis; any key and region will do."""
    skip(kinesis.missing())
    port = process.free_port()
    folder = tmp_path_factory.mktemp("kinesis")
    process.start(kinesis.server(port, folder))
    yield f"http://127.0.0.1:{port}"
    process.stop(folder)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The SQLAlchemy address of an empty source database."""
    skip(mysql.missing())
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


def folder_of(tmp_path: Path, name: str) -> Path:
    """A new folder for a server that a test starts and ends by itself."""
    path = tmp_path / name
    path.mkdir()
    return path
