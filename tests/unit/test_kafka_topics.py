"""Which topics, partitions and offsets are to be read."""

from __future__ import annotations

import uuid

from ingestion.lake import Origin
from ingestion.offsets import Offsets
from ingestion.sources import kafka_topics
from ingestion.sources.kafka_topics import Generation, Start, start

OLD, NEW = (kafka_topics.topic_id(uuid.UUID(int=number)) for number in (2**127 + 5, 77))


class Table:
    """What a table accounts for."""

    def __init__(self) -> None:
        self.held: dict[Origin, Offsets] = {}

    def __call__(self, origin: Origin) -> Offsets:
        return self.held.get(origin, Offsets())

    def record(self, generation: Generation | str) -> None:
        assert isinstance(generation, Generation)
        for partition, offset in generation.unrecorded:
            origin = Origin("kafka", "t", partition)
            assert kafka_topics.is_mark(origin)
            self.held[origin] = self(origin).add(offset, offset + 1)


def test_ids_are_as_kafka_shows_them() -> None:
    assert kafka_topics.topic_id("f4a6c1d0-3a43-4b1f-9a5e-0242ac120002") == "9KbB0DpDSx-aXgJCrBIAAg"
    assert kafka_topics.topic_id(None) == kafka_topics.topic_id(uuid.UUID(int=0)) == ""


def test_the_first_topic_keeps_its_partitions_plain() -> None:
    table = Table()
    first = kafka_topics.generation("t", OLD, table, accept=False)
    assert first == Generation("", [("@", 2**127 + 5)])
    table.record(first)
    for accept in (False, True):
        assert kafka_topics.generation("t", OLD, table, accept) == Generation("", ())


def test_another_topic_is_landed_only_if_accepted_once() -> None:
    table = Table()
    table.record(kafka_topics.generation("t", OLD, table, accept=False))
    assert kafka_topics.generation("t", NEW, table, accept=False) == OLD
    accepted = kafka_topics.generation("t", NEW, table, accept=True)
    assert accepted == Generation(f"@{NEW}", [(f"@{NEW}", 0)])
    table.record(accepted)
    assert kafka_topics.generation("t", NEW, table, accept=False) == Generation(f"@{NEW}", ())
    assert kafka_topics.generation("t", OLD, table, accept=False) == Generation("", ())


def test_a_topic_may_be_landed_once_more() -> None:
    table = Table()
    table.record(kafka_topics.generation("t", OLD, table, accept=False))
    table.record(kafka_topics.again(OLD))
    assert kafka_topics.generation("t", OLD, table, accept=False) == Generation(f"@{OLD}", ())


def test_brokers_without_ids() -> None:
    assert kafka_topics.generation("t", "", Table(), accept=False) == Generation("", ())


def test_partitions_of_a_generation() -> None:
    assert kafka_topics.partition_number(Origin("kafka", "t", "12")) == 12
    assert kafka_topics.partition_number(Origin("kafka", "t", f"12@{NEW}")) == 12
    assert not kafka_topics.is_mark(Origin("kafka", "t", f"12@{NEW}"))


def test_where_reading_begins() -> None:
    nothing, some = Offsets(), Offsets.of([(10, 50)])
    assert start(nothing, 0, 0) == Start(0, follows=True)
    assert start(nothing, 0, 9) == Start(0, follows=True)
    assert start(nothing, 7, 9) == Start(7, follows=False)
    assert start(some, 0, 50) == start(some, 50, 50) == start(some, 20, 90) == Start(50, True)
    assert start(some, 51, 90) == Start(51, follows=False, lost=(50, 51))
    assert start(some, 0, 49) is None
    assert start(some, 0, 0) is None


def test_every_partition_has_one_process_and_every_process_its_part_of_each_topic() -> None:
    for shares in range(1, 5):
        for partitions in range(1, 13):
            for topic in range(3):
                falls_to = [
                    [s for s in range(shares) if kafka_topics.is_mine(topic, p, s, shares)]
                    for p in range(partitions)
                ]
                assert all(len(processes) == 1 for processes in falls_to)
                counts = [falls_to.count([share]) for share in range(shares)]
                assert max(counts) - min(counts) <= 1


def test_gaps_are_counted_from_the_first_offset_that_landed() -> None:
    assert kafka_topics.gaps(Offsets()) == []
    assert kafka_topics.gaps(Offsets.of([(100, 150)])) == []
    assert kafka_topics.gaps(Offsets.of([(100, 150), (160, 170)])) == [(150, 160)]
