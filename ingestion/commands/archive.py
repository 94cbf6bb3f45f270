"""`ingest archive`: from Kafka topics to objects of the S3 sink's layout."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from ingestion.commands.kafka import AcceptGapOption, ServersOption
from ingestion.commands.streaming import FollowOption, until_stopped, warn
from ingestion.console import DEFAULT_PIPELINE_ID, JsonOption, PipelineOption, err, out

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingestion.lake import Origin
    from ingestion.offsets import Offsets
    from ingestion.sink import Archived, Sink


def archive(
    uri: Annotated[
        str,
        typer.Option(
            help="Where to write `topics/`: a folder or s3://bucket/prefix.", metavar="FOLDER|S3"
        ),
    ],
    pipeline_id: PipelineOption = DEFAULT_PIPELINE_ID,
    flush_size: Annotated[
        int, typer.Option(min=1, help="Records an object; it ends before each multiple of it.")
    ] = 10_000,
    compress: Annotated[
        bool, typer.Option("--gzip", help="Compress the objects, as those there.")
    ] = False,
    follow: FollowOption = False,
    max_latency: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="With --follow: seconds a record may wait for its object.",
            metavar="SECONDS",
        ),
    ] = 60.0,
    servers: ServersOption = None,
    accept_gap: AcceptGapOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the records of ID.pin, ID.geo and ID.user as objects that `ingest s3` reads.

    A record's offset is its object's start plus its line, as with the Kafka Connect S3 sink. What
    is archived is known from the objects alone: running it again writes nothing twice, nor do
    several at once, as long as all of them are given `--gzip`, or none. A topic that was deleted
    and created anew goes into another folder or prefix.

    Brokers that ask for a user or TLS: the `KAFKA_…` variables that `ingest kafka --help` names. A
    store is reached with Amazon's own: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    `AWS_ENDPOINT_URL_S3`.
    """
    from ingestion.records import KINDS
    from ingestion.sink import Sink, open_target
    from ingestion.sink import archive as archive_topics
    from ingestion.sources.kafka import KafkaReader, client_settings

    named = {"KAFKA_BOOTSTRAP_SERVERS": servers} if servers else {}
    settings = client_settings({**os.environ, **named})
    topics = [f"{pipeline_id}.{kind}" for kind in KINDS]
    sink = Sink(open_target(uri), topics, flush_size, compress)
    reader = KafkaReader(
        settings,
        topics,
        lambda: _stored(sink),
        follow=follow,
        accept_gap=accept_gap,
        otherwise="archive it into another folder or prefix",
        overlap=1,
        notice=warn,
    )
    with (
        closing(reader),
        until_stopped() if follow else nullcontext(lambda: False) as stopping,
        _display() as show,
    ):
        done = archive_topics(
            sink,
            reader,
            max_latency=max_latency if follow else None,
            stopping=stopping,
            progress=show,
        )
    if as_json:
        streams = [dataclasses.asdict(one) | {"seconds": round(one.seconds, 3)} for one in done]
        out.print_json(json.dumps({"uri": uri, "absent": reader.absent, "streams": streams}))
        return
    for one in done:
        _print(one)


def _stored(sink: Sink) -> Callable[[Origin], Offsets]:
    """What is archived, as a table would account for it."""
    from ingestion.offsets import Offsets
    from ingestion.sources.kafka_topics import is_mark, partition_number

    def stored(origin: Origin) -> Offsets:
        if is_mark(origin):
            return Offsets()
        return Offsets.of([(0, sink.end(origin.stream, partition_number(origin)))])

    return stored


@contextmanager
def _display() -> Iterator[Callable[[Sequence[Archived]], None]]:
    """A line on a terminal, nothing elsewhere."""
    if not err.is_terminal:
        yield lambda _: None
        return
    with err.status("archiving") as status:

        def show(archived: Sequence[Archived]) -> None:
            records = sum(one.records for one in archived)
            seconds = max(one.seconds for one in archived)
            speed = f"  {records / seconds:,.0f}/s" if seconds else ""
            objects = sum(one.objects for one in archived)
            status.update(f"archiving  objects {objects:,}  records {records:,}{speed}")

        yield show


def _print(archived: Archived) -> None:
    line = (
        f"{archived.stream}  objects {archived.objects:,}  records {archived.records:,}  "
        f"{decimal(archived.size)}  {archived.seconds:.1f} s"
    )
    if archived.elsewhere:
        line += f"  (another wrote {archived.elsewhere:,} meanwhile)"
    out.print(line)
    if archived.altered:
        warn(
            f"{archived.stream}: {archived.altered:,} records hold nothing, or line breaks; "
            "their lines stand for them"
        )
