from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reporting.formats import (
    LONGEST_NAME,
    compact,
    duration,
    full,
    lake_label,
    listed,
    moment,
    printable,
    share,
    shortened,
    without_credentials,
    year_ranges,
)
from tests.report.lakes import EMOJI, ESCAPE


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (912, "912"),
        (912.5, "912.5"),
        (999, "999"),
        (999.4, "999.4"),
        (999.9, "1k"),
        (1_000, "1k"),
        (1_249, "1.2k"),
        (46_000, "46k"),
        (99_940, "99.9k"),
        (99_960, "100k"),
        (113_400, "113k"),
        (999_499, "999k"),
        (999_950, "1M"),
        (1_200_000, "1.2M"),
        (15_000_000, "15M"),
        (2_500_000_000, "2.5B"),
    ],
)
def test_compact_numbers_have_about_three_digits(number: float, text: str) -> None:
    assert compact(number) == text


def test_full_numbers_have_every_digit() -> None:
    assert [full(1234567), full(46_000.0), full(837.5)] == ["1,234,567", "46,000", "837.5"]


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 10, "0%"),
        (1, 2, "50%"),
        (1, 8, "13%"),
        (1, 1000, "<1%"),
        (999, 1000, ">99%"),
        (5, 5, "100%"),
        (0, 0, "–"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_lists_read_as_sentences_do() -> None:
    assert [listed(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert listed(list("abcdefgh"), most=4) == "a, b, c and 5 more"


def test_runs_of_years_are_drawn_together() -> None:
    assert year_ranges([2015, 2017, 2018, 2019]) == ["2015", "2017–2019"]
    assert year_ranges([2019, 2020]) == ["2019", "2020"]


def test_names_cannot_act_on_a_terminal_or_turn_the_text_around() -> None:
    text = printable(ESCAPE)
    assert text == "�[2J�[31mred�txet� end next"
    assert printable(EMOJI) == EMOJI
    assert len(printable("x" * 10_000)) == LONGEST_NAME


def test_shortened_text_ends_in_an_ellipsis() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcde gh", 7) == "abcde…"


def test_times_are_told_in_utc() -> None:
    assert moment(datetime(2024, 5, 3, 9, 30, tzinfo=UTC)) == "3 May 2024, 09:30 UTC"
    assert moment(None) == "–"


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(seconds=-5), "less than a minute"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(minutes=59, seconds=59), "59 minutes"),
        (timedelta(minutes=60), "1 hour"),
        (timedelta(hours=47, minutes=59), "47 hours"),
        (timedelta(hours=48), "2 days"),
    ],
)
def test_durations_are_told_in_their_largest_sensible_unit(span: timedelta, text: str) -> None:
    assert duration(span) == text


@pytest.mark.parametrize(
    ("lake", "label"),
    [
        ("./lake", "lake"),
        ("../data/lake", "../data/lake"),
        ("/srv/somebody/lake", "…/lake"),
        ("file:///srv/somebody/lake", "…/lake"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://key:secret@bucket/prefix?token=secret#secret", "s3://bucket/prefix"),
    ],
)
def test_a_lake_is_named_without_credentials_or_this_machines_folders(
    lake: str, label: str
) -> None:
    assert lake_label(lake) == label


def test_addresses_lose_their_credentials() -> None:
    assert without_credentials("s3://a:b@bucket/x?y=z") == "s3://bucket/x"
    assert without_credentials("some/folder") == "some/folder"
