"""Landing the source database's tables, from a real server."""

from __future__ import annotations

import json
import random
import signal
import socket
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pymysql
import pytest
from sqlalchemy import Connection, Engine, create_engine, make_url
from sqlalchemy.exc import OperationalError

from ingestion import cli
from ingestion.emulation.database import Holds, fill
from ingestion.emulation.defects import KINDS as NAMES
from ingestion.emulation.posts import Plan, records
from ingestion.lake import REJECTED, Lake
from ingestion.landing import DECODED_RECORDS, Account
from ingestion.offsets import Offsets
from ingestion.records import KINDS, MAX_INT64
from ingestion.sources.database import Database, DatabaseError
from ingestion.sources.mysql import Tables, as_json, next_reading, origin
from ingestion.streams import land_stream
from tests import oracle
from tests.services.landers import Lander, Nursery, Order, Stage
from tests.unit.test_lake import rows

# What PyMySQL says of results it cannot read to their end would reach the user's terminal.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")

TABLES = {kind.source_table: kind for kind in KINDS.values()}
GEO = KINDS["geo"]


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


class Source:
    """A database of its own, a lake beside it, and the command that lands the one in the other."""

    def __init__(self, server: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.name = f"t{uuid4().hex}"
        self.lake = str(folder / "lake")
        self._capsys = capsys
        self._server = server
        with self.engine(server).begin() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {self.name} CHARACTER SET utf8mb4")
        self.url = str(make_url(server).set(database=self.name))
        self.open = self.engine(self.url)

    @staticmethod
    def engine(url: str) -> Engine:
        return create_engine(url)

    def close(self) -> None:
        self.sql(f"DROP DATABASE {self.name}")
        self.open.dispose()

    def sql(self, statement: str, parameters: Any = None) -> None:
        with self.open.begin() as connection:
            connection.exec_driver_sql(statement, parameters)

    def table(self, table: str = GEO.source_table, columns: str | None = None) -> None:
        """A table as the published ones are, without a primary key."""
        payload = TABLES[table].fields
        types = {"string": "TEXT", "bigint": "BIGINT", "double": "DOUBLE"}
        default = [f"`{'index' if table == 'pinterest_data' else 'ind'}` BIGINT"]
        default += [
            f"`{name}` {'DATETIME' if name in ('timestamp', 'date_joined') else types[type_]}"
            for name, type_ in payload.items()
        ]
        self.sql(f"CREATE TABLE {table} ({columns or ', '.join(default)})")

    def tables(self) -> None:
        for table in TABLES:
            self.table(table)

    def put(self, *keys: int | None, said: str = "x") -> None:
        """Rows of the geo table."""
        self.sql(
            "INSERT INTO geolocation_data (ind, country) VALUES (%s, %s)",
            [(key, said) for key in keys],
        )

    def ingest(self, *arguments: str, command: str = "mysql", url: str = "") -> Ran:
        self._capsys.readouterr()
        code = 0
        options = ["--url", url or self.url]
        options += ["--lake", self.lake] if command == "mysql" else []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["ingest", command, *options, *arguments])
            try:
                cli.main()
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        ran = Ran(code, *self._capsys.readouterr())
        assert "Traceback" not in ran.err
        return ran

    def lands(self, *arguments: str) -> dict[str, Any]:
        """It lands; what was landed and rejected of the geo table."""
        ran = self.ingest(*arguments, "--json")
        assert (ran.code, ran.err) == (0, "")
        (account,) = [
            found for found in json.loads(ran.out)["streams"] if found["kind"] == GEO.name
        ]
        return {"landed": account["landed"], **account["rejected"]}

    def landed(self, kind: str = GEO.name, columns: str = "country") -> list[tuple[Any, ...]]:
        """Partition, position and more of a kind's rows, in this order."""
        found = rows(self.lake, kind, f"_partition, _position, {columns}")
        return sorted((partition, int(at), *more) for partition, at, *more in found)


@pytest.fixture
def source(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Source]:
    made = Source(database, tmp_path, capsys)
    yield made
    made.close()


# ------------------------------------------------------------------------ what lands


def test_every_row_lands_once_as_the_record_posted_of_it(source: Source) -> None:
    plan = Plan(posts=2_500, people=500, seed=3, clean=True)
    ran = source.ingest(
        "--posts", "2500", "--people", "500", "--seed", "3", command="seed-database"
    )
    assert ran.code == 0, ran.err
    ran = source.ingest()
    assert (ran.code, ran.err) == (0, "")
    assert [line.split("  ")[:3] for line in ran.out.splitlines()] == [
        [table, "landed 2,500", "rejected 0"] for table in TABLES
    ]
    for name in NAMES:
        kind = KINDS[name]
        lines = records(plan, name, np.arange(2_500))
        due = [oracle.land(name, line) for line in lines]
        columns = ", ".join(f'"{column}"' for column in ["ind", *kind.fields, "_rescued"])
        found = source.landed(name, columns)
        assert [row[:2] for row in found] == [("0", key * 1_000) for key in range(2_500)]
        assert due == [
            oracle.Landed(name, ind, dict(zip(kind.fields, values, strict=True)), rest)
            for _, _, ind, *values, rest in found
        ]
    assert {row[:2] for row in rows(source.lake, "geo", "_source, _stream")} == {
        ("mysql", "geolocation_data")
    }
    assert source.lands() == {"landed": 0}


def test_rows_of_other_types_and_columns_follow_the_record_rules(source: Source) -> None:
    source.sql(
        "CREATE TABLE geolocation_data (ind INT UNSIGNED PRIMARY KEY, `timestamp` DATETIME(6), "
        "latitude DECIMAL(8, 4), longitude FLOAT, added JSON, seen TIMESTAMP NULL, flag BIT(1))"
    )
    at, added = datetime(2020, 2, 29, 23, 59, 59, 120_000), '{"a": [1, "é\\u0000"]}'
    source.sql(
        "INSERT INTO geolocation_data VALUES (%s, %s, %s, %s, %s, FROM_UNIXTIME(86400), b'1')",
        [
            (4_000_000_000, at, "1.5", -173.293, '{"a": [1, "é\\u0000"]}'),
            (5, None, None, 2.5, "[]"),
        ],
    )
    source.table("pinterest_data", "ind BIGINT, `index` BIGINT, title TEXT, downloaded TEXT")
    title = "\0💥'\"\\"
    source.sql(
        "INSERT INTO pinterest_data VALUES (3, 4, %s, ' 7 '), (5, NULL, NULL, 'x')", (title,)
    )
    source.table("user_data", "ind BIGINT, other TEXT")
    source.sql("INSERT INTO user_data VALUES (1, 'x')")
    source.sql("SET GLOBAL time_zone = '+05:00'")
    ran = source.ingest("--json")
    source.sql("SET GLOBAL time_zone = 'SYSTEM'")
    assert ran.code == 0, ran.err
    raws = {
        "geo": [
            {"ind": 5, "timestamp": None, "latitude": None, "longitude": 2.5, "added": "[]"},
            {"ind": 4_000_000_000, "timestamp": at, "latitude": "1.5000", "longitude": -173.293}
            | {"added": added},
        ],
        "pin": [
            {"ind": 3, "index": 4, "title": title, "downloaded": " 7 "},
            {"ind": 5, "index": None, "title": None, "downloaded": "x"},
        ],
    }
    # A moment is shown in UTC whatever the server's time zone.
    rest = {"seen": datetime(1970, 1, 2), "flag": b"\x01"}
    for kind, given in raws.items():
        due = [oracle.land(kind, as_json(row | (rest if kind == "geo" else {}))) for row in given]
        columns = ", ".join(f'"{column}"' for column in ["ind", *KINDS[kind].fields, "_rescued"])
        assert due == [
            oracle.Landed(
                kind, ind, dict(zip(KINDS[kind].fields, values, strict=True)),
                more and oracle.parse(more),
            )
            for _, _, ind, *values, more in source.landed(kind, columns)
        ]  # fmt: skip
    assert rows(source.lake, REJECTED, "kind, reason, raw") == [
        ("user", "empty", b'{"ind": 1, "other": "x"}')
    ]


# -------------------------------------------------------------- later runs, snapshots


def test_a_run_goes_on_above_and_a_snapshot_brings_the_rest(source: Source) -> None:
    source.tables()
    assert source.lands() == {"landed": 0}
    source.put(10, 20)
    assert source.lands() == {"landed": 2}
    source.put(15, said="late")
    source.put(30)
    source.sql("UPDATE geolocation_data SET country = 'changed' WHERE ind = 10")
    assert source.lands() == {"landed": 1}
    assert source.landed() == [("0", 10_000, "x"), ("0", 20_000, "x"), ("0", 30_000, "x")]
    assert source.lands("--snapshot") == {"landed": 4}
    assert source.landed()[3:] == [
        ("1", 10_000, "changed"),
        ("1", 15_000, "late"),
        ("1", 20_000, "x"),
        ("1", 30_000, "x"),
    ]
    source.put(31)
    assert source.lands() == {"landed": 1}
    assert source.lands() == {"landed": 0}
    assert source.landed()[-1] == ("1", 31_000, "x")
    assert source.lands("--snapshot") == {"landed": 5}


def test_a_snapshot_is_complete_though_the_last_rows_are_gone(source: Source) -> None:
    source.tables()
    source.put(1, 2, 3)
    source.lands()
    source.sql("DELETE FROM geolocation_data WHERE ind = 3")
    assert source.lands("--snapshot") == {"landed": 2}
    source.put(4)
    assert source.lands() == {"landed": 1}
    assert source.lands("--snapshot") == {"landed": 3}
    assert Counter(partition for partition, *_ in source.landed()) == {"0": 3, "1": 3, "2": 3}


def land(
    source: Source,
    snapshot: bool = False,
    stop_after: int | None = None,
    url: str = "",
    between: Callable[[], None] = lambda: None,
    **options: Any,
) -> dict[str, Account]:
    """Land within this process, stopping after some reads; `between` is called after each.

    Returns:
        The account of each kind.
    """
    lake = Lake(source.lake)
    lake.create()
    readings = [
        next_reading(kind, partial(lake.offsets, kind.name), snapshot) for kind in KINDS.values()
    ]
    tables = Tables(Database(url or source.url, **options), readings, batch_rows=500)
    reads = count(1)
    stopped = False

    def look(_: Any) -> None:
        nonlocal stopped
        between()
        stopped = next(reads) == stop_after

    try:
        accounts = land_stream(lake, tables, TABLES, progress=look, stopping=lambda: stopped)
    finally:
        tables.close()
    assert tables.failures == {}
    return {account.kind: account for account in accounts}


@pytest.mark.parametrize("by", ["--snapshot", ""], ids=["snapshot", "run"])
def test_an_interrupted_snapshot_is_completed_by_the_next_run(source: Source, by: str) -> None:
    source.tables()
    source.put(*range(3_000))
    source.lands()
    land(source, snapshot=True, stop_after=1)
    assert len(source.landed()) == 4_000
    assert source.lands(*filter(None, [by])) == {"landed": 2_000}
    assert Counter(row[1] for row in source.landed()) == {key * 1_000: 2 for key in range(3_000)}
    assert source.lands() == {"landed": 0}


def test_an_interrupted_snapshot_with_nothing_left_begins_anew(source: Source) -> None:
    source.tables()
    source.put(*range(3_000))
    source.lands()
    land(source, snapshot=True, stop_after=1)
    source.sql("DELETE FROM geolocation_data WHERE ind >= 1000")
    assert source.lands("--snapshot") == {"landed": 1_000}
    assert Counter(row[0] for row in source.landed()) == {"0": 3_000, "1": 1_000, "2": 1_000}


# ------------------------------------------------------------ keys that are none, or shared


def test_rows_that_share_a_key_all_land(source: Source) -> None:
    source.tables()
    source.put(*[7] * 3, 8)
    source.put(7, said="a")
    source.put(0)
    assert source.lands() == {"landed": 6}
    assert source.landed() == [
        ("0", 0, "x"), ("0", 7_000, "a"), ("0", 7_001, "x"), ("0", 7_002, "x"), ("0", 7_003, "x"),
        ("0", 8_000, "x"),
    ]  # fmt: skip
    assert source.lands() == {"landed": 0}


def test_more_rows_of_a_key_than_have_positions_are_named(source: Source) -> None:
    source.tables()
    source.put(1, *[2] * 1_001, 3)
    for landed in (1, 0):
        ran = source.ingest("--json")
        assert ran.code == 1
        assert "geolocation_data: more than 1,000 rows have the key 2" in ran.err
        assert [s["landed"] for s in json.loads(ran.out)["streams"]] == [0, landed, 0]
    source.sql("DELETE FROM geolocation_data WHERE ind = 2 LIMIT 1")
    assert source.lands() == {"landed": 1_001}


def test_rows_without_a_usable_key_are_rejected_once(source: Source) -> None:
    source.tables()
    source.sql("ALTER TABLE user_data MODIFY ind BIGINT UNSIGNED")
    source.sql("INSERT INTO user_data (ind, age) VALUES (%s, 20)", [(2**63,), (MAX_INT64,)])
    source.put(None, None, -1, -(2**63), 5)
    assert source.lands() == {"landed": 1, "invalid_key": 4}
    assert source.lands() == {"landed": 0}
    source.put(None, said="another")
    source.put(6)
    assert source.lands("--snapshot") == {"landed": 2, "invalid_key": 1}
    found = rows(source.lake, REJECTED, "_stream, _partition, raw, _position")
    assert Counter((stream, partition) for stream, partition, *_ in found) == {
        ("geolocation_data", "no-key"): 5,
        ("user_data", "no-key"): 1,
    }
    assert len({position for *_, position in found}) == 6
    assert sorted(json.loads(raw)["ind"] or 0 for stream, _, raw, _ in found) == sorted(
        [0, 0, 0, -1, -(2**63), 2**63]
    )
    assert source.landed("user", "ind")[0] == ("0", MAX_INT64 * 1_000, MAX_INT64)


def test_too_many_rows_without_a_key_are_named_and_the_others_land(source: Source) -> None:
    source.tables()
    source.put(*[None] * 1_001, 4)
    ran = source.ingest()
    assert ran.code == 1
    assert "more than 1,000 rows have no key from 0 to 2^63-1 in column ind" in ran.err
    assert source.landed() == [("0", 4_000, "x")]
    assert rows(source.lake, REJECTED) == []


# ------------------------------------------------------------------- what can go wrong


def test_a_table_that_cannot_be_read_does_not_keep_the_others(source: Source) -> None:
    source.table("user_data", "id BIGINT, age BIGINT")
    source.table("pinterest_data", "`index` VARCHAR(20), title TEXT")
    source.table()
    source.put(1)
    ran = source.ingest()
    assert ran.code == 1
    where = make_url(source.url)
    where = f"{where.host}:{where.port}/{where.database}"
    assert ran.err.splitlines() == [
        f"error: {where}: pinterest_data: column index is varchar, not an integer; alter it",
        f"error: {where}: user_data has neither a column ind nor a column index; add the key",
    ]
    assert source.landed() == [("0", 1_000, "x")]
    source.sql("DROP TABLE user_data")
    ran = source.ingest()
    assert ran.code == 1
    assert f"error: {where}: user_data: no such table, or this user may not read it" in ran.err


def test_who_is_not_let_in_is_told_so_without_the_password(source: Source) -> None:
    source.tables()
    url = make_url(source.url)
    ran = source.ingest(url=url.set(username="root", password="hunter2").render_as_string(False))
    assert ran.code == 1
    assert "does not admit user 'root'" in ran.err
    assert "SOURCE_DATABASE_URL" in ran.err
    assert "hunter2" not in ran.out + ran.err
    ran = source.ingest(url=str(url.set(database="nowhere")))
    assert ran.code == 1
    assert "Unknown database 'nowhere'; set another database" in ran.err


class Line:
    """A line to the server on which connections break.

    Args:
        url: the server's address.
        breaks: for each connection in turn, the bytes that come from the server before it breaks;
            one with 0 is refused. Later ones last.
    """

    def __init__(self, url: str, breaks: Sequence[int]) -> None:
        self._server = make_url(url)
        self._breaks = list(breaks)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = str(self._server.set(port=self._listener.getsockname()[1]))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                left = self._breaks.pop(0) if self._breaks else sys.maxsize
                if not left:
                    near.close()
                    continue
                far = socket.create_connection((str(self._server.host), self._server.port or 0))
                for one, other, most in ((near, far, sys.maxsize), (far, near, left)):
                    ends = (one, other, most)
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket, left: int) -> None:
        with suppress(OSError):
            while left and (data := one.recv(min(left, 16_384))):
                other.sendall(data)
                left -= len(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Refuse connections from now on."""
        with suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)  # or accept would take one more
        self._listener.close()


@contextmanager
def line_to(source: Source, *breaks: int) -> Iterator[str]:
    line = Line(source.url, breaks)
    try:
        yield line.url
    finally:
        line.close()


def test_a_lost_connection_is_gone_on_with_where_it_stood(source: Source) -> None:
    source.tables()
    source.put(*range(20_000), said="x" * 100)
    notices: list[str] = []

    def lost(notice: str) -> None:
        notices.append(notice)
        source.put(1, 30_000)  # one that is passed, one that is to come

    with line_to(source, 500_000, 0, 0, 0, 800_000, 0) as url:
        received = land(source, url=url, notice=lost)["geo"].received
    assert received == 20_000 + 2
    assert len(notices) == 2
    assert all("trying again for 60 s" in notice for notice in notices)
    found = [row[1] for row in source.landed()]
    assert found == [*(key * 1_000 for key in range(20_000)), 30_000_000, 30_000_001]


def test_a_server_that_does_not_come_back_ends_the_run(source: Source) -> None:
    source.tables()
    source.put(*range(20_000), said="x" * 100)
    clock = count(0, 0.4)
    with (
        line_to(source, 500_000, *[0] * 1_000) as url,
        pytest.raises(DatabaseError, match="could not be reached for 1 s"),
    ):
        land(source, url=url, patience=1.0, now=lambda: next(clock), sleep=lambda _: None)
    before = len(source.landed())
    assert 2_000 <= before < 10_000  # what was read has landed
    assert source.lands() == {"landed": 20_000 - before}


def test_a_server_that_was_reached_is_waited_for_though_it_refuses(source: Source) -> None:
    """It may be restarting; one that was never reached is not waited for."""
    source.tables()
    source.put(*range(20_000), said="x" * 100)
    line = Line(source.url, [500_000])
    clock, pauses = count(0, 0.4), list[float]()
    with pytest.raises(DatabaseError, match=r"could not be reached for 2 s: .*refused.*; start"):
        land(
            source,
            url=line.url,
            patience=2.0,
            notice=lambda _: line.close(),
            now=lambda: next(clock),
            sleep=pauses.append,
        )
    assert len(pauses) > 2
    assert source.landed()  # what was read before


def test_a_run_sees_one_state_of_all_tables(source: Source) -> None:
    source.tables()
    source.sql("INSERT INTO pinterest_data (`index`, title) VALUES (1, 'x')")
    source.sql("INSERT INTO user_data (ind, age) VALUES (1, 20)")

    def write() -> None:
        source.sql("INSERT INTO user_data (ind, age) VALUES (2, 20)")

    land(source, stop_after=None, between=write)
    assert source.landed("user", "ind") == [("0", 1_000, 1)]
    assert source.ingest().code == 0
    assert len(source.landed("user", "ind")) > 1


def test_rows_to_come_are_counted(source: Source) -> None:
    source.table()
    source.table("user_data")
    source.put(None, -3, 1, 2, 2, 9)
    lake = Lake(source.lake)
    lake.create()

    def count_of(snapshot: bool) -> int:
        landed = (partial(lake.offsets, kind.name) for kind in KINDS.values())
        readings = map(next_reading, KINDS.values(), landed, [snapshot] * len(KINDS))
        tables = Tables(Database(source.url), list(readings))
        try:
            return tables.count()
        finally:
            tables.close()

    assert count_of(snapshot=False) == 4  # a table that is missing counts for nothing
    assert source.ingest().code == 1
    lake = Lake(source.lake)
    source.put(10)
    assert (count_of(snapshot=False), count_of(snapshot=True)) == (1, 5)


def test_two_landers_at_once_land_every_row_once(source: Source) -> None:
    source.tables()
    source.put(None, *range(6_000), *range(0, 6_000, 7))
    Lake(source.lake).create()
    landers = [threading.Thread(target=land, args=(source,)) for _ in range(3)]
    for lander in landers:
        lander.start()
    for lander in landers:
        lander.join()
    due = [key * 1_000 for key in range(6_000)] + [key * 1_000 + 1 for key in range(0, 6_000, 7)]
    assert [row[1] for row in source.landed()] == sorted(due)
    assert len(rows(source.lake, REJECTED)) == 1


def test_a_table_of_any_size_is_read_in_little_memory(source: Source) -> None:
    source.tables()
    source.sql(
        "INSERT INTO geolocation_data (ind, country) "
        "SELECT seq, REPEAT('x', 8000) FROM seq_0_to_7999"
    )
    reading = next_reading(GEO, lambda _: Offsets(), snapshot=False)
    tables = Tables(Database(source.url), [reading], batch_rows=200)
    tracemalloc.start()
    try:
        seen = 0
        while not tables.finished:
            seen += sum(len(chunk.raws) for chunk in tables.read(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        tables.close()
    assert seen == 8_000
    assert peak < 30_000_000  # of 64 million


# --------------------------------------------------------------------- filling tables


def seeded(source: Source, *arguments: str) -> Ran:
    return source.ingest(*arguments, command="seed-database")


def checksums(source: Source) -> list[Any]:
    with source.open.connect() as connection:
        return list(connection.exec_driver_sql(f"CHECKSUM TABLE {', '.join(TABLES)}"))


def test_filling_again_changes_nothing_and_other_contents_are_named(source: Source) -> None:
    plan = ["--posts", "300", "--people", "50", "--seed", "4"]
    first = seeded(source, *plan)
    assert (first.code, first.out.count("rows 300  filled")) == (0, 3)
    before = checksums(source)
    again = seeded(source, *plan)
    assert (again.code, again.out.count("rows 300  unchanged")) == (0, 3)
    assert checksums(source) == before

    source.sql("UPDATE user_data SET age = age + 1 WHERE ind = 299")
    changed = checksums(source)
    refused = seeded(source, *plan)
    assert refused.code == 1
    assert "something else than these posts is in user_data; --replace" in refused.err
    assert checksums(source) == changed
    assert seeded(source, "--posts", "299", "--people", "50", "--seed", "4").code == 1
    assert seeded(source, "--posts", "301", "--people", "50", "--seed", "4").code == 1

    replaced = seeded(source, *plan, "--replace", "--json")
    assert json.loads(replaced.out)["tables"]["user_data"] == {"rows": 300, "was": "replaced"}
    assert checksums(source) == before


def under_way(source: Source, *statements: str) -> bool:
    """Whether the server executes one of these in the source's database."""
    wanted = " OR ".join(f"info LIKE '{statement}%%'" for statement in statements)
    with source.open.connect() as connection:
        found = connection.exec_driver_sql(
            f"SELECT COUNT(*) FROM information_schema.processlist "
            f"WHERE db = DATABASE() AND id <> CONNECTION_ID() AND ({wanted})"
        )
        return bool(found.scalar())


def wait_until(reached: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("replace", [False, True])
def test_of_two_that_fill_at_once_one_works_and_the_other_waits(
    source: Source, replace: bool
) -> None:
    plan = Plan(posts=50, people=20, seed=4, clean=True)
    if replace:
        source.tables()
        for table, key in zip(TABLES, ("`index`", "ind", "ind"), strict=True):
            source.sql(f"INSERT INTO {table} ({key}) VALUES (1)")
    found: dict[str, dict[str, Holds]] = {}

    def second() -> None:
        found["second"] = fill(Database(source.url), plan, replace)

    thread = threading.Thread(target=second)

    def begun(_: int) -> None:
        if thread.ident is None:
            thread.start()
            wait_until(lambda: under_way(source, "SELECT GET_LOCK", "INSERT", "DROP", "CREATE"))

    found["first"] = fill(Database(source.url), plan, replace, begun)
    thread.join(30)
    was = Holds.OTHERS if replace else Holds.NOTHING
    assert found == {
        "first": dict.fromkeys(TABLES, was),
        "second": dict.fromkeys(TABLES, Holds.THESE),
    }


def test_a_commit_whose_answer_is_lost_is_no_error(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(posts=50, people=20, seed=4, clean=True)
    commit, lost = Connection.commit, []

    def commit_and_lose(connection: Connection) -> None:
        commit(connection)
        if not lost:
            lost.append(True)
            said = pymysql.err.OperationalError(2013, "Lost connection to server during query")
            raise OperationalError("COMMIT", {}, said)

    monkeypatch.setattr(Connection, "commit", commit_and_lose)
    assert fill(Database(source.url), plan) == dict.fromkeys(TABLES, Holds.NOTHING)
    assert lost
    assert fill(Database(source.url), plan) == dict.fromkeys(TABLES, Holds.THESE)


def test_a_server_may_think_for_longer_than_it_takes_to_greet(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingestion.sources.database._GREETING_SECONDS", 0.5)
    database = Database(source.url, patience=10)  # a busy server may greet late, too
    assert database.run(lambda c: c.exec_driver_sql("SELECT SLEEP(1)").scalar()) == 0
    database.drop()


def test_whatever_is_killed_every_row_is_there_once(
    source: Source, nursery: Nursery, tmp_path: Path
) -> None:
    posts = 10_000

    def start(*arguments: str) -> Lander:
        return nursery.start(
            Order(
                [*arguments, "--url", source.url],
                tmp_path / "log",
                tmp_path / "stages",
                batch_records=4 * DECODED_RECORDS,  # so that no chunk is cut, as in daily life
            )
        )

    def killed(what: Lander, when: Callable[[], bool], within: float = 0.0) -> bool:
        wait_until(lambda: what.code() is not None or when())
        time.sleep(random.uniform(0, within))
        return what.end() == -signal.SIGKILL

    def has_landed(kind: str) -> bool:
        return Lake(source.lake).offsets(kind, origin(KINDS[kind], "0")).end > 0

    def ends(*arguments: str) -> None:
        last = start(*arguments)
        assert last.wait() == 0, last.said()

    plan = ["seed-database", "--posts", str(posts), "--people", "50"]
    inserts = (f"INSERT INTO `{table}`" for table in TABLES)
    kills = [killed(start(*plan), partial(under_way, source, insert), 0.3) for insert in inserts]
    assert any(kills)
    ends(*plan)
    assert fill(Database(source.url), Plan(posts, 50, 1, clean=True)) == dict.fromkeys(
        TABLES, Holds.THESE
    )

    landing = ["mysql", "--lake", source.lake, "--batch-size", "200"]
    lander = start(*landing)
    assert killed(lander, lambda: lander.stage == Stage.LANDING)
    kills = [killed(start(*landing), partial(has_landed, kind)) for kind in ("pin", "geo")]
    assert any(kills)
    assert source.landed("pin", "ind")
    ends(*landing)
    for kind in NAMES:
        found = [row[:2] for row in source.landed(kind, "ind")]
        assert found == [("0", key * 1_000) for key in range(posts)]


def test_missing_and_empty_tables_are_filled_and_foreign_ones_refused(source: Source) -> None:
    source.table("user_data")
    source.table("geolocation_data", "ind BIGINT, other TEXT")
    ran = seeded(source, "--posts", "30")
    assert ran.code == 1
    assert "in geolocation_data; --replace" in ran.err
    with source.open.connect() as connection:
        names = [row[0] for row in connection.exec_driver_sql("SHOW TABLES")]
        assert sorted(names) == ["geolocation_data", "user_data"]
    source.sql("DROP TABLE geolocation_data")
    assert seeded(source, "--posts", "30").code == 0
    assert source.lands() == {"landed": 30}
