"""Runs against kafka-python's own records: the same offsets and values, whatever a batch holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import FetchResponse, IsolationLevel
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecordsBuilder

from ingestion.sources import kafka_runs
from ingestion.sources.kafka_runs import PartitionRuns, Run

AT = TopicPartition("t", 0)
Aborted = FetchResponse.FetchableTopicResponse.PartitionData.AbortedTransaction


def batch(
    records: list[tuple[bytes | None, bytes | None]],
    offset: int = 0,
    skip: tuple[int, ...] = (),
    compression: int = 0,
    headers: list[tuple[str, bytes | None]] | None = None,
    producer: int = -1,
    magic: int = 2,
) -> bytes:
    """A record batch as a broker stores it; `skip` are places that compaction has emptied."""
    transactional = producer >= 0
    builder = MemoryRecordsBuilder(
        magic,
        compression,
        1 << 24,
        offset=0,
        transactional=transactional,
        producer_id=producer,
        producer_epoch=0 if transactional else -1,
        base_sequence=0 if transactional else -1,
    )
    for place, (key, value) in enumerate(records):
        if place in skip:
            builder.skip(1)
        else:
            builder.append(1_600_000_000_000 + 7 * place, key, value, headers or [])
    builder.close()
    made = bytearray(builder.buffer())
    made[:8] = offset.to_bytes(8, "big")
    return bytes(made)


def marker(offset: int, producer: int, commit: bool, empty: bool = False) -> bytes:
    """The control batch that ends a transaction; compaction may have emptied it."""
    builder = DefaultRecordBatchBuilder(2, 0, True, producer, 0, -1, 1 << 20)
    builder.append(0, 1, b"\0\0\0" + bytes([commit]), b"\0\0\0\0\0\0", [])
    made = builder.build()
    if empty:
        del made[61:]
        made[8:12] = (len(made) - 12).to_bytes(4, "big")
        made[57:61] = bytes(4)
    made[:8] = offset.to_bytes(8, "big")
    made[22] |= 0x20  # it is a control batch
    made[17:21] = crc32c(bytes(made[21:])).to_bytes(4, "big")
    return bytes(made)


def unpacked(kind: Any, data: bytes, offset: int = 0, aborted: Any = ()) -> Any:
    return kind(
        offset,
        AT,
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=[Aborted(producer_id=p, first_offset=o) for p, o in aborted],
    )


def runs(data: bytes, offset: int = 0, aborted: Any = ()) -> list[Run]:
    """All runs, taken one at a time as a reader takes them; they leave no offset out."""
    part = unpacked(PartitionRuns, data, offset, aborted)
    found: list[Run] = []
    while part:
        stood = part.next_fetch_offset
        for run in part.take(1):
            assert (run.start, run.end) == (stood, part.next_fetch_offset)
            assert len(run.offsets) == len(run.values)
            assert all(run.start <= at < run.end for at in run.offsets)
            found.append(run)
    return found


def plain(data: bytes, offset: int = 0, aborted: Any = ()) -> tuple[list[Any], int]:
    """What kafka-python makes of it, and where it then stands."""
    part = unpacked(Fetcher.PartitionRecords, data, offset, aborted)
    return [(record.offset, record.value or b"") for record in part.take()], part.next_fetch_offset


def assert_same(data: bytes, offset: int = 0, aborted: Any = ()) -> None:
    found = runs(data, offset, aborted)
    records, end = plain(data, offset, aborted)
    pairs = [pair for run in found for pair in zip(run.offsets, run.values, strict=True)]
    assert pairs == records
    assert (found[-1].end if found else offset) == end


sizes = st.integers(0, 40) | st.sampled_from([63, 64, 65, 8191, 8192, 20_000, 1_100_000])
fields = st.none() | st.binary(max_size=20) | st.builds(lambda size: b"x" * size, sizes)
batches = st.builds(
    dict,
    records=st.lists(st.tuples(st.none() | st.binary(max_size=70), fields), min_size=1, max_size=8),
    skip=st.sets(st.integers(1, 6)).map(tuple),
    compression=st.sampled_from([0, 1, 3, 4]),
    headers=st.lists(
        st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=90)), max_size=2
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(batches, max_size=4), st.integers(0, 2**40), st.data())
def test_runs_hold_what_records_hold(made: list[Any], first: int, data: st.DataObject) -> None:
    joined, offset = b"", first
    for one in made:
        skip = tuple(place for place in one["skip"] if place < len(one["records"]) - 1)
        joined += batch(one["records"], offset, skip, one["compression"], one["headers"])
        offset += len(one["records"])
    assert_same(joined, data.draw(st.integers(first, max(first, offset - 1))))


def test_a_fetch_may_begin_within_a_batch() -> None:
    data = batch([(None, b"%d" % at) for at in range(10)], 100) + batch([(None, b"x")], 110)
    for offset in range(95, 112):
        assert_same(data, offset)


def test_batches_of_old_brokers() -> None:
    for magic in (0, 1):
        for compression in (0, 1):
            records = [(None, b"a"), (b"k", b"bb"), (None, None), (None, b"c")]
            builder = MemoryRecordsBuilder(magic, compression, 1 << 20, offset=0)
            for key, value in records:
                builder.append(5, key, value)
            builder.close()
            found = runs(bytes(builder.buffer()))
            assert [(run.start, run.end) for run in found] == [(0, 4)]
            assert found[0].values == [b"a", b"bb", b"", b"c"]
            assert list(found[0].offsets) == [0, 1, 2, 3]


def test_aborted_records_and_markers_are_ranges_without_rows() -> None:
    data = b"".join(
        [
            batch([(None, b"before")], 0),
            batch([(None, b"aborted")] * 3, 1, producer=7),
            batch([(None, b"committed")], 4, producer=8),
            marker(5, 7, commit=False),
            marker(6, 8, commit=True),
            batch([(None, b"by the same producer")], 7, producer=7),
            marker(8, 7, commit=True),
        ]
    )
    assert_same(data, 0, [(7, 1)])
    (run,) = runs(data, 0, [(7, 1)])
    assert (run.start, run.end) == (0, 9)
    assert list(run.offsets) == [0, 4, 7]
    for emptied in (False, True):
        (empty,) = runs(marker(5, 7, commit=False, empty=emptied), 5)
        assert empty == Run(5, 6, [], [])


def test_a_marker_that_compaction_emptied_ends_nothing() -> None:
    data = b"".join(
        [
            marker(0, 7, commit=True, empty=True),
            batch([(None, b"aborted")], 1, producer=7),
            marker(2, 7, commit=False),
            batch([(None, b"committed")], 3, producer=7),
        ]
    )
    (run,) = runs(data, 0, [(7, 1)])
    assert run == Run(0, 4, [3], [b"committed"])


def test_a_run_ends_where_it_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(batch([(None, b"x" * 10)] * 10, at) for at in range(0, 100, 10))
    assert len(runs(data)) == 1
    monkeypatch.setattr(kafka_runs, "RUN_RECORDS", 25)
    assert [(run.start, run.end) for run in runs(data)] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    monkeypatch.setattr(kafka_runs, "RUN_BYTES", 1)
    assert len(runs(data)) == 10


@pytest.mark.parametrize("compression", [0, 4])
def test_damage_is_told_after_what_came_before_it(compression: int) -> None:
    good = batch([(None, b"x" * 10)] * 10)
    bad = bytearray(batch([(None, b"x" * 10)] * 10, 10, compression=compression))
    bad[-3] ^= 1
    part = unpacked(PartitionRuns, good + bytes(bad))
    assert [run.end for run in part.take(1)] == [10]
    with pytest.raises(CorruptRecordError, match="at offset 10 does not have its checksum"):
        part.take(1)


#: The names of headers, the sign of a size that is right, and attributes, which kafka-python reads
#: as a number, are not looked at.
UNSEEN = "UnicodeDecodeError|header|expected to read -|IndexError"


def test_a_record_written_wrongly_is_refused_or_read_as_kafka_python_reads_it() -> None:
    """Its checksum is sound: somebody wrote it so."""
    sound = batch([(b"kk", b"value")] * 2, headers=[("h", b"v")])
    refused = 0
    for place in range(61, len(sound)):
        for by in (1, 2, 5, 128):
            data = bytearray(sound)
            data[place] = (data[place] + by) % 256
            data[17:21] = crc32c(bytes(data[21:])).to_bytes(4, "big")
            ours = attempt(lambda data=data: runs(bytes(data)))  # type: ignore[misc]
            theirs = attempt(lambda data=data: plain(bytes(data))[0])  # type: ignore[misc]
            if isinstance(ours, str):
                refused += 1
            elif isinstance(theirs, str):
                assert re.search(UNSEEN, theirs)
            # Offsets are not read where none can be missing.
            elif [at for at, _ in theirs] == list(ours[0].offsets):
                assert ours[0].values == [value for _, value in theirs]
    assert refused > 40


def attempt(action: Callable[[], Any]) -> Any:
    """What it gives, or how it was refused."""
    try:
        return action()
    except CorruptRecordError as error:
        return str(error)
