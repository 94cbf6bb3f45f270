"""The marts as the report reads them: one row type a table, from the Delta tables of a lake."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from reporting.errors import ReportError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Row = TypeVar("Row", bound=DataclassInstance)


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


TABLES = tuple(field.name for field in fields(Marts) if field.name != "snapshots")


def read_marts(lake: str) -> Marts:
    """Read the marts of the lake at `lake`, a folder or an `s3://bucket/prefix`."""
    lake = lake.rstrip("/") or lake
    _require_folders(lake)
    # On an object store nearly all of the time is waiting, so the tables are read side by side.
    with ThreadPoolExecutor(max_workers=len(TABLES)) as pool:
        found = dict(zip(TABLES, pool.map(lambda name: _read(lake, name), TABLES), strict=True))
    missing = [name for name, table in found.items() if table is None]
    if missing:
        raise ReportError(_missing(lake, missing))
    tables = {name: table for name, table in found.items() if table is not None}

    def rows(name: str, kind: type[Row]) -> list[Row]:
        columns = [field.name for field in fields(kind)]
        records = tables[name].records
        absent = [column for column in columns if column not in tables[name].columns]
        if absent:
            raise ReportError(
                f"{lake}/marts/{name} has no column {', '.join(absent)}; "
                "run 'dbt build' to bring it up to date"
            )
        # Engines write rows in any order; the first two columns tell any two rows of a mart apart.
        records = sorted(records, key=lambda record: [record[column] for column in columns[:2]])
        return [kind(**{column: record[column] for column in columns}) for record in records]

    return Marts(
        popular_category_by_country=rows("popular_category_by_country", PopularCategoryByCountry),
        popular_category_by_year=rows("popular_category_by_year", PopularCategoryByYear),
        top_user_by_country=rows("top_user_by_country", TopUser),
        country_of_top_user=rows("country_of_top_user", TopUser),
        popular_category_by_age_group=rows(
            "popular_category_by_age_group", PopularCategoryByAgeGroup
        ),
        median_followers_by_age_group=rows("median_followers_by_age_group", MedianByAgeGroup),
        users_joined_by_year=rows("users_joined_by_year", UsersJoined),
        median_followers_by_join_year=rows("median_followers_by_join_year", MedianByJoinYear),
        median_followers_by_join_year_and_age_group=rows(
            "median_followers_by_join_year_and_age_group", MedianByJoinYearAndAgeGroup
        ),
        data_quality=rows("data_quality", DataQuality),
        rejected_by_reason=rows("rejected_by_reason", Rejected),
        snapshots=[table.snapshot for table in tables.values()],
    )


@dataclass(frozen=True, slots=True)
class _Table:
    columns: list[str]
    records: list[dict[str, Any]]
    snapshot: Snapshot


def _require_folders(lake: str) -> None:
    if "://" in lake:
        return
    if not Path(lake).is_dir():
        raise ReportError(
            f"there is no lake at {lake}; run 'make demo' to make one, "
            "or name another with --lake or LAKE_URI"
        )
    if not Path(lake, "marts").is_dir():
        raise ReportError(f"the lake at {lake} has no marts; run 'dbt build'")


def _missing(lake: str, names: list[str]) -> str:
    if len(names) == len(TABLES):
        return f"the lake at {lake} has no marts; run 'dbt build'"
    tables = "is not a Delta table" if len(names) == 1 else "are not Delta tables"
    return f"{', '.join(f'marts/{name}' for name in names)} in {lake} {tables}; run 'dbt build'"


def _read(lake: str, name: str) -> _Table | None:
    uri = f"{lake}/marts/{name}"
    try:
        table = DeltaTable(uri)
        data = table.to_pyarrow_table()
        commit = next(iter(table.history(limit=1)), {})
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise ReportError(f"cannot read {uri}: {_first_line(error)}") from error
    records = [{key: _in_utc(value) for key, value in row.items()} for row in data.to_pylist()]
    return _Table(
        columns=data.column_names,
        records=records,
        snapshot=Snapshot(mart=name, version=table.version(), committed_at=_committed_at(commit)),
    )


def _in_utc(value: Any) -> Any:
    """A time without a zone is UTC: that is how engines without zoned times write it."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value


def _committed_at(commit: Mapping[str, Any]) -> datetime | None:
    milliseconds = commit.get("timestamp")
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
