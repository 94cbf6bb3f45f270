"""Servers that fall over while records are on their way: what was acknowledged is there, once.

Every test has servers of its own, so that nobody else notices.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest
import requests

from ingestion.records import KINDS
from stack import kafka, mysql, process, s3
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
        if found := process.find(server.folder):
            found.kill()
        process.stop(server.folder)


def crash(server: process.Server) -> None:
    """End it as a machine that fails does."""
    found = process.find(server.folder)
    assert found is not None
    found.kill()
    found.wait(20)


def wait_until(reached: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def order_of(source: Source, folder: Path, lake: str, follow: bool = False) -> Order:
    arguments = source.command(lake, follow)
    return Order(arguments, folder / "landers.log", folder / "stages", source.environment)


def seen(lander: Lander, stage: Stage) -> bool:
    """Whether a lander, which must be running, is at a stage."""
    assert lander.code() is None, lander.said()
    return lander.stage == stage


def assert_each_once(source: Source, lake: str, put: dict[Place, Record]) -> None:
    report = Report(source.name, len(put), 0)
    kills.check(report, lake, put)
    assert report.sound, report


# ------------------------------------------------------------------------ Kafka


class Feeder(threading.Thread):
    """Puts records into a source until it is told that they are enough, a few at a time, each when
    those before are acknowledged."""

    def __init__(self, source: Source) -> None:
        super().__init__(daemon=True)
        self.put: dict[Place, Record] = {}
        self._source = source
        self._enough = threading.Event()

    def run(self) -> None:
        endless = kills.records(sys.maxsize)
        while not self._enough.wait(0.02):
            kills.feed(self._source, self.put, list(islice(endless, 50)), 0, 50)

    def stop(self, seconds: float) -> None:
        self._enough.set()
        self.join(seconds)
        assert not self.is_alive()


def test_a_broker_that_crashes_under_load(nursery: Nursery, tmp_path: Path) -> None:
    _skip(kafka.missing())
    lake = str(tmp_path / "lake")
    port = process.free_port()
    # The broker that crashed counts as alive for so long, and another is not let in.
    settings = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "500"}
    folder = folder_of(tmp_path, "kafka")
    server = kafka.broker(port, process.free_port(), folder, settings)
    with running(server):
        source = kills.Topics(f"127.0.0.1:{port}")
        feeder = Feeder(source)
        feeder.start()
        lander = nursery.start(order_of(source, tmp_path, lake, follow=True))
        wait_until(lambda: kills.landed(lake) > 1_000)
        before = len(feeder.put)
        crash(server)
        process.start(server)
        wait_until(lambda: len(feeder.put) > before + 1_000, 120)
        feeder.stop(120)
        number = len(feeder.put)
        wait_until(lambda: kills.landed(lake) >= number or lander.code() is not None)
        assert lander.code() is None, lander.said()
        lander.end()
    assert_each_once(source, lake, feeder.put)


# ------------------------------------------------------------------------ S3


def test_a_store_that_crashes_while_its_lake_is_written(
    nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip(s3.missing())
    port = process.free_port()
    server = s3.server(port, folder_of(tmp_path, "s3"))
    environment = s3.environment(port)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with running(server):
        source = kills.Objects(environment)
        client("s3", environment).create_bucket(Bucket="the-lake")
        lake = "s3://the-lake/here"
        client("s3", environment).put_object(Bucket="the-lake", Key="ready", Body=b"yes")
        records = list(kills.records(4_000))
        put: dict[Place, Record] = {}
        fed = 0
        for moment in (Stage.BETWEEN, Stage.LANDING):
            fed = kills.feed(source, put, records, fed, fed + 2_000)
            order = order_of(source, tmp_path, lake)
            lander = nursery.start(replace(order, pause=0.2))
            wait_until(lambda lander=lander, at=moment: seen(lander, at))  # type: ignore[misc]
            crash(server)
            process.start(server)
            # Names are known a while before bytes are.
            eventually(lambda: client("s3", environment).get_object(Bucket="the-lake", Key="ready"))
            # It got over it, or gave up with a line that says how to go on.
            assert lander.wait(200) == 0 or lander.said().startswith("error: ")
        last = nursery.start(order_of(source, tmp_path, lake))
        assert last.wait(200) == 0, last.said()
        assert_each_once(source, lake, put)


# ------------------------------------------------------------------------ the source database


def test_a_source_database_that_is_gone_for_a_while(nursery: Nursery, tmp_path: Path) -> None:
    _skip(mysql.missing())
    lake = str(tmp_path / "lake")
    posts = 5_000
    server = mysql.server(process.free_port(), folder_of(tmp_path, "mysql"))
    url = mysql.url(server.port)

    def ingest(*arguments: str) -> Lander:
        return nursery.start(
            Order(
                [*arguments, "--url", url],
                tmp_path / "landers.log",
                tmp_path / "stages",
                batch_records=500,
            )
        )

    def land(patience: int) -> Lander:
        return ingest("mysql", "--lake", lake, "--patience", str(patience), "--batch-size", "200")

    with running(server):
        filled = ingest("seed-database", "--posts", str(posts))
        assert filled.wait() == 0, filled.said()

        lander = land(patience=1)
        wait_until(lambda: seen(lander, Stage.LANDING))
        crash(server)
        assert lander.wait() == 1
        assert "nothing is lost or repeated" in lander.said()
        assert 0 < kills.landed(lake) < 3 * posts
        process.start(server)

        lander = land(patience=60)
        wait_until(lambda: seen(lander, Stage.LANDING))
        crash(server)
        wait_until(lambda: "trying again for 60 s" in lander.said())
        assert kills.landed(lake) < 3 * posts
        process.start(server)
        assert lander.wait() == 0, lander.said()

    for kind in KINDS:
        keys = sorted(ind for *_, ind in kills.rows(lake, kind, "ind"))
        assert keys == list(range(keys[0], keys[0] + posts))


# ------------------------------------------------------------------------ the network


class Wire:
    """A way to a port of this machine; while it is cut, everything sent over it waits.

    Attributes:
        port: where it begins.
        lost: bytes of answers that never arrived.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._losing = False
        self._ends: list[socket.socket] = []
        self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def lose_answers(self) -> None:
        """What is asked from now on arrives; who asked does not hear of it."""
        self.lost = 0
        self._losing = True

    def sever(self) -> None:
        """End every connection; others may be made, and carry answers."""
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):  # the other side was first
                end.shutdown(socket.SHUT_RDWR)
        self._losing = False

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        try:
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for way in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._carry, args=way, daemon=True).start()
        except OSError:  # closed, or nobody is there any more
            pass

    def _carry(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                self._whole.wait()
                if answers and self._losing:
                    self.lost += len(data)
                    continue
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # either end is gone
            source.close()
            target.close()


class Poster(threading.Thread):
    """Posts records to a gateway, one after the other, and notes what became of each."""

    def __init__(self, gateway: str, topic: str) -> None:
        super().__init__(daemon=True)
        self.codes: list[int] = []
        self.acknowledged: dict[tuple[str, int], int] = {}
        self._url = f"{gateway}/topics/{topic}"
        self._done = threading.Event()

    def run(self) -> None:
        session = requests.Session()
        session.headers["Content-Type"] = "application/vnd.kafka.json.v2+json"
        for ind in count():
            if self._done.is_set():
                return
            record = {"value": {"ind": ind, "country": "Togo"}}
            answer = session.post(self._url, json={"records": [record]}, timeout=60)
            if answer.status_code == 200:
                (offset,) = answer.json()["offsets"]
                assert (str(offset["partition"]), offset["offset"]) not in self.acknowledged
                self.acknowledged[str(offset["partition"]), offset["offset"]] = ind
            self.codes.append(answer.status_code)

    def go_on(self) -> None:
        """Wait until more records are taken."""
        so_far = len(self.codes)
        wait_until(lambda: self.codes[so_far:].count(200) > 20)

    def stop(self) -> None:
        self._done.set()
        self.join(60)


def test_a_network_that_is_cut_between_gateway_and_broker(nursery: Nursery, tmp_path: Path) -> None:
    _skip(kafka.missing())
    lake = str(tmp_path / "lake")
    port, direct, controller = (process.free_port() for _ in range(3))
    wire = Wire(port)
    server = kafka.broker(
        port,
        controller,
        folder_of(tmp_path, "kafka"),
        {
            "listeners": f"PLAINTEXT://127.0.0.1:{port},DIRECT://127.0.0.1:{direct},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire.port},"
            f"DIRECT://127.0.0.1:{direct}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "DIRECT",
        },
    )
    with running(server):
        source = kills.Topics(f"127.0.0.1:{direct}")
        topic = source.stream("geo")
        at = process.free_port()
        gateway = nursery.start(
            Order(
                ["gateway", "--open", "--port", str(at), "--ack-timeout", "2"],
                tmp_path / "gateway.log",
                tmp_path / "gateway-stages",
                {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{wire.port}"},
            )
        )
        url = f"http://127.0.0.1:{at}"
        eventually(lambda: requests.get(f"{url}/healthz", timeout=5))
        poster = Poster(url, topic)
        poster.start()
        wait_until(lambda: poster.codes.count(200) > 20)
        wire.cut()
        wait_until(lambda: 503 in poster.codes[20:])
        wire.mend()
        poster.go_on()
        # The broker has a record, the gateway does not know, and sends it again.
        for _ in range(3):
            wire.lose_answers()
            wait_until(lambda: wire.lost)
            wire.sever()
            poster.go_on()
        poster.stop()
        assert set(poster.codes) == {200, 503}
        assert gateway.code() is None, gateway.said()
        gateway.end()
        lander = nursery.start(order_of(source, tmp_path, lake))
        assert lander.wait() == 0, lander.said()
    landed = [
        ((partition, int(at)), ind) for _, partition, at, ind in kills.rows(lake, "geo", "ind")
    ]
    assert len({place for place, _ in landed}) == len({ind for _, ind in landed}) == len(landed)
    assert poster.acknowledged.items() <= dict(landed).items()
    wire.close()


def _skip(reason: str | None) -> None:
    if reason:
        pytest.skip(reason)
