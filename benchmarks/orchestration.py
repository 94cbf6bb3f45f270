"""The daily DAG beside the plain commands, what reading it costs, a day on a large lake."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import grown
from benchmarks.engines import Sail
from benchmarks.figures import Figure
from benchmarks.grown import Size
from benchmarks.process import NOT_COMPILED, run
from stack import airflow, local, process

DAG = "pinterest_daily"
PROJECT = airflow.PROJECT
PYTHON = sys.executable
DBT = Path(PYTHON).with_name("dbt")

#: Reads the DAG's file for one project after another, in a process that has imported what it
#: imports, as Airflow's have.
READ = """
import importlib.util, json, logging, os, sys, time
logging.disable(logging.CRITICAL)
file, runs, *homes = sys.argv[1:]
spec = importlib.util.spec_from_file_location("pinterest_daily", file)
read = []
for home in homes:
    os.environ["PIPELINE_HOME"] = home
    seconds = []
    for _ in range(int(runs) + 1):
        module = importlib.util.module_from_spec(spec)
        begun = time.monotonic()
        spec.loader.exec_module(module)
        seconds.append(time.monotonic() - begun)
    read.append([seconds[1:], len(module.dag.tasks)])
print("READ", json.dumps(read))
"""


def measure(work: Path, runs: int, posts: int, large: Size | None) -> Iterator[Figure]:
    """Measure, figure by figure; medians, the DAG and the plain commands in turn.

    Args:
        work: a folder to write into.
        runs: days of the demo's data.
        posts: of the demo.
        large: of the lake for a day that brings nothing new to a large lake; None for none.
    """
    yield from _reading(work, runs)
    yield from _demo(work, runs, posts)
    if large is not None:
        yield from _quiet_day(work, large)


def _reading(work: Path, runs: int) -> Iterator[Figure]:
    """What reading the DAG's file costs, as it is and with twice as many models."""
    # Into the folder where the DAG finds the manifest, as `make airflow` does; the build that is
    # measured finds the project read, at the first run as at the later ones.
    target = PROJECT / "target"
    run(
        [str(DBT), "parse", "--quiet"],
        {"DBT_PROJECT_DIR": str(PROJECT), "DBT_TARGET_PATH": str(target)},
    )
    manifest = json.loads((target / "manifest.json").read_text())
    contents = {"": manifest, ", twice the models": _doubled(manifest)}
    homes = [work / f"dag-read-{number}" for number, _ in enumerate(contents, start=1)]
    for home, content in zip(homes, contents.values(), strict=True):
        (home / "target").mkdir(parents=True, exist_ok=True)
        for file in ("dbt_project.yml", "profiles.yml"):
            shutil.copy(PROJECT / file, home / file)
        (home / "target" / "manifest.json").write_text(json.dumps(content))
    read = run(
        [PYTHON, "-c", READ, str(PROJECT / "dags" / f"{DAG}.py"), str(runs), *map(str, homes)],
        {"AIRFLOW_HOME": str(work / "dag-read"), "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False"},
    )
    (line,) = [line for line in read.output.splitlines() if line.startswith("READ ")]
    found = json.loads(line.removeprefix("READ "))
    for called, (seconds, tasks) in zip(contents, found, strict=True):
        yield Figure(f"tasks of the DAG{called}", tasks)
        yield Figure(f"reading the DAG's file{called}", statistics.median(seconds), "{:.2f} s")


def _doubled(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with a second copy of every model and test."""
    prefixes = ("model.pinterest.", "test.pinterest.")

    def second(name: str) -> str:
        for prefix in prefixes:
            if name.startswith(prefix):
                return f"{prefix}second_{name.removeprefix(prefix)}"
        return name

    copies = {}
    for name, node in manifest["nodes"].items():
        parents = [second(parent) for parent in node["depends_on"]["nodes"]]
        copies[second(name)] = {
            **node,
            "unique_id": second(name),
            "name": f"second_{node['name']}",
            "fqn": [*node["fqn"][:-1], f"second_{node['fqn'][-1]}"],
            "depends_on": {**node["depends_on"], "nodes": parents},
        }
    return {**manifest, "nodes": manifest["nodes"] | copies}


def _demo(work: Path, runs: int, posts: int) -> Iterator[Figure]:
    """The demo's posts: the DAG, triggered to its end, and its commands one after another."""
    folder = work / "dag-demo"
    shutil.rmtree(folder, ignore_errors=True)
    sink = folder / "sink"
    run([PYTHON, "-m", "ingestion", "synth", "--posts", str(posts), "--out", str(sink)])
    plain, dag, tasks = [], [], 0
    for number in range(runs):
        lake = {"LAKE_URI": str((folder / f"plain-{number}").resolve())}
        page = ["-m", "reporting", "page", "--out", str(folder / "page.html")]
        build = [str(DBT), "build", "--quiet", "--exclude-resource-type", "unit_test"]
        land = [PYTHON, "-m", "ingestion", "s3", "--uri", str(sink)]
        plain.append(sum(run(each, lake).seconds for each in (land, build, [PYTHON, *page])))
        with _airflow(folder, str(folder / f"dag-{number}"), f"s3 --uri {sink.resolve()}") as asked:
            seconds, tasks = _run(asked)
            dag.append(seconds)
    one, other = statistics.median(plain), statistics.median(dag)
    yield Figure("ingest, dbt build, report, one after another", one, "{:.1f} s")
    yield Figure("tasks of a run", tasks)
    yield Figure("the DAG, from its trigger to success", other, "{:.1f} s")
    yield Figure("the DAG's share", other / one, "{:.2f} times the commands")


def _quiet_day(work: Path, size: Size) -> Iterator[Figure]:
    """A day on which nothing new has come."""
    lake = work / f"dag-lake-{size.total}"
    if not lake.exists():
        partial = lake.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        grown.grow(grown.base(work, size), partial, size.copies, 0, size.days)
        Sail(work).run("full", partial)
        partial.rename(lake)
    empty = work / "dag-empty" / "topics"
    empty.mkdir(parents=True, exist_ok=True)
    with _airflow(work / "dag-quiet", str(lake), f"s3 --uri {empty.parent.resolve()}") as asked:
        _run(asked)  # what was built by other code, or is to be compacted, is done once
        seconds, _ = _run(asked)
    yield Figure(f"a day that brings nothing, {size.total:,} posts", seconds, "{:.1f} s")


@contextmanager
def _airflow(folder: Path, lake: str, source: str) -> Iterator[airflow.Client]:
    """An Airflow with the daily DAG on a lake."""
    home = (folder / "airflow").resolve()
    shutil.rmtree(home, ignore_errors=True)
    port = process.free_port()
    server = airflow.server(port, home)
    settings = {
        "LAKE_URI": str(Path(lake).resolve()),
        "PIPELINE_SOURCES": source,
        "PIPELINE_PUBLISH": str((folder / "published").resolve()),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
    }
    client = airflow.Client(f"http://127.0.0.1:{port}", airflow.password(home))
    known = local.Local(
        "airflow",
        home,
        lambda: replace(server, env={**server.env, **settings, NOT_COMPILED: None}),
        lambda: client.address,
        client.ready,
        end=airflow.stop,
        patience=300,
    )
    try:
        known.up()
        client.wait_for_dag(DAG)
        yield client
    finally:
        known.down()


def _run(client: airflow.Client) -> tuple[float, int]:
    """A run that is triggered now: seconds from that to its end, and its tasks.

    Raises:
        RuntimeError: it failed.
    """
    run_id = client.run_now(DAG)
    if client.wait(DAG, run_id, 3600) != "success":
        raise RuntimeError(f"{run_id} failed")
    found = client.ask("GET", f"dags/{DAG}/dagRuns/{run_id}")
    begun, ended = (datetime.fromisoformat(found[name]) for name in ("queued_at", "end_date"))
    return (ended - begun).total_seconds(), len(client.tasks(DAG, run_id))
