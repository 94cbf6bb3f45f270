"""Landers as processes: quick to start, and known to be where when they are killed.

A process that has imported everything and opened nothing forks a lander in hundredths of a second;
the lander then runs the `ingest` command it is given, in small batches. It keeps a byte for each
kind of record in a file mapped into memory, which outlives it and says what it was doing.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import mmap
import multiprocessing
import os
import pkgutil
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ingestion import cli, commands, landing, maintenance, sources
from ingestion import lake as lake_module
from ingestion.lake import REJECTED, SCHEMAS, Lake, Origin, Piece
from ingestion.landing import Batches
from ingestion.offsets import Offsets
from ingestion.records import KINDS


class Stage(IntEnum):
    """What a lander is doing with a kind of record; of several kinds' stages the highest counts."""

    STARTING = 0  # nothing committed yet
    READING = 1
    REJECTING = 2  # committing rejected records
    LANDING = 3  # committing rows
    BETWEEN = 4  # between two commits that belong together


@dataclass(frozen=True)
class Order:
    """What a lander is to do.

    Attributes:
        arguments: of the `ingest` command.
        log: the file that what it prints is added to.
        stages: the file that tells its stage, a byte for each kind.
        environment: variables besides those of this process.
        again: whether to run the command over and over until it fails.
        mutation: a name in `MUTATIONS`; none for the landing that is to be proved.
        batch_records: records a commit.
        pause: seconds, at the most, between the commits of one batch.
        rest: seconds before the command is run again.
    """

    arguments: Sequence[str]
    log: Path
    stages: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    again: bool = False
    mutation: str = ""
    batch_records: int = 400
    pause: float = 0.02
    rest: float = 0.05


class Lander:
    """A running lander; made by a nursery."""

    def __init__(self, pid: int, order: Order, ask: Callable[[Any], Any]) -> None:
        self.pid = pid
        self.order = order
        self._ask = ask
        self._code: int | None = None

    @property
    def stage(self) -> Stage:
        """What it is doing, or was when it ended."""
        return Stage(max(self.order.stages.read_bytes()))

    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self._code is None:
            self._code = self._ask(self.pid)
        return self._code

    def end(self, how: signal.Signals = signal.SIGKILL, seconds: float = 20.0) -> int:
        """Send it a signal, unless it has ended, and give the code it ends with.

        Raises:
            TimeoutError: it goes on all the same; it has been killed.
        """
        # Nobody else has its id: the nursery keeps what is left of it until it is asked.
        if self._code is None:
            os.kill(self.pid, how)
        return self.wait(seconds)

    def wait(self, seconds: float = 60.0) -> int:
        """The code it ends with by itself.

        Raises:
            TimeoutError: it does not end; it has been killed.
        """
        deadline = time.monotonic() + seconds
        while (code := self.code()) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"a lander did not end within {seconds:.0f} s: {self.said()}")
            time.sleep(0.002)
        return code

    def said(self) -> str:
        """The last line it, or another with the same log, printed."""
        lines = self.order.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"


class Nursery:
    """Starts landers; a context, at whose end those that still run are killed."""

    def __init__(self) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._lock = threading.Lock()
        self._process = spawning.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(10)

    def start(self, order: Order) -> Lander:
        """Start a lander."""
        order.stages.write_bytes(bytes(len(KINDS)))
        return Lander(self._ask(order), order, self._ask)

    def _ask(self, question: Order | int) -> Any:
        with self._lock:
            self._pipe.send(question)
            return self._pipe.recv()


# --- in the nursery's process -----------------------------------------------------------------


def _serve(pipe: Any) -> None:
    """Fork a lander for an order, tell a process id's exit code; until the other end is gone."""
    os.setsid()  # an interrupt from the keyboard is for the tests, which then end this
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    _import_everything()
    codes: dict[int, int | None] = {}
    try:
        while True:
            question = pipe.recv()
            if isinstance(question, Order):
                # A lander that is told to end before it has begun is to end, too: what is raised
                # while a process is being forked goes nowhere.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                pid = os.fork()
                if not pid:
                    _be_lander(question, pipe)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
                codes[pid] = None
                pipe.send(pid)
                continue
            if codes[question] is None:
                ended, status = os.waitpid(question, os.WNOHANG)
                codes[question] = os.waitstatus_to_exitcode(status) if ended else None
            pipe.send(codes[question])
    except EOFError:
        pass
    finally:
        for pid, code in codes.items():
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _import_everything() -> None:
    """All that a lander would import, and nothing that opens a file, a connection or a thread."""
    import boto3

    for client in ("kafka", "pandas"):  # Arrow imports the latter when it first makes an array
        importlib.import_module(client)
    for folder in (commands, sources):
        for module in pkgutil.iter_modules(folder.__path__):
            importlib.import_module(f"{folder.__name__}.{module.name}")
    for service in ("s3", "kinesis"):  # reads the service's description, and keeps it
        boto3.client(
            service,
            region_name="us-east-1",
            endpoint_url="http://127.0.0.1:9",
            aws_access_key_id="any",
            aws_secret_access_key="any",
        )
    # A command that is understood, and then refused.
    sys.argv = ["ingest", "s3", "--uri", "nowhere://"]
    with contextlib.redirect_stderr(io.StringIO()):
        assert _ingest() == 1


def _be_lander(order: Order, pipe: Connection) -> None:
    code = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        pipe.close()
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order.environment)
        landing.BATCH_RECORDS = order.batch_records
        landing.DECODED_RECORDS = max(1, order.batch_records // 4)
        # The tables get few commits: upkeep has its turn as often as in days of landing.
        lake_module._COMMITS_A_CHECKPOINT = 5
        lake_module._COMMITS_A_MERGE = 10
        lake_module._COMMITS_A_HANDLE = 7
        maintenance.KEPT_COMMITS = 10
        teller = _Teller(order)
        MUTATIONS[order.mutation](teller)
        teller.attend()
        sys.argv = ["ingest", *order.arguments]
        code = _ingest()
        while order.again and not code:
            time.sleep(order.rest)
            code = _ingest()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ingest() -> int:
    try:
        cli.main()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(bool(exit_.code))
    return 0


class _Teller:
    """Keeps the bytes that tell the stage of each kind."""

    def __init__(self, order: Order) -> None:
        with order.stages.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), len(KINDS))
        self._pause = order.pause
        self._batch = threading.local()  # each kind is committed by a thread of its own

    def tell(self, stage: Stage) -> None:
        self._page[self._batch.kind] = stage

    def between(self) -> None:
        """Stay for a moment where what is committed is not yet complete."""
        self.tell(Stage.BETWEEN)
        time.sleep(random.uniform(0, self._pause))

    def attend(self) -> None:
        """Tell from now on where landing is."""
        commit, append = Batches._commit, Lake.append

        def committing(batches: Batches, good: Sequence[Piece], bad: Sequence[Piece]) -> None:
            self._batch.kind = list(KINDS).index(batches._kind.name)
            self._batch.two_commits = bool(bad)
            commit(batches, good, bad)
            self.tell(Stage.READING)

        def appending(lake: Lake, table: str, *rest: Any, **named: Any) -> Any:
            self.tell(Stage.REJECTING if table == REJECTED else Stage.LANDING)
            rows = append(lake, table, *rest, **named)
            if self._batch.two_commits:
                self._batch.two_commits = False
                self.between()
            return rows

        _replace(Batches, "_commit", committing)
        _replace(Lake, "append", appending)


def _replace(owner: type, name: str, function: Any) -> None:
    setattr(owner, name, function)


# --- what the proof must notice ---------------------------------------------------------------


def _without_the_check(_: _Teller) -> None:
    """Believe that the table holds nothing of a batch yet, as if Delta itself refused others."""
    outstanding = Lake._outstanding

    def believing(self: Lake, table: str, pieces: Sequence[Piece], *rest: Any) -> Any:
        believed: dict[Origin, Offsets] = {}
        for piece in pieces:
            if piece.origin not in believed:
                held = self.offsets(table, piece.origin)
                # Of a stream it stands where the batch begins.
                believed[piece.origin] = Offsets.of([(0, piece.start)]) if piece.follows else held
            if not piece.follows:
                believed[piece.origin] = _without(believed[piece.origin], piece.start, piece.end)
        blind: Any = copy.copy(self)
        blind.offsets = lambda _, origin: believed[origin]
        return outstanding(blind, table, pieces, *rest)

    _replace(Lake, "_outstanding", believing)


def _without(offsets: Offsets, start: int, end: int) -> Offsets:
    parts = [(low, min(high, start)) for low, high in offsets.ranges]
    return Offsets.of(parts + [(max(low, end), high) for low, high in offsets.ranges])


def _rows_before_rejected(_: _Teller) -> None:
    """Commit a batch's good rows, and with them where reading goes on, before the rejected."""

    def commit(self: Batches, good: Sequence[Piece], bad: Sequence[Piece]) -> None:
        self._lake.append(self._kind.name, good)
        if bad:
            self._lake.append(REJECTED, bad)

    _replace(Batches, "_commit", commit)


def _positions_before_rows(teller: _Teller) -> None:
    """Commit where reading goes on, and then the rows, in commits of their own."""
    commit = Lake._commit

    def twice(self: Lake, table: str, rows: Any, transactions: Mapping[str, int]) -> None:
        commit(self, table, SCHEMAS[table].empty_table(), transactions)
        teller.between()
        commit(self, table, rows, {})

    _replace(Lake, "_commit", twice)


MUTATIONS: dict[str, Callable[[_Teller], None]] = {
    "": lambda _: None,
    "without the check": _without_the_check,
    "rows before rejected": _rows_before_rejected,
    "positions before rows": _positions_before_rows,
}
