"""`ingest kinesis`: from Kinesis streams to bronze."""

from __future__ import annotations

import json
from contextlib import closing, nullcontext
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
    from collections.abc import Callable, Mapping

    from ingestion.lake import Lake, Origin
    from ingestion.records import Kind
    from ingestion.sources.shards import Gap


def kinesis(
    lake: LakeOption = "./lake",
    pipeline_id: PipelineOption = DEFAULT_PIPELINE_ID,
    follow: FollowOption = False,
    max_latency: LatencyOption = 1.0,
    endpoint_url: Annotated[
        str | None,
        typer.Option(
            envvar="AWS_ENDPOINT_URL_KINESIS",
            help="Where Kinesis is, if not Amazon's.",
            metavar="URL",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            envvar=["AWS_REGION", "AWS_DEFAULT_REGION"],
            help="The streams' region.",
            metavar="REGION",
        ),
    ] = None,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap", help="Go on where records may have expired, or a stream is another."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Land the records of streaming-ID-pin, -geo and -user that have not landed yet.

    Every shard is read from where its records have landed, a child after its parents. Running it
    again lands nothing twice, nor do several at once. A stream that is not there is named and the
    others land; `--follow` waits for it.

    It stops where records may have expired before they were read: where the last one that landed
    of a shard is no longer in the stream. If nothing was sent while it was away, none was lost.
    Of a shard of which nothing has landed yet it cannot tell: what expires before goes unnoticed.
    """
    from ingestion.lake import Lake
    from ingestion.records import KINDS
    from ingestion.sources.kinesis import KinesisReader, open_client
    from ingestion.streams import land_stream

    kinds = {f"streaming-{pipeline_id}-{kind.name}": kind for kind in KINDS.values()}
    target = Lake(lake)
    client = open_client(endpoint_url, region)
    target.create()
    reader = KinesisReader(
        client,
        list(kinds),
        _landed(target, kinds),
        follow=follow,
        accept_gap=accept_gap,
        notice=warn,
    )
    with (
        closing(reader),
        until_stopped() if follow else nullcontext(lambda: False) as stopping,
        counters(lambda: {name: _lag(behind) for name, behind in reader.behind.items()}) as show,
    ):
        accounts = land_stream(
            target,
            reader,
            kinds,
            max_latency=max_latency if follow else None,
            stopping=stopping,
            progress=show,
        )
    if as_json:
        streams = [
            account_json(account)
            | {"gaps": [_gap_json(gap) for gap in reader.gaps[account.stream]]}
            for account in accounts
        ]
        out.print_json(json.dumps({"lake": lake, "absent": reader.absent, "streams": streams}))
        return
    for account in accounts:
        print_account(account)


def _landed(lake: Lake, kinds: Mapping[str, Kind]) -> Callable[[Origin], int]:
    """One more than the last sequence number that the lake holds of a shard."""

    def landed(origin: Origin) -> int:
        table = kinds[origin.stream].name
        end = lake.offsets(table, origin).end
        # A number lies in several versions of a log that a commit may move on between two looks.
        while (again := lake.offsets(table, origin).end) != end:
            end = again
        return end

    return landed


def _gap_json(gap: Gap) -> dict[str, str | None]:
    """A gap as JSON has it; the numbers are too long for most readers' integers."""
    after = None if gap.after is None else str(gap.after)
    return {"shard": gap.shard, "after": after, "before": str(gap.before)}


def _lag(seconds: float) -> str:
    """How far reading is behind, as a person reads it."""
    if seconds < 1:
        return "up to date"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} behind"
