"""Install servers below `.stack` without touching the ones in use until the new ones are complete.

Each installation is a folder of its own, ``.stack/versions/kafka-…``, and ``.stack/kafka`` is a
link to it. A new one is made beside the old one, gets the digest of what it was made from, and
replaces it by renaming a link over the old link, which is atomic. Only folders directly below
``versions`` are ever deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import IO

import psutil

from stack import process
from stack.progress import Patience, activity
from stack.steps import Steps

#: The project, whose lock files say what is installed.
ROOT = Path(__file__).resolve().parent.parent

#: Seconds without output and without CPU time after which a step of an installation has failed.
_PATIENCE = 900.0

#: The file that a complete installation has; it holds the digest.
_MARK = ".installed"


class InstallError(Exception):
    """An installation failed; the one that was there before is still in use."""


@dataclass(frozen=True)
class Recipe:
    """How a server is installed.

    Attributes:
        name: of the server, and of its link in `.stack`.
        title: what people call it.
        cost: about how much disk and time it takes.
        files: what it is made from, relative to the project.
        parts: patterns of files that a complete installation has.
        make: installs into a folder.
        lacks: what this machine lacks for it, and how to get that; None if nothing.
        interpreter: which Python it is made for; "" where that does not matter.
        edition: raised when `make` changes.
    """

    name: str
    title: str
    cost: str
    files: tuple[str, ...]
    parts: tuple[str, ...]
    make: Callable[[Path, Shell], None]
    lacks: Callable[[], str | None] = lambda: None
    interpreter: Callable[[], str] = lambda: ""
    edition: int = 1

    def digest(self, root: Path = ROOT) -> str:
        """Compute what identifies an installation.

        Raises:
            InstallError: a file of the project cannot be read.
        """
        content = hashlib.sha256(f"{self.name} {self.edition} {self.interpreter()}\n".encode())
        for name in self.files:
            try:
                data = (root / name).read_bytes()
            except OSError as error:
                raise InstallError(f"{root / name} cannot be read: {error.strerror}") from error
            content.update(f"{name} {len(data)}\n".encode() + data)
        return content.hexdigest()

    def complete(self, folder: Path, digest: str) -> bool:
        """Whether a folder, or what a link leads to, holds the installation of a digest."""
        try:
            same = (folder / _MARK).read_text().strip() == digest
        except OSError:
            return False
        return same and not self.absent(folder)

    def absent(self, folder: Path) -> list[str]:
        """The parts that a folder lacks; a link that leads nowhere is no part."""
        return [part for part in self.parts if not any(path.exists() for path in folder.glob(part))]


class Shell:
    """Runs the programs of an installation.

    Args:
        folder: for their output, and for tools that are needed only now.
        lock: an open file that holds the lock. Programs inherit it: if this process is killed, the
            lock is held until they have ended as well.
        show: takes the last line of their output.
    """

    def __init__(self, folder: Path, lock: IO[bytes], show: Callable[[str], None]) -> None:
        self._folder = folder
        self._lock = lock
        self.show = show

    def run(
        self,
        what: str,
        command: Sequence[str | Path],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a program; return what it printed.

        Args:
            what: what it does, for the error message.
            command: the program and its arguments.
            cwd: its working directory.
            env: variables besides those of this process.

        Raises:
            InstallError: it failed, or made no progress; the message quotes its last lines.
        """
        log = self._folder / "output.log"
        environ = {**process.inherit(os.environ), "PIP_USER": "false", **(env or {})}
        with log.open("wb") as output:
            child = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(self._lock.fileno(),),
            )
        running = psutil.Process(child.pid)
        wait = Patience(activity(lambda: [running], _PATIENCE, log), _PATIENCE, math.inf)
        try:
            while child.poll() is None:
                self.show(_last_line(log))
                if (reason := wait.exhausted()) is not None:
                    raise InstallError(f"{what} failed, {reason}:\n{_tail(log)}")
                time.sleep(0.1)
        finally:
            if child.poll() is None:
                family = [running]
                with suppress(psutil.Error):
                    family += running.children(recursive=True)
                process.end(family)
                child.wait()
        if child.returncode:
            raise InstallError(f"{what} failed (exit code {child.returncode}):\n{_tail(log)}")
        return log.read_text(errors="replace")

    def uv(self) -> Path:
        """The installer of Python packages, in a folder that goes when the installations are done.

        Raises:
            InstallError: it cannot be installed.
        """
        tools = self._folder / "uv"
        program = tools / "bin" / "uv"
        if not program.exists():
            self.run(
                "making a virtual environment ('apt-get install python3-venv' adds what it lacks)",
                [sys.executable, "-m", "venv", "--clear", tools],
            )
            pip: list[str | Path] = [
                tools / "bin" / "python",
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
            ]
            lock = ROOT / "requirements" / "bootstrap.txt"
            self.run("installing uv", [*pip, "--no-compile", "--require-hashes", "-r", lock])
        return program


def install(
    recipes: Sequence[Recipe],
    home: Path,
    steps: Steps,
    root: Path = ROOT,
    lacks: Sequence[str] = (),
) -> None:
    """Install what is not installed, or was made from other files than the project has now.

    A killed or failed installation leaves the former one in use. Of two that run at the same time,
    the second waits for the first.

    Args:
        recipes: what to install.
        home: `.stack`.
        steps: tells people.
        root: the project.
        lacks: what else the machine lacks, to be named with the rest.

    Raises:
        InstallError: the machine lacks something, an installation failed, or it would change what
            another checkout uses.
    """
    wanted = {recipe.name: recipe.digest(root) for recipe in recipes}
    pending = [one for one in recipes if not one.complete(home / one.name, wanted[one.name])]
    if reasons := [*lacks, *(reason for one in pending if (reason := one.lacks()))]:
        raise InstallError("\nerror: ".join(reasons))
    if not pending:
        steps.say(f"{', '.join(wanted)}: installed in {home}")
        return
    for recipe in pending:
        _refuse_shared(recipe, home)
        _refuse_running(recipe, home)
    versions = home / "versions"
    try:
        versions.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstallError(f"{versions} cannot be made: {error.strerror}") from error
    with _locked(versions, steps) as lock:
        _sweep(home, recipes, wanted, steps)
        tools = Path(mkdtemp(prefix="tools-", dir=versions.resolve()))
        try:
            for recipe in pending:
                _install(recipe, home, wanted[recipe.name], tools, lock, steps)
        finally:
            shutil.rmtree(tools, ignore_errors=True)
            _sweep(home, recipes, wanted, steps)


def _install(
    recipe: Recipe, home: Path, digest: str, tools: Path, lock: IO[bytes], steps: Steps
) -> None:
    versions = (home / "versions").resolve()
    if recipe.complete(home / recipe.name, digest):
        return  # by another process, while this one waited for the lock
    for made in versions.glob(f"{recipe.name}-*"):
        if recipe.complete(made, digest):
            _switch(recipe, home, made, steps)  # was killed before it came to this
            return
    started = steps.clock()
    place = Path(mkdtemp(prefix=f"{recipe.name}-", dir=versions))
    place.chmod(0o755)
    try:
        title = f"{recipe.name}: installing {recipe.title} ({recipe.cost})"
        with steps.step(title) as show:
            recipe.make(place, Shell(tools, lock, show))
        if absent := recipe.absent(place):
            raise InstallError(f"the installation lacks {', '.join(absent)}")
        (place / _MARK).write_text(f"{digest}\n")
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, InstallError | OSError):
            kept = "; the former one is still in use" if (home / recipe.name).exists() else ""
            raise InstallError(f"{recipe.title} was not installed{kept}: {error}") from error
        raise
    size = sum(path.lstat().st_size for path in place.rglob("*")) / 1e6
    _switch(recipe, home, place, steps)
    steps.say(f"{recipe.name}: installed, {size:,.0f} MB, {steps.clock() - started:.0f} s")


def _switch(recipe: Recipe, home: Path, place: Path, steps: Steps) -> None:
    """Make the link of a server lead to another installation."""
    link = home / recipe.name
    fresh = place.with_name(f"{place.name}.link")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path("versions", place.name))
    if link.is_symlink():
        if link.resolve().parent != place.parent:
            steps.say(
                f"{recipe.name}: {link} led to {link.resolve()}, another version, which stays as "
                f"it is; {link} now leads to {place}"
            )
    elif link.exists():
        # Earlier versions of the project installed here, not into `versions`.
        _refuse_running(recipe, home)
        data = home / "run" / recipe.name
        if (link / "run").is_dir() and not data.exists():
            data.parent.mkdir(exist_ok=True)
            (link / "run").rename(data)
        link.rename(place.with_name(f"{place.name}.former"))
    fresh.replace(link)


def _refuse_shared(recipe: Recipe, home: Path) -> None:
    """Leave alone what another checkout installed in the folder that `.stack` leads to."""
    if home.is_symlink() and os.path.lexists(home / recipe.name):
        raise InstallError(
            f"{home} is a link to {home.resolve()}, whose {recipe.name} is another version than "
            f"this checkout needs; nothing was changed. Remove the link ('rm {home}') to install "
            f"here, or set STACK_HOME={home.resolve()} to replace that one"
        )


def _refuse_running(recipe: Recipe, home: Path) -> None:
    """Leave alone a folder of an earlier version of the project while a server runs from it."""
    link = home / recipe.name
    if link.is_dir() and not link.is_symlink() and (users := _users(link.absolute())):
        raise InstallError(
            f"{recipe.title} runs from {link} (process {users[0].pid}) and would lose its files; "
            f"end it ('python -m stack down {recipe.name}'), then run this again"
        )


def _sweep(home: Path, recipes: Sequence[Recipe], wanted: Mapping[str, str], steps: Steps) -> None:
    """Delete installations that no link leads to: former ones, and those cut short."""
    versions = home / "versions"
    if home.is_symlink() or versions.is_symlink():
        return  # whatever is there may belong to another checkout
    versions = versions.resolve()
    linked = {path.resolve() for path in home.iterdir() if path.is_symlink()}
    for found in versions.iterdir():
        if found.is_symlink():
            found.unlink()
        elif found.is_dir() and found not in linked:
            if any(recipe.complete(found, wanted[recipe.name]) for recipe in recipes):
                continue
            if users := _users(found):
                steps.say(
                    f"process {users[0].pid} still runs from {found}; the next installation after "
                    "its end removes that"
                )
            else:
                shutil.rmtree(found, ignore_errors=True)


def _users(folder: Path) -> list[psutil.Process]:
    """The processes that run from a folder, as their command lines tell."""
    inside = {f"{path}{os.sep}" for path in (folder, folder.resolve())}
    return [
        one
        for one in psutil.process_iter(["cmdline"])
        if any(path in word for word in one.info["cmdline"] or () for path in inside)
    ]


@contextmanager
def _locked(versions: Path, steps: Steps) -> Iterator[IO[bytes]]:
    """Keep other installations out; wait for one that is going on."""
    with (versions / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with steps.step(f"waiting for another installation into {versions.parent}"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _last_line(log: Path) -> str:
    with log.open("rb") as output:
        output.seek(max(0, log.stat().st_size - 1000))
        lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _tail(log: Path, lines: int = 15) -> str:
    printed = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(f"  {line}" for line in printed[-lines:]) or "  (it printed nothing)"
