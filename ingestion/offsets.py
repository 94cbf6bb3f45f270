"""Which offsets of one partition a table holds: a set of ranges; no I/O.

An offset is any integer from 0: Kafka's have 63 bits, Kinesis' sequence numbers up to 186.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

#: A Delta log's integers are signed and have 64 bits; a larger number is cut into limbs.
_LIMB_BITS = 62


@dataclass(frozen=True)
class Offsets:
    """A set of offsets as disjoint, ascending, non-adjacent half-open ranges.

    Objects may arrive late and fill a gap, so the highest offset alone does not say what has
    landed.

    Attributes:
        ranges: ``(start, end)`` pairs, ``end`` exclusive.
    """

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> Offsets:
        """The union of any ranges, in any order; empty ones are left out."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted(ranges):
            if start >= end:
                continue
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        return cls(tuple(merged))

    @property
    def end(self) -> int:
        """One more than the highest offset; 0 for the empty set."""
        return self.ranges[-1][1] if self.ranges else 0

    def __len__(self) -> int:
        """How many offsets."""
        return sum(end - start for start, end in self.ranges)

    def __or__(self, other: Offsets) -> Offsets:
        """The union."""
        return Offsets.of((*self.ranges, *other.ranges))

    def add(self, start: int, end: int) -> Offsets:
        """This set and the range from ``start`` up to, not including, ``end``."""
        return Offsets.of((*self.ranges, (start, end)))

    def missing(self, start: int, end: int | None) -> list[tuple[int, int]]:
        """The parts of a range that are not in the set, ascending.

        Args:
            start: first offset of the range.
            end: one more than its last; None for a range without end, in which case the last
                part's end is ``2**63``.
        """
        stop = 2**63 if end is None else end
        parts = []
        for low, high in self.ranges:
            if high <= start:
                continue
            if low >= stop:
                break
            if low > start:
                parts.append((start, low))
            start = high
        if start < stop:
            parts.append((start, stop))
        return parts

    def gaps(self) -> list[tuple[int, int]]:
        """The ranges missing below the highest offset, counted from 0."""
        return self.missing(0, self.end)

    # A Delta log stores one integer for each application id: the set becomes several of them.
    # The one under the partition's own id changes with every commit, and two writers that change
    # it at once conflict, which is what makes landing exactly once.

    def to_transactions(self, app_id: str, before: Offsets) -> dict[str, int]:
        """What a commit has to record so that the table's set becomes this one.

        Args:
            app_id: the partition's id.
            before: the set the table holds now.

        Returns:
            Application id to version; always with ``app_id`` itself.
        """
        old, new = before._as_versions(app_id), self._as_versions(app_id)
        changed = {key: version for key, version in new.items() if old.get(key) != version}
        # A number that has become shorter: what the log has of its higher limbs no longer counts.
        changed |= {key: 0 for key in old if "#limb" in key and key not in new}
        return {app_id: new[app_id]} | changed

    def _as_versions(self, app_id: str) -> dict[str, int]:
        gaps = self.gaps()
        versions = _limbs(app_id, self.end) | {f"{app_id}#gaps": len(gaps)}
        for number, (start, end) in enumerate(gaps):
            versions |= _limbs(f"{app_id}#gap{number}.start", start)
            versions |= _limbs(f"{app_id}#gap{number}.end", end)
        return versions

    @classmethod
    def from_transactions(cls, app_id: str, version_of: Callable[[str], int | None]) -> Offsets:
        """The set that a table's log records.

        Args:
            app_id: the partition's id.
            version_of: the log's version of an application id, None where it has none.

        Raises:
            ValueError: the log names gaps that it does not describe.
        """
        end = _number(app_id, version_of)
        if end is None:
            return cls()
        ranges = []
        start = 0
        for number in range(version_of(f"{app_id}#gaps") or 0):
            low = _number(f"{app_id}#gap{number}.start", version_of)
            high = _number(f"{app_id}#gap{number}.end", version_of)
            if low is None or high is None:
                raise ValueError(f"{app_id}: gap {number} is not described")
            ranges.append((start, low))
            start = high
        return cls.of([*ranges, (start, end)])


def _limbs(name: str, number: int) -> dict[str, int]:
    """A number as one or more versions, the lowest 62 bits under the name itself."""
    versions = {name: number & (2**_LIMB_BITS - 1)}
    limb = 1
    while number := number >> _LIMB_BITS:
        versions[f"{name}#limb{limb}"] = number & (2**_LIMB_BITS - 1)
        limb += 1
    return versions


def _number(name: str, version_of: Callable[[str], int | None]) -> int | None:
    """The number that versions make up, None where there is none."""
    number = version_of(name)
    limb = 1
    while number is not None and (high := version_of(f"{name}#limb{limb}")) is not None:
        number |= high << (_LIMB_BITS * limb)
        limb += 1
    return number
