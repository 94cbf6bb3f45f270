"""A lake that grew day by day: landing with each day's own clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ingestion.emulation.posts import Plan, write_posts
from ingestion.lake import Lake
from ingestion.landing import land_objects
from ingestion.records import KINDS
from ingestion.sources.s3 import Folder, SinkObject, parse_name

#: Days after those of the full build, for the steps that build a day.
LATER = 2


def prepare(folder: Path, posts: int, days: int) -> None:
    """Write ``posts`` posts over ``days`` days, and ``LATER`` days more with as many a day."""
    plan = Plan(
        posts=posts + LATER * posts // days,
        people=posts // 7,
        seed=1,
        clean=True,
        days=days + LATER,
    )
    summary = write_posts(folder, plan)
    written = [[str(path.relative_to(folder)) for path in day.objects] for day in summary.days]
    (folder / "days.json").write_text(json.dumps(written))


def land(folder: Path, lake: str) -> None:
    """Land every prepared day, each stamped with a day of its own, the last one today."""
    store = Folder(str(folder))
    sizes = dict(store.list())
    days = json.loads((folder / "days.json").read_text())
    today = datetime.now(UTC)
    for number, keys in enumerate(days):
        clock = today - timedelta(days=len(days) - 1 - number)
        target = Lake(lake, clock=lambda clock=clock: clock)  # type: ignore[misc]
        target.create()
        objects: dict[str, list[SinkObject]] = {}
        for key in keys:
            item = parse_name(key, sizes[key])
            assert item is not None
            objects.setdefault(item.topic.rsplit(".", 1)[-1], []).append(item)
        for name, items in objects.items():
            land_objects(target, store, KINDS[name], items[0].topic, items)
