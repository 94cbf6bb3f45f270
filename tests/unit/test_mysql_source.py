"""How rows of the source database become positions, chunks and readings; no server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from ingestion.errors import SourceError
from ingestion.lake import Origin
from ingestion.landing import DECODED_RECORDS, Chunk
from ingestion.offsets import Offsets
from ingestion.records import KINDS, MAX_INT64
from ingestion.sources.database import Database, DatabaseError
from ingestion.sources.mysql import (
    COPIES,
    Reading,
    as_json,
    in_chunks,
    next_reading,
    unkeyed_chunks,
)

GEO = KINDS["geo"]


def reading(start: int = 0, passed: int = 0, unkeyed: Offsets | None = None) -> Reading:
    return Reading(GEO, 2, start, passed, unkeyed or Offsets())


def rows(*keys: int) -> list[tuple[int, bytes]]:
    return [(key, b"%d/%d" % (key, place)) for place, key in enumerate(keys)]


def next_of(ends: Iterable[int], snapshot: bool) -> Reading:
    """The reading after readings that ended there."""
    held = {
        Origin("mysql", "geolocation_data", str(number)): Offsets.of([(0, end)])
        for number, end in enumerate(ends)
    }
    return next_reading(GEO, lambda origin: held.get(origin, Offsets()), snapshot)


# ------------------------------------------------------------------------- readings


@pytest.mark.parametrize(
    ("ends", "snapshot", "number", "start", "passed"),
    [
        ([], False, 0, 0, 0),
        ([], True, 0, 0, 0),
        ([7_000], False, 0, 7_000, 0),
        ([7_000], True, 1, 0, 7_000),
        # Interrupted: completed by either.
        ([7_000, 3_000], False, 1, 3_000, 7_000),
        ([7_000, 3_000], True, 1, 3_000, 7_000),
        ([7_000, 7_000], True, 2, 0, 7_000),
        ([7_000, 9_000], False, 1, 9_000, 7_000),
        ([7_000, 9_000, 9_000, 12_000], True, 4, 0, 12_000),
    ],
)
def test_which_reading_comes_next(
    ends: list[int], snapshot: bool, number: int, start: int, passed: int
) -> None:
    found = next_of(ends, snapshot)
    assert (found.number, found.start, found.passed) == (number, start, passed)
    assert found.renewing == (snapshot and start > 0)


def test_an_interrupted_snapshot_with_nothing_left_is_renewed() -> None:
    renewed = next_of([7_000, 3_000], snapshot=True).renewed()
    assert (renewed.number, renewed.start, renewed.passed, renewed.renewing) == (2, 0, 7_000, False)


# --------------------------------------------------------------------------- chunks


def test_a_position_is_the_key_and_the_place_among_its_rows() -> None:
    (chunk,) = in_chunks(reading(), [(0, b"a"), (7, b"c"), (7, b"b"), (7, b"b"), (9, b"d")])
    assert chunk.origin == Origin("mysql", "geolocation_data", "2")
    assert chunk.offsets == [0, 7_000, 7_001, 7_002, 9_000]
    assert chunk.raws == [b"a", b"b", b"b", b"c", b"d"]
    assert (chunk.start, chunk.end, chunk.follows) == (0, 10_000, True)


def test_no_chunk_parts_rows_of_one_key_or_is_cut_by_the_lander() -> None:
    keys = [0] * COPIES + list(range(1, 1_800)) + [1_800] * (COPIES - 1) + [1_801] * COPIES
    chunks = list(in_chunks(reading(), rows(*keys)))
    assert sum(len(chunk.raws) for chunk in chunks) == len(keys)
    assert all(len(chunk.raws) <= DECODED_RECORDS for chunk in chunks)
    assert all(chunk.start % COPIES == chunk.end % COPIES == 0 for chunk in chunks)
    ends = [0, *(chunk.end for chunk in chunks)]
    assert [chunk.start for chunk in chunks] == ends[:-1]
    for chunk in chunks:
        assert list(chunk.offsets) == sorted(set(chunk.offsets))
        assert chunk.start <= chunk.offsets[0]
        assert chunk.offsets[-1] < chunk.end


def test_the_last_chunk_passes_where_the_reading_before_stood() -> None:
    chunks = list(in_chunks(reading(passed=9_999_000), rows(*range(2_500))))
    assert [chunk.end for chunk in chunks] == [1_000_000, 2_000_000, 9_999_000]
    assert list(in_chunks(reading(passed=9_999_000), [])) == []


def test_too_many_rows_of_a_key_are_refused_after_those_before() -> None:
    found: list[Chunk] = []
    with pytest.raises(SourceError, match=r"more than 1,000 rows have the key 5"):
        found.extend(in_chunks(reading(), rows(3, 4, *[5] * 1_001, 6)))
    # An extension that fails keeps what came before.
    assert [(chunk.offsets, chunk.end) for chunk in found] == [([3_000, 4_000], 5_000)]


def test_the_greatest_key_has_a_position() -> None:
    (chunk,) = in_chunks(reading(), rows(MAX_INT64))
    assert chunk.offsets == [MAX_INT64 * COPIES]
    assert chunk.end == (MAX_INT64 + 1) * COPIES


def test_rows_without_a_key_are_told_by_what_they_hold() -> None:
    first = unkeyed_chunks(reading(), [b"a", b"b", b"a"])
    assert sorted(chunk.raws[0] for chunk in first) == [b"a", b"a", b"b"]
    assert len({chunk.start for chunk in first}) == 3
    assert all(chunk.end == chunk.start + 1 <= 2**62 for chunk in first)
    assert all(not chunk.follows for chunk in first)
    assert {chunk.origin.partition for chunk in first} == {"no-key"}
    held = Offsets.of([(chunk.start, chunk.end) for chunk in first])
    again = unkeyed_chunks(reading(unkeyed=held), [b"a", b"a", b"c", b"b"])
    assert [chunk.raws for chunk in again] == [[b"c"]]


# ---------------------------------------------------------------------------- bytes


def test_a_row_is_the_json_that_the_emulator_posts() -> None:
    row: dict[str, Any] = {
        "ind": 7,
        "country": "Côte d'Ivoire",
        "timestamp": datetime(2020, 2, 29, 3, 4, 5),
        "latitude": -89.9787,
        "longitude": None,
        "precise": Decimal("1.50"),
        "at": datetime(2020, 2, 29, 3, 4, 5, 600),
    }
    assert as_json(row) == json.dumps(row, default=str).encode()
    assert b'"2020-02-29 03:04:05"' in as_json(row)


# -------------------------------------------------------------------------- address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql+pymysql://u:hunter2@host:port/db",
        "mysql+pymysql://u:hunter2@host:3306",
        "mysql+pymysql://u:hunter2@/db",
        "postgresql://u:hunter2@host/db",
        "mysql://u:hunter2@[::1/db",
        "http://u:hunter2@host/db",
    ],
)
def test_an_address_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(DatabaseError, match=r"mysql\+pymysql://user:password@") as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        "ssl_ca=/nonexistent/rds.pem",
        "useSSL=false",
        "sslmode=require",
        "charset=foo",
        "ssl=true",
        "port=abc",
    ],
)
def test_options_that_the_driver_does_not_take_are_named(options: str) -> None:
    database = Database(f"mysql://u:hunter2@127.0.0.1/db?{options}")
    with pytest.raises(DatabaseError, match=r"^127.0.0.1:3306/db: .+ follows '\?' in SOURCE_"):
        database.run(lambda _: None)


def test_a_server_that_accepts_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingestion.sources.database._GREETING_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mysql://u@127.0.0.1:{silent.getsockname()[1]}/db"
        with pytest.raises(DatabaseError, match=r"could not be reached for 0 s.*\(timed out\)"):
            Database(url, patience=0).run(lambda _: None)


def never_waits(url: str) -> Database:
    def wait(_: object) -> None:
        raise AssertionError("it waits for a server that was never there")

    return Database(url, notice=wait, sleep=wait)


def test_a_server_that_is_not_there_is_not_waited_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        database = never_waits(f"mysql://u:hunter2@{address}/db")
        for one in (database, database.another()):
            with pytest.raises(DatabaseError, match="Connection refused") as refused:
                one.run(lambda _: None)
            assert str(refused.value).startswith(f"{address}/db cannot be reached: ")
            assert str(refused.value).endswith(
                "; start the server ('make stack' starts one on this machine), or correct host and "
                "port in SOURCE_DATABASE_URL or --url"
            )


def test_a_host_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = r"^db.example:3306/db cannot be reached: .*Name or service not known.*; start the server"
    with pytest.raises(DatabaseError, match=said):
        never_waits("mysql://u:hunter2@db.example/db").run(lambda _: None)


@pytest.mark.parametrize("scheme", ["mysql", "mysql+pymysql", "mariadb", "mysql+mysqldb"])
def test_every_spelling_of_the_scheme_is_taken(scheme: str) -> None:
    assert Database(f"{scheme}://u:hunter2@host/db?charset=utf8mb4").location == "host:3306/db"
