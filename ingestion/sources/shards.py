"""The shards of a Kinesis stream: which may be read now, from where, and what a page says; no I/O.

A stream is split and merged while it is read. A shard may be read once its parents were read to
their ends; a parent that is listed no more has expired, and its records with it.

Kinesis does not say whether records expired between the last one that landed and the oldest one
there is. It can be proved that none did: records expire in their order, so as long as the last one
is still there, those after it are too. Reading therefore begins *at* the last record, not after
it, and a shard whose last record has expired is suspect: :class:`Gap`. Of a shard of which nothing
has landed there is no such record: what expires of it before the first one lands is not noticed,
unless it came from a shard that was read before.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Seconds between two reads of a shard: it answers five times a second, for all its readers.
READ_SPACING = 0.2
#: The same after a read that found nothing.
IDLE_SPACING = 0.5
#: Seconds before a call that failed is made again: at first, and at the most.
RETRY_FIRST = 0.25
RETRY_MOST = 10.0
#: Up to this part of the time that records are kept, nothing unread can have expired.
_SAFE = 0.9
#: Shards are numbered in the order in which they are made.
_SHARD_ID = re.compile(r"shardId-([0-9]{12})")


@dataclass(frozen=True)
class Shard:
    """A shard as a stream lists it.

    Attributes:
        id: its name, unique within the stream.
        parents: the shards it was split from or merged of.
        first: no record of it has a smaller sequence number; tells two streams of one name apart.
        closed: whether no more records will come.
    """

    id: str
    parents: tuple[str, ...]
    first: int
    closed: bool

    @classmethod
    def listed(cls, entry: Mapping[str, Any]) -> Shard:
        """What an entry of ListShards says."""
        parents = (entry.get("ParentShardId"), entry.get("AdjacentParentShardId"))
        numbers = entry["SequenceNumberRange"]
        return cls(
            entry["ShardId"],
            tuple(parent for parent in parents if parent),
            int(numbers["StartingSequenceNumber"]),
            numbers.get("EndingSequenceNumber") is not None,
        )


@dataclass(frozen=True)
class Page:
    """What one read of a shard found.

    Attributes:
        numbers: the records' sequence numbers, ascending.
        raws: the records' data.
        arrived: when the last of them came, in seconds since 1970; 0 if there is none.
        behind: seconds by which the page is behind the newest record.
        iterator: where to read on; None at the end of a closed shard.
    """

    numbers: Sequence[int]
    raws: Sequence[bytes]
    arrived: float
    behind: float
    iterator: str | None

    @classmethod
    def answered(cls, answer: Mapping[str, Any]) -> Page:
        """What an answer of GetRecords says."""
        records = answer["Records"]
        return cls(
            [int(record["SequenceNumber"]) for record in records],
            [record["Data"] for record in records],
            records[-1]["ApproximateArrivalTimestamp"].timestamp() if records else 0.0,
            answer.get("MillisBehindLatest", 0) / 1000,
            answer.get("NextShardIterator"),
        )


@dataclass(frozen=True)
class Gap:
    """Records that may have expired before they were read.

    Attributes:
        shard: the shard's id.
        after: the sequence number they come after, None where the shard's first may be missing.
        before: the sequence number of the oldest record there is.
        why: what is known of it.
    """

    shard: str
    after: int | None
    before: int
    why: str


@dataclass
class Cursor:
    """Where reading of one shard stands.

    Attributes:
        shard: as it was listed last.
        position: one more than the last sequence number read or landed; 0 for none.
        anew: whether the shard is read from its oldest record, wherever the position is.
        whole: whether nothing can have expired between the position and the next record.
        doubt: why it is not.
        iterator: where Kinesis goes on reading; None if it has to be asked.
        unknown: whether Kinesis has refused the position as none of the shard's.
        oldest: whether the iterator began at the oldest record, not at a sequence number.
        begun: whether it has been read at all.
        known: everything that had come by then was read, in seconds since 1970.
        behind: seconds by which the last page was behind the newest record.
        due: from when on it may be read, on a clock that never goes back.
        failures: calls that failed in a row.
        busy: whether a call is under way.
        over: whether there is nothing more to read.
    """

    shard: Shard
    position: int
    anew: bool = False
    whole: bool = True
    doubt: str = ""
    unknown: bool = False
    iterator: str | None = None
    oldest: bool = False
    begun: bool = False
    known: float | None = None
    behind: float = 0.0
    due: float = 0.0
    failures: int = 0
    busy: bool = False
    over: bool = False

    def beginning(self, now: float, kept: float) -> dict[str, str]:
        """What to ask Kinesis for an iterator with, once it is known what there may be to miss."""
        if self.known is not None and now - self.known > _SAFE * kept:
            self.whole = False
            self.doubt = "its last record that was read has expired meanwhile"
        self.oldest = self.anew or not self.position
        if self.oldest:
            return {"ShardIteratorType": "TRIM_HORIZON"}
        kind = "AFTER_SEQUENCE_NUMBER" if self.whole and self.begun else "AT_SEQUENCE_NUMBER"
        return {"ShardIteratorType": kind, "StartingSequenceNumber": str(self.position - 1)}

    def refuse(self, why: str) -> None:
        """Take notice that Kinesis does not know the last record: it has expired, or is another's.

        Args:
            why: what Kinesis says of it.
        """
        self.whole, self.anew, self.unknown = False, True, True
        self.doubt = f"its last record that landed is not known ({why})"

    def foreign(self, page: Page) -> bool:
        """Whether the position is of another stream: records come before one that has expired."""
        return self.unknown and bool(page.numbers) and page.numbers[0] < self.position

    def losing(self, page: Page, kept: float) -> bool:
        """Whether reading has fallen behind so far that records may expire before it."""
        return self.begun and page.behind >= _SAFE * kept

    def take(self, page: Page, now: float, kept: float) -> tuple[int, Gap | None]:
        """Move on by a page.

        Args:
            page: what was read.
            now: seconds since 1970.
            kept: for how many seconds the stream keeps a record.

        Returns:
            The place of the page's first record that was not read before, and what may be missing
            before it.
        """
        numbers = page.numbers
        new = bisect_left(numbers, self.position)
        if new and numbers[new - 1] == self.position - 1:
            self.whole = True  # the last record is there: so is all that came after it
        gap = None
        if new < len(numbers):
            if not self.whole:
                after = self.position - 1 if self.position else None
                gap = Gap(self.shard.id, after, numbers[new], self.doubt)
            self.position = numbers[-1] + 1
            self.whole, self.anew, self.unknown = True, False, False
        self.begun = True
        self.failures = 0
        self.behind = page.behind
        self.iterator = page.iterator
        self.over = page.iterator is None
        far = page.behind >= _SAFE * kept
        if numbers or not far:
            self.known = now - page.behind
        if far and not self.over:
            if new < len(numbers):
                # What follows may expire before the next read, which has to begin at a record.
                self.iterator, self.whole = None, False
                self.doubt = "its last record that was read has expired meanwhile"
            elif not numbers and not self.oldest:
                # Kinesis stays at a sequence number that has expired, as far behind as can be.
                self.iterator, self.anew = None, True
        return new, gap


@dataclass
class Stream:
    """The shards of one stream, and where reading of each stands.

    Attributes:
        name: the stream's name.
        landed: one more than the last sequence number that has landed of a shard, 0 for none.
        kept: for how many seconds the stream keeps a record.
        cursors: by the shard's id; those that were listed last.
    """

    name: str
    landed: Callable[[str], int]
    kept: float = 24 * 3600.0
    cursors: dict[str, Cursor] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    #: Of those that have expired, the ones of which nothing has landed.
    _unread: set[str] = field(default_factory=set)

    def update(self, shards: Iterable[Shard]) -> bool:
        """Take notice of the shards that the stream has now.

        Returns:
            Whether it is another stream than the one that was read or has landed; its shards are
            then read from their oldest records.
        """
        listed = {shard.id: shard for shard in shards}
        ends = {
            id_: self.cursors[id_].position if id_ in self.cursors else self.landed(id_)
            for id_ in listed
        }
        foreign = {id_ for id_, end in ends.items() if 0 < end <= listed[id_].first}
        changed = {
            id_
            for id_, cursor in self.cursors.items()
            if id_ in listed and listed[id_].first != cursor.shard.first
        }
        # Records of the new one have landed already: it has been accepted.
        accepted = any(ends[id_] > shard.first for id_, shard in listed.items())
        another = any(ends[id_] for id_ in changed) or (bool(foreign) and not accepted)
        if changed:
            self._ended.clear()
            self._unread.clear()
        before, self.cursors = self.cursors, {}
        for id_, shard in sorted(listed.items()):
            cursor = before.get(id_)
            if cursor is None or id_ in changed:
                cursor = Cursor(shard, ends[id_], anew=id_ in foreign)
            cursor.shard = shard
            self.cursors[id_] = cursor
        return another

    def readable(self) -> list[Cursor]:
        """The shards with something to read whose parents were read to their ends."""
        return [
            cursor
            for cursor in self.cursors.values()
            if not cursor.over
            and all(
                parent in self._ended or parent not in self.cursors
                for parent in cursor.shard.parents
            )
        ]

    def beginning(self, cursor: Cursor, now: float) -> dict[str, str]:
        """What to ask Kinesis for an iterator of a shard with.

        Args:
            cursor: a shard that may be read.
            now: seconds since 1970.
        """
        if not cursor.begun and not cursor.unknown:
            self._judge(cursor)
        return cursor.beginning(now, self.kept)

    def _judge(self, cursor: Cursor) -> None:
        """Before a shard is read for the first time: may records of it have expired unread?"""
        expired = [id_ for id_ in cursor.shard.parents if id_ not in self._ended]
        if cursor.anew:
            cursor.whole = True
        elif cursor.position:
            cursor.whole = False
            cursor.doubt = "its last record that landed has expired"
        elif lost := [id_ for id_ in expired if self._read_before(id_)]:
            cursor.whole = False
            cursor.doubt = f"{lost[0]}, which it came from, has expired before it was read"

    def _read_before(self, expired: str) -> bool:
        """Whether records have landed of a shard that has expired, or may have of its forebears.

        Those have expired, too, and nobody tells any more which they were: any that was made
        before it may be one.
        """
        if self.landed(expired):
            return True
        match = _SHARD_ID.fullmatch(expired)
        for number in reversed(range(int(match[1]) if match else 0)):
            id_ = f"shardId-{number:012}"
            if id_ in self.cursors or id_ in self._unread:
                continue
            if self.landed(id_):
                return True
            self._unread.add(id_)
        return False

    def end(self, cursor: Cursor) -> None:
        """A shard was read to its end: its children may be read."""
        cursor.over = True
        self._ended.add(cursor.shard.id)

    @property
    def over(self) -> bool:
        """Whether nothing is left to read of the shards that are known."""
        return all(cursor.over for cursor in self.cursors.values())

    @property
    def behind(self) -> float:
        """Seconds by which reading is behind the newest record."""
        reading = [cursor.behind for cursor in self.cursors.values() if not cursor.over]
        return max(reading, default=0.0)


def caught_up(page: Page, started: float, elapsed: float) -> bool:
    """Whether an open shard has handed over what it held when reading began.

    Args:
        page: the last one read.
        started: when that was by the stream's clock, in seconds since 1970.
        elapsed: seconds since then.
    """
    return page.arrived > started if page.numbers else page.behind <= elapsed


def retry_after(failures: int, draw: float) -> float:
    """Seconds to wait before a call is made again, spread so that readers do not come together.

    Args:
        failures: how many in a row, from 1.
        draw: a random number from 0 to 1.
    """
    longest = min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(failures - 1, 30))
    return longest * (0.5 + draw / 2)
