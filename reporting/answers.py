"""The nine answers as both the page and the terminal show them: question, sentence, table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reporting import sentences
from reporting.formats import printable
from reporting.marts import Marts
from reporting.sentences import Median
from reporting.winners import Winners, grouped, ranked

# Several names in a cell are winners that tie; a missing number has no value to show.
Cell = str | int | float | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading and what its cells hold."""

    title: str
    kind: Literal["text", "number", "category", "user"] = "text"


@dataclass(frozen=True, slots=True)
class Answer:
    """One question with its answer; `mart` is the table the answer was read from."""

    number: str
    topic: str
    question: str
    mart: str
    sentence: str
    columns: tuple[Column, ...]
    rows: list[tuple[Cell, ...]]
    # What a row stands for where there are too many to show at once: "countries".
    rows_are: str


@dataclass(frozen=True, slots=True)
class Report:
    """The marts, brought into the shapes that sentences, tables and charts share."""

    marts: Marts
    categories_by_country: list[Winners]
    categories_by_year: list[Winners]
    users_by_country: list[Winners]
    top_users: list[Winners]
    categories_by_age_group: list[Winners]
    answers: list[Answer]

    @property
    def categories(self) -> list[str]:
        """Every category that wins anywhere, in one order for all charts."""
        everywhere = (
            self.categories_by_country + self.categories_by_year + self.categories_by_age_group
        )
        return sorted({name for winner in everywhere for name in winner.names})


def report(marts: Marts) -> Report:
    """Everything the report says, from the marts alone."""
    by_country = grouped(
        (row.country, row.category, row.category_count, row.posts)
        for row in marts.popular_category_by_country
    )
    by_year = grouped(
        (row.post_year, row.category, row.category_count, row.posts)
        for row in marts.popular_category_by_year
    )
    users = grouped(
        (row.country, row.poster_name, row.follower_count, None)
        for row in marts.top_user_by_country
    )
    top = grouped(
        (row.country, row.poster_name, row.follower_count, None)
        for row in marts.country_of_top_user
    )
    by_age = grouped(
        (row.age_group, row.category, row.category_count, row.posts)
        for row in marts.popular_category_by_age_group
    )
    return Report(
        marts=marts,
        categories_by_country=by_country,
        categories_by_year=by_year,
        users_by_country=users,
        top_users=top,
        categories_by_age_group=by_age,
        answers=[
            Answer(
                number="1",
                topic="Categories by country",
                question="Which category is the most popular in each country?",
                mart="popular_category_by_country",
                sentence=sentences.leading_by_country(by_country),
                columns=_winner_columns(Column("Country")),
                rows=_winner_rows(ranked(by_country)),
                rows_are="countries",
            ),
            Answer(
                number="2",
                topic="Categories by year",
                question="Which category was the most popular in each year from 2018 to 2022?",
                mart="popular_category_by_year",
                sentence=sentences.leading_by_group(
                    by_year, "in", "No posts from 2018 to 2022 yet."
                ),
                columns=_winner_columns(Column("Year")),
                rows=_winner_rows(by_year),
                rows_are="years",
            ),
            Answer(
                number="3",
                topic="Top users by country",
                question="Which user has the most followers in each country?",
                mart="top_user_by_country",
                sentence=sentences.top_users(users),
                columns=(Column("Country"), Column("User", "user"), Column("Followers", "number")),
                rows=_user_rows(ranked(users)),
                rows_are="countries",
            ),
            Answer(
                number="3b",
                topic="The top user",
                question="In which country is the user with the most followers?",
                mart="country_of_top_user",
                sentence=sentences.country_of_top_user(top),
                columns=(Column("Country"), Column("User", "user"), Column("Followers", "number")),
                rows=_user_rows(top),
                rows_are="countries",
            ),
            Answer(
                number="4",
                topic="Categories by age",
                question="Which category is the most popular in each age group?",
                mart="popular_category_by_age_group",
                sentence=sentences.leading_by_group(
                    by_age, "at", "No posts by people of a known age group yet.", of="ages"
                ),
                columns=_winner_columns(Column("Age")),
                rows=_winner_rows(by_age),
                rows_are="age groups",
            ),
            Answer(
                number="5",
                topic="Followers by age",
                question="What is the median follower count of each age group?",
                mart="median_followers_by_age_group",
                sentence=sentences.highest_and_lowest(
                    [
                        Median(
                            f"people aged {printable(row.age_group)}",
                            row.median_follower_count,
                            row.number_users,
                        )
                        for row in marts.median_followers_by_age_group
                    ],
                    "Nobody with a known age group and follower count yet.",
                ),
                columns=(Column("Age"), *_MEDIAN_COLUMNS),
                rows=[
                    (printable(row.age_group), row.median_follower_count, row.number_users)
                    for row in marts.median_followers_by_age_group
                ],
                rows_are="age groups",
            ),
            Answer(
                number="6",
                topic="People by joining year",
                question="How many people joined in each year from 2015 to 2020?",
                mart="users_joined_by_year",
                sentence=sentences.joined(marts.users_joined_by_year),
                columns=(Column("Year"), Column("People", "number")),
                rows=[
                    (str(row.join_year), row.number_users_joined)
                    for row in marts.users_joined_by_year
                ],
                rows_are="years",
            ),
            Answer(
                number="7",
                topic="Followers by joining year",
                question="What is the median follower count of the people who joined in each "
                "year from 2015 to 2020?",
                mart="median_followers_by_join_year",
                sentence=sentences.highest_and_lowest(
                    [
                        Median(
                            f"people who joined in {row.join_year}",
                            row.median_follower_count,
                            row.number_users,
                        )
                        for row in marts.median_followers_by_join_year
                    ],
                    "Nobody with a known joining year and follower count yet.",
                ),
                columns=(Column("Year"), *_MEDIAN_COLUMNS),
                rows=[
                    (str(row.join_year), row.median_follower_count, row.number_users)
                    for row in marts.median_followers_by_join_year
                ],
                rows_are="years",
            ),
            Answer(
                number="8",
                topic="Followers by joining year and age",
                question="What is the median follower count by joining year and age group?",
                mart="median_followers_by_join_year_and_age_group",
                sentence=sentences.highest_and_lowest(
                    [
                        Median(
                            f"people aged {printable(row.age_group)} who joined in {row.join_year}",
                            row.median_follower_count,
                            row.number_users,
                        )
                        for row in marts.median_followers_by_join_year_and_age_group
                    ],
                    "Nobody with a known joining year, age group and follower count yet.",
                ),
                columns=(Column("Year"), Column("Age"), *_MEDIAN_COLUMNS),
                rows=[
                    (
                        str(row.join_year),
                        printable(row.age_group),
                        row.median_follower_count,
                        row.number_users,
                    )
                    for row in marts.median_followers_by_join_year_and_age_group
                ],
                rows_are="groups",
            ),
        ],
    )


_MEDIAN_COLUMNS = (Column("Median followers", "number"), Column("People", "number"))


def _winner_columns(group: Column) -> tuple[Column, ...]:
    return (
        group,
        Column("Category", "category"),
        Column("Posts", "number"),
        Column("Of all", "number"),
    )


def _winner_rows(winners: Sequence[Winners]) -> list[tuple[Cell, ...]]:
    return [(winner.group, winner.names, winner.value, winner.posts or 0) for winner in winners]


def _user_rows(winners: Sequence[Winners]) -> list[tuple[Cell, ...]]:
    return [(winner.group, winner.names, winner.value) for winner in winners]
