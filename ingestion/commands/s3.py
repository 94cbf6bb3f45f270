"""`ingest s3`: from objects of the S3 sink's layout to bronze."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ingestion.console import (
    DEFAULT_PIPELINE_ID,
    JsonOption,
    LakeOption,
    PipelineOption,
    account_json,
    err,
    out,
    print_account,
    progress,
)
from ingestion.errors import SourceError

if TYPE_CHECKING:
    from ingestion.sources.s3 import SinkObject, Store


def s3(
    uri: Annotated[
        str,
        typer.Option(
            help="Where `topics/` lies: a folder or s3://bucket/prefix.", metavar="FOLDER|S3"
        ),
    ],
    lake: LakeOption = "./lake",
    pipeline_id: PipelineOption = DEFAULT_PIPELINE_ID,
    as_json: JsonOption = False,
) -> None:
    """Land every object of the S3 sink's layout that has not landed yet.

    Running it again lands nothing twice. Objects that cannot be read are named and the others
    land; the exit code is then 1.
    """
    from ingestion.lake import Lake
    from ingestion.landing import land_objects
    from ingestion.records import KINDS
    from ingestion.sources.s3 import NothingThereError, open_store

    target = Lake(lake)
    store = open_store(uri)
    try:
        objects, ignored = _sink_objects(store, pipeline_id)
    except NothingThereError as error:
        raise SourceError(f"{error}. {_expected(uri, pipeline_id)}") from error
    target.create()
    accounts = []
    total = sum(item.size for items in objects.values() for item in items)
    with progress("landing", total) as advance:
        for kind in KINDS.values():
            topic = f"{pipeline_id}.{kind.name}"
            accounts.append(
                land_objects(target, store, kind, topic, objects.get(topic, []), advance)
            )
    if as_json:
        out.print_json(
            json.dumps(
                {
                    "lake": lake,
                    "ignored": ignored,
                    "streams": [account_json(a) for a in accounts],
                }
            )
        )
    else:
        for account in accounts:
            print_account(account)
        if ignored:
            err.print(
                f"[yellow]warning:[/] {len(ignored)} other objects below topics/ were left alone, "
                f"the first {escape(ignored[0])}"
            )
    failures = [failure for account in accounts for failure in account.failures]
    if failures:
        for failure in failures:
            err.print(f"[bold red]error:[/] {escape(failure)}")
        raise typer.Exit(1)


def _sink_objects(store: Store, pipeline_id: str) -> tuple[dict[str, list[SinkObject]], list[str]]:
    """The objects of our topics, and the keys of everything else."""
    from ingestion.records import KINDS
    from ingestion.sources.s3 import not_the_layout, parse_name

    topics = {f"{pipeline_id}.{kind}" for kind in KINDS}
    objects: dict[str, list[SinkObject]] = {}
    ignored: list[str] = []
    others: set[str] = set()
    for key, size in store.list():
        item = parse_name(key, size)
        if item is not None and item.topic in topics:
            objects.setdefault(item.topic, []).append(item)
            continue
        ignored.append(key)
        if item is not None:
            others.add(item.topic)
    if not objects and others:
        raise SourceError(
            f"{store.uri} holds no topic of pipeline {pipeline_id} "
            f"but {', '.join(sorted(others))}; "
            "give the id before the dot with --pipeline-id or PIPELINE_ID"
        )
    if not objects:
        raise not_the_layout(
            store.uri,
            f"{ignored[0]} is not an object of it" if ignored else "nothing lies below 'topics/'",
        )
    return objects, ignored


def _expected(uri: str, pipeline_id: str) -> str:
    """What objects of a pipeline are called, and which command writes some."""
    from ingestion.address import is_bucket
    from ingestion.sink import key_of

    example = key_of(f"{pipeline_id}.pin", 0, 0, compress=False)
    options = [uri] if pipeline_id == DEFAULT_PIPELINE_ID else [uri, "--pipeline-id", pipeline_id]
    given = shlex.join(options)
    return f"An object of pipeline {pipeline_id} is {example}; " + (
        f"'ingest archive --uri {given}' writes some from Kafka"
        if is_bucket(uri)
        else f"'ingest synth --out {given}' writes invented ones"
    )
