"""A lake of any size that grew day by day: at most a million posts, landed, and copies of them.

Run as a process of its own: ``python -m benchmarks.grown BASE LAKE COPIES FIRST LAST`` puts the
days from FIRST to LAST (counted from 0) of the lake BASE into LAKE, COPIES times each, in one
commit a day and kind. A copy has keys, people, posters and texts of its own, so that groups and
dictionaries grow as they would.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from benchmarks import daily
from ingestion.lake import Lake, Origin, Piece
from ingestion.records import KINDS

#: Posts of the largest base; a larger lake has copies of them.
_MOST = 1_000_000
_STAMP = pa.timestamp("us", "UTC")

#: Columns whose values are another's in every copy.
_OWN = {
    "pin": ("unique_id", "title", "description", "image_src", "poster_name"),
    "geo": (),
    "user": ("last_name",),
}
#: What a pin says instead of a text, the same in every copy.
_NO_DATA = pa.array(["User Info Error", "No description available Story format", "Image src error.",
                     "No Title Data Available"])  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How a lake of some size is made.

    Attributes:
        posts: posts of its base, without those of later days.
        copies: how often it has them.
        days: over which they landed.
    """

    posts: int
    copies: int
    days: int

    @classmethod
    def of(cls, millions: float, days: int) -> Size:
        """The size of so many millions of posts.

        Raises:
            ValueError: the number is above one and not whole.
        """
        if millions > 1 and millions != int(millions):
            raise ValueError(
                f"a lake of {millions:g} million posts cannot be made of copies of one million; "
                "give a whole number, or less than 1"
            )
        posts = min(_MOST, round(millions * 1_000_000))
        return cls(posts, max(1, int(millions)), days)

    @property
    def total(self) -> int:
        """Posts of the lake, without those of later days."""
        return self.posts * self.copies


def base(work: Path, size: Size) -> Path:
    """The lake that is copied: every day of the base, landed as any other; made once."""
    lake = work / f"base-{size.posts}-{size.days}"
    if not lake.exists():
        partial = lake.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        daily.prepare(partial / "sink", size.posts, size.days)
        daily.land(partial / "sink", str(partial / "lake"))
        (partial / "lake").rename(lake)
        shutil.rmtree(partial)
    return lake


def grow(base_lake: Path, lake: Path, copies: int, first: int, last: int) -> None:
    """Land days of the base, `copies` times each."""
    tables = {kind: DeltaTable(str(base_lake / "bronze" / kind)) for kind in KINDS}
    stamps = _stamps(tables["geo"])
    for number in range(first, last + 1):
        stamp = stamps[number]
        target = Lake(str(lake), clock=lambda stamp=stamp: stamp)  # type: ignore[misc]
        target.create()
        for kind, table in tables.items():
            rows = table.to_pyarrow_table(filters=pc.field("_landed_on") == stamp.date())
            rows = rows.filter(pc.equal(rows["_landed_at"], pa.scalar(stamp, _STAMP)))
            pieces = [piece for copy in range(copies) for piece in _pieces(kind, rows, copy)]
            target.append(kind, pieces)


def _stamps(table: DeltaTable) -> list[datetime]:
    stamps = table.to_pyarrow_table(columns=["_landed_at"])["_landed_at"].unique()
    return sorted(pc.cast(stamps, _STAMP).to_pylist())


def _pieces(kind: str, rows: pa.Table, copy: int) -> list[Piece]:
    """A copy of a day's rows, partition by partition."""
    pieces = []
    suffix = f" {copy}"
    for partition in rows["_partition"].unique().to_pylist():
        part = rows.filter(pc.equal(rows["_partition"], partition)).sort_by("_position")
        offsets = pc.cast(part["_position"], pa.int64()).combine_chunks()
        columns = {}
        for field in KINDS[kind].schema:
            column = part[field.name]
            if field.name == "ind":
                column = pc.add(column, copy * 2 * _MOST)
            elif field.name in _OWN[kind] and copy:
                own = pc.binary_join_element_wise(column, suffix, "")
                column = pc.if_else(pc.is_in(column, _NO_DATA), column, own)
            columns[field.name] = column.combine_chunks().cast(field.type)
        batch = pa.RecordBatch.from_pydict(columns, schema=KINDS[kind].schema)
        origin = Origin(f"copy-{copy}", f"benchmark.{kind}", partition)
        pieces.append(Piece(origin, offsets[0].as_py(), offsets[-1].as_py() + 1, offsets, batch))
    return pieces


if __name__ == "__main__":
    grow(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]))
