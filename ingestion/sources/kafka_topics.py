"""Which topics, partitions and offsets of Kafka are to be read; decisions only, no I/O.

A topic that was deleted and created anew has the name of the old one and offsets from 0 again: all
of it would be taken for landed. Kafka tells the two apart by an id. The id of the topic that was
landed first is recorded with the first records, as an offset of a partition of its own, ``@``. A
topic with another id is landed only if told so: its partitions are then called ``0@<id>``, and the
partition ``@<id>`` records that it was accepted.
"""

from __future__ import annotations

import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ingestion.lake import Origin
from ingestion.offsets import Offsets

SOURCE = "kafka"
_MARK = "@"

#: What a table accounts for of an origin.
Stored = Callable[[Origin], Offsets]


@dataclass(frozen=True)
class Topic:
    """A topic as a broker describes it.

    Attributes:
        id: what Kafka calls it besides its name; empty for brokers before 2.8.
        partitions: their numbers.
        leaderless: numbers of those that no broker leads now; they cannot be read.
    """

    id: str
    partitions: Sequence[int]
    leaderless: Collection[int] = ()


class Generation(NamedTuple):
    """Under which name a topic's partitions are landed.

    Attributes:
        suffix: what follows a partition's number; empty for the topic that was landed first.
        unrecorded: partitions whose offsets are to be recorded with the first records, as
            (partition, offset).
    """

    suffix: str
    unrecorded: Sequence[tuple[str, int]]


class Start(NamedTuple):
    """Where reading a partition begins.

    Attributes:
        offset: of the first record to be read.
        follows: whether all before it must have landed.
        lost: offsets that were not landed and are no longer there, as a range.
    """

    offset: int
    follows: bool
    lost: tuple[int, int] | None = None


def topic_id(identity: uuid.UUID | str | None) -> str:
    """A topic's id as Kafka's own commands show it, empty if it has none."""
    if identity is None:
        return ""
    number = uuid.UUID(str(identity))
    return "" if number.int == 0 else urlsafe_b64encode(number.bytes).decode().rstrip("=")


def _number(identity: str) -> int:
    return int.from_bytes(urlsafe_b64decode(identity + "=="))


def _identity(number: int) -> str:
    return topic_id(uuid.UUID(int=number))


def generation(topic: str, identity: str, stored: Stored, accept: bool) -> Generation | str:
    """Under which name a topic is landed.

    Args:
        topic: its name.
        identity: its id, empty if unknown.
        stored: what the table accounts for.
        accept: whether it may be another topic than the one that was landed.

    Returns:
        The generation; or the id of the topic that was landed, which is another.
    """
    if not identity:
        return Generation("", ())
    mark = f"{_MARK}{identity}"
    if stored(Origin(SOURCE, topic, mark)).ranges:
        return Generation(mark, ())
    first = stored(Origin(SOURCE, topic, _MARK)).ranges
    if not first:
        return Generation("", [(_MARK, _number(identity))])
    if first[0][0] == _number(identity):
        return Generation("", ())
    return Generation(mark, [(mark, 0)]) if accept else _identity(first[0][0])


def again(identity: str) -> Generation:
    """The generation under which a topic is landed once more from its first record."""
    mark = f"{_MARK}{identity}"
    return Generation(mark, [(mark, 0)])


def is_mark(origin: Origin) -> bool:
    """Whether an origin records a topic's id, not records."""
    return origin.partition.startswith(_MARK)


def partition_number(origin: Origin) -> int:
    """The partition's number."""
    return int(origin.partition.partition(_MARK)[0])


def start(held: Offsets, beginning: int, end: int) -> Start | None:
    """Where reading a partition begins.

    Args:
        held: what the table accounts for.
        beginning: the first offset that is there.
        end: one more than the last.

    Returns:
        None if the table accounts for more than ever was in the partition.
    """
    if not held.ranges:
        return Start(beginning, follows=beginning == 0)
    if held.end > end:
        return None
    if held.end < beginning:
        return Start(beginning, follows=False, lost=(held.end, beginning))
    return Start(held.end, follows=True)


def is_mine(topic: int, partition: int, share: int, shares: int) -> bool:
    """Whether a partition falls to one of several processes.

    Args:
        topic: the topic's place among the topics.
        partition: the partition's number.
        share: the process's place among the processes.
        shares: how many processes there are.
    """
    return (topic + partition) % shares == share


def gaps(held: Offsets) -> list[tuple[int, int]]:
    """The ranges missing between the first offset that ever landed and the last."""
    return held.missing(held.ranges[0][0], held.end) if held.ranges else []
