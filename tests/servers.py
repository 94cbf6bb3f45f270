"""What tests of several folders need of real servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest


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


def eventually(action: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The result of an action as soon as it raises nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def skip(reason: str | None) -> None:
    """Skip the test for a reason, if there is one."""
    if reason:
        pytest.skip(reason)
