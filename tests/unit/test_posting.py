"""The posting emulator against a small server of its own: what it sends, when, and how again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ingestion import cli
from ingestion.emulation import posting
from ingestion.emulation.posting import (
    Gateway,
    KafkaTarget,
    KinesisTarget,
    Pacer,
    Post,
    PostingError,
    SyntheticPosts,
    Tally,
    draws,
    emulate,
    retry_after,
)
from ingestion.emulation.posts import Plan, records

STREAM = Path(__file__).parents[2].parent / "shared" / "data" / "seed100_stream"


# ---------------------------------------------------------------------------- drawing


def test_the_first_draws_of_the_published_seed() -> None:
    first = [7528, 2863, 5730, 8304, 8731, 1313, 4315, 10794, 5494, 5069, 2923, 3089]
    assert list(islice(draws(), 12)) == first
    assert list(islice(draws(seed=101), 12)) != first
    assert set(islice(draws(rows=2), 100)) == {0, 1, 2}


@pytest.mark.skipif(not STREAM.is_dir(), reason="../shared/data missing")
def test_the_draws_are_the_published_ones() -> None:
    order = [int(line) for line in (STREAM / "draw_order.txt").read_text().split()]
    assert len(order) > 2_000
    assert list(islice(draws(), len(order))) == order
    # What was sent: a first run that was broken off, and this one.
    sent = [json.loads(line)["index"] for line in (STREAM / "raw_pin.jsonl").open()]
    assert sent[len(sent) - len(order) :] == order
    assert sent[: len(sent) - len(order)] == order[: len(sent) - len(order)]


def test_drawing_does_not_touch_the_global_generator() -> None:
    random.seed(5)
    due = random.random()
    random.seed(5)
    list(islice(draws(), 5))
    assert random.random() == due


def test_synthetic_posts_are_those_of_the_plan() -> None:
    plan = Plan(posts=300, people=50, seed=9, clean=True)
    first, second, again = SyntheticPosts(plan).posts([7, 299, 7])
    assert first == again
    assert first["pin"]["index"] == first["geo"]["ind"] == first["user"]["ind"] == 7
    (line,) = records(plan, "geo", np.array([299]))
    assert second["geo"] == json.loads(line)


# ---------------------------------------------------------------------------- pacing


class Clock:
    def __init__(self) -> None:
        self.now = 50.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(round(seconds, 6))
        self.now += seconds


def test_posts_pass_at_the_rate() -> None:
    clock = Clock()
    pacer = Pacer(4.0, clock, clock.wait)
    for _ in range(9):
        pacer.take(1)
    assert clock.waits == [0.25] * 8
    pacer.take(10)
    pacer.take(1)
    assert clock.waits[8:] == [0.25, 2.5]


def test_a_second_is_caught_up_and_no_more() -> None:
    clock = Clock()
    pacer = Pacer(10.0, clock, clock.wait)
    pacer.take(1)
    clock.now += 60
    for _ in range(12):
        pacer.take(1)
    assert len(clock.waits) == 1


def test_no_rate_is_no_waiting() -> None:
    clock = Clock()
    pacer = Pacer(0, clock, clock.wait)
    for _ in range(100):
        pacer.take(1)
    assert clock.waits == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("3", 3),
        ("0.5", 0.5),
        ("-4", 0),
        ("nonsense", 0),
        ("Wed, 01 Jul 2026 12:00:07 GMT", 7),
        ("Wed, 01 Jul 2026 11:00:00 GMT", 0),
    ],
)
def test_retry_after_names_seconds_or_a_time(header: str | None, seconds: float) -> None:
    assert retry_after(header, datetime(2026, 7, 1, 12, tzinfo=UTC)) == seconds


# --------------------------------------------------------------------------- requests


class Taken(NamedTuple):
    """A request that the server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """Answers as a gateway does, save where a plan says otherwise.

    Attributes:
        plan: for each request in turn a status with headers, or what to do with the request;
            None, and later ones, are taken.
    """

    plan: list[Any] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keys(self, part: str) -> list[int]:
        """The keys of the records to a resource, in the order they came."""
        found: list[int] = []
        for request in self.taken:
            if part in request.path:
                found += [key_of(record) for record in contents(request)]
        return found

    def answer(self, taken: Taken) -> tuple[int, dict[str, str], Any]:
        with self.lock:
            self.taken.append(taken)
            step = self.plan.pop(0) if self.plan else None
        if callable(step):
            step = step(taken)
        if step is not None:
            status, headers, *body = step
            return status, headers, body[0] if body else {"error_code": status, "message": "no"}
        if taken.path.startswith("/topics/"):
            entries = [
                {"partition": 0, "offset": n, "error_code": None, "error": None}
                for n, _ in enumerate(contents(taken))
            ]
            return 200, {}, {"offsets": entries}
        placed = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
        if taken.path.endswith("/record"):
            return 200, {}, placed
        return 200, {}, {"FailedRecordCount": 0, "Records": [placed for _ in contents(taken)]}


def contents(taken: Taken) -> list[dict[str, Any]]:
    if "records" in taken.body:
        return [record["value"] for record in taken.body["records"]]
    return [entry["Data"] for entry in taken.body.get("Records", [taken.body])]


def key_of(record: dict[str, Any]) -> int:
    return int(record["index"] if "index" in record else record["ind"])


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.request.setsockopt(6, 1, 1)  # TCP_NODELAY

        def serve(self) -> None:
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = made.answer(Taken(self.command, self.path, headers, body))
            if answer[0] == 0:  # hang up
                self.close_connection = True
                return
            status, more, said = answer
            raw = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_PUT = serve

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    made.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    listener.shutdown()
    listener.server_close()
    thread.join()


HANG_UP = (0, {})


class Numbers:
    """Posts of which a record says nothing but its key; the tables have `lengths` rows."""

    def __init__(self, pin: int = 10**9, geo: int = 10**9, user: int = 10**9) -> None:
        self.lengths = {"pin": pin, "geo": geo, "user": user}
        self.asked: list[int] = []

    def posts(self, numbers: Sequence[int]) -> list[Post]:
        self.asked += numbers
        return [
            {
                kind: {"index" if kind == "pin" else "ind": n, "at": datetime(2020, 1, 2)}
                for kind, length in self.lengths.items()
                if n < length
            }
            for n in numbers
        ]


@dataclass
class Emulator:
    """What it takes to emulate against the server, and what came of it."""

    server: Server
    tally: Tally = field(default_factory=Tally)
    stopping: threading.Event = field(default_factory=threading.Event)

    def post(
        self,
        count: int,
        source: Any = None,
        targets: Sequence[Any] = (KafkaTarget("id"),),
        patience: float = 20.0,
        url: str = "",
        **more: Any,
    ) -> None:
        gateway = Gateway(url or self.server.url, self.tally, self.stopping, "key", patience)
        emulate(
            source or Numbers(), range(count), gateway, targets, self.tally, self.stopping, **more
        )


@pytest.fixture
def emulator(server: Server, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    # As the pauses of every day, but short.
    monkeypatch.setattr(posting, "_PAUSES", lambda _: 0.005)
    return Emulator(server)


def test_a_post_to_the_topics(server: Server, emulator: Emulator) -> None:
    emulator.post(1)
    assert [(taken.method, taken.path) for taken in server.taken] == [
        ("POST", "/topics/id.pin"),
        ("POST", "/topics/id.geo"),
        ("POST", "/topics/id.user"),
    ]
    first = server.taken[0]
    assert first.headers["content-type"] == "application/vnd.kafka.json.v2+json"
    assert first.headers["x-api-key"] == "key"
    assert first.body == {
        "records": [{"key": 0, "value": {"index": 0, "at": "2020-01-02 00:00:00"}}]
    }


def test_a_post_to_the_streams(server: Server, emulator: Emulator) -> None:
    emulator.post(1, targets=[KinesisTarget("id")], url=f"{server.url}/")
    assert [(taken.method, taken.path) for taken in server.taken] == [
        ("PUT", f"/streams/streaming-id-{kind}/record") for kind in ("pin", "geo", "user")
    ]
    assert server.taken[1].headers["content-type"] == "application/json"
    assert server.taken[1].body == {
        "StreamName": "streaming-id-geo",
        "Data": {"ind": 0, "at": "2020-01-02 00:00:00"},
        "PartitionKey": "0",
    }


def test_several_posts_share_requests(server: Server, emulator: Emulator) -> None:
    emulator.post(7, targets=[KafkaTarget("id"), KinesisTarget("id")], batch=3)
    assert server.keys("/topics/id.geo") == server.keys("/streams/streaming-id-pin") == [*range(7)]
    assert [len(contents(taken)) for taken in server.taken if "id-user" in taken.path] == [3, 3, 1]
    assert [taken.path for taken in server.taken if "id-user" in taken.path] == [
        "/streams/streaming-id-user/records",
        "/streams/streaming-id-user/records",
        "/streams/streaming-id-user/record",
    ]
    assert server.taken[1].body["Records"][2]["PartitionKey"] == "2"
    assert emulator.tally == Tally(posts=7, records=Counter(kafka=21, kinesis=21))


def test_a_row_that_a_table_lacks_posts_nothing_of_its_kind(
    server: Server, emulator: Emulator
) -> None:
    emulator.post(5, Numbers(pin=4, geo=2, user=0), batch=2)
    assert server.keys("pin") == [0, 1, 2, 3]
    assert server.keys("geo") == [0, 1]
    assert server.keys("user") == []
    assert (emulator.tally.posts, emulator.tally.missing) == (5, 1 + 3 + 5)


def test_rows_are_looked_up_many_at_once_and_not_far_ahead(emulator: Emulator) -> None:
    source = Numbers()
    emulator.post(1_200, source, batch=300)
    assert source.asked == [*range(1_200)]
    asked = Numbers()

    class Enough(Exception):
        pass

    def progress() -> None:
        raise Enough

    with pytest.raises(Enough):
        emulator.post(10**9, asked, progress=progress)
    assert len(asked.asked) <= 500


def test_with_several_connections_everything_is_sent_once(
    server: Server, emulator: Emulator
) -> None:
    together = threading.Barrier(4)

    def meet(_: Taken) -> None:
        together.wait(10)  # four requests are under way at once, or none is answered

    server.plan = [meet] * 4
    emulator.post(60, connections=4)
    for kind in ("pin", "geo", "user"):
        assert sorted(server.keys(f"id.{kind}")) == [*range(60)]
    assert emulator.tally == Tally(posts=60, records=Counter(kafka=180))


def test_progress_is_told_while_the_next_post_is_waited_for(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "_SHOWN_SECONDS", 0.02)
    told: list[int] = []
    emulator.post(2, rate=1, progress=lambda: told.append(emulator.tally.posts))
    assert told.count(1) >= 10


# ------------------------------------------------------------------------ sending again


@pytest.mark.parametrize(
    "refusal",
    [(503, {}), (429, {"Retry-After": "0"}), (500, {}), (502, {}, b"<html>"), (408, {}), HANG_UP],
    ids=["503", "429", "500", "502", "408", "no answer"],
)
def test_a_request_that_may_be_taken_later_is_sent_again(
    server: Server, emulator: Emulator, refusal: Any
) -> None:
    server.plan = [None, refusal, refusal, None, refusal]
    emulator.post(2)
    assert server.keys("id.geo")[:3] == [0, 0, 0]
    assert Counter(taken.path for taken in server.taken).total() == 6 + 3
    assert emulator.tally == Tally(posts=2, records=Counter(kafka=6), retries=3)


def test_it_waits_for_as_long_as_it_is_asked_to(server: Server, emulator: Emulator) -> None:
    server.plan = [(429, {"Retry-After": "0.4"})]
    begun = time.monotonic()
    emulator.post(1)
    assert time.monotonic() - begun >= 0.4
    # Longer than there is patience for: no use to try.
    server.plan = [(503, {"Retry-After": "3600"})]
    with pytest.raises(PostingError, match=r"answered 503: no; tried again for up to 20 s"):
        emulator.post(1)
    assert not server.plan


def test_only_the_records_refused_are_sent_again(server: Server, emulator: Emulator) -> None:
    fine = {"partition": 0, "offset": 1, "error_code": None, "error": None}
    later = fine | {"error_code": 2, "error": "not enough replicas"}
    server.plan = [(200, {}, {"offsets": [fine, later, fine, later]})]
    emulator.post(4, batch=4)
    assert server.keys("id.pin") == [0, 1, 2, 3, 1, 3]
    throttled = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}
    placed = {"SequenceNumber": "1"}
    server.plan = [(200, {}, {"FailedRecordCount": 1, "Records": [throttled, placed]})]
    emulator.post(2, targets=[KinesisTarget("id")], batch=2)
    assert server.keys("id-pin") == [0, 1, 0]
    assert emulator.tally == Tally(posts=6, records=Counter(kafka=12, kinesis=6), retries=2)


def test_pauses_grow_by_chance() -> None:
    """Full jitter: from nothing to a bound that doubles."""
    state = type("State", (), {"attempt_number": 1})()
    for attempt, most in ((1, 0.2), (3, 0.8), (20, 10)):
        state.attempt_number = attempt
        drawn = [posting._PAUSES(state) for _ in range(200)]
        assert 0 <= min(drawn) < most / 4
        assert most / 2 < max(drawn) <= most


# ------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {}, {"error_code": 40401, "message": "Topic not found."}), "404: Topic not found."),
        ((403, {}, {"message": "Forbidden"}), "403: Forbidden; give a key with --api-key"),
        ((422, {}, b"not JSON\nat all"), "answered 422: not JSON at all"),
        ((301, {"Location": "/x"}, {}), "answered 301"),
        ((200, {}, b"<html>hello"), "no gateway's answer: <html>hello; set GATEWAY_URL"),
        ((200, {}, {}), "no gateway's answer"),
        ((200, {}, []), "no gateway's answer"),
        (
            (200, {}, {"offsets": [{"error_code": 1, "error": "too large"}]}),
            "refused the record 0: too large (error 1)",
        ),
    ],
    ids=["404", "403", "422", "301", "text", "nothing", "a list", "a record"],
)
def test_any_other_refusal_ends_it_with_what_the_gateway_says(
    server: Server, emulator: Emulator, answer: Any, said: str
) -> None:
    server.plan = [answer]
    with pytest.raises(PostingError) as caught:
        emulator.post(100)
    assert f"{server.url}/topics/id.pin" in str(caught.value)
    assert said in str(caught.value)
    assert len(server.taken) == 1
    assert (emulator.tally.posts, emulator.tally.retries) == (0, 0)


def test_a_gateway_that_is_away_is_tried_for_a_while(emulator: Emulator) -> None:
    with pytest.raises(PostingError, match=r"takes no records: .*refused.*for up to 1 s"):
        emulator.post(5, patience=1.0, url="http://127.0.0.1:9")
    assert emulator.tally.retries > 0


def test_an_address_that_is_none_is_an_error() -> None:
    with pytest.raises(PostingError, match="set GATEWAY_URL"):
        Emulator(Server()).post(1, url="nonsense")


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@{}",
        "http://me:hun@ter2@{}",
        "http://me:hunter2@{}:1x",
        "me:hunter2@{}",
        "ftp://me:hunter2@{}",
        "http://me:hunter2@",
    ],
)
def test_an_address_is_shown_without_user_and_password(server: Server, url: str) -> None:
    server.plan = [(404, {}, {"message": "Topic not found."})]
    with pytest.raises(PostingError) as caught:
        Emulator(server).post(1, url=url.format(server.url.removeprefix("http://")))
    assert "ter2" not in str(caught.value)
    assert "me:" not in str(caught.value)
    if server.taken:
        assert str(caught.value).startswith(f"{server.url}/topics/id.pin answered 404")
    with pytest.raises(PostingError, match=r"^http://127.0.0.1:9 takes no records"):
        Emulator(server).post(1, url="http://me:hunter2@127.0.0.1:9", patience=0)


def test_a_key_is_sent_without_the_blanks_around_it(server: Server, emulator: Emulator) -> None:
    def post(key: str) -> None:
        gateway = Gateway(server.url, emulator.tally, emulator.stopping, key, 0)
        assert gateway.send(KafkaTarget("id"), "geo", [{"ind": 1}])

    post(" hunter2\n")
    assert server.taken[-1].headers["x-api-key"] == "hunter2"
    post("\n")
    assert "x-api-key" not in server.taken[-1].headers
    for key in ("hun\nter2", "hünter2", "hun\x00ter2"):
        with pytest.raises(PostingError, match="no header carries; see --api-key") as caught:
            post(key)
        assert "ter2" not in str(caught.value)


def test_stopping_finishes_what_is_under_way_and_gives_up_waiting(
    server: Server, emulator: Emulator
) -> None:
    def stop(_: Taken) -> None:
        emulator.stopping.set()

    server.plan = [None, stop]
    emulator.post(100)
    assert server.keys("id.user") == [0]
    assert emulator.tally == Tally(posts=1, records=Counter(kafka=3))

    def refuse(_: Taken) -> Any:
        emulator.stopping.set()
        return 503, {"Retry-After": "3"}

    emulator.stopping.clear()
    server.plan = [refuse]
    emulator.post(100, batch=10)
    assert (emulator.tally.posts, emulator.tally.unconfirmed) == (1, 10)


# ------------------------------------------------------------------------------ the command


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        options = ["emulate", "--synthetic", "--gateway", server.url, *arguments]
        monkeypatch.setattr(sys, "argv", ["ingest", *options])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


def test_the_command_posts_to_both_and_counts(
    server: Server, command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = command("--count", "20", "--batch", "8", "--pipeline-id", "p")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("posts 20  kafka 60 records  kinesis 60 records  retries 0  ")
    assert "posts/s" in ran.out
    assert server.keys("/topics/p.geo") == list(islice(draws(), 20))
    assert server.keys("streaming-p-user") == list(islice(draws(), 20))
    plan = Plan(posts=11_001, people=round(11_001 / 1.4), seed=1, clean=True)
    (line,) = records(plan, "pin", np.array([7528]))
    assert contents(server.taken[0])[0] == json.loads(line)

    monkeypatch.setenv("GATEWAY_API_KEY", "from the environment")
    ran = command("--count", "1", "--to", "kinesis", "--json", "--seed", "7", "--rows", "5")
    assert json.loads(ran.out)["records"] == {"kinesis": 3}
    assert server.taken[-1].headers["x-api-key"] == "from the environment"


def test_a_terminal_shows_how_far_it_is(server: Server) -> None:
    def gone(_: Taken) -> Any:
        return 503, {"Retry-After": "0"}

    server.plan = [gone]
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "ingestion", "emulate", "--synthetic", "--to", "kafka"),
            *("--gateway", server.url, "--count", "3"),
        ],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # what reading says when the other end is closed
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert said.startswith("posts 3  kafka 9 records  retries 1  ")
    assert re.search(rb"posting .* 3 posts [\d.]+/s 1 retries", shown)


def test_the_command_ends_with_one_line_and_what_came_of_it(
    server: Server, command: Callable[..., Ran]
) -> None:
    server.plan = [*[None] * 6, (413, {}, {"error_code": 413, "message": "too large"})]
    ran = command("--count", "20", "--to", "kafka")
    assert ran.code == 1
    assert ran.out.startswith("posts 2  kafka 6 records")
    assert ran.err == f"error: {server.url}/topics/0a60b9a8a831.pin answered 413: too large\n"


def test_a_signal_during_the_last_request_interrupts_nothing(
    server: Server, command: Callable[..., Ran]
) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(_: Taken) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not before:
            time.sleep(0.01)

    server.plan = [None] * 5 + [interrupt]
    ran = command("--count", "2", "--to", "kafka")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("posts 2  kafka 6 records")


@pytest.mark.parametrize(("count", "code"), [("0", 0), ("100000", 130)])
def test_a_signal_ends_it_cleanly(
    server: Server, command: Callable[..., Ran], count: str, code: int
) -> None:
    def interrupt(_: Taken) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    server.plan = [None] * 10 + [interrupt]
    ran = command("--count", count, "--to", "kafka", "--rate", "200")
    assert (ran.code, ran.err) == (code, "")
    assert ran.out.startswith("posts ")
    posts = int(ran.out.split()[1])
    assert posts >= 4
    assert len(server.keys("user")) == posts
    assert signal.getsignal(signal.SIGINT) is before
