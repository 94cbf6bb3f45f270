"""Which topics there are: looked up when first posted to, and again from time to time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

#: What brokers take in one batch unless they are told otherwise.
DEFAULT_MAX_BYTES = 1024 * 1024 + 12
#: Seconds for which a topic is taken to be as it was.
FRESH_SECONDS = 30.0
#: Seconds between two looks, however many ask for topics that are not there.
AGAIN_SECONDS = 0.25

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Topic:
    """A topic as the brokers have it.

    Attributes:
        name: its name.
        partitions: their numbers.
        max_bytes: of a batch, one of a single record included.
        keyed: whether its records need a key, because it is compacted.
    """

    name: str
    partitions: tuple[int, ...]
    max_bytes: int = DEFAULT_MAX_BYTES
    keyed: bool = False


def describe(admin: Any, wanted: Collection[str]) -> tuple[list[str], dict[str, Topic]]:
    """The names of all topics, and those wanted as they are now.

    Args:
        admin: a KafkaAdminClient.
        wanted: names of topics that need not be there.

    Raises:
        KafkaError: the brokers do not answer.
    """
    found = {
        topic["name"]: tuple(sorted(part["partition_index"] for part in topic["partitions"]))
        for topic in admin.describe_topics()
        if not topic["error_code"] and not topic["is_internal"]
    }
    topics = {name: Topic(name, found[name]) for name in wanted if name in found}
    for name, settings in _settings(admin, topics).items():
        topics[name] = Topic(
            name,
            found[name],
            int(settings.get("max.message.bytes", DEFAULT_MAX_BYTES)),
            "compact" in settings.get("cleanup.policy", ""),
        )
    return sorted(found), topics


def _settings(admin: Any, names: Collection[str]) -> Mapping[str, Mapping[str, str]]:
    from kafka.admin import ConfigResource, ConfigResourceType
    from kafka.errors import KafkaError

    if not names:
        return {}
    wanted = {"max.message.bytes": None, "cleanup.policy": None}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in names]
    try:
        found = admin.describe_configs(resources, config_filter="all").get("topic", {})
    except KafkaError as error:  # not allowed, say: the usual settings are then assumed
        log.warning("the settings of %s cannot be read: %s", ", ".join(sorted(names)), error)
        return {}
    return {
        name: {key: entry["value"] for key, entry in settings.items() if entry["value"]}
        for name, settings in found.items()
        if name in names
    }


Read = Callable[[Collection[str]], Awaitable[tuple[list[str], dict[str, Topic]]]]


class Topics:
    """The topics of a cluster that were posted to, and the names of the others.

    Args:
        read: gives all names, and topics as they are now.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, read: Read, now: Callable[[], float]) -> None:
        self._read = read
        self._now = now
        self._lock = asyncio.Lock()
        self._names: list[str] = []
        self._known: dict[str, Topic] = {}
        self._wanted: set[str] = set()
        self._looked_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None

    async def names(self) -> list[str]:
        """The names of all topics, as they are now or were a moment ago.

        Raises:
            KafkaError: the brokers do not answer.
        """
        async with self._lock:
            if self._age() >= AGAIN_SECONDS:
                await self._look()
            return self._names

    async def find(self, name: str, partitions: Collection[int] = ()) -> Topic | None:
        """A topic; None if there is no such.

        Args:
            name: its name.
            partitions: some that it ought to have; if it lacks one, it is looked at again.

        Raises:
            KafkaError: the brokers do not answer.
        """
        topic = self._known.get(name)
        if topic is not None and _has(topic, partitions):
            if self._age() >= FRESH_SECONDS and self._refreshing is None:
                self._refreshing = asyncio.create_task(self._refresh())
            return topic
        asked = self._now()
        self._wanted.add(name)  # one look is for all that wait
        try:
            async with self._lock:
                topic = self._known.get(name)
                enough = topic is not None and _has(topic, partitions)
                seen = topic is None and name in self._names
                if not enough and (seen or self._looked_at < asked):
                    await asyncio.sleep(self._looked_at + AGAIN_SECONDS - self._now())
                    self._wanted.add(name)  # another that asked for it may have left
                    await self._look()
                return self._known.get(name)
        finally:
            self._wanted.discard(name)

    async def _refresh(self) -> None:
        try:
            async with self._lock:
                await self._look()
        except Exception as error:  # of many kinds where another thread closes the client
            # What is known stays good while the brokers cannot be asked.
            log.warning("the topics cannot be looked at: %s", str(error) or type(error).__name__)
        finally:
            self._refreshing = None

    async def _look(self) -> None:
        began = self._now()
        self._names, self._known = await self._read({*self._known, *self._wanted})
        self._looked_at = began

    def _age(self) -> float:
        return self._now() - self._looked_at


def _has(topic: Topic, partitions: Collection[int]) -> bool:
    return all(partition in topic.partitions for partition in partitions)
