"""One group of dependencies installed over another changes nothing."""

from __future__ import annotations

import re

import pytest

from tests.dbt.lakes import ROOT

#: A package, its version, and for which interpreters and systems.
PINNED = re.compile(r"^([a-z0-9._-]+)==([^ ;]+)(?: ; (.*?))? \\$", re.MULTILINE)


def pinned(group: str) -> set[tuple[str, str]]:
    text = (ROOT / "requirements" / f"{group}.txt").read_text()
    return {(name, version) for name, version, _ in PINNED.findall(text)}


@pytest.mark.parametrize("group", ["base", "databricks", "orchestration", "bench"])
def test_every_lock_has_the_versions_of_the_largest(group: str) -> None:
    largest = pinned("dev")
    assert largest
    names = {name for name, _ in largest}
    assert {pin for pin in pinned(group) if pin[0] in names} <= largest


def test_no_lock_names_a_registry() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in lock.read_text(), lock
