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

DAYS = 100


def prepare(folder: Path, posts: int) -> None:
    """Write ``posts`` posts over a hundred days, and one day more of a hundredth."""
    plan = Plan(
        posts=posts + posts // DAYS,
        people=posts // 7,
        seed=1,
        clean=True,
        days=DAYS + 1,
    )
    summary = write_posts(folder, plan)
    days = [[str(path.relative_to(folder)) for path in day.objects] for day in summary.days]
    (folder / "days.json").write_text(json.dumps(days))


def land(folder: Path, lake: str, first: int, last: int) -> None:
    """Land days, counted from 0, of the prepared posts, each stamped with a day of its own."""
    store = Folder(str(folder))
    sizes = dict(store.list())
    days = json.loads((folder / "days.json").read_text())
    today = datetime.now(UTC)
    for number in range(first, last + 1):
        clock = today - timedelta(days=DAYS - number)
        target = Lake(lake, clock=lambda clock=clock: clock)  # type: ignore[misc]
        target.create()
        objects: dict[str, list[SinkObject]] = {}
        for key in days[number]:
            item = parse_name(key, sizes[key])
            assert item is not None
            objects.setdefault(item.topic.rsplit(".", 1)[-1], []).append(item)
        for name, items in objects.items():
            land_objects(target, store, KINDS[name], items[0].topic, items)
