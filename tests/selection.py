"""`pytest --quick`: the tests that need neither a server nor a browser nor much time."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent

#: What the quick run collects, relative to this folder.
QUICK = ("unit", "commands", "report", "dbt/test_builds.py", "dbt/test_commands.py")

#: Fixtures that start a server or a browser.
SERVERS = frozenset({"browser", "broker", "database", "kinesis_url", "store"})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="only tests that need no server and no browser, and that take seconds",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import the other files: they import packages that the quick run does without."""
    if not config.getoption("--quick") or collection_path == TESTS:
        return None
    quick = [TESTS / part for part in QUICK]
    on_the_way = any(
        collection_path.is_relative_to(part) or part.is_relative_to(collection_path)
        for part in quick
    )
    return None if on_the_way else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a server's fixture or the marker ``slow`` gives away."""
    if not config.getoption("--quick"):
        return
    out = [item for item in items if _needs_more(item)]
    items[:] = [item for item in items if not _needs_more(item)]
    config.hook.pytest_deselected(items=out)


def _needs_more(item: pytest.Item) -> bool:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    return not SERVERS.isdisjoint(fixtures) or item.get_closest_marker("slow") is not None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.getoption("--quick"):
        terminalreporter.write_line(
            "Not run: tests with real servers (Airflow, Kafka, Kinesis, MySQL, S3, Spark) or a "
            "browser, and long ones. 'make test-all' runs everything."
        )
