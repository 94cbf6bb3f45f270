"""Keys, rates, shares of what is under way, the size and time of a body, types of answers."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ingestion.commands.gateway import gateway
from ingestion.errors import PipelineError
from ingestion.gateway.answers import KAFKA_ANSWERS, Disconnected, Reason, Refused, accepted
from ingestion.gateway.keys import Keys, keys_for, read_keys
from ingestion.gateway.limits import Budget, Hold, Limits, Rates, read_body


def test_only_whole_keys_are_let_in() -> None:
    keys = Keys(["first-key", "second-key"])
    names = {keys.client("first-key"), keys.client("second-key")}
    assert None not in names
    assert len(names) == 2
    for wrong in (None, "", "first-ke", "first-keys", "FIRST-KEY", "first-key,second-key", "\xe9€"):
        assert keys.client(wrong) is None


def test_every_key_is_compared_whole_whichever_is_presented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    keys = Keys(["first-key", "second-key", "k" * 500])
    monkeypatch.setattr(hmac, "compare_digest", counted)
    for presented in ("first-key", "k" * 500, "wrong", None):
        compared.clear()
        keys.client(presented)
        assert compared == [(32, 32)] * 3


def test_keys_come_from_the_environment_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# who: what for\nthird\n\n  fourth  \n")
    assert read_keys({"GATEWAY_API_KEYS": "first, second,"}, file) == [
        "first", "second", "third", "fourth",
    ]  # fmt: skip
    assert read_keys({}, None) == []
    with pytest.raises(PipelineError, match="cannot be read: No such file"):
        read_keys({}, tmp_path / "none")
    with pytest.raises(PipelineError, match="no header carries"):
        read_keys({"GATEWAY_API_KEYS": "Schlüssel"}, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_without_keys_it_is_open_on_this_machine_alone(host: str) -> None:
    assert keys_for([], host, open_to_all=True) is None
    with pytest.raises(PipelineError, match="no API keys: set GATEWAY_API_KEYS"):
        keys_for([], host, open_to_all=False)
    assert keys_for(["key"], host, open_to_all=False) is not None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.nip.io"])
def test_without_keys_it_is_not_open_to_others(host: str) -> None:
    with pytest.raises(PipelineError, match="or bind to 127"):
        keys_for([], host, open_to_all=True)
    assert keys_for(["key"], host, open_to_all=False) is not None


def test_keys_and_open_exclude_each_other() -> None:
    with pytest.raises(PipelineError, match="leave out one"):
        keys_for(["key"], "127.0.0.1", open_to_all=True)


def test_limits_that_would_refuse_every_large_request_for_ever() -> None:
    with pytest.raises(PipelineError, match=r"1000000 is less than the 9314304 that one request"):
        gateway(max_in_flight_bytes=1_000_000)
    with pytest.raises(PipelineError, match="no API keys"):  # the next thing to be seen to
        gateway(max_in_flight_bytes=9_314_304)


def test_a_client_spends_its_burst_and_then_its_rate() -> None:
    time = [0.0]
    rates = Rates(Limits(rate=2.0, burst=3), lambda: time[0])
    for _ in range(3):
        rates.spend("a")
    with pytest.raises(Refused) as refused:
        rates.spend("a")
    assert refused.value.reason is Reason.TOO_OFTEN
    assert refused.value.retry_after == 0.5
    rates.spend("b")
    time[0] += 0.5
    rates.spend("a")
    with pytest.raises(Refused):
        rates.spend("a")
    time[0] += 1000
    for _ in range(3):
        rates.spend("a")
    with pytest.raises(Refused):
        rates.spend("a")


def test_a_share_is_given_back_whatever_happens() -> None:
    budget = Budget(Limits(in_flight_bytes=10, in_flight_requests=1))
    with budget.hold() as one:
        one.take(6)
        one.start()
        with budget.hold() as other:
            other.take(4)
            with pytest.raises(Refused) as refused:
                other.start()
        assert refused.value.reason is Reason.UNAVAILABLE
        assert (budget.bytes, budget.requests) == (6, 1)
        with pytest.raises(Refused):
            one.take(5)
        one.take(4)
    assert (budget.bytes, budget.requests) == (0, 0)


def body(
    parts: Iterable[bytes | None], declared: str | None = None, **limits: Any
) -> tuple[bytes | Refused, Budget, int]:
    """What is read of a body whose parts come one by one, for ever where one is None."""
    bounds = Limits(**{"request_bytes": 10, "body_seconds": 0.05, **limits})
    budget = Budget(bounds)
    left = [*parts]
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        part = left.pop(0)
        if part is None:
            await asyncio.sleep(60)
        read += 1
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def run(hold: Hold) -> bytes | Refused:
        try:
            return await read_body(receive, declared, bounds, hold)
        except Refused as refused:
            return refused

    with budget.hold() as hold:
        found = asyncio.run(run(hold))
    assert budget.bytes == 0
    return found, budget, read


def test_a_body_in_any_parts() -> None:
    for parts in ([b"0123456789"], [b"01234", b"56789"], [b"", b"0123", b"", b"456789", b""]):
        assert body(parts, "10")[0] == b"0123456789"
    assert body([b""])[0] == b""


@pytest.mark.parametrize(
    ("parts", "declared", "read"),
    [
        ([b"01234567890"], "11", 0),  # said so: nothing is read
        ([b"x"], "9" * 30, 0),
        ([b"01234567890"], None, 1),
        ([b"x"] * 1000, None, 11),  # chunked: read up to the limit
    ],
)
def test_a_body_that_is_too_long(parts: list[bytes], declared: str | None, read: int) -> None:
    found, _, seen = body(parts, declared)
    assert isinstance(found, Refused)
    assert found.reason is Reason.TOO_LARGE
    assert seen == read


def test_a_body_that_does_not_come() -> None:
    found, _, _ = body([b"x", None, b"x"])
    assert isinstance(found, Refused)
    assert found.reason is Reason.TOO_SLOW


def test_a_body_when_too_much_is_under_way() -> None:
    found, _, _ = body([b"0123", b"4567"], in_flight_bytes=7)
    assert isinstance(found, Refused)
    assert found.reason is Reason.UNAVAILABLE


def test_a_client_that_goes_away() -> None:
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    with pytest.raises(Disconnected), Budget(Limits()).hold() as hold:
        asyncio.run(read_body(gone, None, Limits(), hold))


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, 0),
        ("", 0),
        ("*/*", 0),
        ("application/*", 0),
        ("application/json", 2),
        ("Application/JSON; charset=utf-8", 2),
        ("application/vnd.kafka.v2+json, application/vnd.kafka+json, application/json", 0),
        ("application/vnd.kafka.v2+json;q=0.1, application/json", 2),
        ("application/vnd.kafka.v2+json;q=0, */*", 1),
        ("text/html, */*;q=0.1", 0),
        ("text/html", None),
        ("application/json;q=0", None),
        ("application/json;q=x", None),
        ("nonsense", None),
        (",;,", None),
    ],
)
def test_the_type_of_an_answer(accept: str | None, chosen: int | None) -> None:
    assert accepted(accept, KAFKA_ANSWERS) == (None if chosen is None else KAFKA_ANSWERS[chosen])
