"""Synthetic posts, written as the objects a Kafka Connect S3 sink would have left.

A post is three records with one key: a `pin`, a `geo` and a `user`. `write_posts` invents them and
lays them out as

    <out>/topics/<pipeline id>.<kind>/partition=<p>/<topic>+<p>+<10-digit start offset>.json[.gz]

with one JSON value a line, so that the start offset plus the line number is a record's offset.

Every value is a function of the plan, the field and the post's key, of nothing else. That is why a
replay is equal byte for byte to what it repeats however long ago that was sent, why memory does not
grow with the number of posts, and why one plan gives the same bytes on every machine. (With `gzip`
the same records: the compressed bytes are the local zlib's.) Floating point is therefore limited to
operations that IEEE 754 rounds exactly: no powers, no logarithms.

What is invented keeps the shape of the public data: a person's attributes are the least of several
draws, and of more draws the more the person posts, so prolific people are young, joined early and
live in countries early in the alphabet.
"""

from __future__ import annotations

import datetime as dt
import gzip
import itertools
import json
import math
import re
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ingestion.emulation.defects import DEFECTS, KINDS, Kind
from ingestion.emulation.vocabulary import (
    ADJECTIVES,
    CATEGORIES,
    COUNTRIES,
    FIRST_NAME_HEADS,
    FIRST_NAME_TAILS,
    LAST_NAME_HEADS,
    LAST_NAME_TAILS,
    POSTERS_FIRST,
    POSTERS_LAST,
    POSTERS_MIDDLE,
    SENTENCES_FIRST,
    SENTENCES_LAST,
    SENTENCES_MIDDLE,
    SUBJECTS,
    TITLE_ENDINGS,
    TITLE_OPENINGS,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Shares of the new posts: the public emulator sent a tenth of its records again.
REPLAY_RATE = 0.085
CORRECTION_RATE = 0.002
DEFECT_RATE = 0.015
ISO_TIME_RATE = 0.03
# Plans of at least this many posts hold every defect at least once.
SMALLEST_COMPLETE_PLAN = 200

# New posts built at once: some 35 MB of the widest kind's lines.
_BLOCK = 50_000


class FolderInUse(ValueError):
    """The folder to write into already holds a `topics` folder."""


@dataclass(frozen=True)
class Plan:
    """What to invent.

    Attributes:
        posts: new posts, keyed 0 to posts - 1 in the order they are first sent.
        people: about how many people they are by (at least 2; more than `posts` is as many).
        seed: the same plan with the same seed gives the same bytes.
        pipeline_id: prefix of the three topics' names.
        partitions: partitions a topic; a key always goes to the same one.
        records_per_object: lines after which the next object begins.
        gzip: compress the objects.
        clean: leave out every defect and correction, and keep to one spelling of keys and times;
            replays and the "no data" texts stay.
        days: equal slices of the posts; no object holds records of two days.

    Raises:
        ValueError: a number is out of range or the pipeline id cannot name a topic.
    """

    posts: int
    people: int
    seed: int
    pipeline_id: str = "0a60b9a8a831"
    partitions: int = 3
    records_per_object: int = 50_000
    gzip: bool = False
    clean: bool = False
    days: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        least = {"posts": 1, "people": 2, "seed": 0, "partitions": 1, "records_per_object": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; the least is {lowest}")
        if not 1 <= self.days <= self.posts:
            raise ValueError(f"{self.posts} posts cannot be sent over {self.days} days")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", self.pipeline_id):
            raise ValueError(f"{self.pipeline_id!r} cannot be part of a topic's name")


@dataclass(frozen=True)
class Counts:
    """What was written of one kind.

    Attributes:
        objects: objects.
        records: lines; `landed` of them can be landed, the others are rejected.
        posts: keys of which a record that can be landed was written for the first time.
        missing: new posts of which this kind's record was not sent.
        replays: lines that repeat an earlier one byte for byte.
        corrections: lines that change what an earlier one said of the same post.
        rejected: lines by the reason they will be rejected for.
        defects: lines by what is wrong or unusual about them, rejected or not.
    """

    objects: int = 0
    records: int = 0
    posts: int = 0
    missing: int = 0
    replays: int = 0
    corrections: int = 0
    rejected: Mapping[str, int] = field(default_factory=Counter)
    defects: Mapping[str, int] = field(default_factory=Counter)

    @property
    def landed(self) -> int:
        """Lines that can be landed, replays and corrections included."""
        return self.records - sum(self.rejected.values())

    def __add__(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.objects + other.objects,
            self.records + other.records,
            self.posts + other.posts,
            self.missing + other.missing,
            self.replays + other.replays,
            self.corrections + other.corrections,
            Counter(self.rejected) + Counter(other.rejected),
            Counter(self.defects) + Counter(other.defects),
        )


@dataclass(frozen=True)
class Day:
    """One day's slice: its objects by kind, partition and offset, and its counts by kind."""

    objects: tuple[Path, ...]
    counts: Mapping[Kind, Counts]


@dataclass(frozen=True)
class Summary:
    """What `write_posts` wrote, day by day."""

    days: tuple[Day, ...]

    @property
    def counts(self) -> dict[Kind, Counts]:
        """The counts by kind over all days."""
        return {kind: sum((day.counts[kind] for day in self.days), Counts()) for kind in KINDS}

    @property
    def objects(self) -> tuple[Path, ...]:
        """The objects of all days."""
        return tuple(path for day in self.days for path in day.objects)


def write_posts(out: Path, plan: Plan, progress: Callable[[int], None] = lambda _: None) -> Summary:
    """Invent the plan's posts and write them below a folder.

    An object appears under its name only when it is whole.

    Args:
        out: folder to write into; made if it does not exist.
        plan: what to invent.
        progress: told, now and then, how many more new posts have been written; the numbers add
            up to `plan.posts`.

    Returns:
        The paths written and how many records of which kind and with which defects they hold.

    Raises:
        FolderInUse: the folder holds something below `topics` already.
    """
    topics = out / "topics"
    if any(not path.is_dir() for path in (topics, *topics.rglob("*")) if path.exists()):
        raise FolderInUse(f"{out} already holds {topics.name}; remove it or name another folder")
    stream = _Stream(plan)
    offsets: dict[tuple[Kind, int], int] = {}
    days = []
    for day in range(plan.days):
        first, end = plan.posts * day // plan.days, plan.posts * (day + 1) // plan.days
        counts = dict.fromkeys(KINDS, Counts())
        with ExitStack() as open_objects:
            partitions = {
                (kind, p): open_objects.enter_context(
                    _Partition(topics, plan, kind, p, offsets.get((kind, p), 0))
                )
                for kind in KINDS
                for p in range(plan.partitions)
            }
            for start in range(first, end, _BLOCK):
                stop = min(start + _BLOCK, end)
                sends = stream.sends(start, stop)
                for kind in KINDS:
                    counts[kind] += _write_kind(stream, kind, sends, partitions)
                progress(stop - start)
        offsets = {key: partition.offset for key, partition in partitions.items()}
        objects = {
            kind: [path for key, p in partitions.items() if key[0] == kind for path in p.objects]
            for kind in KINDS
        }
        days.append(
            Day(
                tuple(path for kind in KINDS for path in objects[kind]),
                {kind: counts[kind] + Counts(objects=len(objects[kind])) for kind in KINDS},
            )
        )
    return Summary(tuple(days))


def records(plan: Plan, kind: Kind, keys: Ints) -> list[bytes]:
    """The records of some of a plan's posts as they are first sent, without defects."""
    lines = _Lines.of(_Records(plan).lines(kind, keys, np.zeros_like(keys)))
    return [lines.line(row) for row in range(len(keys))]


def _write_kind(
    stream: _Stream,
    kind: Kind,
    sends: _Sends,
    partitions: Mapping[tuple[Kind, int], _Partition],
) -> Counts:
    rows = np.flatnonzero(sends.carried(kind))
    # Partition by partition, so that a partition's lines lie side by side in one buffer.
    share = sends.keys[rows] % stream.plan.partitions
    rows = rows[np.argsort(share, kind="stable")]
    lines = _Lines.of(stream.lines(kind, sends.keys[rows], sends.versions[rows]))
    defects = sends.defects_of(kind)[rows]
    changed = _defective_lines(stream, kind, sends.keys[rows], defects, lines)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(share, minlength=stream.plan.partitions))])
    for p in range(stream.plan.partitions):
        partitions[kind, p].write(lines, changed, int(bounds[p]), int(bounds[p + 1]))
    return _counts(kind, sends, rows, defects)


def _counts(kind: Kind, sends: _Sends, rows: Ints, defects: Ints) -> Counts:
    named: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for number, lines in zip(*np.unique(defects[defects >= 0], return_counts=True), strict=True):
        defect = DEFECTS[number]
        named[defect.name] += int(lines)
        if defect.reason:
            rejected[defect.reason] += int(lines)
    fails = np.array([d.reason is not None or d.write is None for d in DEFECTS] + [False])
    # The defects the posts started out with, whether or not a correction has mended them since.
    failed = fails[sends.original_defects_of(kind)]
    missing = (sends.events == _NEW) & ~sends.carried(kind)
    lands_first = np.where(sends.events == _NEW, ~failed, (sends.events == _CORRECTION) & failed)
    return Counts(
        records=len(rows),
        posts=int(np.count_nonzero(lands_first)),
        missing=int(np.count_nonzero(missing)),
        replays=int(np.count_nonzero(sends.events[rows] == _REPLAY)),
        corrections=int(np.count_nonzero(sends.events[rows] == _CORRECTION)),
        rejected=rejected,
        defects=named,
    )


# Objects


# Rows and the lines to write in their place, in the order of the rows.
_Changed = Sequence[tuple[int, bytes]]


class _Lines(NamedTuple):
    """Lines, each ended by a line feed, side by side in one buffer."""

    data: memoryview
    ends: npt.NDArray[np.int32]  # line i begins at ends[i] and ends at ends[i + 1]

    @classmethod
    def of(cls, lines: pa.StringArray) -> _Lines:
        """The lines of an Arrow array, not copied."""
        _, ends, data = lines.buffers()
        if not len(lines):
            return cls(memoryview(b""), np.zeros(1, np.int32))
        return cls(memoryview(data), np.frombuffer(ends, np.int32)[: len(lines) + 1])

    def line(self, row: int) -> bytes:
        """One line without its line feed."""
        return bytes(self.data[self.ends[row] : self.ends[row + 1] - 1])


class _Partition:
    """Writes one partition's records into objects of a bounded number of lines."""

    def __init__(self, topics: Path, plan: Plan, kind: Kind, number: int, offset: int) -> None:
        topic = f"{plan.pipeline_id}.{kind}"
        self._folder = topics / topic / f"partition={number}"
        self._stem = f"{topic}+{number}+"
        self._gzip = plan.gzip
        self._capacity = plan.records_per_object
        self._room = 0
        self._target: Path | None = None
        self._raw: IO[bytes] | None = None
        self._file: IO[bytes] | gzip.GzipFile | None = None
        self.offset = offset
        self.objects: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        elif self._file is not None and self._raw is not None and self._target is not None:
            with suppress(OSError):  # the disk may be full
                self._file.close()
                self._raw.close()
            _unfinished(self._target).unlink()

    def write(self, lines: _Lines, changed: _Changed, start: int, stop: int) -> None:
        """Append the lines from start to stop, save those given anew in `changed` (by row)."""
        while start < stop:
            file = self._open()
            end = min(stop, start + self._room)
            self.offset += end - start
            self._room -= end - start
            rows = bisect_left(changed, (start,)), bisect_left(changed, (end,))
            for row, line in changed[slice(*rows)]:
                file.write(lines.data[lines.ends[start] : lines.ends[row]])
                file.write(line)
                start = row + 1
            file.write(lines.data[lines.ends[start] : lines.ends[end]])
            start = end
            if not self._room:
                self._finish()

    def _open(self) -> IO[bytes] | gzip.GzipFile:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            suffix = ".json.gz" if self._gzip else ".json"
            self._target = self._folder / f"{self._stem}{self.offset:010d}{suffix}"
            self._raw = self._file = _unfinished(self._target).open("wb", buffering=1 << 18)
            if self._gzip:
                # Neither a name nor a time in the header: they would differ from run to run.
                self._file = gzip.GzipFile("", "wb", 1, self._raw, mtime=0)
            self._room = self._capacity
        return self._file

    def _finish(self) -> None:
        if self._file is None or self._raw is None or self._target is None:
            return
        self._file.close()
        self._raw.close()
        _unfinished(self._target).replace(self._target)
        self.objects.append(self._target)
        self._file = self._raw = self._target = None


def _unfinished(target: Path) -> Path:
    return target.with_name(target.name + ".unfinished")


# What is sent when

_NEW, _CORRECTION, _REPLAY = range(3)
_ALL_KINDS = -1
_NO_DEFECT = -1


@dataclass(frozen=True)
class _Sends:
    """Posts in the order they are sent: all arrays are of one length, a send each."""

    keys: Ints
    versions: Ints  # 0, or 1 for a corrected post
    events: Ints  # _NEW, _CORRECTION or _REPLAY
    only: Ints  # the number of the one kind sent, or _ALL_KINDS
    original_defects: Ints  # number in DEFECTS or _NO_DEFECT, while the version was 0
    defect_kinds: Ints  # the number of the kind that defect is on

    def original_defects_of(self, kind: Kind) -> Ints:
        """The defect each post's record of this kind had before any correction."""
        return np.where(self.defect_kinds == KINDS.index(kind), self.original_defects, _NO_DEFECT)

    def defects_of(self, kind: Kind) -> Ints:
        """The defect each sent record of this kind has; a corrected one has none."""
        return np.where(self.versions == 0, self.original_defects_of(kind), _NO_DEFECT)

    def carried(self, kind: Kind) -> Mask:
        """The sends in which this kind's record takes part."""
        absent = np.array([defect.write is None for defect in DEFECTS] + [False])
        chosen = (self.only == _ALL_KINDS) | (self.only == KINDS.index(kind))
        sent: Mask = chosen & ~absent[self.defects_of(kind)]
        return sent


class _Draws:
    """Random numbers that depend on the seed, a name and a key, in no order."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def bits(self, name: str, keys: Ints) -> npt.NDArray[np.uint64]:
        """64 bits a key."""
        start = zlib.crc32(f"{self._seed} {name}".encode()) | zlib.crc32(name.encode()) << 32
        # splitmix64
        z = keys.astype(np.uint64)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(start)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        return z

    def fraction(self, name: str, keys: Ints) -> Floats:
        """A number from 0 up to but not including 1 a key."""
        return (self.bits(name, keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def choice(self, name: str, keys: Ints, options: int) -> Ints:
        """One of 0 to options - 1 a key."""
        high = self.bits(name, keys) >> np.uint64(32)
        return ((high * np.uint64(options)) >> np.uint64(32)).astype(np.int64)


class _Stream:
    """The order in which posts are sent, sent again and corrected."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._draws = _Draws(plan.seed)
        self._records = _Records(plan)

    def lines(self, kind: Kind, keys: Ints, versions: Ints) -> pa.StringArray:
        """The records without defects, each ended by a line feed."""
        return self._records.lines(kind, keys, versions)

    def sends(self, start: int, stop: int) -> _Sends:
        """The new posts from start to stop, and what else is sent between them."""
        now = np.arange(start, stop)
        corrected, due = self._corrections
        correcting = np.flatnonzero((due >= start) & (due < stop))
        replaying = now[self._draws.fraction("replay", now) < REPLAY_RATE]
        # Now and then a producer retries the same record over and over.
        times = np.where(self._draws.choice("times replayed", replaying, 200) == 0, 6, 1)
        replaying = np.repeat(replaying, times)
        replayed = self._replayed(replaying)

        at = np.concatenate([now, due[correcting], replaying])
        keys = np.concatenate([now, corrected[correcting], replayed])
        events = np.repeat([_NEW, _CORRECTION, _REPLAY], [len(now), len(correcting), len(replayed)])
        only = np.full(len(at), _ALL_KINDS)
        single = self._draws.choice("kinds replayed", replaying, 10)
        only[len(at) - len(replaying) :] = np.where(single < len(KINDS), single, _ALL_KINDS)

        order = np.argsort(at, kind="stable")
        at, keys, events, only = at[order], keys[order], events[order], only[order]
        found = np.searchsorted(corrected, keys)
        found[found == len(corrected)] = 0
        versions = np.zeros(len(keys), np.int64)
        if len(corrected):
            # A replay repeats what was last said of a post.
            versions[(corrected[found] == keys) & (due[found] <= at)] = 1
        defects, defect_kinds = self._defects(keys)
        return _Sends(keys, versions, events, only, defects, defect_kinds)

    def _replayed(self, now: Ints) -> Ints:
        """What is sent again: mostly one of the last few hundred posts, sometimes any."""
        u = self._draws.fraction("replayed", now)
        recent = now - (300 * (u / (1 - u))).astype(np.int64)
        anyone = (now * u).astype(np.int64)
        old = (self._draws.choice("replayed long after", now, 8) == 0) | (recent < 0)
        return np.where(old, anyone, recent)

    @cached_property
    def _corrections(self) -> tuple[Ints, Ints]:
        """The posts that are corrected, ascending, and the new post after which each one is."""
        posts = self.plan.posts
        if self.plan.clean:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        chunks = (np.arange(i, min(i + 1_000_000, posts)) for i in range(0, posts, 1_000_000))
        drawn = [
            keys[self._draws.fraction("correction", keys) < CORRECTION_RATE] for keys in chunks
        ]
        ensured = self._places[len(DEFECTS) : len(DEFECTS) + 3]
        keys = np.unique(np.concatenate([*drawn, ensured]))
        keys = keys[keys < posts - 1]
        u = self._draws.fraction("correction due", keys)
        due = keys + 1 + ((posts - 1 - keys) * (u * u * u)).astype(np.int64)
        # One is certain to be late, on the last of several days.
        due[np.isin(keys, ensured[:1])] = posts - 1
        return keys, np.minimum(due, posts - 1)

    @cached_property
    def _places(self) -> Ints:
        """Different posts, in no order, spread evenly over all there are."""
        slots = np.arange(SMALLEST_COMPLETE_PLAN)
        shuffled = np.argsort(self._draws.bits("place", slots), kind="stable")
        return shuffled * max(self.plan.posts, len(slots)) // len(slots)

    def _defects(self, keys: Ints) -> tuple[Ints, Ints]:
        """The defect of each post (at most one) and the number of the kind it is on."""
        defects = np.full(len(keys), _NO_DEFECT)
        spread = np.zeros(len(keys), np.int64)
        if not self.plan.clean:
            u = self._draws.fraction("defect", keys)
            some = np.flatnonzero(u < DEFECT_RATE)
            shares = np.cumsum([defect.weight for defect in DEFECTS])
            defects[some] = np.searchsorted(
                shares, u[some] * (shares[-1] / DEFECT_RATE), side="right"
            )
            spread[some] = self._draws.choice("kind of the defect", keys[some], 6)
            # Each defect also has a post of its own, so that small plans have it too.
            ensured = np.argsort(self._places[: len(DEFECTS)], kind="stable")
            places = self._places[ensured]
            found = np.minimum(np.searchsorted(places, keys), len(places) - 1)
            own = places[found] == keys
            defects[own] = spread[own] = ensured[found[own]]
        # Six is a multiple of the number of kinds of any defect.
        kinds = [[KINDS.index(d.kinds[i % len(d.kinds)]) for i in range(6)] for d in DEFECTS]
        return defects, np.array(kinds)[defects, spread % 6]


# What the records say


class _Records:
    """The text of every record of a plan, without defects."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._people = min(plan.people, plan.posts)
        self._draws = _Draws(plan.seed)

    def lines(self, kind: Kind, keys: Ints, versions: Ints) -> pa.StringArray:
        """One line a key, ended by a line feed.

        Args:
            kind: which of the post's records.
            keys: the posts.
            versions: 0, or 1 for what a correction says.
        """
        write = {"pin": self._pin, "geo": self._geo, "user": self._user}[kind]
        return write(keys, versions)

    def _pin(self, keys: Ints, versions: Ints) -> pa.StringArray:
        # What a correction changes is drawn anew.
        said = keys + (versions << 48)
        person = self._person(keys)
        # The site could show nothing of the account until a correction.
        lost = (person == 0) & (versions == 0)
        category = self._category(person, said)
        form = self._draws.fraction("form", keys)
        story = lost | (form < STORY_RATE)
        video = ~story & (form < STORY_RATE + VIDEO_RATE)
        unseen = lost | (story & (self._draws.fraction("image error", keys) < STORY_ERROR_RATE))
        shown = np.where(story, 2, np.where(video, 1, 0))
        return _joined(
            '{"index":',
            _numerals(keys),
            ',"unique_id":"',
            self._uuid(keys),
            '","title":"',
            self._title(said, category, lost),
            '","description":"',
            self._description(said, category, story),
            '","poster_name":"',
            self._poster(person),
            '","follower_count":"',
            self._followers(person, keys),
            '","tag_list":"',
            self._tags(said, category, lost),
            '","is_image_or_video":"',
            _picked(("image", "video", "multi-video(story page format)"), shown),
            '","image_src":"',
            self._image(keys, story | video, unseen),
            '","downloaded":',
            _picked(("1", "0"), unseen),
            ',"save_location":"Local save in /data/',
            _picked(CATEGORIES, category),
            '","category":"',
            _picked(CATEGORIES, category),
            '"}\n',
        )

    def _geo(self, keys: Ints, versions: Ints) -> pa.StringArray:
        person = self._person(keys)
        country = (len(COUNTRIES) * self._least("country", person)).astype(np.int64)
        # The public data gives a person one country; here some posts are made on a journey.
        away = self._draws.fraction("away", keys) < AWAY_RATE
        elsewhere = self._draws.choice("elsewhere", keys, len(COUNTRIES))
        country = (np.where(away, elsewhere, country) + versions) % len(COUNTRIES)
        seconds = self._draws.choice("timestamp", keys, _seconds(*POSTED))
        return _joined(
            '{"ind":',
            _numerals(keys),
            ',"timestamp":"',
            *self._time("timestamp", keys, POSTED[0], seconds),
            '","latitude":',
            _six_digits(-90 + 180 * self._least("latitude", person)),
            ',"longitude":',
            _six_digits(-180 + 360 * self._least("longitude", person)),
            ',"country":"',
            _picked(COUNTRIES, country),
            '"}\n',
        )

    def _user(self, keys: Ints, versions: Ints) -> pa.StringArray:
        person = self._person(keys)
        # A few are certain to be called what another person is called.
        called = np.where(person % 97 == 8, person - 5, person)
        first, last = _first_names(), _last_names()
        ages = AGES[1] - AGES[0] + 1
        age = (ages * self._least("age", person)).astype(np.int64)
        age = AGES[0] + np.where(versions > 0, (age + 1) % ages, age)
        joined = _seconds(*JOINED) * self._least("date joined", person)
        return _joined(
            '{"ind":',
            _numerals(keys),
            ',"first_name":"',
            _picked(first, len(first) * self._least("first name", called)),
            '","last_name":"',
            _picked(last, len(last) * self._least("last name", called)),
            '","age":',
            _numerals(age),
            ',"date_joined":"',
            *self._time("date_joined", keys, JOINED[0], joined.astype(np.int64)),
            '"}\n',
        )

    def _person(self, keys: Ints) -> Ints:
        """Who posted: 0 is the account the site could not show any more.

        Everybody posts once; who posts the other posts, the lower numbers do far more often than
        the higher. The exponent is near 2.7: of 2,000 posts by 1,400 people, 1 has a fiftieth.
        """
        turn = keys * self._people // self._plan.posts
        first = (keys == 0) | (turn > (keys - 1) * self._people // self._plan.posts)
        u = self._draws.fraction("person", keys)
        again = ((self._people - 1) * (u * u * np.sqrt(u) * np.sqrt(np.sqrt(u)))).astype(np.int64)
        lost = self._draws.fraction("lost account", keys) < LOST_ACCOUNT_RATE
        person = np.where(first, turn * self._stride % self._people, 1 + again)
        return np.where(lost, 0, person)

    @cached_property
    def _stride(self) -> int:
        """Steps through all people, prolific and not, each once before any twice."""
        stride = int(self._people * 0.618)
        return next(n for n in itertools.count(stride + 1) if math.gcd(n, self._people) == 1)

    def _least(self, name: str, person: Ints) -> Floats:
        """An attribute from 0 up to 1, about the least of k draws for who posts k times as much."""
        rank = (person + 0.5) / self._people
        root = np.sqrt(rank)
        k = np.minimum(0.8 + 1.6 / (root * np.sqrt(np.sqrt(root))), 250.0)
        u = self._draws.fraction(name, person)
        return u / (k - (k - 1) * u)

    def _category(self, person: Ints, said: Ints) -> Ints:
        own = self._draws.choice("own category", person, len(CATEGORIES))
        other = self._draws.choice("other category", said, len(CATEGORIES))
        return np.where(self._draws.fraction("strays", said) < 0.25, other, own)

    def _uuid(self, keys: Ints) -> pa.StringArray:
        text = np.full((len(keys), 36), ord("-"), np.uint8)
        digits = self._hex("unique id", keys)
        start = 0
        for end, at in ((8, 0), (12, 9), (16, 14), (20, 19), (32, 24)):
            text[:, at : at + end - start] = digits[:, start:end]
            start = end
        text[:, 14] = ord("4")  # version 4, the random kind
        return _fixed_width(text)

    def _hex(self, name: str, keys: Ints) -> npt.NDArray[np.uint8]:
        """32 hexadecimal digits a key."""
        words = np.stack([self._draws.bits(f"{name} {half}", keys) for half in "ab"], axis=1)
        # Little-endian whatever the machine, so that the digits are the same.
        return _HEX[words.astype("<u8").view(np.uint8)].view(np.uint8).reshape(len(keys), 32)

    def _image(self, keys: Ints, moving: Mask, unseen: Mask) -> pa.StringArray:
        digits = self._hex("image", keys)
        folders = np.full((len(keys), 9), ord("/"), np.uint8)
        for at, start in ((0, 0), (3, 2), (6, 4)):
            folders[:, at : at + 2] = digits[:, start : start + 2]
        ending = np.searchsorted(_IMAGE_SHARES, self._draws.fraction("image type", keys), "right")
        ending = np.where(moving, len(_IMAGE_ENDINGS) - 1, ending)
        source = _joined(
            "https://img.example/",
            _picked(("originals/", "videos/thumbnails/originals/"), moving),
            _fixed_width(folders),
            _fixed_width(digits),
            _picked(_IMAGE_ENDINGS, ending),
        )
        return _where(unseen, "Image src error.", source)

    def _title(self, said: Ints, category: Ints, lost: Mask) -> pa.StringArray:
        title = _joined(
            self._one_of(TITLE_OPENINGS, "opening", said),
            self._one_of(ADJECTIVES, "adjective", said),
            " ",
            self._subject(said, category, titled=True),
            self._one_of(TITLE_ENDINGS, "ending", said),
        )
        u = self._draws.fraction("title", said)
        title = _where(u < 0.0005, "Untitled", title)
        title = _where(u > 0.9995, "", title)
        return _where(lost, "No Title Data Available", title)

    def _description(self, said: Ints, category: Ints, story: Mask) -> pa.StringArray:
        description = _joined(
            self._one_of(SENTENCES_FIRST, "first sentence", said),
            " ",
            self._subject(said, category),
            self._one_of(SENTENCES_MIDDLE, "middle sentence", said),
            self._one_of(SENTENCES_LAST, "last sentence", said),
        )
        u = self._draws.fraction("description", said)
        description = _where(u < NO_DESCRIPTION_RATE, "No description available", description)
        description = _where(u > 0.9995, "Untitled", description)
        return _where(story, "No description available Story format", description)

    def _tags(self, said: Ints, category: Ints, lost: Mask) -> pa.StringArray:
        tags = _tag_triples()
        size = len(tags) // len(CATEGORIES)
        triples = [
            _picked(tags, category * size + self._draws.choice(f"tags {i}", said, size))
            for i in range(3)
        ]
        listed = pc.binary_join_element_wise(*triples, ",")
        none = lost | (self._draws.fraction("tags", said) < NO_TAGS_RATE)
        return _where(none, "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e", listed)

    def _poster(self, person: Ints) -> pa.StringArray:
        sizes = len(POSTERS_FIRST), len(POSTERS_MIDDLE), len(POSTERS_LAST)
        # No two people share a poster's name: the factor is a prime and divides none of the sizes.
        number, again = person * 7_919, person // math.prod(sizes)
        first, middle, last = np.unravel_index(number % math.prod(sizes), sizes)
        poster = _joined(
            _picked(POSTERS_FIRST, first),
            " ",
            _picked(POSTERS_MIDDLE, middle),
            _picked(POSTERS_LAST, last),
            _where(again == 0, "", _joined(" ", _numerals(again))),
        )
        return _where(person == 0, "User Info Error", poster)

    def _followers(self, person: Ints, keys: Ints) -> pa.StringArray:
        size = np.searchsorted(
            _FOLLOWER_SHARES, self._draws.fraction("followers' size", person), "right"
        )
        # One of the prolific is certain to have two counts.
        wavers = (person == 1) | (self._draws.choice("wavers", person, 300) == 0)
        size = np.where(person == 1, _FOLLOWER_SIZES.index((100, 999, "k")), size)
        lowest = np.array([low for low, _, _ in _FOLLOWER_SIZES])[size]
        highest = np.array([high for _, high, _ in _FOLLOWER_SIZES])[size]
        u = self._draws.fraction("followers", person)
        number = lowest + (u * (highest + 1 - lowest)).astype(np.int64)
        number -= np.where(wavers & (number > lowest), keys & 1, 0)
        units = tuple(unit for _, _, unit in _FOLLOWER_SIZES)
        text = _joined(_numerals(number), _picked(units, size))
        return _where(person == 0, "User Info Error", text)

    def _subject(self, said: Ints, category: Ints, titled: bool = False) -> pa.StringArray:
        subjects = tuple(s.title() if titled else s for group in SUBJECTS for s in group)
        size = len(subjects) // len(CATEGORIES)
        return _picked(subjects, category * size + self._draws.choice("subject", said, size))

    def _one_of(self, texts: tuple[str, ...], name: str, keys: Ints) -> pa.StringArray:
        return _picked(texts, self._draws.choice(name, keys, len(texts)))

    def _time(
        self, name: str, keys: Ints, start: dt.datetime, seconds: Ints
    ) -> tuple[pa.StringArray, pa.StringArray, pa.StringArray]:
        """Seconds after a start as date, separator and time of day."""
        seconds = seconds + (start.hour * 60 + start.minute) * 60 + start.second
        iso = self._draws.fraction(f"{name} in ISO 8601", keys) < ISO_TIME_RATE
        return (
            _picked(_days(start.date()), seconds // 86_400),
            _picked((" ", "T"), iso & (not self._plan.clean)),
            _picked(_times_of_day(), seconds % 86_400),
        )


def _numerals(values: Ints) -> pa.StringArray:
    return pa.array(values).cast(pa.string())


def _picked(texts: pa.StringArray | tuple[str, ...], numbers: npt.NDArray[Any]) -> pa.StringArray:
    """The text of each number; fractions of a number are cut off."""
    texts = _text(texts) if isinstance(texts, tuple) else texts
    return texts.take(pa.array(numbers.astype(np.int32)))


def _where(mask: Mask, text: str, otherwise: pa.StringArray) -> pa.StringArray:
    return pc.if_else(pa.array(mask), text, otherwise)


def _joined(*parts: pa.StringArray | str) -> pa.StringArray:
    return pc.binary_join_element_wise(*parts, "")


@cache
def _text(values: tuple[str, ...]) -> pa.StringArray:
    """The values as they stand within a JSON string."""
    return pa.array([json.dumps(value, ensure_ascii=False)[1:-1] for value in values])


def _fixed_width(text: npt.NDArray[np.uint8]) -> pa.StringArray:
    rows, width = text.shape
    ends = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(text))


def _six_digits(values: Floats) -> pa.StringArray:
    size = np.abs(values)
    scale = np.select([size >= 100, size >= 10, size >= 1], [1e3, 1e4, 1e5], 1e6)
    return pa.array(np.rint(values * scale) / scale).cast(pa.string())


def _seconds(start: dt.datetime, end: dt.datetime) -> int:
    return int((end - start).total_seconds())


@cache
def _days(first: dt.date) -> pa.StringArray:
    return pa.array([(first + dt.timedelta(days)).isoformat() for days in range(6 * 366)])


@cache
def _times_of_day() -> pa.StringArray:
    return pa.array(
        [f"{h:02}:{m:02}:{s:02}" for h in range(24) for m in range(60) for s in range(60)]
    )


@cache
def _first_names() -> pa.StringArray:
    return _text(tuple(sorted(a + b for a in FIRST_NAME_HEADS for b in FIRST_NAME_TAILS)))


@cache
def _last_names() -> pa.StringArray:
    return _text(tuple(sorted(a + b for a in LAST_NAME_HEADS for b in LAST_NAME_TAILS)))


@cache
def _tag_triples() -> pa.StringArray:
    """As many lists of three tags for each category."""
    triples = []
    for subjects in SUBJECTS:
        tags = [f"{a} {s.split()[-1]}".title() for s in subjects for a in ADJECTIVES]
        step = len(tags) // 3
        # Steps of 7 within each third, so that a list's three tags are about different things.
        triples += [
            ",".join(tags[third * step + (i * (7 + third)) % step] for third in range(3))
            for i in range(step)
        ]
    return _text(tuple(triples))


_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)


# Shares of posts, as measured in the public data
LOST_ACCOUNT_RATE = 0.0074  # posts all of whose texts are "no data"
STORY_RATE = 0.062
STORY_ERROR_RATE = 0.27
VIDEO_RATE = 0.03
NO_DESCRIPTION_RATE = 0.016
NO_TAGS_RATE = 0.007
AWAY_RATE = 0.01

AGES = (20, 60)
POSTED = (dt.datetime(2017, 10, 20, 9, 27, 16), dt.datetime(2022, 10, 18, 15, 43))
JOINED = (dt.datetime(2015, 10, 21, 3, 17, 47), dt.datetime(2017, 10, 18, 22, 28, 35))

# Lowest, highest, unit; and how many of a thousand people have that many followers.
_FOLLOWER_SIZES = [
    (0, 9, ""),
    (10, 99, ""),
    (100, 999, ""),
    (1, 9, "k"),
    (10, 99, "k"),
    (100, 999, "k"),
    (1, 2, "M"),
    (3, 9, "M"),
    (10, 19, "M"),
]
_FOLLOWER_SHARES = np.cumsum([27, 51, 102, 178, 309, 257, 47, 28]) / 1000

_IMAGE_ENDINGS = (".jpg", ".png", ".webp", ".gif", ".0000000.jpg")
_IMAGE_SHARES = np.array([0.828, 0.992, 0.998])


def _defective_lines(
    stream: _Stream, kind: Kind, keys: Ints, defects: Ints, lines: _Lines
) -> _Changed:
    """The rows with a defect and the lines, with their line feeds, sent in their place."""
    rows: list[int] = np.flatnonzero(defects != _NO_DEFECT).tolist()
    others: dict[int, bytes] = {}
    for other in KINDS:
        foreign = [row for row in rows if DEFECTS[defects[row]].line_of == other]
        own = keys[foreign]
        line = _Lines.of(stream.lines(other, own, np.zeros_like(own))).line
        others |= {row: line(number) for number, row in enumerate(foreign)}
    changed = []
    for row in rows:
        write = DEFECTS[defects[row]].write
        if write is None:
            raise AssertionError(f"the {kind} record of post {keys[row]} was not to be sent")
        proper = others[row] if row in others else lines.line(row)
        changed.append((row, write(proper) + b"\n"))
    return changed
