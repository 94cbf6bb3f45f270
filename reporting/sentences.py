"""What each answer shows, as a sentence made from its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from reporting.formats import (
    compact,
    counted,
    duration,
    listed,
    moment,
    printable,
    share,
    shortened,
    year_ranges,
)
from reporting.marts import DataQuality, Rejected, UsersJoined
from reporting.winners import Winners, groups_led, ranked

FEW_PEOPLE = 10
JOIN_YEARS = range(2015, 2021)


@dataclass(frozen=True, slots=True)
class Median:
    """A median of follower counts, whom it is about ("people aged 18-24"), and how many."""

    whom: str
    followers: float
    people: int


def leading_by_country(winners: Sequence[Winners]) -> str:
    """Which categories lead the most countries, and in how many countries there is a tie."""
    if not winners:
        return "No posts yet."
    led = groups_led(winners)
    most = led[0][1]
    first = [name for name, groups, _ in led if groups == most]
    shared = led[0][2]
    countries = f"{most:,} of {counted(len(winners), 'country', 'countries')}"
    if len(first) > 1:
        sentence = f"The categories most often on top are {_named(first)}, in {countries} each."
    else:
        in_ties = f", {shared:,} of them shared with another" if shared else ""
        sentence = f"The category most often on top is {_named(first)}, in {countries}{in_ties}."
    return f"{sentence} {_ties(winners, 'categories')}"


def leading_by_group(winners: Sequence[Winners], at: str, empty: str, of: str = "") -> str:
    """Which category leads in each group, the groups of one leader together, and then the ties.

    `at` stands before each group ("in"), `of` only before the first ("ages").
    """
    if not winners:
        return empty
    groups: dict[str, list[str]] = {}
    for winner in winners:
        if not winner.tied:
            groups.setdefault(winner.names[0], []).append(winner.group)
    leads = [
        f"{at} {listed(led)} {_named([name])}{'' if place else ' leads'}"
        for place, (name, led) in enumerate(groups.items())
    ]
    ties = [
        f"{at} {winner.group} {_named(winner.names)} tie with "
        f"{counted(winner.value, 'post', 'posts')} each"
        for winner in winners
        if winner.tied
    ]
    told = "; ".join([*([", ".join(leads)] if leads else []), *ties])
    first = f"{at} {of} ".replace("  ", " ")
    return _capitalized(first + told.removeprefix(f"{at} ")) + "."


def top_users(winners: Sequence[Winners]) -> str:
    """The range of the countries' top users, and who is on top most often."""
    if not winners:
        return "No posts by a user with a known follower count yet."
    values = [winner.value for winner in winners]
    low, high = compact(min(values)), compact(max(values))
    countries = counted(len(winners), "country", "countries")
    if len(winners) == 1:
        span = f"The top user of the only country has {low} followers."
    elif low == high:
        span = f"The top users of {countries} have {low} followers each."
    else:
        span = f"The top users of {countries} have from {low} to {high} followers."
    led = groups_led(winners)
    most = led[0][1]
    often = ""
    if most > 1:
        first = [name for name, groups, _ in led if groups == most]
        if len(first) > 3:
            often = f" {len(first):,} users are on top in {most:,} of them each."
        else:
            is_on_top = "is on top" if len(first) == 1 else "are each on top"
            often = f" {_named(first)} {is_on_top} in {most:,} of them."
    return f"{span}{often} {_ties(winners, 'users')}"


def countries_shown(winners: Sequence[Winners], shown: int) -> str:
    """Which countries a chart of the top ones holds, where others may equal its last."""
    ordered = ranked(winners)
    if len(ordered) <= shown:
        return "Every country, the one whose top user has the most followers first."
    told = f"The {shown} countries whose top users have the most followers"
    equal = sum(winner.value == ordered[shown - 1].value for winner in ordered[shown:])
    others = counted(equal, "other equals", "others equal")
    return f"{told}; {others} the last of them." if equal else f"{told}."


def country_of_top_user(winners: Sequence[Winners]) -> str:
    """Where the user with the most followers is; several countries or users where they tie."""
    if not winners:
        return "No posts by a user with a known follower count yet."
    followers = f"{compact(winners[0].value)} followers"
    names = {name for winner in winners for name in winner.names}
    countries = [winner.group for winner in winners]
    if len(names) == 1:
        where = f"in {_named(countries)}" if len(countries) == 1 else _several(countries)
        user = f"{_named(sorted(names))} with {followers}"
        return f"The user with the most followers, {user}, is {where}."
    users = [
        f"{_named([name])} ({shortened(winner.group, 60)})"
        for winner in winners
        for name in winner.names
    ]
    return _capitalized(f"{listed(users)} tie with {followers} each.")


def highest_and_lowest(medians: Sequence[Median], empty: str) -> str:
    """Between which medians the groups lie, and how many rest on a handful of people."""
    if not medians:
        return empty
    values = [median.followers for median in medians]
    highest = [median for median in medians if median.followers == max(values)]
    lowest = [median for median in medians if median.followers == min(values)]
    if len(medians) == 1:
        sentence = f"The median is {_followers(medians[0])} for {_people(medians)}."
    elif len(highest) == len(medians):
        sentence = f"The median is {_followers(medians[0])} in all {len(medians)} groups."
    else:
        sentence = (
            f"The highest median is {_followers(highest[0])}, for {_people(highest)}; "
            f"the lowest is {_followers(lowest[0])}, for {_people(lowest)}."
        )
    few = sum(median.people < FEW_PEOPLE for median in medians)
    if few:
        of = "It" if len(medians) == 1 else f"{few} of the {len(medians)} medians"
        rest = "rests" if few == 1 else "rest"
        sentence += f" {of} {rest} on fewer than {FEW_PEOPLE} people."
    return sentence


def joined(rows: Sequence[UsersJoined]) -> str:
    """How many joined, in which year the most, and in which years nobody."""
    if not rows:
        return f"Nobody is known to have joined from {JOIN_YEARS[0]} to {JOIN_YEARS[-1]}."
    total = sum(row.number_users_joined for row in rows)
    most = max(row.number_users_joined for row in rows)
    years = [str(row.join_year) for row in rows if row.number_users_joined == most]
    people = counted(total, "person", "people")
    if len(rows) == 1:
        return f"{people} joined, {'all ' if total > 1 else ''}in {years[0]}."
    if len(years) == len(JOIN_YEARS):
        return f"{people} joined, {most:,} in every year."
    each = " each" if len(years) > 1 else ""
    sentence = (
        f"{people} joined, the most in {listed(years)}: {most:,}{each}, {share(most, total)}."
    )
    idle = sorted(set(JOIN_YEARS) - {row.join_year for row in rows})
    if idle:
        sentence += f" Nobody joined in {listed(year_ranges(idle))}."
    return sentence


def landed(rows: Sequence[DataQuality]) -> str:
    """How many records landed and how many of them were replays."""
    total = sum(row.landed for row in rows)
    if not total:
        return "Nothing has landed yet."
    replays = sum(row.replays for row in rows)
    posts = max(row.posts for row in rows)
    of_them = (
        f"{replays:,} of them replays or corrections"
        if replays
        else "none of them a replay or correction"
    )
    return (
        f"{counted(total, 'record', 'records')} of {counted(posts, 'post', 'posts')} landed, "
        f"{of_them}."
    )


def rejected(quality: Sequence[DataQuality], reasons: Sequence[Rejected]) -> str:
    """How many records were rejected, of how many received, and why most often."""
    total = sum(row.rejected for row in quality)
    if not total:
        return "Nothing was rejected."
    received = total + sum(row.landed for row in quality)
    by_reason: dict[str, int] = {}
    for row in reasons:
        by_reason[printable(row.reason)] = by_reason.get(printable(row.reason), 0) + row.rejected
    was = "was" if total == 1 else "were"
    sentence = (
        f"{total:,} of {counted(received, 'record', 'records')} received {was} rejected "
        f"({share(total, received)})"
    )
    if not by_reason:
        return f"{sentence}."
    if len(by_reason) == 1:
        return f"{sentence}, {'all ' if total > 1 else ''}as {_named(list(by_reason))}."
    most = max(by_reason.values())
    first = [reason for reason, number in sorted(by_reason.items()) if number == most]
    each = " each" if len(first) > 1 else ""
    return f"{sentence}, most often as {_named(first)} ({most:,}{each})."


def freshness(rows: Sequence[DataQuality], now: datetime, seen_from: str) -> str:
    """When the last record landed, and how long ago: `seen_from` says before what."""
    times = [row.last_landed_at for row in rows if row.last_landed_at is not None]
    if not times:
        return ""
    last = max(times)
    return f"The last record landed {moment(last)} ({duration(now - last)} {seen_from})."


def _ties(winners: Sequence[Winners], what: str) -> str:
    tied = [winner for winner in winners if winner.tied]
    if not tied:
        return "No country has a tie."
    if len(tied) == 1:
        return f"In {shortened(tied[0].group, 60)}, {_named(tied[0].names)} tie."
    return f"In {len(tied):,} countries two or more {what} tie."


def _several(countries: Sequence[str]) -> str:
    return f"in {len(countries):,} countries: {listed(countries)}"


def _named(names: Sequence[str]) -> str:
    """Names as a list, each cut to what a sentence can carry."""
    return listed([shortened(name, 60) for name in names])


def _followers(median: Median) -> str:
    return f"{compact(median.followers)} {'follower' if median.followers == 1 else 'followers'}"


def _people(medians: Sequence[Median]) -> str:
    return listed(
        [f"{median.whom} ({counted(median.people, 'person', 'people')})" for median in medians]
    )


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
