"""What holds for every test."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from stack import process, s3
from tests.servers import client, eventually, skip

pytest_plugins = ["tests.selection"]

# Containers often set this variable; then every process that a test starts compiles all it imports
# (dbt alone takes 6.8 s instead of 3.2 s). Children have the environment as it is from here on.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Servers of tests live for minutes: optimizing and verifying code costs more than it brings.
os.environ.setdefault(
    "JAVA_TOOL_OPTIONS",
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    " -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote",
)

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


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead clients to an S3 store."""
    skip(s3.missing())
    port = process.free_port()
    folder = tmp_path_factory.mktemp("s3")
    process.start(s3.server(port, folder))
    environment = s3.environment(port)
    eventually(lambda: client("s3", environment).list_buckets())
    yield environment
    if found := process.find(folder):
        found.kill()  # asked to end, it takes a quarter of a minute
    process.stop(folder)
