from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from reporting import sentences
from reporting.answers import Report
from reporting.marts import DataQuality, Rejected, UsersJoined
from reporting.sentences import Median
from reporting.winners import Winners, grouped, groups_led, ranked
from tests.report.conftest import NOW
from tests.report.lakes import LANDED_FIRST, LANDED_LAST

ART = Winners("Ann", ("art",), 3, 9)
TIE = Winners("Bob", ("art", "travel"), 12, 70)


def test_rows_of_one_group_become_one_set_of_winners_in_order() -> None:
    rows = [(2019, "b", 3, 9), (2018, "a", 5, 6), (2019, "a", 3, 9)]
    assert grouped(rows) == [Winners("2018", ("a",), 5, 6), Winners("2019", ("a", "b"), 3, 9)]


def test_ranked_groups_keep_their_order_where_equal() -> None:
    groups = [Winners(group, ("x",), value) for group, value in (("a", 1), ("b", 2), ("c", 2))]
    assert [winner.group for winner in ranked(groups)] == ["b", "c", "a"]


def test_a_tie_counts_for_all_its_winners() -> None:
    assert groups_led([ART, TIE]) == [("art", 2, 1), ("travel", 1, 1)]


@pytest.mark.parametrize(
    ("winners", "sentence"),
    [
        ([], "No posts yet."),
        ([ART], "The category most often on top is art, in 1 of 1 country. No country has a tie."),
        (
            [ART, TIE],
            "The category most often on top is art, in 2 of 2 countries, 1 of them shared with "
            "another. In Bob, art and travel tie.",
        ),
        (
            [TIE, replace(TIE, group="Cat")],
            "The categories most often on top are art and travel, in 2 of 2 countries each. "
            "In 2 countries two or more categories tie.",
        ),
    ],
)
def test_leading_by_country(winners: list[Winners], sentence: str) -> None:
    assert sentences.leading_by_country(winners) == sentence


def test_leading_by_group_tells_the_groups_of_a_leader_together_and_ties_with_their_posts() -> None:
    winners = [
        Winners("2018", ("christmas",), 4, 9),
        Winners("2019", ("art",), 1, 1),
        Winners("2020", ("christmas",), 5, 9),
        Winners("2021", ("art", "travel"), 12, 70),
        Winners("2022", ("art", "quotes", "travel"), 1, 3),
    ]
    assert sentences.leading_by_group(winners, "in", "nothing") == (
        "In 2018 and 2020 christmas leads, in 2019 art; in 2021 art and travel tie with 12 posts "
        "each; in 2022 art, quotes and travel tie with 1 post each."
    )
    assert sentences.leading_by_group(winners[3:4], "at", "nothing", of="ages") == (
        "At ages 2021 art and travel tie with 12 posts each."
    )
    assert sentences.leading_by_group([], "in", "No posts yet.") == "No posts yet."


@pytest.mark.parametrize(
    ("winners", "sentence"),
    [
        ([], "No posts by a user with a known follower count yet."),
        (
            [Winners("Ann", ("x",), 1200)],
            "The top user of the only country has 1.2k followers. No country has a tie.",
        ),
        (
            [Winners("Ann", ("x", "y"), 9), Winners("Bob", ("x",), 1_200_000)],
            "The top users of 2 countries have from 9 to 1.2M followers. x is on top in 2 of them. "
            "In Ann, x and y tie.",
        ),
        (
            [Winners(group, ("x", "y"), 9) for group in ("Ann", "Bob")],
            "The top users of 2 countries have 9 followers each. x and y are each on top in 2 of "
            "them. In 2 countries two or more users tie.",
        ),
        (
            [Winners(group, tuple("vwxyz"), 9) for group in ("Ann", "Bob")],
            "The top users of 2 countries have 9 followers each. 5 users are on top in 2 of them "
            "each. In 2 countries two or more users tie.",
        ),
    ],
)
def test_top_users(winners: list[Winners], sentence: str) -> None:
    assert sentences.top_users(winners) == sentence


@pytest.mark.parametrize(
    ("winners", "sentence"),
    [
        ([], "No posts by a user with a known follower count yet."),
        (
            [Winners("Ann", ("x",), 8_000_000)],
            "The user with the most followers, x with 8M followers, is in Ann.",
        ),
        (
            [Winners("Ann", ("x",), 8_000_000), Winners("Bob", ("x",), 8_000_000)],
            "The user with the most followers, x with 8M followers, is in 2 countries: "
            "Ann and Bob.",
        ),
        (
            [Winners("Ann", ("x", "y"), 8), Winners("Bob", ("z",), 8)],
            "X (Ann), y (Ann) and z (Bob) tie with 8 followers each.",
        ),
    ],
)
def test_country_of_top_user(winners: list[Winners], sentence: str) -> None:
    assert sentences.country_of_top_user(winners) == sentence


def test_countries_shown_says_where_the_cut_is_arbitrary() -> None:
    winners = [
        Winners(group, ("x",), value) for group, value in zip("abcd", (9, 5, 5, 1), strict=True)
    ]
    assert sentences.countries_shown(winners, 4).startswith("Every country")
    assert sentences.countries_shown(winners, 3) == (
        "The 3 countries whose top users have the most followers."
    )
    assert sentences.countries_shown(winners, 2) == (
        "The 2 countries whose top users have the most followers; 1 other equals the last of them."
    )


@pytest.mark.parametrize(
    ("medians", "sentence"),
    [
        ([], "Nobody yet."),
        (
            [Median("people of 30", 7.5, 12)],
            "The median is 7.5 followers for people of 30 (12 people).",
        ),
        (
            [Median("a", 10, 20), Median("b", 10, 20)],
            "The median is 10 followers in all 2 groups.",
        ),
        (
            [Median("a", 46_000, 400), Median("b", 1_000, 1), Median("c", 1_000, 9)],
            "The highest median is 46k followers, for a (400 people); the lowest is 1k followers, "
            "for b (1 person) and c (9 people). 2 of the 3 medians rest on fewer than 10 people.",
        ),
        (
            [Median("a", 1, 1)],
            "The median is 1 follower for a (1 person). It rests on fewer than 10 people.",
        ),
    ],
)
def test_highest_and_lowest(medians: list[Median], sentence: str) -> None:
    assert sentences.highest_and_lowest(medians, "Nobody yet.") == sentence


@pytest.mark.parametrize(
    ("people", "sentence"),
    [
        ({}, "Nobody is known to have joined from 2015 to 2020."),
        ({2016: 5}, "5 people joined, all in 2016."),
        ({2016: 1}, "1 person joined, in 2016."),
        (
            {2015: 30, 2016: 60, 2018: 10},
            "100 people joined, the most in 2016: 60, 60%. Nobody joined in 2017, 2019 and 2020.",
        ),
        (
            dict.fromkeys(range(2015, 2021), 2),
            "12 people joined, 2 in every year.",
        ),
        (
            {2015: 40, 2016: 40, 2017: 20},
            "100 people joined, the most in 2015 and 2016: 40 each, 40%. "
            "Nobody joined in 2018–2020.",
        ),
    ],
)
def test_joined(people: dict[int, int], sentence: str) -> None:
    assert sentences.joined([UsersJoined(*row) for row in people.items()]) == sentence


def quality(landed: int, replays: int, rejected: int) -> DataQuality:
    return DataQuality(
        "pin", landed, landed - replays, replays, rejected, LANDED_FIRST, LANDED_LAST
    )


def test_what_landed() -> None:
    nothing = DataQuality("pin", 0, 0, 0, 0, None, None)
    assert sentences.landed([]) == sentences.landed([nothing]) == "Nothing has landed yet."
    assert sentences.landed([quality(1, 0, 0)]) == (
        "1 record of 1 post landed, none of them a replay or correction."
    )
    assert sentences.landed([quality(1500, 200, 0), quality(1300, 0, 0)]) == (
        "2,800 records of 1,300 posts landed, 200 of them replays or corrections."
    )


def test_what_was_rejected() -> None:
    assert sentences.rejected([], []) == "Nothing was rejected."
    assert sentences.rejected([quality(9, 0, 1)], [Rejected("pin", "empty", 1, None)]) == (
        "1 of 10 records received was rejected (10%), as empty."
    )
    reasons = [Rejected(kind, "empty", 2, None) for kind in ("pin", "geo")]
    reasons.append(Rejected("pin", "malformed", 1, None))
    assert sentences.rejected([quality(995, 0, 5)], reasons) == (
        "5 of 1,000 records received were rejected (<1%), most often as empty (4)."
    )


def test_freshness_is_told_from_the_last_record_of_any_kind() -> None:
    old = replace(quality(1, 0, 0), last_landed_at=datetime(2023, 1, 1, tzinfo=UTC))
    rows = [quality(1, 0, 0), old]
    assert sentences.freshness(rows, NOW, "before this page") == (
        "The last record landed 3 May 2024, 09:30 UTC (3 hours before this page)."
    )
    assert sentences.freshness([], NOW, "ago") == ""


def test_every_answer_of_an_empty_lake_says_that_there_is_nothing_yet(empty: Report) -> None:
    for answer in empty.answers:
        assert answer.rows == []
        assert answer.sentence.startswith(("No posts", "Nobody")), answer.sentence


def test_long_names_are_cut_in_sentences_and_kept_in_tables(sample: Report) -> None:
    for answer in sample.answers:
        assert len(answer.sentence) < 500
    top = next(answer for answer in sample.answers if answer.number == "3b")
    assert any("its end" in name for row in top.rows for name in row[1])  # type: ignore[union-attr]
