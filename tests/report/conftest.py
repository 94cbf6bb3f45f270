"""Lakes, the pages made from them, and a browser to look at the pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reporting.answers import Report, report
from reporting.marts import read_marts
from reporting.page import render
from reporting.publishing import publish
from tests.report.lakes import SAMPLE, write_lake

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NOW = datetime(2024, 5, 3, 12, 45, tzinfo=UTC)


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lake(tmp_path_factory.mktemp("sample") / "lake", SAMPLE)


@pytest.fixture(scope="session")
def empty_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lake(tmp_path_factory.mktemp("empty") / "lake", {})


@pytest.fixture(scope="session")
def sample(lake: Path) -> Report:
    return report(read_marts(str(lake)))


@pytest.fixture(scope="session")
def empty(empty_lake: Path) -> Report:
    return report(read_marts(str(empty_lake)))


@pytest.fixture(scope="session")
def sample_page(sample: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(sample, tmp_path_factory.mktemp("pages") / "sample.html")


@pytest.fixture(scope="session")
def empty_page(empty: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(empty, tmp_path_factory.mktemp("pages") / "empty.html")


def _written(content: Report, path: Path) -> Path:
    publish(render(content, "lake", NOW), str(path))
    return path


# No longer than a file of tests: while it lasts, an event loop runs in this thread, and no other
# test could begin one of its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("chromium missing: apt-get install chromium")
    # Imported here: the other tests of this folder run where no browser is.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()
