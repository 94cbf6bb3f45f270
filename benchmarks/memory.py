"""How fast records that lie in memory become rows of a lake, the bound, and dlt beside it.

Run as a process of its own, ``python -m benchmarks.memory WAY SINK WORK``, it measures one of the
ways and prints a line of JSON.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from benchmarks.figures import Figure
from benchmarks.process import run
from ingestion.files import open_writer
from ingestion.lake import Lake, Origin
from ingestion.landing import Account, Batches, Chunk
from ingestion.records import KINDS, Type

_HANDED_OVER = 5_000
_DECODED = 2_000
_ROW_GROUP = 100_000
#: One record in so many lands before the clock starts: what a process imports and makes once, five
#: seconds of CPU for dlt, is no cost of a record.
_WARM_UP = 100

Raws = Mapping[str, Sequence[bytes]]


def measure(work: Path, posts: int, runs: int) -> Iterator[Figure]:
    """Measure, figure by figure.

    Args:
        work: a folder to write into.
        posts: new posts of the input; about 3.2 records each.
        runs: runs of each, in turn, each in a process of its own; medians are given.
    """
    sink = work / f"memory-{posts}"
    if not sink.exists():
        made = [sys.executable, "-m", "ingestion", "synth", "--clean", "--posts", str(posts)]
        run([*made, "--out", str(sink)])
    ways = ["lake", "malformed", "bound", "dlt"]
    rates: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):
        for way in ways:
            command = [sys.executable, "-m", "benchmarks.memory", way, str(sink)]
            said = json.loads(run([*command, str(work)]).output.strip().splitlines()[-1])
            rates[way].append(said["records"] / said["seconds"])
            cpu[way].append(said["cpu_seconds"] / said["records"] * 1e6)
    middle = {way: statistics.median(found) for way, found in rates.items()}
    costs = {way: statistics.median(found) for way, found in cpu.items()}
    named = {
        "lake": "memory to Delta",
        "malformed": "the same, 1 % malformed",
        "bound": "decode and Parquet alone, one core",
        "dlt": "dlt, dictionaries",
    }
    for way, name in named.items():
        yield Figure(f"records a second, {name}", middle[way])
        yield Figure(f"CPU a record, {name}", costs[way], "{:.1f} µs")
    yield Figure("of decode and Parquet alone", middle["lake"] / middle["bound"], "{:.0%}")
    yield Figure("of decode and Parquet alone, in CPU", costs["bound"] / costs["lake"], "{:.0%}")
    yield Figure("times dlt", middle["lake"] / middle["dlt"], "{:.1f}")


def _raws(sink: Path, malformed: bool) -> Raws:
    found: dict[str, list[bytes]] = {kind: [] for kind in KINDS}
    for path in sorted((sink / "topics").rglob("*.json")):
        kind = path.name.partition("+")[0].rpartition(".")[2]
        found[kind] += path.read_bytes().splitlines()
    if malformed:
        for lines in found.values():
            lines[::100] = [line[:-2] for line in lines[::100]]
    return found


def _lake(raws: Raws, folder: Path) -> int:
    """As a source hands them over; each error stays with its record."""
    lake = Lake(str(folder))
    lake.create()
    done = 0
    for name, lines in raws.items():
        account = Account(name, name)
        batches = Batches(lake, KINDS[name], account)
        origin = Origin("memory", name, "0")
        for start in range(0, len(lines), _HANDED_OVER):
            given = lines[start : start + _HANDED_OVER]
            end = start + len(given)
            batches.add(Chunk(origin, start, end, range(start, end), given))
        batches.close()
        done += account.landed + sum(account.rejected.values())
    return done


def _bound(raws: Raws, folder: Path) -> int:
    """The least that has to be done: typed decoding, columns, one Parquet file a kind."""
    python = {Type.TEXT: str, Type.INTEGER: int, Type.DOUBLE: float}
    done = 0
    for name, lines in raws.items():
        kind = KINDS[name]
        key = "index" if name == "pin" else "ind"
        fields: list[Any] = [(key, int)]
        fields += [(field, python[type_] | None, None) for field, type_ in kind.fields.items()]
        decode = msgspec.json.Decoder(msgspec.defstruct(name, fields, gc=False)).decode
        schema = pa.schema([*kind.schema][:-1])
        folder.mkdir(parents=True, exist_ok=True)
        with open_writer(folder / f"{name}.parquet", schema) as writer:
            waiting: list[pa.RecordBatch] = []
            for start in range(0, len(lines), _DECODED):
                waiting.append(_columns(decode, lines[start : start + _DECODED], schema))
                if len(waiting) * _DECODED >= _ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(waiting))
                    waiting.clear()
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting))
        done += len(lines)
    return done


def _columns(
    decode: Callable[[bytes], Any], lines: Sequence[bytes], schema: pa.Schema
) -> pa.RecordBatch:
    columns = zip(*map(msgspec.structs.astuple, map(decode, lines)), strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, type_) for column, type_ in zip(columns, schema.types, strict=True)],
        schema=schema,
    )


def _dlt(raws: Raws, folder: Path) -> int:
    """dlt as its guide has it: a resource of dictionaries, a table of Delta for each kind."""
    import dlt
    from dlt.destinations import filesystem

    pipeline = dlt.pipeline(
        "memory",
        pipelines_dir=str(folder / "pipelines"),
        destination=filesystem(bucket_url=(folder / "lake").absolute().as_uri()),
        dataset_name="bronze",
    )
    resources = [
        dlt.resource(
            (msgspec.json.decode(line) for line in lines),
            name=name,
            table_format="delta",
            write_disposition="append",
        )
        for name, lines in raws.items()
    ]
    pipeline.run(resources, loader_file_format="parquet").raise_on_failed_jobs()
    counts = pipeline.last_trace.last_normalize_info.row_counts
    return sum(counts[name] for name in raws)


_WAYS: dict[str, Callable[[Raws, Path], int]] = {
    "lake": _lake,
    "malformed": _lake,
    "bound": _bound,
    "dlt": _dlt,
}


def one(way: str, sink: Path, work: Path) -> dict[str, float]:
    """Run one of them; records, and the seconds and CPU seconds they took.

    Raises:
        SystemExit: records are missing.
    """
    raws = _raws(sink, way == "malformed")
    folder = work / f"memory-{way}"
    shutil.rmtree(folder, ignore_errors=True)
    few = {kind: lines[: len(lines) // _WARM_UP + 1] for kind, lines in raws.items()}
    _WAYS[way](few, folder / "warm-up")
    used = time.process_time()  # the kernel's ticks are too long for the few records of a smoke
    begun = time.monotonic()
    records = _WAYS[way](raws, folder / "measured")
    seconds = time.monotonic() - begun
    used = time.process_time() - used
    if records != sum(map(len, raws.values())):
        raise SystemExit(f"{way}: {records} of {sum(map(len, raws.values()))} records")
    shutil.rmtree(folder)
    return {"records": records, "seconds": seconds, "cpu_seconds": used}


if __name__ == "__main__":
    print(json.dumps(one(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
