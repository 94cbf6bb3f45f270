"""Landing from a stream: records as they come, committed in batches by size and by age."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ingestion.errors import SourceError
from ingestion.lake import Lake, Origin
from ingestion.landing import Account, Batches, Chunk
from ingestion.records import Kind

#: How long a read waits for records, in seconds, so that age and a wish to stop are looked at.
READ_SECONDS = 0.2


class Reader(Protocol):
    """A source that hands records over as they come, from where the lake's tables stand."""

    def read(self, timeout: float) -> Sequence[Chunk]:
        """The next records of any origin; none where nothing came.

        Args:
            timeout: seconds to wait for the first of them.

        Raises:
            SourceError: the source cannot be read and waiting does not help.
        """

    @property
    def finished(self) -> bool:
        """Whether everything that was there when reading began has been handed over."""

    def landed(self, ends: Mapping[Origin, int]) -> None:
        """Take notice of where origins stand now in the lake, for displays of the lag."""


def land_stream(
    lake: Lake,
    reader: Reader,
    kinds: Mapping[str, Kind],
    *,
    max_latency: float | None = None,
    stopping: Callable[[], bool] = lambda: False,
    progress: Callable[[Sequence[Account]], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> list[Account]:
    """Land what a reader hands over.

    Args:
        lake: where to; its tables exist.
        reader: where from.
        kinds: the kind of record that each stream carries, by the stream's name.
        max_latency: seconds a record may wait for its commit to begin, and reading goes on until it
            is stopped; None to land what is there and return.
        stopping: whether to stop; what was read is committed first.
        progress: called after every read with the accounts so far.
        now: seconds of a clock that never goes back.

    Returns:
        An account for each stream, in the order of ``kinds``.

    Raises:
        LakeError: the lake cannot be written; what was committed stays.
        SourceError: the source cannot be read; what was read before is committed first.
    """
    begun = now()
    accounts = {stream: Account(stream, kind.name, objects=None) for stream, kind in kinds.items()}
    committed: deque[Mapping[Origin, int]] = deque()
    batches = {
        stream: Batches(lake, kind, accounts[stream], now, committed.append)
        for stream, kind in kinds.items()
    }
    unread: SourceError | None = None
    try:
        while not stopping():
            try:
                chunks = reader.read(READ_SECONDS)
            except SourceError as error:
                unread = error
                break
            for chunk in chunks:
                batches[chunk.origin.stream].add(chunk)
            if max_latency is None and reader.finished:
                break
            for batch in batches.values():
                batch.check()
                # A batch that is due while the one before is being committed goes on growing.
                if max_latency is not None and batch.age >= max_latency and not batch.busy:
                    batch.flush()
            while committed:
                reader.landed(committed.popleft())
            for account in accounts.values():
                account.seconds = now() - begun
            progress(list(accounts.values()))
        for batch in batches.values():
            batch.close()
    except BaseException:
        for batch in batches.values():
            batch.abandon()
        raise
    while committed:
        reader.landed(committed.popleft())
    for account in accounts.values():
        account.seconds = now() - begun
    if unread is not None:
        raise unread
    return list(accounts.values())
