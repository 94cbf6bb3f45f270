"""What is said of a dbt command that failed, and of sources that are late."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from dbt.artifacts.resources import FreshnessThreshold
from dbt.artifacts.resources.types import TimePeriod
from dbt.artifacts.resources.v1.components import Time
from dbt.artifacts.schemas.results import FreshnessStatus, TestStatus
from dbt.node_types import NodeType
from dbt_common.exceptions import DbtRuntimeError

from runner.failures import what_failed, what_stopped, what_warns

WAY_OUT = (
    ". See why landing brings nothing new (ingest status), or change the freshness in "
    "models/_sources.yml"
)


def source(
    name: str, status: FreshnessStatus, loaded: datetime | None, hours: float = 0, limit: int = 50
) -> Any:
    """The freshness of a table, as dbt tells it."""
    threshold = FreshnessThreshold(
        warn_after=Time(26, TimePeriod.hour), error_after=Time(limit, TimePeriod.hour)
    )
    node = SimpleNamespace(
        name=name,
        source_name="bronze",
        resource_type=NodeType.Source,
        original_file_path="models/_sources.yml",
        freshness=threshold,
    )
    return SimpleNamespace(
        node=node,
        status=status,
        max_loaded_at=loaded or datetime(1, 1, 1, tzinfo=UTC),
        age=hours * 3600,
        message=None,
    )


def result(name: str, kind: NodeType, status: str, message: str | None = None) -> Any:
    """What became of a model or a test."""
    node = SimpleNamespace(name=name, resource_type=kind)
    return SimpleNamespace(node=node, status=TestStatus(status), message=message)


LOADED = datetime(2026, 11, 20, 10, tzinfo=UTC)
STALE = source("pin", FreshnessStatus.Error, LOADED, 6 * 24 + 2)


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    well = [result("a", NodeType.Test, "pass"), source("pin", FreshnessStatus.Pass, LOADED, 1)]
    assert what_failed(well) == ""
    assert what_warns([*well, STALE, result("b", NodeType.Test, "warn")]) == ""


def test_a_stale_table_is_named() -> None:
    assert what_failed([STALE, source("geo", FreshnessStatus.Warn, LOADED, 30)]) == (
        "nothing has landed in bronze.pin since 20 November 2026 10:00 UTC, 6 days ago; "
        f"more than 50 hours is too long{WAY_OUT}"
    )


def test_several_stale_tables_are_one_sentence() -> None:
    others = [
        source("user", FreshnessStatus.Error, LOADED, 51),
        source("geo", FreshnessStatus.Error, None, 1e7),
    ]
    assert what_failed([STALE, *others]) == (
        "nothing has ever landed in bronze.geo, and nothing has landed in bronze.pin since "
        "20 November 2026 10:00 UTC, 6 days ago, and bronze.user since "
        "20 November 2026 10:00 UTC, 51 hours ago; more than 50 hours is too long" + WAY_OUT
    )


def test_limits_that_differ_stand_with_their_tables() -> None:
    said = what_failed([STALE, source("geo", FreshnessStatus.Error, LOADED, 2, limit=1)])
    assert "6 days ago (more than 50 hours is too long), and bronze.geo since" in said
    assert f"2 hours ago (more than 1 hour is too long){WAY_OUT}" in said


def test_tables_in_which_nothing_ever_landed() -> None:
    never = [source(name, FreshnessStatus.Error, None, 1e7) for name in ("pin", "geo", "user")]
    assert what_failed(never) == (
        f"nothing has ever landed in bronze.pin, bronze.geo and bronze.user{WAY_OUT}"
    )


def test_a_warning_tells_its_own_limit() -> None:
    assert what_warns([source("pin", FreshnessStatus.Warn, LOADED, 30), STALE]) == (
        "nothing has landed in bronze.pin since 20 November 2026 10:00 UTC, 30 hours ago; "
        f"more than 26 hours is too long{WAY_OUT}"
    )


def test_a_table_that_could_not_be_asked_does_not_hide_a_stale_one() -> None:
    asked = source("geo", FreshnessStatus.RuntimeErr, None)
    del asked.max_loaded_at
    asked.message = "Table not found: geo\nand more"
    said = what_failed([STALE, asked])
    assert said.startswith("bronze.geo failed: Table not found: geo; nothing has landed in bronze.")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("Got 2 results, configured to fail if != 0", "Got 2 results, configured to fail if != 0"),
        ("\n  Table  not found: x\n  compiled at y", "Table not found: x"),
        ("Database Error in model stg_pin (a.sql)\n  no  such column\n  z", "no such column"),
        ("Database Error in model stg_pin (a.sql)", "Database Error in model stg_pin (a.sql)"),
        ("Runtime Error in model stg_pin (a.sql)\n  Runtime Error\n    no field x", "no field x"),
        ("An Error in the text\nand more", "An Error in the text"),
        ("x" * 1_000, "x" * 300 + "…"),
        ("", "dbt does not say why"),
        (None, "dbt does not say why"),
    ],
)
def test_of_one_that_failed_it_is_said_why(message: str | None, why: str) -> None:
    results = [result("a", NodeType.Model, "skipped"), result("stg_pin", NodeType.Model, "error")]
    results[1].message = message
    assert what_failed(results) == f"stg_pin failed: {why}"


def test_several_that_failed_are_counted_among_their_like() -> None:
    well = [result(f"t{n}", NodeType.Test, "pass") for n in range(102)]
    models = [result(f"m{n}", NodeType.Model, "skipped") for n in range(3)]
    failed = [result("not_null_x", NodeType.Test, "fail"), result("u", NodeType.Test, "error")]
    assert what_failed(models + well + failed) == ("2 of 104 tests failed: not_null_x, u")
    failed.append(result("stg_pin", NodeType.Model, "error"))
    assert what_failed(models + well + failed) == ("3 of 108 failed: not_null_x, u, stg_pin")
    units = [result(f"u{n}", NodeType.Unit, "fail") for n in range(2)]
    assert what_failed([*well, *units]) == "2 of 2 unit tests failed: u0, u1"


def test_not_every_name_is_said() -> None:
    failed = [result(f"t{n}", NodeType.Test, "fail") for n in range(8)]
    assert what_failed(failed) == "8 of 8 tests failed: t0, t1, t2, t3, t4 and 3 more"


def test_what_stopped_dbt_is_one_line() -> None:
    assert what_stopped(DbtRuntimeError("no\n  lake")) == "no lake"
    assert what_stopped(KeyboardInterrupt()) == "KeyboardInterrupt"
