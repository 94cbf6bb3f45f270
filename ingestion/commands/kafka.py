"""`ingest kafka`: from Kafka topics to bronze."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ingestion.commands.streaming import (
    FollowOption,
    LatencyOption,
    counters,
    until_stopped,
    warn,
)
from ingestion.console import (
    DEFAULT_PIPELINE_ID,
    JsonOption,
    LakeOption,
    PipelineOption,
    account_json,
    out,
    print_account,
)

if TYPE_CHECKING:
    from ingestion.landing import Account
    from ingestion.processes import Report
    from ingestion.records import Kind
    from ingestion.sources.kafka_topics import Stored

ServersOption = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        envvar="KAFKA_BOOTSTRAP_SERVERS",
        help="Brokers to ask first.",
        show_default="127.0.0.1:9092",
        metavar="HOST:PORT,…",
    ),
]
AcceptGapOption = Annotated[
    bool,
    typer.Option("--accept-gap", help="Go on where Kafka has removed records that had not landed."),
]


@dataclass(frozen=True)
class Job:
    """What `ingest kafka` was asked to do.

    Attributes:
        lake: the lake's address.
        pipeline_id: what the topics' names begin with.
        servers: the brokers to ask first; the usual ones without.
        max_latency: seconds a record may wait for its commit to begin; None to read to the end.
        group: the consumer group whose offsets are written; none without.
        accept_gap: whether to go on where records are gone.
        accept_new_topic: whether to land a topic that was created anew.
    """

    lake: str
    pipeline_id: str
    servers: str | None
    max_latency: float | None
    group: str | None
    accept_gap: bool
    accept_new_topic: bool


def kafka(
    lake: LakeOption = "./lake",
    pipeline_id: PipelineOption = DEFAULT_PIPELINE_ID,
    follow: FollowOption = False,
    max_latency: LatencyOption = 1.0,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes; they share the partitions.")
    ] = 1,
    servers: ServersOption = None,
    group_id: Annotated[
        str | None,
        typer.Option(
            help="Consumer group that shows the lag; empty for none. It is written, never read.",
            show_default="ingest-ID",
            metavar="GROUP",
        ),
    ] = None,
    accept_gap: AcceptGapOption = False,
    accept_new_topic: Annotated[
        bool,
        typer.Option(
            "--accept-new-topic",
            help="Land a topic that was deleted and created anew, as partitions 0@TOPIC-ID.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Land the records of ID.pin, ID.geo and ID.user that have not landed yet.

    Every partition is read from where its records have landed. Running it again lands nothing
    twice, nor do several at once. A topic that is not there is named and the others land;
    `--follow` waits for it, and for brokers that are away.

    Brokers that ask for a user: `KAFKA_SECURITY_PROTOCOL`, `KAFKA_SASL_MECHANISM` (PLAIN,
    SCRAM-SHA-256, SCRAM-SHA-512, AWS_MSK_IAM), `KAFKA_SASL_USERNAME`, `KAFKA_SASL_PASSWORD`;
    AWS_MSK_IAM takes `AWS_REGION` and the AWS credentials at hand instead.

    TLS: `KAFKA_SSL_CAFILE`, `KAFKA_SSL_CERTFILE`, `KAFKA_SSL_KEYFILE`, `KAFKA_SSL_PASSWORD` (of
    the key), `KAFKA_SSL_CRLFILE`, `KAFKA_SSL_CHECK_HOSTNAME` (true or false).
    """
    from ingestion.lake import Lake
    from ingestion.processes import run

    job = Job(
        lake,
        pipeline_id,
        servers,
        max_latency if follow else None,
        f"ingest-{pipeline_id}" if group_id is None else group_id or None,
        accept_gap,
        accept_new_topic,
    )
    _settings(job)  # what is wrong with them is told before anything is made
    Lake(lake).create()
    speeds = Speeds()
    stoppable = follow or processes > 1
    with (
        until_stopped() if stoppable else nullcontext(lambda: False) as stopping,
        counters(speeds.shown) as show,
    ):

        def report(latest: Report) -> None:
            speeds.note(latest)
            show(latest.accounts)

        done = run(partial(land_share, job), processes, stopping, report, warn)
        if stopping() and not follow:
            raise KeyboardInterrupt
    if as_json:
        streams = [account_json(account) for account in done.accounts]
        out.print_json(json.dumps({"lake": lake, "absent": list(done.absent), "streams": streams}))
        return
    for account in done.accounts:
        print_account(account, "Kafka had removed them before they landed")


def land_share(
    job: Job,
    share: tuple[int, int],
    stopping: Callable[[], bool],
    report: Callable[[Report], None],
    notice: Callable[[str], None],
) -> Report:
    """Land a share of the partitions; see :class:`ingestion.processes.Work`."""
    from ingestion.lake import Lake
    from ingestion.processes import Report
    from ingestion.records import KINDS
    from ingestion.sources.kafka import KafkaReader
    from ingestion.sources.kafka_topics import gaps, partition_number
    from ingestion.streams import land_stream

    kinds = {f"{job.pipeline_id}.{kind.name}": kind for kind in KINDS.values()}
    reader = KafkaReader(
        _settings(job),
        list(kinds),
        partial(_stored, job.lake, kinds),
        follow=job.max_latency is not None,
        share=share,
        group=job.group,
        accept_gap=job.accept_gap,
        accept_new_topic=job.accept_new_topic,
        notice=notice,
    )
    lake = Lake(job.lake)
    with closing(reader):
        accounts = land_stream(
            lake,
            reader,
            kinds,
            max_latency=job.max_latency,
            stopping=stopping,
            progress=lambda latest: report(Report(latest, reader.behind)),
        )
        behind, absent, origins = reader.behind, reader.absent, reader.origins
    of = {account.stream: account for account in accounts}
    for origin in origins:
        held = lake.offsets(kinds[origin.stream].name, origin)
        of[origin.stream].gaps += [
            (partition_number(origin), first, end - 1) for first, end in gaps(held)
        ]
    return Report(accounts, behind, absent)


def _settings(job: Job) -> dict[str, object]:
    from ingestion.sources.kafka import client_settings

    named = {"KAFKA_BOOTSTRAP_SERVERS": job.servers} if job.servers else {}
    return client_settings({**os.environ, **named})


def _stored(uri: str, kinds: Mapping[str, Kind]) -> Stored:
    """What the lake's tables account for now."""
    from ingestion.lake import Lake

    lake = Lake(uri)
    return lambda origin: lake.offsets(kinds[origin.stream].name, origin)


class Speeds:
    """How fast streams are read, and how far reading is behind, as a person reads it."""

    def __init__(self, seconds: float = 5.0, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._counts: deque[tuple[float, dict[str, int]]] = deque()
        self._behind: Mapping[str, int] = {}

    def note(self, report: Report) -> None:
        """Take note of what landing has come to."""
        now = self._now()
        if self._counts and now - self._counts[-1][0] < self._seconds / 10:
            return
        self._behind = report.behind
        self._counts.append((now, _received(report.accounts)))
        while now - self._counts[0][0] > self._seconds:
            self._counts.popleft()

    def shown(self) -> dict[str, str]:
        """A text for each stream."""
        texts = {}
        for stream, behind in self._behind.items():
            (first, before), (last, after) = self._counts[0], self._counts[-1]
            read = after.get(stream, 0) - before.get(stream, 0)
            speed = f"{read / (last - first):,.0f}/s  " if last > first else ""
            texts[stream] = f"{speed}{f'{behind:,} behind' if behind else 'up to date'}"
        return texts


def _received(accounts: Sequence[Account]) -> dict[str, int]:
    return {account.stream: account.received for account in accounts}
