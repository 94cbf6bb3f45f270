"""How much the benchmarks do: the published sizes, and small ones that take seconds."""

from __future__ import annotations

from dataclasses import dataclass

#: The steps of `benchmarks.scale`, in order: a full build, a build after a day, every data test,
#: and a build with every data test after another day.
STEPS = ("full", "day", "test", "daily")


@dataclass(frozen=True)
class Sizes:
    """Sizes of every benchmark.

    Attributes:
        millions: sizes to build, in millions of posts; above one they are whole.
        days: days over which those posts land; each later day brings as many as one of them.
        steps: which of `STEPS` to measure.
        runs: runs of each measurement that gives medians.
        landing_posts: posts that `ingest s3` lands.
        memory_posts: posts that land from memory.
        kafka_posts: posts that land from Kafka.
        gateway_requests: requests to send as fast as the gateway answers.
        gateway_seconds: seconds of each steady load.
        fresh_rate: records a second while freshness is measured.
        fresh_seconds: seconds of that.
        commits: commits of fifty records with upkeep.
        commits_without_upkeep: the same without; each costs more than the one before.
        commits_around: commits before and after the one that is looked at.
        demo_posts: posts of the lake on which the start, a node and the DAG are measured.
    """

    millions: tuple[float, ...]
    days: int
    steps: tuple[str, ...]
    runs: int
    landing_posts: int
    memory_posts: int
    kafka_posts: int
    gateway_requests: int
    gateway_seconds: float
    fresh_rate: int
    fresh_seconds: float
    commits: int
    commits_without_upkeep: int
    commits_around: int
    demo_posts: int


FULL = Sizes(
    millions=(1, 5, 20),
    days=100,
    steps=STEPS,
    runs=3,
    landing_posts=1_000_000,
    memory_posts=200_000,
    kafka_posts=300_000,
    gateway_requests=4_000,
    gateway_seconds=15.0,
    fresh_rate=5_000,
    fresh_seconds=60.0,
    commits=10_000,
    commits_without_upkeep=1_000,
    commits_around=100,
    demo_posts=11_000,
)

#: Everything once, on data so small that the figures mean nothing: for tests of the benchmarks.
SMALL = Sizes(
    millions=(0.002,),
    days=3,
    steps=("full", "daily"),
    runs=1,
    landing_posts=2_000,
    memory_posts=1_000,
    kafka_posts=1_000,
    gateway_requests=20,
    gateway_seconds=1,
    fresh_rate=500,
    fresh_seconds=1,
    commits=60,
    commits_without_upkeep=20,
    commits_around=10,
    demo_posts=1_000,
)
