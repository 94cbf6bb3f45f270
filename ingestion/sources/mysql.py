"""The source database's three tables as records, each row at a position of its own.

A row's position is its key times 1,000 plus its place among the rows of that key, ordered by
their bytes: a table without a primary key may hold several. Rows are read by ascending key, and a
reading goes on above the highest key it has landed. What changes behind it, rows inserted late
with a smaller key and rows updated, it does not see: a snapshot does, which reads the whole table
once more as the table's next partition. The partitions of a table are thus its readings, "0", "1"
and so on, and the last of them is the one that goes on.

A row whose key is NULL or out of range has no place in that order. Such rows are looked for in
every run, under partition "no-key", at a position that is a digest of what they hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ingestion.errors import SourceError
from ingestion.lake import Origin
from ingestion.landing import DECODED_RECORDS, Chunk
from ingestion.offsets import Offsets
from ingestion.records import MAX_INT64, Kind
from ingestion.sources.database import Database, DatabaseError

SOURCE = "mysql"
#: The partition of rows without a usable key.
NO_KEY = "no-key"
#: Rows that may share a key, and rows that may lack one.
COPIES = 1_000
BATCH_ROWS = 10_000

#: The lander cuts larger chunks, and a commit must not part rows of one key.
_CHUNK_ROWS = DECODED_RECORDS - COPIES
_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")

_encode = json.JSONEncoder(default=str).encode


def as_json(row: Mapping[str, Any]) -> bytes:
    """A row as the record that is posted of it: what JSON has no type for becomes text."""
    return _encode(row).encode()


@dataclass(frozen=True)
class Reading:
    """One reading of a table, from its lowest key up, over as many runs as it takes.

    Attributes:
        kind: the kind of record the table holds.
        number: 0 for the first, and one more with each snapshot.
        start: the position it goes on from.
        passed: where the reading before it stood; 0 if there was none.
        unkeyed: the positions of rows without a usable key that have landed.
        renewing: whether a snapshot was asked for and this is one that had not come to its end.
    """

    kind: Kind
    number: int
    start: int
    passed: int
    unkeyed: Offsets
    renewing: bool = False

    @property
    def table(self) -> str:
        """The table's name, which is the stream's."""
        return self.kind.source_table

    @property
    def origin(self) -> Origin:
        """The origin of its rows."""
        return origin(self.kind, str(self.number))

    def renewed(self) -> Reading:
        """The next reading, from the table's beginning."""
        passed = max(self.start, self.passed)
        return replace(self, number=self.number + 1, start=0, passed=passed, renewing=False)


def origin(kind: Kind, partition: str) -> Origin:
    """A partition of a kind's table."""
    return Origin(SOURCE, kind.source_table, partition)


def next_reading(kind: Kind, landed: Callable[[Origin], Offsets], snapshot: bool) -> Reading:
    """The reading that a run makes of a table.

    A snapshot that was interrupted stands below the reading before it: it is completed, by a run
    that asks for a snapshot and by one that does not.

    Args:
        kind: the kind of record the table holds.
        landed: the positions of an origin that the lake accounts for.
        snapshot: whether the whole table is to be read again.
    """
    number, before, end = 0, 0, landed(origin(kind, "0")).end
    while following := landed(origin(kind, str(number + 1))).end:
        number, before, end = number + 1, end, following
    reading = Reading(kind, number, end, before, landed(origin(kind, NO_KEY)))
    if not snapshot or not end:
        return reading
    if end < before:
        return replace(reading, renewing=True)
    return reading.renewed()


def in_chunks(reading: Reading, rows: Iterable[tuple[int, bytes]]) -> Iterator[Chunk]:
    """Rows with their keys, ascending, as chunks; rows of one key are in one chunk.

    The last chunk's end is not below where the reading before this one stood, so that a reading
    can be told to be complete though the rows with the highest keys have been deleted.

    Raises:
        SourceError: too many rows have the same key; the chunks before come first.
    """
    start = reading.start
    offsets: list[int] = []
    raws: list[bytes] = []
    end = start

    def chunk(end: int) -> Chunk:
        return Chunk(reading.origin, start, end, offsets, raws)

    for key, group in groupby(rows, itemgetter(0)):
        if len(raws) >= _CHUNK_ROWS:
            yield chunk(end)
            start, offsets, raws = end, [], []
        same = [raw for _, raw in islice(group, COPIES + 1)]
        if len(same) > COPIES:
            if raws:
                yield chunk(end)
            raise SourceError(
                f"{reading.table}: more than {COPIES:,} rows have the key {key}; rows with lower "
                "keys have landed; remove what is there twice and run again"
            )
        if len(same) > 1:
            same.sort()
        offsets.extend(range(key * COPIES, key * COPIES + len(same)))
        raws += same
        end = (key + 1) * COPIES
    if raws:
        yield chunk(max(end, reading.passed))


def unkeyed_chunks(reading: Reading, raws: Sequence[bytes]) -> list[Chunk]:
    """The rows without a usable key that have not landed, each for itself.

    A row's position is a digest of its bytes and of how many equal rows came before it, so that
    it is the same in every run, and a changed row is a new one.
    """
    where = origin(reading.kind, NO_KEY)
    found: dict[int, bytes] = {}
    for raw, equals in groupby(sorted(raws)):
        for count, _ in enumerate(equals):
            digest = blake2b(raw, digest_size=8, salt=str(count).encode()).digest()
            found[int.from_bytes(digest) >> 2] = raw
    return [
        Chunk(where, at, at + 1, [at], [raw], follows=False)
        for at, raw in sorted(found.items())
        if reading.unkeyed.missing(at, at + 1)
    ]


@dataclass
class Tables:
    """Reads tables one after the other, in one state of the database while the connection lasts.

    Args:
        database: where they are.
        readings: what is to be read of each.
        batch_rows: rows held at once.

    Attributes:
        failures: by table, why it, or a part of it, could not be read; the others are read.
    """

    database: Database
    readings: Sequence[Reading]
    batch_rows: int = BATCH_ROWS
    failures: dict[str, list[str]] = field(default_factory=dict)
    finished: bool = False

    def __post_init__(self) -> None:
        """Begin before the first table."""
        self._chunks = self._all()

    def read(self, timeout: float) -> list[Chunk]:  # noqa: ARG002 (rows are there, or none is)
        """The next rows.

        Raises:
            DatabaseError: the database cannot be reached.
        """
        chunk = next(self._chunks, None)
        self.finished = chunk is None
        return [chunk] if chunk else []

    def landed(self, ends: Mapping[Origin, int]) -> None:
        """Nothing shows how far behind the lake is."""

    def count(self) -> int:
        """How many rows are to be read, as far as it can be told."""
        return sum(self._count(reading) for reading in self.readings)

    def close(self) -> None:
        """Leave the database."""
        self.database.drop()

    def _all(self) -> Iterator[Chunk]:
        for reading in self.readings:
            try:
                yield from self._table(reading)
            except DatabaseError:
                raise
            except SourceError as error:
                self._failed(reading, str(error))

    def _failed(self, reading: Reading, why: str) -> None:
        self.failures.setdefault(reading.table, []).append(why)

    def _table(self, reading: Reading) -> Iterator[Chunk]:
        key = self._key(reading)
        yield from self._unkeyed(reading, key)
        start = reading.start
        for chunk in self._keyed(reading, key):
            start = chunk.end
            yield chunk
        if reading.renewing and start == reading.start:
            # What was left of the interrupted snapshot has been deleted.
            yield from self._keyed(reading.renewed(), key)

    def _keyed(self, reading: Reading, key: str) -> Iterator[Chunk]:
        """The rows from where the reading stands; a lost connection is opened and gone on with."""
        while True:
            try:
                for chunk in in_chunks(reading, self._rows(reading, key)):
                    self.database.answered()
                    reading = replace(reading, start=chunk.end)
                    yield chunk
            except DBAPIError as error:
                self.database.endure(error)
            else:
                return

    def _rows(self, reading: Reading, key: str) -> Iterator[tuple[int, bytes]]:
        result = self.database.connection().execute(
            text(f"SELECT * FROM `{reading.table}` WHERE {_keyed(key)} ORDER BY `{key}`"),
            {"low": reading.start // COPIES},
            execution_options={"stream_results": True},
        )
        names = list(result.keys())
        at = names.index(key)
        for rows in result.partitions(self.batch_rows):
            for row in rows:
                yield row[at], as_json(dict(zip(names, row, strict=True)))

    def _unkeyed(self, reading: Reading, key: str) -> list[Chunk]:
        sql = text(
            f"SELECT * FROM `{reading.table}` WHERE `{key}` IS NULL OR `{key}` < 0 "
            f"OR `{key}` > {MAX_INT64} LIMIT {COPIES + 1}"
        )
        rows = self.database.run(
            lambda connection: [dict(row) for row in connection.execute(sql).mappings()]
        )
        if len(rows) > COPIES:
            self._failed(
                reading,
                f"{reading.table}: more than {COPIES:,} rows have no key from 0 to 2^63-1 in "
                f"column {key}; none of them has landed; give them keys and run again",
            )
            return []
        return unkeyed_chunks(reading, [as_json(row) for row in rows])

    def _count(self, reading: Reading) -> int:
        try:
            key = self._key(reading)
            sql = text(f"SELECT COUNT(*) FROM `{reading.table}` WHERE {_keyed(key)}")
            low = {"low": reading.start // COPIES}
            return int(self.database.run(lambda c: c.execute(sql, low).scalar_one()))
        except DatabaseError:
            raise
        except SourceError:
            return 0  # said when the table is read

    def _key(self, reading: Reading) -> str:
        """The name of the table's key column."""
        columns = self.database.run(lambda c: columns_of(c, reading.table))
        where = f"{self.database.location}: {reading.table}"
        if not columns:
            raise SourceError(
                f"{where}: no such table, or this user may not read it; set another database in "
                "SOURCE_DATABASE_URL, or fill this one with 'ingest seed-database'"
            )
        # The order of the record rules: the one that counts where a row has both.
        key = next((name for name in ("ind", "index") if name in columns), None)
        if key is None:
            raise SourceError(f"{where} has neither a column ind nor a column index; add the key")
        if columns[key] not in _INTEGERS:
            raise SourceError(f"{where}: column {key} is {columns[key]}, not an integer; alter it")
        return key


def columns_of(connection: Connection, table: str) -> dict[str, str]:
    """The columns of a table with their types; none where there is no such table."""
    sql = text(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = :table ORDER BY ordinal_position"
    )
    rows = connection.execute(sql, {"table": table})
    return {str(name): str(type_).lower() for name, type_ in rows}


def _keyed(key: str) -> str:
    return f"`{key}` >= :low AND `{key}` <= {MAX_INT64}"
