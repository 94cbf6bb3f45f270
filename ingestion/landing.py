"""Landing: from a source's lines to bronze, in batches, with an account of every record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from ingestion.errors import SourceError
from ingestion.lake import REJECTED, REJECTED_FIELDS, Lake, Origin, Piece, padded
from ingestion.records import MAX_INT64, Kind, Rejection, decode
from ingestion.sources import s3

#: A batch is committed when it holds this many records or bytes, whichever comes first.
BATCH_RECORDS = 100_000
BATCH_BYTES = 16 * 1024 * 1024
#: Decoded at once: few enough that their Python objects stay small and close together.
DECODED_RECORDS = 2_000

# Arrow's own allocator keeps what was freed: a tenth more memory at the peak, for no speed.
pa.set_memory_pool(pa.system_memory_pool())


@dataclass
class Account:
    """What became of one stream's records in one run.

    Attributes:
        stream: the topic.
        kind: the kind of record it carries.
        objects: objects that held records to land; None where the source has none.
        received: records read that were not landed before; landed + rejected once all is well.
        landed: rows added to the kind's table by this run.
        rejected: records rejected by this run, by reason.
        elsewhere: records another lander committed while this one was reading them.
        overlapping: records left out because another object of the run holds the same offsets.
        seconds: how long it took.
        gaps: missing offsets as (partition, first, last), both inclusive.
        failures: objects or tables that could not be handled, each with its way out.
    """

    stream: str
    kind: str
    objects: int | None = 0
    received: int = 0
    landed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    elsewhere: int = 0
    overlapping: int = 0
    seconds: float = 0.0
    gaps: list[tuple[int, int, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Chunk:
    """Records of one origin, in their order, as a source hands them over.

    Attributes:
        origin: where they come from.
        start: where reading stood before them: no record lies from here to the first of them.
        end: where it stands after them; more than the last one's offset.
        offsets: of each record, ascending; a range may have none.
        raws: the records' bytes.
        follows: whether all before ``start`` must have landed, as with a stream that is read on
            from where the table stands; objects may come in any order.
    """

    origin: Origin
    start: int
    end: int
    offsets: Sequence[int]
    raws: Sequence[bytes]
    follows: bool = True


class Batches:
    """Decodes records and commits them, one batch while the next is read and decoded.

    Args:
        lake: where to; its tables exist.
        kind: the kind of all the records.
        account: what counts them.
        now: seconds of a clock that never goes back.
        committed: called in another thread after each commit with where its origins stand.
    """

    def __init__(
        self,
        lake: Lake,
        kind: Kind,
        account: Account,
        now: Callable[[], float] = time.monotonic,
        committed: Callable[[Mapping[Origin, int]], None] = lambda _: None,
    ) -> None:
        self._now = now
        self._committed = committed
        self._oldest = 0.0
        self._lake = lake
        self._kind = kind
        self._account = account
        self._good: list[Piece] = []
        self._bad: list[Piece] = []
        self._records = self._bytes = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"write-{kind.name}")
        self._pending: Future[None] | None = None

    def add(self, chunk: Chunk) -> None:
        """Take records; commit when a batch is full."""
        count = len(chunk.raws)
        self._account.received += count
        start = chunk.start
        # A range without records is accounted for all the same, or it would be read again.
        for first in range(0, max(count, 1), DECODED_RECORDS):
            last = min(first + DECODED_RECORDS, count)
            # A batch may end here: where it ends, a record must have been, for Kinesis to go on.
            end = chunk.end if last == count else chunk.offsets[last - 1] + 1
            offsets, raws = chunk.offsets[first:last], chunk.raws[first:last]
            self._add(chunk.origin, start, end, offsets, raws, chunk.follows)
            start = end

    def _add(
        self,
        origin: Origin,
        start: int,
        end: int,
        offsets: Sequence[int],
        raws: Sequence[bytes],
        follows: bool,
    ) -> None:
        decoded = decode(self._kind, raws)
        # Nothing is left out in the usual case, where a copy would cost as much as the choice.
        kept = [offsets[index] for index in decoded.indices] if decoded.rejected else offsets
        good = Piece(origin, start, end, _positions(kept, end), decoded.rows, follows)
        if not self._good:
            self._oldest = self._now()
        self._good.append(good)
        self._bytes += decoded.rows.nbytes
        if decoded.rejected:
            left_out = [offsets[item.index] for item in decoded.rejected]
            rows = _rejected_rows(self._kind, raws, decoded.rejected)
            self._bad.append(Piece(origin, start, end, _positions(left_out, end), rows))
            self._bytes += rows.nbytes
        self._records += len(raws)
        if self._records >= BATCH_RECORDS or self._bytes >= BATCH_BYTES:
            self.flush()

    @property
    def age(self) -> float:
        """For how many seconds the oldest chunk has waited for its commit to begin; 0 if none."""
        return self._now() - self._oldest if self._good else 0.0

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return self._pending is not None and not self._pending.done()

    def check(self) -> None:
        """Raise what a commit that has ended failed with: no record may come that would tell."""
        if self._pending is not None and not self.busy:
            self._wait()

    def close(self) -> None:
        """Commit what is left and wait for it."""
        try:
            self.flush()
            self._wait()
        finally:
            self._writer.shutdown()

    def abandon(self) -> None:
        """Wait for a commit under way, drop the rest."""
        self._writer.shutdown()

    def flush(self) -> None:
        """Begin to commit what was taken, once the commit before is through."""
        self._wait()
        if self._good:
            good, self._good = self._good, []
            bad, self._bad = self._bad, []
            self._records = self._bytes = 0
            self._pending = self._writer.submit(self._commit, good, bad)

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                pending.result()
            except BaseException:
                # What was read after it must not land before it.
                self._good, self._bad, self._records = [], [], 0
                raise

    def _commit(self, good: Sequence[Piece], bad: Sequence[Piece]) -> None:
        given = sum(piece.rows.num_rows for piece in (*good, *bad))
        rejected = 0
        if bad:
            # All that the kind's table accounts for has had its rejections written before, so
            # the rejected table may account for it too: its set stays as simple as the other.
            covering = {
                piece.origin: self._lake.offsets(self._kind.name, piece.origin) for piece in bad
            }
            appended = self._lake.append(REJECTED, bad, covering)
            self._account.rejected.update(appended.column("reason").to_pylist())
            rejected = appended.num_rows
        landed = self._lake.append(self._kind.name, good).num_rows
        self._account.landed += landed
        self._account.elsewhere += given - landed - rejected
        self._committed({piece.origin: piece.end for piece in good})


def _positions(offsets: Sequence[int], end: int) -> pa.Array:
    if end <= MAX_INT64:
        return pa.array(offsets, pa.int64())
    return pa.array([padded(offset) for offset in offsets], pa.string())


def _rejected_rows(
    kind: Kind, raws: Sequence[bytes], rejected: Sequence[Rejection]
) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([kind.name] * len(rejected), pa.string()),
            pa.array([item.reason.value for item in rejected], pa.string()),
            pa.array([item.detail for item in rejected], pa.string()),
            pa.array([raws[item.index] for item in rejected], pa.binary()),
        ],
        schema=REJECTED_FIELDS,
    )


def land_objects(
    lake: Lake,
    store: s3.Store,
    kind: Kind,
    topic: str,
    objects: Sequence[s3.SinkObject],
    advance: Callable[[int], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> Account:
    """Land the objects of one topic that have not landed yet.

    Args:
        lake: where to; its tables exist.
        store: where the objects lie.
        kind: the kind of record the topic carries.
        topic: the topic.
        objects: the topic's objects, in any order.
        advance: called with the bytes dealt with, as they are.
        now: seconds of a clock that never goes back.

    Returns:
        The account; an object that cannot be read is among its failures, the others land.

    Raises:
        LakeError: the lake cannot be written; what was committed stays.
    """
    account = Account(topic, kind.name)
    begun = now()
    batches = Batches(lake, kind, account)
    partitions: dict[int, list[s3.SinkObject]] = {}
    for item in objects:
        partitions.setdefault(item.partition, []).append(item)
    try:
        for partition, items in sorted(partitions.items()):
            origin = Origin(s3.SOURCE, topic, str(partition))
            _land_partition(batches, lake, store, kind, origin, items, account, advance)
        batches.close()
    except BaseException:
        batches.abandon()
        raise
    for partition in sorted(partitions):
        held = lake.offsets(kind.name, Origin(s3.SOURCE, topic, str(partition)))
        account.gaps += [(partition, start, end - 1) for start, end in held.gaps()]
    account.seconds = now() - begun
    return account


def _land_partition(
    batches: Batches,
    lake: Lake,
    store: s3.Store,
    kind: Kind,
    origin: Origin,
    items: Sequence[s3.SinkObject],
    account: Account,
    advance: Callable[[int], None],
) -> None:
    landed_before = lake.offsets(kind.name, origin)
    taken = landed_before
    todo = s3.outstanding(items, landed_before)
    advance(sum(item.size for item in items) - sum(item.size for item in todo))
    for item in todo:
        offset = item.start
        fresh = 0
        try:
            for lines, size in s3.read_lines(store, item):
                end = offset + len(lines)
                missing = taken.missing(offset, end)
                for low, high in missing:
                    fresh_lines = lines[low - offset : high - offset]
                    batches.add(
                        Chunk(origin, low, high, range(low, high), fresh_lines, follows=False)
                    )
                fresh_here = _count(missing)
                fresh += fresh_here
                account.overlapping += _count(landed_before.missing(offset, end)) - fresh_here
                taken = taken.add(offset, end)
                offset = end
                advance(size)
        except SourceError as error:
            account.failures.append(str(error))
        account.objects = (account.objects or 0) + (fresh > 0)


def _count(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(high - low for low, high in ranges)
