"""One dbt command up to its first query: ``BEGAN=… LAKE_URI=… python -m benchmarks.first_query``.

Prints the seconds of each phase as a line of JSON. ``BEGAN`` is the Unix time at which the process
was started.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

#: The phases in the order they come, and whether they are this project's own.
PHASES = {
    "the interpreter": False,
    "importing dbt": False,
    "importing the engine and its client": False,
    "importing the plugin": True,
    "dbt's own start, with the parsed project read back": False,
    "starting the engine": False,
    "attaching the lake": True,
    "dbt, from the plugin to the first query": False,
}


def main() -> dict[str, float]:
    """Take one command to its first query.

    Returns:
        Seconds of each phase.
    """
    seconds = dict.fromkeys(PHASES, 0.0)
    seconds["the interpreter"] = time.time() - float(os.environ["BEGAN"])

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[phase] += time.perf_counter() - begun

        return wrapped

    for phase, modules in {
        "importing dbt": ("dbt.cli.main", "dbt.adapters.spark.session"),
        "importing the engine and its client": ("pysail.spark", "pyspark.sql.connect.session"),
        "importing the plugin": ("dbt_lake",),
    }.items():
        for module in modules:
            timed(phase, importlib.import_module)(module)

    import dbt.adapters.spark.session as session
    import dbt.cli.main as dbt

    import dbt_lake

    marks: dict[str, float] = {}
    initialize = dbt_lake.LakePlugin.initialize

    def initialized(plugin: Any) -> None:
        marks["plugin"] = time.perf_counter()
        initialize(plugin)
        marks["attached"] = time.perf_counter()

    class FirstQuery(BaseException):
        pass

    def first_query(*_: Any, **__: Any) -> None:
        marks["query"] = time.perf_counter()
        raise FirstQuery

    dbt_lake.LakePlugin.initialize = initialized  # type: ignore[assignment,method-assign]
    dbt_lake._session = timed("starting the engine", dbt_lake._session)
    session.Cursor.execute = first_query
    begun = time.perf_counter()
    with contextlib.suppress(FirstQuery):
        dbt.dbtRunner().invoke(["show", "--quiet", "--inline", "select 1"])
    seconds["dbt's own start, with the parsed project read back"] = marks["plugin"] - begun
    seconds["attaching the lake"] = (
        marks["attached"] - marks["plugin"] - seconds["starting the engine"]
    )
    seconds["dbt, from the plugin to the first query"] = marks["query"] - marks["attached"]
    return seconds


if __name__ == "__main__":
    print(json.dumps(main()))
