"""Hundreds of killed landers on each source, and every record counted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer
from rich.console import Console

from stack import kafka, kinesis, process, s3
from tests.services import kills
from tests.services.kills import Report, Source
from tests.services.landers import Nursery

console = Console(highlight=False, soft_wrap=True)


@contextmanager
def _objects(folder: Path) -> Iterator[Source]:
    port = process.free_port()
    with _running(s3.server(port, folder)):
        yield kills.Objects(s3.environment(port))


@contextmanager
def _topics(folder: Path) -> Iterator[Source]:
    port = process.free_port()
    with _running(kafka.broker(port, process.free_port(), folder)):
        yield kills.Topics(f"127.0.0.1:{port}")


@contextmanager
def _shards(folder: Path) -> Iterator[Source]:
    port = process.free_port()
    with _running(kinesis.server(port, folder)):
        yield kills.Shards(f"http://127.0.0.1:{port}")


SOURCES: dict[str, Callable[[Path], AbstractContextManager[Source]]] = {
    "s3": _objects,
    "kafka": _topics,
    "kinesis": _shards,
}


@contextmanager
def _running(server: process.Server) -> Iterator[None]:
    process.start(server)
    try:
        yield
    finally:
        process.stop(server.folder)


def main(
    sources: Annotated[str, typer.Option(help="Which, by name.")] = ",".join(SOURCES),
    records: Annotated[
        int, typer.Option(help="Put into each source, 1 % of them unfit.")
    ] = 100_000,
    count: Annotated[int, typer.Option("--kills", help="Landers killed on each source.")] = 200,
    landers: Annotated[int, typer.Option(help="Landers at the same time.")] = 3,
) -> None:
    """Kill competing landers at random, and look for every record; the exit code is 1 if one is
    lost or twice.

    Example: python -m benchmarks.kills --sources kafka --records 300000 --kills 500
    """
    work = Path(mkdtemp(prefix="kills-"))
    reports: list[Report] = []
    try:
        with Nursery() as nursery:
            for name in sources.split(","):
                folder = work / name
                (folder / "run").mkdir(parents=True)
                with SOURCES[name](folder / "server") as source:
                    report = kills.run(source, nursery, folder / "run", records, count, landers)
                console.print(str(report))
                reports.append(report)
    finally:
        if all(report.sound for report in reports):
            shutil.rmtree(work)
        else:
            console.print(f"the lakes are in {work}")
    console.print("\n".join(["", *_table(reports)]))
    if not all(report.sound for report in reports):
        raise typer.Exit(1)


def _table(reports: list[Report]) -> Iterator[str]:
    yield "| source | kills | in the middle of a batch | records | unfit | lost | twice | seconds |"
    yield "|---|---|---|---|---|---|---|---|"
    for report in reports:
        yield (
            f"| {report.source} | {report.kills} | {report.busy} | {report.records:,} "
            f"| {report.unfit:,} | {len(report.lost)} | {len(report.twice)} "
            f"| {report.seconds:.0f} |"
        )


if __name__ == "__main__":
    typer.run(main)
