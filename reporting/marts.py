"""The marts as the report reads them: one row type a table, from the Delta tables of a lake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import TableNotFoundError

from ingestion.bucket import engine_options
from reporting.errors import ReportError
from reporting.formats import shortened, without_credentials


@dataclass(frozen=True, slots=True)
class PopularCategoryByCountry:
    """A category with the most posts in a country; tied categories have a row each."""

    country: str
    category: str
    category_count: int
    posts: int


@dataclass(frozen=True, slots=True)
class PopularCategoryByYear:
    """A category with the most posts in a year."""

    post_year: int
    category: str
    category_count: int
    posts: int


@dataclass(frozen=True, slots=True)
class TopUser:
    """A user with the most followers in a country, or of all countries."""

    country: str
    poster_name: str
    follower_count: int


@dataclass(frozen=True, slots=True)
class PopularCategoryByAgeGroup:
    """A category with the most posts in an age group."""

    age_group: str
    category: str
    category_count: int
    posts: int


@dataclass(frozen=True, slots=True)
class MedianByAgeGroup:
    """The median follower count of an age group's people."""

    age_group: str
    median_follower_count: float
    number_users: int


@dataclass(frozen=True, slots=True)
class UsersJoined:
    """How many people joined in a year."""

    join_year: int
    number_users_joined: int


@dataclass(frozen=True, slots=True)
class MedianByJoinYear:
    """The median follower count of the people who joined in a year."""

    join_year: int
    median_follower_count: float
    number_users: int


@dataclass(frozen=True, slots=True)
class MedianByJoinYearAndAgeGroup:
    """The median follower count of an age group's people who joined in a year."""

    join_year: int
    age_group: str
    median_follower_count: float
    number_users: int


@dataclass(frozen=True, slots=True)
class DataQuality:
    """What landed of one kind of record; the times are missing where nothing did."""

    kind: str
    landed: int
    posts: int
    replays: int
    rejected: int
    first_landed_at: datetime | None
    last_landed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """How many records of a kind were rejected for one reason."""

    kind: str
    reason: str
    rejected: int
    last_rejected_at: datetime | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The version of a mart that was read, and when it was committed."""

    mart: str
    version: int
    committed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Marts:
    """Every row of every mart; a field is named after its table."""

    popular_category_by_country: list[PopularCategoryByCountry]
    popular_category_by_year: list[PopularCategoryByYear]
    top_user_by_country: list[TopUser]
    country_of_top_user: list[TopUser]
    popular_category_by_age_group: list[PopularCategoryByAgeGroup]
    median_followers_by_age_group: list[MedianByAgeGroup]
    users_joined_by_year: list[UsersJoined]
    median_followers_by_join_year: list[MedianByJoinYear]
    median_followers_by_join_year_and_age_group: list[MedianByJoinYearAndAgeGroup]
    data_quality: list[DataQuality]
    rejected_by_reason: list[Rejected]
    snapshots: list[Snapshot]


ROW_TYPES: dict[str, type[Any]] = {
    "popular_category_by_country": PopularCategoryByCountry,
    "popular_category_by_year": PopularCategoryByYear,
    "top_user_by_country": TopUser,
    "country_of_top_user": TopUser,
    "popular_category_by_age_group": PopularCategoryByAgeGroup,
    "median_followers_by_age_group": MedianByAgeGroup,
    "users_joined_by_year": UsersJoined,
    "median_followers_by_join_year": MedianByJoinYear,
    "median_followers_by_join_year_and_age_group": MedianByJoinYearAndAgeGroup,
    "data_quality": DataQuality,
    "rejected_by_reason": Rejected,
}


def read_marts(lake: str) -> Marts:
    """Read the marts of the lake at `lake`, a folder or an `s3://bucket/prefix`."""
    lake = lake.rstrip("/") or lake
    _require_folders(lake)
    # On an object store nearly all of the time is waiting, so the tables are read side by side.
    with ThreadPoolExecutor(max_workers=len(ROW_TYPES)) as pool:
        read = dict(zip(ROW_TYPES, pool.map(partial(_read, lake), ROW_TYPES), strict=True))
    missing = [name for name, found in read.items() if found is None]
    if missing:
        raise ReportError(_missing(lake, missing))
    found = {name: table for name, table in read.items() if table is not None}
    rows = {name: table.rows for name, table in found.items()}
    return Marts(**rows, snapshots=[table.snapshot for table in found.values()])


@dataclass(frozen=True, slots=True)
class _Table:
    rows: list[Any]
    snapshot: Snapshot


def _require_folders(lake: str) -> None:
    if "://" in lake:
        return
    if not lake or not Path(lake).is_dir():
        raise ReportError(
            f"there is no lake at '{lake}'; run 'make demo' to make one, "
            "or name another with --lake or LAKE_URI"
        )
    if not Path(lake, "marts").is_dir():
        raise ReportError(f"the lake at {lake} has no marts; run 'dbt build'")


def _missing(lake: str, names: list[str]) -> str:
    lake = without_credentials(lake)
    if len(names) == len(ROW_TYPES):
        return f"the lake at {lake} has no marts; check its address, or run 'dbt build'"
    tables = "is not a Delta table" if len(names) == 1 else "are not Delta tables"
    return f"{', '.join(f'marts/{name}' for name in names)} in {lake} {tables}; run 'dbt build'"


def _read(lake: str, name: str) -> _Table | None:
    """One mart, or nothing where there is no such table."""
    uri = f"{lake}/marts/{name}"
    row_type = ROW_TYPES[name]
    columns = [field.name for field in fields(row_type)]
    try:
        table = DeltaTable(uri, storage_options=engine_options(uri))
        present = {field.name for field in table.schema().fields}
        absent = [column for column in columns if column not in present]
        values = [] if absent else _select(table, columns)
        commit = next(iter(table.history(limit=1)), {})
    except TableNotFoundError:
        return None
    except Exception as error:  # the query engine raises no narrower type
        raise ReportError(
            f"cannot read {without_credentials(uri)}: {_reason(error)}; "
            "check the access to the lake, or run 'dbt build'"
        ) from error
    if absent:
        raise ReportError(
            f"{without_credentials(uri)} has no column {', '.join(absent)}; "
            "run 'dbt build' to bring it up to date"
        )
    return _Table(
        rows=[row_type(*map(_in_utc, row)) for row in zip(*values, strict=True)],
        snapshot=Snapshot(mart=name, version=table.version(), committed_at=_committed_at(commit)),
    )


def _select(table: DeltaTable, columns: list[str]) -> list[list[Any]]:
    """The values of each column; engines write rows in any order, here they have one.

    Not `to_pyarrow_table`: importing what it needs, pandas too, takes longer than all reading.
    """
    # Any two rows of a mart differ in its first two columns.
    query = f"select {', '.join(columns)} from mart order by 1, 2"
    data = QueryBuilder().register("mart", table).execute(query).read_all()
    return [list(data.column(column).to_pylist()) for column in columns]


def _in_utc(value: Any) -> Any:
    """A time without a zone is UTC: that is how engines without zoned times write it."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value


def _committed_at(commit: Mapping[str, Any]) -> datetime | None:
    milliseconds = commit.get("timestamp")
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _reason(error: BaseException) -> str:
    """What the libraries say over many coloured lines, on one."""
    text = re.sub(r"\x1b\[[0-9;]*m|↳", " ", str(error))
    return shortened(" ".join(text.split()), 400) or type(error).__name__
