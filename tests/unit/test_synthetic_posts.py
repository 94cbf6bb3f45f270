"""Synthetic posts: the sink's layout, true counts, and the shape of the public data."""

import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.emulation import posts as module
from ingestion.emulation.defects import KINDS, Kind
from ingestion.emulation.posts import FolderInUse, Plan, Summary, write_posts
from ingestion.emulation.vocabulary import CATEGORIES, COUNTRIES

PUBLIC = Path(__file__).parents[2].parent / "shared" / "data"
public_data = pytest.mark.skipif(not PUBLIC.exists(), reason="../shared/data missing")

FIELDS: dict[str, list[str]] = {
    "pin": [
        *("unique_id", "title", "description", "poster_name", "follower_count", "tag_list"),
        *("is_image_or_video", "image_src", "downloaded", "save_location", "category"),
    ],
    "geo": ["timestamp", "latitude", "longitude", "country"],
    "user": ["first_name", "last_name", "age", "date_joined"],
}
ALL_FIELDS = {field for fields in FIELDS.values() for field in fields}
REASONS = {"malformed", "not_an_object", "invalid_key", "misrouted", "empty"}
DEFECTS = REASONS | {
    *("swapped_key", "both_keys", "undeclared_field", "repeated_field", "field_order"),
    *("escaped_text", "wrong_type", "no_value", "white_space", "time_spelling"),
    *("impossible_time", "age_at_a_boundary", "follower_count_spelling"),
}


class Sent(NamedTuple):
    """A line of an object and where it lies."""

    day: int
    kind: Kind
    partition: int
    offset: int
    line: bytes


def sent(out: Path, plan: Plan, summary: Summary) -> Iterator[Sent]:
    for day, written in enumerate(summary.days):
        for path in written.objects:
            topic, partition, name = path.relative_to(out / "topics").parts
            kind = next(kind for kind in KINDS if topic == f"{plan.pipeline_id}.{kind}")
            number = int(partition.removeprefix("partition="))
            ending = "json.gz" if plan.gzip else "json"
            start = re.fullmatch(rf"{re.escape(topic)}\+{number}\+(\d{{10}})\.{ending}", name)
            assert start, name
            content = path.read_bytes()
            content = gzip.decompress(content) if plan.gzip else content
            assert content.endswith(b"\n")
            lines = content[:-1].split(b"\n")
            assert 0 < len(lines) <= plan.records_per_object
            for i, line in enumerate(lines):
                yield Sent(day, kind, number, int(start[1]) + i, line)


def not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def usable(key: object) -> bool:
    return type(key) is int and 0 <= key < 2**63


def judged(kind: Kind, line: bytes) -> tuple[str, int | None]:
    """What the contract says of a line: the reason it is rejected, or "landed" and its key."""
    try:
        record = json.loads(line.decode(), parse_constant=not_json)
    except ValueError:
        return "malformed", None
    if not isinstance(record, dict):
        return "not_an_object", None
    keys = [record[name] for name in ("ind", "index") if usable(record.get(name))]
    if not keys:
        return "invalid_key", None
    if not record.keys() & set(FIELDS[kind]):
        return ("misrouted" if record.keys() & ALL_FIELDS else "empty"), None
    return "landed", keys[0]


def check_summary(plan: Plan, summary: Summary, lines: list[Sent]) -> None:
    """The offsets are contiguous, and the counts are what the contract makes of the lines."""
    offsets: dict[tuple[Kind, int], list[int]] = defaultdict(list)
    for record in lines:
        offsets[record.kind, record.partition].append(record.offset)
    for found in offsets.values():
        assert found == list(range(len(found)))

    seen: dict[Kind, set[int | None]] = {kind: set() for kind in KINDS}
    for day in range(plan.days):
        for kind in KINDS:
            counts = summary.days[day].counts[kind]
            verdicts = [judged(kind, r.line) for r in lines if (r.day, r.kind) == (day, kind)]
            reasons = Counter(reason for reason, _ in verdicts)
            assert counts.records == len(verdicts)
            assert counts.landed == reasons.pop("landed", 0)
            assert counts.rejected == reasons
            keys = {key for reason, key in verdicts if reason == "landed"}
            assert counts.posts == len(keys - seen[kind])
            seen[kind] |= keys
    assert sum(c.objects for c in summary.counts.values()) == len(summary.objects)


def digest(out: Path) -> str:
    tree = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        tree.update(path.relative_to(out).as_posix().encode() + b"\0" + path.read_bytes())
    return tree.hexdigest()


# The records of each post, by kind and key.
Table = dict[str, dict[int, dict[str, Any]]]


def by_key(records: Iterable[tuple[Kind, dict[str, Any]]]) -> Table:
    table: Table = {kind: {} for kind in KINDS}
    for kind, record in records:
        table[kind][record["index" if kind == "pin" else "ind"]] = record
    return table


DAYS = Plan(posts=2_000, people=1_400, seed=5, days=3, records_per_object=150, pipeline_id="abc")
CLEAN = Plan(posts=8_000, people=5_600, seed=100, clean=True)


class Written(NamedTuple):
    out: Path
    plan: Plan
    summary: Summary
    lines: list[Sent]


def written(out: Path, plan: Plan) -> Written:
    summary = write_posts(out, plan)
    return Written(out, plan, summary, list(sent(out, plan, summary)))


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("days"), DAYS)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("clean"), CLEAN)


@pytest.fixture(scope="module")
def table(clean: Written) -> Table:
    """The clean plan's records by kind and key."""
    return by_key((record.kind, json.loads(record.line)) for record in clean.lines)


# Layout and counts


def test_objects_lie_where_the_sink_puts_them_and_nothing_else_does(days: Written) -> None:
    files = {path for path in days.out.rglob("*") if path.is_file()}
    assert files == set(days.summary.objects)
    assert len(files) == len(days.summary.objects)
    assert {(r.kind, r.partition) for r in days.lines} == {(k, p) for k in KINDS for p in range(3)}


def test_the_summary_counts_what_the_contract_makes_of_the_lines(days: Written) -> None:
    check_summary(days.plan, days.summary, days.lines)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_plan_gives_whole_objects_and_true_counts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    number = data.draw(st.integers(1, 260), "posts")
    plan = Plan(
        posts=number,
        people=data.draw(st.integers(2, 300), "people"),
        seed=data.draw(st.integers(0, 2**64), "seed"),
        partitions=data.draw(st.integers(1, 4), "partitions"),
        records_per_object=data.draw(st.integers(1, 90), "records_per_object"),
        gzip=data.draw(st.booleans(), "gzip"),
        clean=data.draw(st.booleans(), "clean"),
        days=data.draw(st.integers(1, min(number, 4)), "days"),
    )
    told: list[int] = []
    out = tmp_path_factory.mktemp("any")
    summary = write_posts(out, plan, told.append)
    lines = list(sent(out, plan, summary))
    check_summary(plan, summary, lines)
    assert sum(told) == plan.posts
    if plan.clean:
        for counts in summary.counts.values():
            assert counts.posts == counts.landed - counts.replays == plan.posts
            assert not counts.defects


# The same bytes


def test_a_plan_gives_the_same_bytes_whatever_is_built_at_once(
    days: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 97)
    assert write_posts(tmp_path, days.plan).counts == days.summary.counts
    assert digest(tmp_path) == digest(days.out)


def test_a_plan_gives_the_same_bytes_on_every_machine(tmp_path: Path) -> None:
    # A change of any text or rate changes this; a change of machine or library must not.
    write_posts(tmp_path, Plan(posts=1_000, people=700, seed=0, days=2))
    assert digest(tmp_path) == ("8fed680b38ae68bfeae29c9d7e3c38cc1a7009380921c182edcfac83898b69a8")


def test_another_seed_gives_other_posts(days: Written, tmp_path: Path) -> None:
    other = written(tmp_path, Plan(**(vars(days.plan) | {"seed": 6})))
    valid = [{r.line for r in each.lines if r.kind == "pin"} for each in (days, other)]
    assert len(valid[0] & valid[1]) < 20


def test_compressed_objects_hold_the_same_records(days: Written, tmp_path: Path) -> None:
    compressed = written(tmp_path, Plan(**(vars(days.plan) | {"gzip": True})))
    assert compressed.lines == days.lines
    # No name and no time in the header.
    headers = {path.read_bytes()[3:8] for path in compressed.summary.objects}
    assert headers == {bytes(5)}


# Days, replays, corrections


def test_later_days_have_higher_keys(days: Written) -> None:
    firsts: dict[tuple[Kind, int | None], int] = {}
    for record in days.lines:
        reason, key = judged(record.kind, record.line)
        if reason == "landed":
            firsts.setdefault((record.kind, key), record.day)
    bounds = [0, 666, 1333, 2000]
    late = 0
    for (_, key), day in firsts.items():
        assert key is not None
        assert key < bounds[day + 1]
        late += key < bounds[day]
    # A post of which a defect is mended on a later day first lands there.
    assert late < 5


def test_replays_are_equal_byte_for_byte(clean: Written) -> None:
    for kind in KINDS:
        repeated = Counter(record.line for record in clean.lines if record.kind == kind)
        assert len(repeated) == clean.plan.posts
        counts = clean.summary.counts[kind]
        assert sum(repeated.values()) - len(repeated) == counts.replays
        assert 0.05 < counts.replays / counts.records < 0.1
        assert max(repeated.values()) >= 6


def test_replays_are_mostly_of_recent_posts(clean: Written) -> None:
    highest, behind = 0, []
    for record in clean.lines:
        if record.kind == "geo" and record.partition == 0:
            key = json.loads(record.line)["ind"]
            if key <= highest:
                behind.append(highest - key)
            highest = max(highest, key)
    assert np.median(behind) < 1_000
    assert max(behind) > 4_000


def said_of_posts(lines: list[Sent]) -> dict[tuple[Kind, int | None], list[Sent]]:
    """Every line that can be landed, by kind and key, in the order sent."""
    said: dict[tuple[Kind, int | None], list[Sent]] = defaultdict(list)
    for record in lines:
        reason, key = judged(record.kind, record.line)
        if reason == "landed":
            said[record.kind, key].append(record)
    return said


def test_a_correction_follows_what_it_corrects_and_differs(days: Written) -> None:
    across_days = 0
    corrected: Counter[Kind] = Counter()
    for (kind, _), records in said_of_posts(days.lines).items():
        if len({record.line for record in records}) > 1:
            corrected[kind] += 1
            across_days += records[0].day < records[-1].day
    for kind in KINDS:
        assert 1 <= corrected[kind] <= days.summary.counts[kind].corrections < 20
    assert across_days


def test_counts_and_corrections_hold_when_both_are_frequent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CORRECTION_RATE", 0.3)
    monkeypatch.setattr(module, "DEFECT_RATE", 0.3)
    made = written(tmp_path, Plan(posts=1_500, people=400, seed=8, days=2))
    check_summary(made.plan, made.summary, made.lines)
    replayed_since = 0
    for records in said_of_posts(made.lines).values():
        lines = [record.line for record in records]
        versions = list(dict.fromkeys(lines))
        assert len(versions) <= 2
        assert len({record.partition for record in records}) == 1
        # Once a post is corrected a replay repeats the correction: what was wrong stays mended.
        assert lines == sorted(lines, key=versions.index)
        replayed_since += len(versions) == 2 and lines.count(versions[1]) > 1
    assert replayed_since > 10


# Defects


@pytest.mark.parametrize("seed", range(4))
def test_every_defect_occurs_in_a_plan_of_200_posts(seed: int, tmp_path: Path) -> None:
    plan = Plan(posts=200, people=50, seed=seed)
    counts = write_posts(tmp_path, plan).counts
    assert {name for kind in counts.values() for name in kind.defects} == DEFECTS
    assert {name for kind in counts.values() for name in kind.rejected} == REASONS
    assert all(kind.missing and kind.corrections and kind.replays for kind in counts.values())
    # And every variety of each.
    chosen = module._Stream(plan).sends(0, plan.posts).original_defects
    assert set(chosen) >= set(range(len(module.DEFECTS)))


def test_varieties_show_in_the_lines(tmp_path: Path) -> None:
    """A few that a reader must tell apart, looked for in the lines themselves."""
    lines = written(tmp_path, Plan(posts=200, people=50, seed=3)).lines
    values: dict[str, list[Any]] = defaultdict(list)
    for record in lines:
        try:
            value = json.loads(record.line)
        except ValueError:
            continue
        if isinstance(value, dict):
            for name, field in value.items():
                values[name].append(field)
            if not value.keys() & {"ind", "index"}:
                values["no key"].append(value)
    keys = values["ind"] + values["index"]
    assert {type(key) for key in keys} >= {int, str, float, bool, type(None), list}
    assert 2**63 in keys
    assert min(key for key in keys if type(key) is int) < 0
    assert values["no key"]
    assert {type(age) for age in values["age"]} >= {int, float, str, type(None)}
    assert set(range(20, 61)) | {17, 18} >= {a for a in values["age"] if type(a) is int} - {
        *(99, 33, 10**20)
    }
    assert {17, 18, 25, 35, 36, 50, 51} <= {a for a in values["age"] if type(a) is int}
    assert {type(country) for country in values["country"]} >= {str, list, type(None)}
    assert 2022 in values["title"]
    texts = [text for text in values["timestamp"] + values["date_joined"] if type(text) is str]
    for pattern in (
        r".+ .+",
        r".+T.+",
        r".+Z",
        r".+[+-]\d\d:\d\d",
        r".+\.\d+.*",
        r"\d+:\d+:\d+ .+",
    ):
        assert any(re.fullmatch(pattern, text) for text in texts), pattern
    assert any(text.startswith("\xa0") for text in values["title"] if type(text) is str)
    undecodable = [record.line for record in lines if b"\xe9 " in record.line]
    assert undecodable
    with pytest.raises(UnicodeDecodeError):
        undecodable[0].decode()


def test_other_spellings_of_a_time_are_the_same_instant(tmp_path: Path, days: Written) -> None:
    def instants(lines: list[Sent]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = defaultdict(list)
        for record in lines:
            reason, key = judged("geo", record.line)
            if record.kind == "geo" and reason == "landed" and key is not None:
                text = json.loads(record.line).get("timestamp")
                if type(text) is str and re.search(r"Z|[+-]\d\d:\d\d$|\d:\d\d:\d\d ", text):
                    found[key].append(text)
        return found

    plain = {
        json.loads(record.line)["ind"]: json.loads(record.line)["timestamp"]
        for record in written(tmp_path, Plan(**(vars(days.plan) | {"clean": True}))).lines
        if record.kind == "geo"
    }
    compared = 0
    for key, texts in instants(days.lines).items():
        for text in texts:
            if text.startswith(("2019-12-31T22:30", "2021-01-01 00:30")):
                continue
            iso = re.sub(r"^(\d{4}):(\d\d):", r"\1-\2-", text)
            stated = datetime.fromisoformat(iso)
            offset = stated.utcoffset() or timedelta()
            stated = stated.replace(tzinfo=None, microsecond=0) - offset
            assert stated == datetime.fromisoformat(plain[key])
            compared += 1
    assert compared >= 4


def test_defects_are_rare_in_plans_of_ordinary_size(tmp_path: Path) -> None:
    for kind in write_posts(tmp_path, Plan(posts=20_000, people=8_000, seed=1)).counts.values():
        assert 0.001 < sum(kind.defects.values()) / kind.records < 0.01
        assert sum(kind.rejected.values()) / kind.records < 0.004
        assert kind.missing / kind.records < 0.002


# What the records say


def test_clean_records_have_their_fields_types_and_value_sets(
    table: Table,
) -> None:
    for kind, key in (("pin", "index"), ("geo", "ind"), ("user", "ind")):
        assert sorted(table[kind]) == list(range(CLEAN.posts))
        assert {tuple(record) for record in table[kind].values()} == {(key, *FIELDS[kind])}
    for pin in table["pin"].values():
        assert all(type(pin[name]) is str for name in FIELDS["pin"] if name != "downloaded")
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", pin["unique_id"])
        assert pin["category"] in CATEGORIES
        assert pin["save_location"] == f"Local save in /data/{pin['category']}"
        assert re.fullmatch(r"\d{1,3}[kM]?|User Info Error", pin["follower_count"])
        assert pin["downloaded"] == (pin["image_src"] != "Image src error.")
        assert pin["is_image_or_video"] in {"image", "video", "multi-video(story page format)"}
    for geo in table["geo"].values():
        assert geo["country"] in COUNTRIES
        assert "2017-10-20 09:27:16" <= geo["timestamp"] <= "2022-10-18 15:43:00"
        assert -90 <= geo["latitude"] <= 90
        assert -180 <= geo["longitude"] <= 180
        assert len(f"{abs(geo['longitude']):.6f}".rstrip("0").replace(".", "").lstrip("0")) <= 6
    for user in table["user"].values():
        assert 20 <= user["age"] <= 60
        assert type(user["age"]) is int
        assert "2015-10-21 03:17:47" <= user["date_joined"] <= "2017-10-18 22:28:35"
    assert len({pin["unique_id"] for pin in table["pin"].values()}) == CLEAN.posts
    assert {pin["category"] for pin in table["pin"].values()} == set(CATEGORIES)
    assert len({geo["country"] for geo in table["geo"].values()}) > 235
    assert {user["age"] for user in table["user"].values()} == set(range(20, 61))
    texts = "".join(pin["title"] + pin["description"] for pin in table["pin"].values())
    assert all(character in texts for character in '"“&|🌿é…\xa0')


def test_a_person_keeps_one_account(table: Table) -> None:
    people: dict[tuple[str, str, str], set[tuple[Any, ...]]] = defaultdict(set)
    counts: dict[str, set[str]] = defaultdict(set)
    for key, user in table["user"].items():
        pin, geo = table["pin"][key], table["geo"][key]
        person = user["first_name"], user["last_name"], user["date_joined"]
        place = geo["latitude"], geo["longitude"]
        people[person].add((user["age"], pin["poster_name"], *place))
        counts[pin["poster_name"]].add(pin["follower_count"])
    assert {len(accounts) for accounts in people.values()} == {1}
    assert len(counts) == len(people)
    assert 0.95 * CLEAN.people < len(people) <= CLEAN.people
    two = [sorted(found, reverse=True) for found in counts.values() if len(found) > 1]
    assert 1 <= len(two) < len(people) / 100
    for found in two:
        higher, lower = (int(re.sub(r"\D", "", text)) for text in found)
        assert len(found) == 2
        assert abs(higher - lower) == 1
    names = Counter(person[:2] for person in people)
    assert sum(number > 1 for number in names.values()) > 10


def test_two_people_may_have_one_name_even_in_a_small_plan(tmp_path: Path) -> None:
    plan = Plan(posts=60, people=20, seed=2, clean=True)
    lines = [json.loads(r.line) for r in written(tmp_path, plan).lines if r.kind == "user"]
    people = {(user["first_name"], user["last_name"], user["date_joined"]) for user in lines}
    assert len({person[:2] for person in people}) < len(people)


def test_no_two_posters_share_a_name() -> None:
    records = module._Records(Plan(posts=200_000, people=200_000, seed=1))
    assert len(set(records._poster(np.arange(100_000)).to_pylist())) == 100_000


@public_data
def test_the_value_sets_are_those_of_the_public_data() -> None:
    assert list(CATEGORIES) == (PUBLIC / "categories_13.txt").read_text().splitlines()
    assert list(COUNTRIES) == (PUBLIC / "countries_243.txt").read_text().splitlines()


def public(kind: Kind) -> list[dict[str, Any]]:
    lines = (PUBLIC / "seed100_stream" / f"raw_{kind}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def shares(records: Table) -> dict[str, float]:
    """What the shape of the data comes down to, as shares of posts."""
    pins, geos, users = (list(records[kind].values()) for kind in KINDS)
    number = len(pins)

    def share(hits: Iterable[bool]) -> float:
        return sum(hits) / number

    posts = Counter((u["first_name"], u["last_name"], u["date_joined"]) for u in users)
    return {
        "no title": share(p["title"] == "No Title Data Available" for p in pins),
        "story": share(p["description"].endswith("Story format") for p in pins),
        "no description": share(p["description"] == "No description available" for p in pins),
        "cut short": share(p["description"].endswith("…\xa0") for p in pins),
        "no user": share(p["poster_name"] == "User Info Error" for p in pins),
        "no tags": share(p["tag_list"].startswith("N,o, ,T") for p in pins),
        "no image": share(p["image_src"] == "Image src error." for p in pins),
        "video": share(p["is_image_or_video"] == "video" for p in pins),
        "nine tags": share(p["tag_list"].count(",") == 8 for p in pins),
        "followers in k": share(p["follower_count"].endswith("k") for p in pins),
        "followers in M": share(p["follower_count"].endswith("M") for p in pins),
        "southern": share(g["latitude"] < -45 for g in geos),
        "country in A": share(g["country"].startswith("A") for g in geos),
        "under 25": share(u["age"] < 25 for u in users),
        "over 50": share(u["age"] > 50 for u in users),
        "joined in 2015": share(u["date_joined"] < "2016" for u in users),
        "one's only post": share(number == 1 for number in posts.values()),
        "most by one": max(posts.values()) / number,
        "people": len(posts) / number,
    }


@public_data
def test_the_shape_is_that_of_the_public_data(tmp_path: Path) -> None:
    real = by_key((kind, record) for kind in KINDS for record in public(kind))
    plan = Plan(posts=2_019, people=1_411, seed=1, clean=True)
    made = by_key((r.kind, json.loads(r.line)) for r in written(tmp_path, plan).lines)
    expected = shares(real)
    for name, found in shares(made).items():
        assert found == pytest.approx(expected[name], rel=0.25, abs=0.006), name


@public_data
def test_no_text_is_one_of_the_public_data(table: Table) -> None:
    texts = ("title", "description", "poster_name", "tag_list", "image_src", "unique_id")
    for name in texts:
        real = Counter(pin[name] for pin in public("pin"))
        made = {pin[name] for pin in table["pin"].values()}
        assert made & real.keys() <= {
            *("", "Untitled", "No Title Data Available", "No description available"),
            *("No description available Story format", "User Info Error", "Image src error."),
            "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e",
        }
    real_people = {(user["first_name"], user["last_name"]) for user in public("user")}
    made_people = {(user["first_name"], user["last_name"]) for user in table["user"].values()}
    assert not real_people & made_people


# Refusals


def test_a_folder_with_topics_is_refused_and_left_alone(days: Written) -> None:
    before = digest(days.out)
    with pytest.raises(FolderInUse, match=rf"{re.escape(str(days.out))} already holds topics; .+"):
        write_posts(days.out, Plan(posts=10, people=2, seed=1))
    assert digest(days.out) == before


def test_other_files_in_the_folder_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_posts(tmp_path, Plan(posts=10, people=2, seed=1))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_object_has_its_name_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 50)
    looks = 0

    def look(_: int) -> None:
        nonlocal looks
        looks += 1
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        named = [path for path in files if path.name.endswith((".json", ".json.gz"))]
        assert len(files) > len(named)
        assert all(path.read_bytes().count(b"\n") == 40 for path in named)
        if looks == 8:
            assert named
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_posts(tmp_path, Plan(posts=2_000, people=99, seed=1, records_per_object=40), look)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left
    assert all(path.read_bytes().count(b"\n") == 40 for path in left)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"posts": 0}, "posts is 0"),
        ({"people": 1}, "people is 1; the least is 2"),
        ({"seed": -1}, "seed is -1"),
        ({"partitions": 0}, "partitions is 0"),
        ({"records_per_object": 0}, "records_per_object is 0"),
        ({"days": 0}, "over 0 days"),
        ({"days": 101}, "100 posts cannot be sent over 101 days"),
        ({"pipeline_id": "a/b"}, "'a/b' cannot be part of a topic's name"),
    ],
)
def test_what_cannot_be_written_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**({"posts": 100, "people": 10, "seed": 1} | change))
