"""Landers that compete for one source and are killed at random, and a check of every record.

Beside them the lake is maintained over and over, which is killed as they are.

Records with known keys are put into the source, partly before landing and partly meanwhile, one in
a hundred of them unfit to land in a known way. Afterwards every one of them must be in bronze or
among the rejected, once, at its own place and under its own key.
"""

from __future__ import annotations

import gzip
import json
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from deltalake import DeltaTable, QueryBuilder

from ingestion.emulation.defects import DEFECTS
from ingestion.lake import REJECTED
from ingestion.records import KINDS
from tests.services.conftest import client, eventually
from tests.services.landers import Lander, Nursery, Order, Stage

#: One record in so many is unfit to land.
UNFIT = 100
#: When to kill: at any moment, or when one is seen in the middle of something.
AIMS = (None, Stage.REJECTING, Stage.LANDING, Stage.BETWEEN)
#: The slot of the one that maintains the lake.
UPKEEP = -1


# --- records ----------------------------------------------------------------------------------


class Record(NamedTuple):
    """What is put into a source.

    Attributes:
        kind: of record.
        raw: its bytes.
        ind: its key; None where it cannot land.
        reason: why it cannot land, None where it can.
    """

    kind: str
    raw: bytes
    ind: int | None
    reason: str | None


class Place(NamedTuple):
    """Where a record lies: what a bronze row says of where it came from."""

    stream: str
    partition: str
    position: int


def _fields(kind: str, ind: int) -> dict[str, Any]:
    if kind == "pin":
        return {"index": ind, "unique_id": f"u-{ind}", "title": f"Post {ind}", "downloaded": 1}
    if kind == "geo":
        return {"ind": ind, "timestamp": "2019-05-05 05:05:05", "latitude": 1.5, "country": "Togo"}
    return {"ind": ind, "first_name": "Ann", "age": 30, "date_joined": "2016-05-05 05:05:05"}


def _line(kind: str, ind: int) -> bytes:
    return json.dumps(_fields(kind, ind), separators=(",", ":")).encode()


def records(count: int) -> Iterator[Record]:
    """Records of the three kinds in turn; their keys count up."""
    unfit = {kind: [d for d in DEFECTS if d.reason and kind in d.kinds] for kind in KINDS}
    kinds = list(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        # Not a multiple of the kinds' number: each of them gets its share.
        if number % (UNFIT + 1) or not number:
            yield Record(kind, _line(kind, number), number, None)
            continue
        defect = unfit[kind][number // (UNFIT + 1) % len(unfit[kind])]
        assert defect.write is not None
        raw = defect.write(_line(defect.line_of or kind, number))
        yield Record(kind, raw, None, defect.reason)


# --- sources ----------------------------------------------------------------------------------


class Source(Protocol):
    """Something to land from, whose streams belong to this run alone.

    Attributes:
        name: what people call it.
        environment: variables of the `ingest` command.
        again: whether its command lands what is there and ends, and is to be run over and over.
    """

    name: str
    environment: Mapping[str, str]
    again: bool

    def stream(self, kind: str) -> str:
        """The name of a kind's stream."""

    def put(self, kind: str, raws: Sequence[bytes]) -> list[tuple[str, int]]:
        """Put records into a kind's stream; gives the partition and position of each."""

    def command(self, lake: str, follow: bool) -> list[str]:
        """Arguments of `ingest` that land it, and go on as records come or end."""


class Objects:
    """Objects of the S3 sink in a bucket of a real store, some compressed, in any order."""

    name = "S3"
    again = True
    object_records = 100

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment: Mapping[str, str] = environment
        self._id = f"k{uuid.uuid4().hex[:11]}"
        self._client = client("s3", environment)
        self._draw = random.Random()
        self._ends: Counter[tuple[str, int]] = Counter()
        eventually(lambda: self._client.create_bucket(Bucket=self._id))

    def stream(self, kind: str) -> str:
        return f"{self._id}.{kind}"

    def put(self, kind: str, raws: Sequence[bytes]) -> list[tuple[str, int]]:
        topic = self.stream(kind)
        places: list[tuple[str, int]] = []
        objects = []
        for first in range(0, len(raws), self.object_records):
            lines = raws[first : first + self.object_records]
            partition = self._draw.randrange(2)
            start = self._ends[kind, partition]
            self._ends[kind, partition] += len(lines)
            places += [(str(partition), start + at) for at in range(len(lines))]
            name = f"topics/{topic}/partition={partition}/{topic}+{partition}+{start:010}.json"
            objects.append((name, b"".join(line + b"\n" for line in lines)))
        self._draw.shuffle(objects)  # one that comes late fills the gap it left
        for name, data in objects:
            if self._draw.random() < 0.3:
                name, data = f"{name}.gz", gzip.compress(data, 1)
            self._client.put_object(Bucket=self._id, Key=name, Body=data)
        return places

    def command(self, lake: str, follow: bool) -> list[str]:  # noqa: ARG002 (it never follows)
        return ["s3", "--uri", f"s3://{self._id}", "--lake", lake, "--pipeline-id", self._id]


class Topics:
    """Topics of two partitions on a real broker."""

    name = "Kafka"
    again = False

    def __init__(self, bootstrap: str) -> None:
        from kafka import KafkaAdminClient, KafkaProducer

        self.environment: Mapping[str, str] = {"KAFKA_BOOTSTRAP_SERVERS": bootstrap}
        self._id = f"k{uuid.uuid4().hex[:11]}"
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, acks="all", linger_ms=5, reconnect_backoff_max_ms=500
        )
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        two = {"num_partitions": 2, "replication_factor": 1}
        admin.create_topics({self.stream(kind): two for kind in KINDS}, wait_for_metadata=True)
        admin.close()

    def stream(self, kind: str) -> str:
        return f"{self._id}.{kind}"

    def put(self, kind: str, raws: Sequence[bytes]) -> list[tuple[str, int]]:
        sent = [
            self._producer.send(self.stream(kind), raw, partition=number % 2)
            for number, raw in enumerate(raws)
        ]
        self._producer.flush()
        acknowledged = [future.get(30) for future in sent]
        return [(str(answer.partition), answer.offset) for answer in acknowledged]

    def command(self, lake: str, follow: bool) -> list[str]:
        following = ["--follow"] if follow else []
        return ["kafka", *following, "--lake", lake, "--pipeline-id", self._id]


class Shards:
    """Streams of two shards, of which one is split meanwhile, on a server that numbers records as
    Kinesis does."""

    name = "Kinesis"
    again = False

    def __init__(self, url: str) -> None:
        self.environment: Mapping[str, str] = {
            "AWS_ENDPOINT_URL_KINESIS": url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self._id = f"k{uuid.uuid4().hex[:11]}"
        self._client = client("kinesis", {"AWS_ENDPOINT_URL": url})
        self._puts: Counter[str] = Counter()
        for kind in KINDS:
            self._client.create_stream(StreamName=self.stream(kind), ShardCount=2)
        for kind in KINDS:
            eventually(lambda kind=kind: self._refuse_unready(kind))  # type: ignore[misc]

    def _refuse_unready(self, kind: str) -> None:
        found = self._client.describe_stream_summary(StreamName=self.stream(kind))
        assert found["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"

    def _split(self, kind: str) -> None:
        name = self.stream(kind)
        shard = self._client.list_shards(StreamName=name)["Shards"][0]
        low, high = (int(shard["HashKeyRange"][f"{end}HashKey"]) for end in ("Starting", "Ending"))
        self._client.split_shard(
            StreamName=name,
            ShardToSplit=shard["ShardId"],
            NewStartingHashKey=str((low + high) // 2),
        )
        eventually(lambda: self._refuse_unready(kind))

    def stream(self, kind: str) -> str:
        return f"streaming-{self._id}-{kind}"

    def put(self, kind: str, raws: Sequence[bytes]) -> list[tuple[str, int]]:
        self._puts[kind] += 1
        if self._puts[kind] == 3:
            self._split(kind)
        places = []
        for first in range(0, len(raws), 500):
            entries = [
                {"Data": raw, "PartitionKey": str(number)}
                for number, raw in enumerate(raws[first : first + 500])
            ]
            answer = self._client.put_records(StreamName=self.stream(kind), Records=entries)
            assert not answer["FailedRecordCount"]
            places += [(put["ShardId"], int(put["SequenceNumber"])) for put in answer["Records"]]
        return places

    def command(self, lake: str, follow: bool) -> list[str]:
        following = ["--follow"] if follow else []
        return ["kinesis", *following, "--lake", lake, "--pipeline-id", self._id]


# --- the check --------------------------------------------------------------------------------


@dataclass
class Report:
    """What became of the records.

    Attributes:
        source: where they came from.
        kills: landers that were killed.
        moments: what they were doing, by name.
        records: how many were put into the source.
        unfit: how many of them could not land.
        lost: those that are nowhere.
        twice: those that are somewhere more than once.
        wrong: rows that are of no record, or do not say what was put.
        ended: what landers said that ended by themselves.
        merged: tables that consist of fewer files than were landed.
        seconds: from the first lander's start to everything having landed.
    """

    source: str
    records: int
    unfit: int
    kills: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether every record is there once, and no lander gave up."""
        return not (self.lost or self.twice or self.wrong or self.ended)

    @property
    def busy(self) -> int:
        """How many kills met a batch that was being committed."""
        return sum(self.moments[stage.name.lower()] for stage in Stage if stage > Stage.READING)

    def __str__(self) -> str:
        moments = ", ".join(f"{count} {name}" for name, count in self.moments.most_common())
        lines = [
            f"{self.source}: {self.kills} kills ({moments}), {self.records:,} records, "
            f"{self.unfit:,} unfit, {len(self.lost):,} lost, {len(self.twice):,} twice, "
            f"{len(self.wrong):,} wrong, {self.seconds:.1f} s"
        ]
        for name in ("lost", "twice", "wrong", "ended"):
            found = getattr(self, name)
            lines += [f"  {name}: {text}" for text in found[:5]]
            if len(found) > 5:
                lines.append(f"  {name}: and {len(found) - 5:,} more")
        return "\n".join(lines)


def check(report: Report, lake: str, put: Mapping[Place, Record]) -> None:
    """Compare the lake with what was put into the source."""
    report.merged = [table for table in (*KINDS, REJECTED) if _merged(lake, table)]
    keys: Counter[tuple[str, int]] = Counter()
    places: Counter[Place] = Counter()
    for kind in KINDS:
        for stream, partition, position, ind in rows(lake, kind, "ind"):
            place = Place(stream, partition, int(position))
            places[place] += 1
            keys[kind, ind] += 1
            record = put.get(place)
            if record is None or (record.kind, record.ind) != (kind, ind):
                report.wrong.append(f"{_named(place)} has a row of {kind} {ind}, not {record}")
    for stream, partition, position, kind, reason, raw in rows(lake, REJECTED, "kind,reason,raw"):
        place = Place(stream, partition, int(position))
        places[place] += 1
        record = put.get(place)
        if record is None or (record.kind, record.reason, record.raw) != (kind, reason, raw):
            report.wrong.append(f"{_named(place)} was rejected as {reason}: {raw!r}, not {record}")
    for place, record in sorted(put.items()):
        by_key = keys[record.kind, record.ind] if record.ind is not None else 1
        found = f"{_named(place)}: {record.raw!r}, {places[place]} times at its place"
        found += f", {by_key} times by its key" if record.ind is not None else ""
        if not places[place] or not by_key:
            report.lost.append(found)
        if places[place] > 1 or by_key > 1:
            report.twice.append(found)


def _named(place: Place) -> str:
    return f"{place.stream}/{place.partition}/{place.position}"


def rows(lake: str, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """A bronze table's rows: stream, partition, position and the columns asked for."""
    builder = QueryBuilder().register("t", DeltaTable(f"{lake}/bronze/{table}"))
    query = f"select _stream, _partition, _position, {columns} from t"
    for batch in builder.execute(query):
        lists = [batch.column(at).to_pylist() for at in range(batch.num_columns)]
        yield from zip(*lists, strict=True)


def _merged(lake: str, table: str) -> bool:
    """Whether a table has fewer files than appends, each of which has a time of its own."""
    times = {at for *_, at in rows(lake, table, "cast(_landed_at as varchar)")}
    return len(DeltaTable(f"{lake}/bronze/{table}").file_uris()) < len(times)


def landed(lake: str) -> int:
    """How many rows the lake's tables hold together."""
    total = 0
    for table in (*KINDS, REJECTED):
        location = f"{lake}/bronze/{table}"
        if DeltaTable.is_deltatable(location):
            actions = DeltaTable(location).get_add_actions(flatten=True)
            total += sum(actions.column("num_records").to_pylist())
    return total


# --- the run ----------------------------------------------------------------------------------


def run(
    source: Source,
    nursery: Nursery,
    folder: Path,
    count: int,
    kills: int,
    landers: int = 3,
    mutation: str = "",
    aims: Sequence[Stage | None] = AIMS,
    pause: float = 0.02,
    patience: float = 30.0,
    lake: str = "",
) -> Report:
    """Put records, land them with competing landers that are killed, and check.

    Args:
        source: where to put them.
        nursery: what starts the landers.
        folder: for the landers' log and their stages, and the lake.
        count: of records.
        kills: of landers.
        landers: that run at the same time.
        mutation: what is wrong with the landers; see `landers.MUTATIONS`.
        aims: what a lander may be in the middle of when it is killed; drawn anew for each kill.
        pause: seconds, at the most, that a lander stays between the commits of a batch.
        patience: seconds after the last kill in which something has to land, until all has.
        lake: where it is, if not in the folder; this process must have the variables it takes.
    """
    lake = lake or str(folder / "lake")
    everything = list(records(count))
    report = Report(source.name, count, sum(record.reason is not None for record in everything))
    put: dict[Place, Record] = {}
    fed = feed(source, put, everything, 0, count // 4)
    begun = time.monotonic()
    race = _Race(source, nursery, folder, lake, mutation, aims, pause, report)
    for slot in range(landers):
        race.start(slot)
    for number in range(kills):
        if number == 1 and not mutation:
            race.keep_up()
        due = count // 4 + (count - count // 4) * (number + 1) // kills
        fed = feed(source, put, everything, fed, due)
        race.kill_one()
    feed(source, put, everything, fed, count)
    _await_all(race, lake, report, patience)
    race.finish()
    report.seconds = time.monotonic() - begun
    check(report, lake, put)
    return report


def _await_all(race: _Race, lake: str, report: Report, patience: float) -> None:
    most, deadline = 0, time.monotonic() + patience
    while (now := landed(lake)) < report.records:
        race.replace_ended()
        if now > most:
            most, deadline = now, time.monotonic() + patience
        if time.monotonic() > deadline:
            report.ended.append(f"landing stood still at {now:,} records for {patience:.0f} s")
            return
        time.sleep(0.1)


def feed(
    source: Source, put: dict[Place, Record], everything: Sequence[Record], start: int, end: int
) -> int:
    """Put a range of records into the source, and note where they lie; gives the range's end."""
    for kind in KINDS:
        some = [record for record in everything[start:end] if record.kind == kind]
        places = source.put(kind, [record.raw for record in some])
        for (partition, position), record in zip(places, some, strict=True):
            place = Place(source.stream(kind), partition, position)
            assert place not in put
            put[place] = record
    return end


class _Race:
    """Landers in slots; when one ends, another takes its slot."""

    def __init__(
        self,
        source: Source,
        nursery: Nursery,
        folder: Path,
        lake: str,
        mutation: str,
        aims: Sequence[Stage | None],
        pause: float,
        report: Report,
    ) -> None:
        self._source = source
        self._nursery = nursery
        self._folder = folder
        self._lake = lake
        self._mutation = mutation
        self._aims = aims
        self._pause = pause
        self._report = report
        self._draw = random.Random()
        self._running: dict[int, Lander] = {}

    def start(self, slot: int) -> None:
        order = Order(
            self._source.command(self._lake, follow=True),
            self._folder / "landers.log",
            self._folder / f"stages-{slot}",
            self._source.environment,
            self._source.again,
            self._mutation,
            pause=self._pause,
        )
        if slot == UPKEEP:
            order = replace(
                order,
                arguments=["maintain", "--retention", "24", "--lake", self._lake],
                again=True,
                rest=1.0,
            )
        self._running[slot] = self._nursery.start(order)

    def keep_up(self) -> None:
        """Begin to maintain the lake, once the landers have made its last table."""
        last = f"{self._lake}/bronze/{REJECTED}"
        deadline = time.monotonic() + 10
        while not DeltaTable.is_deltatable(last) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.start(UPKEEP)

    def replace_ended(self) -> None:
        """Note who gave up, and start another instead."""
        for slot, lander in self._running.items():
            code = lander.code()
            if code is not None:
                self._report.ended.append(f"code {code}: {lander.said()}")
                self.start(slot)

    def kill_one(self) -> None:
        """Kill a lander and start another instead."""
        self.replace_ended()
        slot = self._draw.choice(list(self._running))
        aim = self._draw.choice(self._aims)
        if aim is None:
            time.sleep(self._draw.uniform(0, 0.4))
        else:
            slot = self._await(aim, slot)
            if aim != Stage.BETWEEN:
                time.sleep(self._draw.uniform(0, 0.01))
        lander = self._running[slot]
        if lander.end() == -signal.SIGKILL:
            self._report.kills += 1
            self._report.moments[lander.stage.name.lower()] += 1
        else:
            self._report.ended.append(f"code {lander.code()}: {lander.said()}")
        self.start(slot)

    def _await(self, aim: Stage, otherwise: int, seconds: float = 2.0) -> int:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for slot, lander in self._running.items():
                if lander.stage == aim:
                    return slot
            time.sleep(0.001)
        return otherwise

    def finish(self) -> None:
        """End the landers, and land what they left with one that does not follow."""
        for lander in self._running.values():
            code = lander.end(signal.SIGTERM)
            if code not in (0, -signal.SIGTERM):
                self._report.ended.append(f"code {code} when asked to end: {lander.said()}")
        order = replace(
            lander.order, arguments=self._source.command(self._lake, follow=False), again=False
        )
        last = self._nursery.start(order)
        if code := last.wait():
            self._report.ended.append(f"code {code}: {last.said()}")
