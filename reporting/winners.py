"""The winners of a group: one name, or all that tie."""

from collections.abc import Iterable
from dataclasses import dataclass

from reporting.formats import printable


@dataclass(frozen=True, slots=True)
class Winners:
    """Who leads in a group, by how much, and of how many posts where that is known."""

    group: str
    names: tuple[str, ...]
    value: int
    posts: int | None = None

    @property
    def tied(self) -> bool:
        """Whether several share the lead."""
        return len(self.names) > 1


def grouped(rows: Iterable[tuple[str | int, str, int, int | None]]) -> list[Winners]:
    """Rows of (group, name, value, posts) as one `Winners` a group, in the order of the groups."""
    groups: dict[str | int, list[tuple[str, int, int | None]]] = {}
    for group, name, value, posts in rows:
        groups.setdefault(group, []).append((name, value, posts))
    return [
        Winners(
            group=printable(str(group)),
            names=tuple(sorted(printable(name) for name, _, _ in winners)),
            value=winners[0][1],
            posts=winners[0][2],
        )
        for group, winners in sorted(groups.items())
    ]


def ranked(winners: Iterable[Winners]) -> list[Winners]:
    """The groups by their winners' value, highest first; equal ones in their own order."""
    return sorted(winners, key=lambda winner: -winner.value)


def groups_led(winners: Iterable[Winners]) -> list[tuple[str, int, int]]:
    """Each name with the groups it leads and how many of those it shares, most groups first."""
    led: dict[str, tuple[int, int]] = {}
    for winner in winners:
        for name in winner.names:
            groups, shared = led.get(name, (0, 0))
            led[name] = (groups + 1, shared + winner.tied)
    return sorted(
        ((name, groups, shared) for name, (groups, shared) in led.items()),
        key=lambda row: (-row[1], row[0]),
    )
