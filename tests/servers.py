"""What tests of several folders need of real servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from stack.progress import Patience, activity


def client(service: str, environment: dict[str, str]) -> Any:
    """A boto3 client of a server on this machine."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment.get("AWS_REGION", "us-east-1"),
        aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID", "any"),
        aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY", "any"),
    )


def eventually(
    action: Callable[[], Any], seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
) -> Any:
    """The result of an action as soon as it raises nothing.

    Args:
        action: what is tried.
        seconds: how long it may raise while nothing that this process started uses CPU time; six
            times as long otherwise.
        clock: monotonic seconds.
    """
    started = activity(psutil.Process().children, seconds)
    wait = Patience(started, seconds, 6 * seconds, clock)
    while True:
        try:
            return action()
        except Exception:
            if wait.exhausted() is not None:
                raise
            time.sleep(0.1)


def skip(reason: str | None) -> None:
    """Skip the test for a reason, if there is one."""
    if reason:
        pytest.skip(reason)
