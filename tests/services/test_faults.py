"""Servers that fall over while records are on their way: what was acknowledged is there, once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingestion.records import KINDS
from stack import kafka, process, s3
from tests.services import kills
from tests.services.conftest import client, eventually, folder_of
from tests.services.kills import Place, Record, Report, Source
from tests.services.landers import Lander, Nursery, Order, Stage


@contextmanager
def running(server: process.Server) -> Iterator[None]:
    process.start(server)
    try:
        yield
    finally:
        process.stop(server.folder)


def crash(server: process.Server) -> None:
    """Kill it, as a machine that fails does."""
    found = process.find(server.folder)
    assert found is not None
    found.kill()
    found.wait(20)


def wait_until(reached: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def order_of(source: Source, folder: Path, lake: str, follow: bool) -> Order:
    return Order(
        source.command(lake, follow),
        folder / "landers.log",
        folder / "stages",
        source.environment,
    )


def checked(source: Source, lake: str, put: dict[Place, Record]) -> Report:
    report = Report(source.name, len(put), 0)
    kills.check(report, lake, put)
    return report


class Feeder(threading.Thread):
    """Puts records into a source, some at a time, until all are acknowledged."""

    def __init__(self, source: Source, count: int, slice_: int = 200) -> None:
        super().__init__(daemon=True)
        self.put: dict[Place, Record] = {}
        self._source = source
        self._records = list(kills.records(count))
        self._slice = slice_

    def run(self) -> None:
        for start in range(0, len(self._records), self._slice):
            end = start + self._slice
            kills.feed(self._source, self.put, self._records, start, end)
