"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

#: The one reason for which a test may be skipped where everything has to run.
_ABSENT_DATA = "../shared/data missing"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001 (pytest calls it by name)
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI set, a test that is skipped for a missing program has failed."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason: Any = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if _ABSENT_DATA not in str(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped where every test has to run: {reason}"
    return report
