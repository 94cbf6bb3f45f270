"""What Airflow leaves behind in a process that imports it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def logging_as_before() -> Iterator[None]:
    """Airflow takes over the logging of the process; the tests that follow have their own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
