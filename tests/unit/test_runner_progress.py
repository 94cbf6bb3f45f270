"""What a dbt command shows of its progress, and where."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from dbt.artifacts.schemas.results import RunStatus, TestStatus
from dbt.node_types import NodeType

from runner import progress
from runner.progress import INTERVAL, Lines, Progress, announcement, count, position, summary

SELECTED = ["model.p.a", "model.p.b", "test.p.t.1a2b", "exposure.p.page"]


class Shown:
    """A display that keeps what it is given."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def show(self, line: str) -> None:
        self.shown.append(line)


def event(name: str, kind: str = "") -> Any:
    node = SimpleNamespace(resource_type=kind)
    return SimpleNamespace(info=SimpleNamespace(name=name), data=SimpleNamespace(node_info=node))


def result(kind: NodeType, status: Any) -> Any:
    return SimpleNamespace(node=SimpleNamespace(resource_type=kind), status=status)


def test_every_node_that_is_done_is_counted() -> None:
    shown = Shown()
    take = Progress(shown, lambda: SELECTED)
    take(event("NodeFinished", "operation"))  # a hook, before the first node
    take(event("ConcurrencyLine"))
    # A build runs unit tests that it does not select.
    for kind in ("unit_test", "model", "test", "exposure", "model"):
        take(event("NodeStart", kind))
        take(event("NodeFinished", kind))
    assert shown.said == ["building 2 models, running 1 test"]
    assert shown.shown == [
        "0/2 models, 0/1 test",
        "0/2 models, 1 unit test, 0/1 test",
        "1/2 models, 1 unit test, 0/1 test",
        "1/2 models, 1 unit test, 1/1 test",
        "2/2 models, 1 unit test, 1/1 test",
    ]


def test_a_command_that_runs_no_node_shows_nothing() -> None:
    shown = Shown()
    take = Progress(shown, list)
    take(event("ConcurrencyLine"))
    take(event("NodeFinished", "model"))
    assert (shown.said, shown.shown) == ([], [])


def test_kinds_are_named_in_one_order() -> None:
    planned = count([*SELECTED, "unit_test.p.u", "source.p.raw.a", "seed.p.s", "snapshot.p.h"])
    assert announcement(planned) == (
        "checking 1 source, loading 1 seed, taking 1 snapshot, building 2 models, "
        "running 1 unit test and 1 test"
    )
    assert position({"test": 104, "model": 16}, {"test": 80}) == "0/16 models, 80/104 tests"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], "nothing to do, 1.2 s"),
        ([("model", RunStatus.Success)], "1 model, 1.2 s"),
        (
            [("test", TestStatus.Pass)] * 2 + [("exposure", RunStatus.NoOp)],
            "2 tests, 1.2 s",
        ),
        (
            [
                *(("model", RunStatus.Error), ("model", RunStatus.Skipped)),
                *(("test", TestStatus.Fail), ("test", TestStatus.Warn), ("test", TestStatus.Pass)),
            ],
            "2 models, 3 tests, 1.2 s (2 failed, 1 skipped, 1 with a warning)",
        ),
    ],
)
def test_a_summary_says_what_was_done_and_what_was_not_well(
    statuses: list[tuple[str, Any]], expected: str
) -> None:
    results = [result(NodeType(kind), status) for kind, status in statuses]
    assert summary(results, 1.234) == expected


def test_a_log_gets_a_line_in_ten_seconds() -> None:
    now, written = [0.0], list[str]()
    lines = Lines(written.append, lambda: now[0])
    lines.say("begin")
    for second in range(1, 26):
        now[0] = second
        lines.show(str(second))
    assert written == ["begin", str(int(INTERVAL)), str(int(2 * INTERVAL))]


def test_a_reader_that_has_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError(text)

    monkeypatch.setattr("sys.stderr", Gone())
    progress.say("12/16 models")
