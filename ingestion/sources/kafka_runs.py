"""Values of Kafka's record batches: a batch at a time, not an object for each record.

kafka-python makes two objects and calls six functions for every record, which is most of what
reading costs. Its fetcher leaves the choice of who unpacks a fetched partition to an attribute,
``PartitionRecords``. The subclass here keeps everything that concerns batches (checksums,
decompression, aborted transactions, control batches) as kafka-python does it, and takes out of a
batch only what landing needs: offsets and values, with the range of offsets they are all of.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel

#: A run ends with the batch that brings it to so many records or bytes.
RUN_RECORDS = 10_000
RUN_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Run:
    """Records of one partition, and the range of offsets they are all of.

    Attributes:
        start: where reading stood before them.
        end: where it stands after them; compaction, markers of transactions and aborted records
            leave offsets without a record.
        offsets: of each record, ascending.
        values: of each record; empty where the record has none.
    """

    start: int
    end: int
    offsets: Sequence[int]
    values: Sequence[bytes]


class PartitionRuns(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What was fetched of one partition, as runs where kafka-python has records.

    A consumer whose fetcher is given this class hands over runs; ``poll(max_records=1)`` gives one.
    """

    def _maybe_skip_record(self, _: Any) -> bool:
        return False  # records before the offset asked for are left out with their batch

    def _unpack_records(self, _topic: Any, records: Any, *_: Any) -> Iterator[Run]:
        start = end = self.fetch_offset
        offsets: list[int] = []
        values: list[bytes] = []
        size = 0
        while (batch := records.next_batch()) is not None:
            try:
                found_offsets, found, next_offset = self._read(batch)
            except Exception:
                if end > start:  # what came before the damage is handed over first
                    self.next_fetch_offset = end
                    yield Run(start, end, offsets, values)
                raise
            offsets += found_offsets
            values += found
            end = max(end, next_offset)
            size += sum(map(len, found))
            if len(values) >= RUN_RECORDS or size >= RUN_BYTES:
                self.next_fetch_offset = end
                yield Run(start, end, offsets, values)
                start, offsets, values, size = end, [], [], 0
        if end > start:
            self.next_fetch_offset = end
            yield Run(start, end, offsets, values)
        self.drain()

    def _read(self, batch: Any) -> tuple[Sequence[int], list[bytes], int]:
        """What a batch holds for us from where the fetch began, and the offset behind it."""
        if self.check_crcs and not batch.validate_crc():
            raise CorruptRecordError(
                f"the batch at offset {batch.base_offset} does not have its checksum"
            )
        offsets: Sequence[int]
        if batch.magic < 2:
            offsets, values = _read_old(batch)
            next_offset = offsets[-1] + 1 if offsets else batch.base_offset + 1
        else:
            self.leader_epoch = batch.leader_epoch
            next_offset = batch.next_offset
            if self._is_not_for_us(batch):
                return [], [], next_offset
            offsets, values = read_batch(batch)
        first = bisect_left(offsets, self.fetch_offset)
        return offsets[first:], values[first:], next_offset

    def _is_not_for_us(self, batch: Any) -> bool:
        """Whether a batch is a marker, or was aborted; in kafka-python's order of questions."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def _contains_abort_marker(self, batch: Any) -> bool:
        # Compaction keeps a marker's batch without the marker.
        return batch.records_count > 0 and bool(super()._contains_abort_marker(batch))


def _read_old(batch: Any) -> tuple[list[int], list[bytes]]:
    """The records of a batch from before Kafka 0.11, as kafka-python reads them."""
    offsets, values = [], []
    for record in batch:
        if not record.validate_crc():
            raise CorruptRecordError(
                f"the record at offset {record.offset} does not have its checksum"
            )
        offsets.append(record.offset)
        values.append(record.value or b"")
    return offsets, values


def read_batch(batch: Any) -> tuple[Sequence[int], list[bytes]]:
    """Offset and value of each record of a batch.

    Args:
        batch: a ``DefaultRecordBatch`` that nobody has iterated over.

    Raises:
        CorruptRecordError: it is not made as it should be.
    """
    iter(batch)  # decompresses it
    data = bytes(memoryview(batch._buffer)[batch._pos :])
    count = batch.records_count
    first = batch.base_offset
    # Offsets ascend: with as many records as offsets none is left out, and none need be read.
    deltas: list[int] | None = None if batch.last_offset_delta + 1 == count else []
    values: list[bytes] = []
    try:
        end = _read_values(data, count, values, deltas)
    except IndexError:
        raise CorruptRecordError(f"the batch at offset {first} ends within a record") from None
    except CorruptRecordError as error:
        raise CorruptRecordError(f"the batch at offset {first}: {error.args[0]}") from None
    if end != len(data):
        raise CorruptRecordError(f"the batch at offset {first} goes on behind its last record")
    if deltas is None:
        return range(first, first + count), values
    return [first + delta for delta in deltas], values


def _read_values(data: bytes, count: int, values: list[bytes], deltas: list[int] | None) -> int:
    """Read records: length, attributes, time, offset, key, value, headers.

    Numbers have seven bits a byte, the lowest first, and their sign in the lowest bit of all. They
    are read in place, as a call for each would cost more than everything else.

    Returns:
        Where the last record ends.
    """
    pos = 0
    append = values.append
    for _ in range(count):
        # The record's length, then its attributes.
        number = data[pos]
        pos += 1
        if number > 127:
            if (byte := data[pos]) < 128:
                number += (byte << 7) - 128
                pos += 1
            else:
                number, pos = _long(data, pos, number)
        end = pos + (number >> 1)
        pos += 1
        while data[pos] > 127:  # the time
            pos += 1
        pos += 1
        if deltas is None:
            while data[pos] > 127:
                pos += 1
            pos += 1
        else:
            number = data[pos]
            pos += 1
            if number > 127:
                number, pos = _long(data, pos, number)
            deltas.append(number >> 1)
        # The key: a negative length, odd here, says that there is none.
        number = data[pos]
        pos += 1
        if number > 127:
            number, pos = _long(data, pos, number)
        if not number & 1:
            pos += number >> 1
        number = data[pos]
        pos += 1
        if number > 127:
            if (byte := data[pos]) < 128:
                number += (byte << 7) - 128
                pos += 1
            else:
                number, pos = _long(data, pos, number)
        if number & 1:
            append(b"")
        else:
            start = pos
            pos += number >> 1
            append(data[start:pos])
        # Nearly always there are no headers: their number is the last byte.
        if pos + 1 != end or data[pos]:
            pos = _skip_headers(data, pos)
            if pos != end:
                raise CorruptRecordError("a record does not have the size it gives")
        pos = end
    return pos


def _skip_headers(data: bytes, pos: int) -> int:
    """Where a record's headers end: their number, then a name and a value for each."""
    count, pos = _long(data, pos + 1, data[pos])
    for _ in range(2 * (count >> 1)):
        length, pos = _long(data, pos + 1, data[pos])
        if not length & 1:
            pos += length >> 1
    return pos


def _long(data: bytes, pos: int, number: int) -> tuple[int, int]:
    """A number whose first byte has been read, and where it ends."""
    if number < 128:
        return number, pos
    number &= 127
    shift = 7
    while (byte := data[pos]) > 127:
        number |= (byte & 127) << shift
        shift += 7
        pos += 1
    return number | byte << shift, pos + 1
