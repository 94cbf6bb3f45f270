"""Installing servers: the one in use stays whole whatever happens to the new one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from stack import recipes
from stack.install import ROOT, InstallError, Recipe, Shell, install
from stack.steps import Steps
from tests.servers import eventually

#: Installs what the lock says, in some steps; while the file `hold` is there, half is not enough.
MAKE = """
import pathlib, sys, time
lock, place = map(pathlib.Path, sys.argv[1:])
(place / "half").write_text("")
with (lock.parent / "made").open("a") as made:
    made.write(f"{place}\\n")
print("half of it is there", flush=True)
while (lock.parent / "hold").exists():
    time.sleep(0.02)
(place / "half").unlink()
(place / "program").write_text(lock.read_text())
sys.exit("no room" if "broken" in lock.read_text() else 0)
"""


class Project:
    """A project with one server, `zoo`, that is installed from `zoo.lock`.

    Args:
        folder: for the project and for `.stack`.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.root.mkdir(parents=True, exist_ok=True)
        self.home = self.root / ".stack"
        self.said: list[str] = []
        self.recipe = Recipe("zoo", "The zoo", "1 MB, 1 s", ("zoo.lock",), ("program",), self._make)

    def _make(self, place: Path, shell: Shell) -> None:
        shell.run("building", [sys.executable, "-c", MAKE, self.root / "zoo.lock", place])

    def lock(self, text: str) -> None:
        """Change the lock."""
        (self.root / "zoo.lock").write_text(text)

    def hold(self, on: bool) -> None:
        """Keep installations from ending, or no longer."""
        (self.root / "hold").touch() if on else (self.root / "hold").unlink()

    def install(self, *recipes: Recipe) -> None:
        """Install what is to be installed."""
        said = StringIO()
        try:
            steps = Steps(Console(file=said, soft_wrap=True))
            install(recipes or [self.recipe], self.home, steps, self.root)
        finally:
            self.said = said.getvalue().splitlines()

    def begin(self) -> subprocess.Popen[bytes]:
        """Install in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.unit.test_install", str(self.root.parent)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def made(self) -> int:
        """How many installations were begun."""
        begun = self.root / "made"
        return len(begun.read_text().splitlines()) if begun.exists() else 0

    def check_made(self, count: int) -> None:
        """Fail unless so many were begun."""
        assert self.made == count

    @property
    def program(self) -> str:
        """What is in use."""
        return (self.home / "zoo" / "program").read_text()

    @property
    def versions(self) -> list[Path]:
        """What lies beside each other."""
        return [path for path in (self.home / "versions").iterdir() if path.name != ".lock"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.lock("first")
    return made


@pytest.fixture
def held(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    """The installation of a second lock over the first, half done."""
    project.install()
    project.lock("second")
    project.hold(True)
    child = project.begin()
    eventually(lambda: project.check_made(2))
    yield child
    (project.root / "hold").unlink(missing_ok=True)
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(20)


def content(folder: Path) -> dict[str, str]:
    """Every file and link below a folder, with what it holds."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_it_says_what_it_costs_before_and_what_it_took_after(project: Project) -> None:
    project.install()
    assert project.program == "first"
    before, after = project.said
    assert before == "zoo: installing The zoo (1 MB, 1 s)"
    assert after.startswith("zoo: installed, 0 MB, ")


def test_a_terminal_shows_the_time_and_the_last_line_of_output() -> None:
    def said(terminal: bool) -> str:
        output = StringIO()
        console = Console(file=output, force_terminal=terminal, soft_wrap=True, width=100)
        with Steps(console).step("installing [it] (1 MB)") as show:
            show("  downloading [a]\n")
            time.sleep(0.3)
        return output.getvalue()

    assert said(False) == "installing [it] (1 MB)\n"
    assert re.search(r"0:00:00\S* downloading \[a\]", said(True))


def test_what_is_there_is_not_made_again(project: Project) -> None:
    project.install()
    (project.root / "zoo.lock").touch()  # a fresh clone's files are all new
    there = content(project.home)
    project.install()
    assert (project.made, content(project.home)) == (1, there)
    assert project.said == [f"zoo: installed in {project.home}"]


def test_another_lock_replaces_it(project: Project) -> None:
    project.install()
    project.lock("second")
    project.install()
    assert project.program == "second"
    assert project.versions == [(project.home / "zoo").resolve()]


def test_so_does_another_interpreter_and_another_way_to_make_it(project: Project) -> None:
    project.install()
    project.install(replace(project.recipe, interpreter=lambda: "3.13"))
    assert project.made == 2
    project.install(replace(project.recipe, edition=2))
    assert project.made == 3


def test_what_lacks_a_part_is_made_again(project: Project) -> None:
    project.install()
    (project.home / "zoo" / "program").unlink()
    project.install()
    assert (project.made, project.program) == (2, "first")
    (project.home / "zoo" / "program").unlink()
    (project.home / "zoo" / "program").symlink_to("an interpreter that was removed")
    project.install()
    assert (project.made, project.program) == (3, "first")


def test_one_that_fails_leaves_the_former_in_use(project: Project) -> None:
    project.install()
    project.lock("broken")
    with pytest.raises(InstallError) as failed:
        project.install()
    assert str(failed.value) == (
        "The zoo was not installed; the former one is still in use: "
        "building failed (exit code 1):\n  half of it is there\n  no room"
    )
    assert project.program == "first"
    assert project.versions == [(project.home / "zoo").resolve()]


def test_one_that_made_something_else_leaves_the_former_in_use(project: Project) -> None:
    project.install()
    project.lock("second")
    with pytest.raises(InstallError, match="the installation lacks bin/\\*"):
        project.install(replace(project.recipe, parts=("bin/*",)))
    assert project.program == "first"


def test_a_program_that_is_not_there_is_named(project: Project) -> None:
    def make(_: Path, shell: Shell) -> None:
        shell.run("building", ["no-such-program"])

    with pytest.raises(InstallError, match=r"^The zoo was not installed: .*no-such-program"):
        project.install(replace(project.recipe, make=make))


def test_the_former_is_in_use_until_the_new_one_is_complete(
    project: Project, held: subprocess.Popen[bytes]
) -> None:
    assert project.program == "first"
    project.hold(False)
    said = held.communicate(timeout=60)[0].decode()
    assert (held.returncode, project.program) == (0, "second")
    # No terminal: a line before, a line after, and no spinner.
    assert len(said.splitlines()) == 2


def test_one_that_is_killed_leaves_the_former_in_use(
    project: Project, held: subprocess.Popen[bytes]
) -> None:
    os.killpg(held.pid, signal.SIGKILL)
    held.wait(20)
    project.hold(False)
    assert project.program == "first"
    assert len(project.versions) == 3  # the former, half of the new one, tools
    project.install()
    assert project.program == "second"
    assert project.versions == [(project.home / "zoo").resolve()]


def test_what_a_killed_one_started_keeps_the_next_one_out(
    project: Project, held: subprocess.Popen[bytes]
) -> None:
    """It still writes; what it left is not removed under it."""
    held.kill()  # it alone
    held.wait(20)
    later = project.begin()
    assert later.stdout is not None
    assert later.stdout.readline().startswith(b"waiting for another installation into ")
    assert project.made == 2
    project.hold(False)
    assert later.wait(60) == 0
    assert (project.made, project.program) == (3, "second")
    assert project.versions == [(project.home / "zoo").resolve()]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_told_to_end_ends_what_it_started(
    project: Project, held: subprocess.Popen[bytes], how: signal.Signals
) -> None:
    started = psutil.Process(held.pid).children(recursive=True)
    held.send_signal(how)
    assert held.wait(60) != 0
    assert not [one for one in started if one.is_running()]
    assert project.program == "first"
    assert project.versions == [(project.home / "zoo").resolve()]


def test_of_two_the_second_waits_and_finds_it_installed(
    project: Project, held: subprocess.Popen[bytes]
) -> None:
    later = project.begin()
    assert later.stdout is not None
    assert later.stdout.readline().startswith(b"waiting for another installation into ")
    assert project.made == 2
    project.hold(False)
    assert (held.wait(60), later.wait(60)) == (0, 0)
    assert (project.made, project.program) == (2, "second")
    assert later.stdout.read() == b""  # neither a line about making it


def test_a_stack_that_is_a_link_is_used_as_it_is(project: Project, tmp_path: Path) -> None:
    project.install()
    other = Project(tmp_path / "clone")
    other.lock("first")
    other.home.symlink_to(project.home)
    there = content(project.home)
    other.install()
    assert (other.made, content(project.home)) == (0, there)


def test_nothing_is_replaced_through_a_stack_that_is_a_link(
    project: Project, tmp_path: Path
) -> None:
    project.install()
    other = Project(tmp_path / "clone")
    other.lock("second")
    other.home.symlink_to(project.home)
    there = content(project.home)
    with pytest.raises(InstallError, match=f"is a link to {project.home}, whose zoo is another"):
        other.install()
    assert content(project.home) == there
    # What it lacks is added; what lies there is left.
    (project.home / "versions" / "zoo-half").mkdir()
    other.install(replace(other.recipe, name="ark"))
    assert (project.home / "ark" / "program").read_text() == "second"
    assert content(project.home).items() > there.items()
    assert (project.home / "versions" / "zoo-half").exists()


def test_versions_that_are_a_link_are_added_to(project: Project, tmp_path: Path) -> None:
    project.install()
    other = Project(tmp_path / "clone")
    other.lock("second")
    other.home.mkdir()
    (other.home / "versions").symlink_to(project.home / "versions")
    other.install()
    assert (project.program, other.program) == ("first", "second")


def test_a_stack_that_leads_nowhere_is_named(project: Project) -> None:
    project.home.symlink_to(project.root / "gone")
    with pytest.raises(InstallError, match=r"\.stack/versions cannot be made: "):
        project.install()


@pytest.mark.parametrize("plain", [False, True])
def test_a_server_that_is_a_link_is_used_or_the_link_replaced(
    project: Project, tmp_path: Path, plain: bool
) -> None:
    project.install()
    other = Project(tmp_path / "clone")
    other.lock("first")
    other.home.mkdir()
    target = project.home / "zoo"
    (other.home / "zoo").symlink_to(target.resolve() if plain else target)
    there = content(project.home)
    other.install()
    assert other.made == 0
    other.lock("second")
    other.install()
    assert (other.program, content(project.home)) == ("second", there)
    assert "led to" in other.said[-2]


def earlier(project: Project) -> Path:
    """An installation of an earlier version of the project, with a server's data in it."""
    found = project.home / "zoo"
    (found / "run").mkdir(parents=True)
    (found / "program").write_text("earlier")
    (found / ".installed").touch()
    (found / "run" / "data").write_text("kept")
    return found


def test_an_installation_of_an_earlier_version_is_replaced(project: Project) -> None:
    found = earlier(project)
    project.lock("broken")
    with pytest.raises(InstallError):
        project.install()
    assert project.program == "earlier"
    project.lock("first")
    project.install()
    assert found.is_symlink()
    assert project.program == "first"
    assert (project.home / "run" / "zoo" / "data").read_text() == "kept"
    assert project.versions == [found.resolve()]


def test_one_that_a_server_runs_from_is_not_moved(project: Project) -> None:
    found = earlier(project)
    server = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", found / "program"]
    )
    try:
        with pytest.raises(InstallError, match=rf"\(process {server.pid}\).* down zoo'"):
            project.install()
    finally:
        server.kill()
        server.wait(20)
    assert (project.program, project.made) == ("earlier", 0)


def test_what_a_server_runs_from_stays_until_it_ends(project: Project) -> None:
    project.install()
    former = (project.home / "zoo").resolve()
    server = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", former / "program"]
    )
    try:
        project.lock("second")
        project.install()
        assert (former / "program").exists()
        assert f"process {server.pid} still runs from {former}; " in project.said[-1]
    finally:
        server.kill()
        server.wait(20)
    assert project.program == "second"
    project.lock("third")
    project.install()
    assert project.versions == [(project.home / "zoo").resolve()]


def test_all_that_the_machine_lacks_is_named_before_anything_is_made(project: Project) -> None:
    ark = replace(project.recipe, name="ark", lacks=lambda: "The ark needs wood")
    with pytest.raises(InstallError, match=r"^The ark needs wood$"):
        project.install(project.recipe, ark)
    assert not project.home.exists()
    # One that is installed needs nothing more.
    project.install(replace(ark, lacks=lambda: None))
    project.install(ark)


def test_every_recipe_is_made_from_files_of_the_project() -> None:
    digests = {recipe.digest() for recipe in recipes.RECIPES}
    assert len(digests) == len(recipes.RECIPES) == 5


class Recorder(Shell):
    """Runs nothing."""

    def __init__(self) -> None:
        self.ran: list[tuple[list[str], Path]] = []
        self.show = lambda _: None

    def run(
        self,
        what: str,  # noqa: ARG002
        command: Sequence[str | Path],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> str:
        """Keep what would run, and where."""
        self.ran.append(([str(word) for word in command], cwd or Path.cwd()))
        return ""

    def uv(self) -> Path:
        """A name for it."""
        return Path("uv")


@pytest.mark.parametrize("recipe", recipes.RECIPES, ids=lambda recipe: recipe.name)
def test_what_is_installed_has_a_digest_in_a_lock(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of the project's own settings: uv reads them where it runs in the project."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(recipes, "_mwaa_python", lambda: Path(sys.executable))
    shell = Recorder()
    # Nothing is made, so that the startup script has not made its environment either.
    with suppress(InstallError):
        recipe.make(tmp_path, shell)
    assert shell.ran
    for command, cwd in shell.ran:
        if "pip" in command:
            assert "--require-hashes" in command
            lock = Path(command[command.index("-r") + 1])
            assert str(lock.relative_to(ROOT)) in recipe.files
            assert not cwd.is_relative_to(ROOT)
        if "npm" in command:
            assert command[1] == "ci"


def test_mwaa_s_airflow_gets_an_interpreter_it_runs_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Beside a later one, and past a shim that does not run."""
    mwaa = next(recipe for recipe in recipes.RECIPES if recipe.name == "mwaa")
    monkeypatch.setattr(recipes, "_interpreter", lambda: "3.13")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "shims"), str(tmp_path / "bin")]))
    for folder, answer in (("shims", "exit 127"), ("bin", "echo 3.12")):
        (tmp_path / folder).mkdir()
        program = tmp_path / folder / "python3.12"
        program.write_text(f"#!/bin/sh\n{answer}\n")
        program.chmod(0o755)
    assert recipes._mwaa_python() == tmp_path / "bin" / "python3.12"
    assert mwaa.lacks() is None
    other = mwaa.digest()
    (tmp_path / "bin" / "python3.12").unlink()
    assert "MWAA's Airflow 3.0 needs Python 3.12 or 3.11, and this" in (mwaa.lacks() or "")
    monkeypatch.setattr(recipes, "_interpreter", lambda: "3.11")
    assert recipes._mwaa_python() == Path(sys.executable)
    assert mwaa.digest() != other


if __name__ == "__main__":
    # Whatever ran the tests may ignore SIGINT, and children inherit that.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    here = Project(Path(sys.argv[1]))
    install([here.recipe], here.home, Steps(Console(soft_wrap=True)), here.root)
