"""The files of a deployment, and the keys they get in its bucket."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.mwaa.errors import UploadError
from deploy.mwaa.plan import Local, Stage
from deploy.mwaa.startup import ROOT

DAG = "pinterest_daily"
#: What the DAG finds in its folder, besides the profile and the manifest.
PROJECT = ("dbt_project.yml", "dbt_lake.py", "dbt_project", "ingestion", "reporting", "runner")
STARTUP, REQUIREMENTS = "startup.sh", "requirements.txt"

#: In the manifest, what says when and by whom it was made; the same project has the same manifest.
_PASSING = frozenset(
    {"generated_at", "invocation_id", "invocation_started_at", "run_started_at", "user_id", "env"}
)


@dataclass(frozen=True)
class File:
    """One object to be.

    Attributes:
        body: its content.
        stage: when it is uploaded.
    """

    body: bytes
    stage: Stage = Stage.PROJECT

    @property
    def local(self) -> Local:
        """What the plan has to know of it."""
        return Local(hashlib.sha256(self.body).hexdigest(), self.stage)


@dataclass(frozen=True)
class Deployment:
    """The names of a deployment.

    Args:
        pipeline: its id, which its DAG is named after; None for the only one of its environment.

    Raises:
        UploadError: the id cannot be part of names.
    """

    pipeline: str | None = None

    def __post_init__(self) -> None:  # noqa: D105 (the class says what it refuses)
        if self.pipeline is None:
            return
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.pipeline) or self.pipeline == DAG:
            raise UploadError(
                f"{self.pipeline!r} cannot be a pipeline's id; use letters, digits, _ and -, such "
                "as 0a60b9a8a831"
            )

    @property
    def dag(self) -> str:
        """The DAG's id."""
        return f"{self.pipeline}_dag" if self.pipeline else DAG

    @property
    def dag_key(self) -> str:
        """The key of its file."""
        return f"dags/{self.dag}.py"

    @property
    def folder(self) -> str:
        """What the keys of its project begin with."""
        return f"dags/{self.pipeline or DAG}/"

    @property
    def state_key(self) -> str:
        """The key of what it has uploaded."""
        return f"{self.folder}.uploaded.json"


def default_settings(bucket: str, pipeline: str | None) -> dict[str, str]:
    """The settings of a deployment whose lake and posts lie in the DAGs' bucket.

    Args:
        bucket: its name.
        pipeline: the deployment's id.
    """
    return ({"PIPELINE_ID": pipeline} if pipeline else {}) | {
        "LAKE_URI": f"s3://{bucket}/lake",
        "PIPELINE_SOURCES": f"s3 --uri s3://{bucket}",
        "PIPELINE_PUBLISH": f"s3://{bucket}/published",
    }


def files(
    deployment: Deployment, startup: str, manifest: bytes, root: Path = ROOT
) -> dict[str, File]:
    """All files of a deployment by key.

    Args:
        deployment: its names.
        startup: the startup script.
        manifest: the dbt project's.
        root: the project's folder.

    Raises:
        UploadError: a file of the project cannot be read.
    """
    own = deployment.folder
    found = {}
    try:
        for part in PROJECT:
            for path in _walk(root / part):
                found[own + path.relative_to(root).as_posix()] = File(path.read_bytes())
        found[f"{own}profiles.yml"] = File((root / "profiles.example.yml").read_bytes())
        requirements = root / "deploy" / "mwaa" / "requirements.txt"
        shared = {
            REQUIREMENTS: File(requirements.read_bytes(), Stage.ROOT),
            deployment.dag_key: File((root / "dags" / f"{DAG}.py").read_bytes(), Stage.DAG),
        }
    except OSError as error:
        raise UploadError(
            f"{error.filename} cannot be read: {error.strerror}; run this from a checkout of the "
            "project"
        ) from error
    # Airflow looks for DAGs in no file of the project.
    found[f"{own}.airflowignore"] = File(b"**\n")
    found[f"{own}target/manifest.json"] = File(manifest, Stage.MANIFEST)
    found[STARTUP] = File(startup.encode(), Stage.ROOT)
    return found | shared


def _walk(path: Path) -> Iterator[Path]:
    """The files of a folder, or the file; without what editors and interpreters leave."""
    if not path.is_dir():
        yield path
        return
    for inner in sorted(path.iterdir()):
        if inner.name.startswith(".") or inner.name.endswith("~") or inner.name == "__pycache__":
            continue
        yield from _walk(inner)


def parse(root: Path = ROOT) -> bytes:
    """The dbt project's manifest as the project is now, without what differs from time to time.

    Args:
        root: the project's folder.

    Raises:
        UploadError: dbt does not take the project; the message is what it says.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copy(root / "profiles.example.yml", folder / "profiles.yml")
        done = subprocess.run(
            [sys.executable, "-m", "dbt.cli.main", "parse", "--quiet", "--no-partial-parse"],
            cwd=root,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("DBT_")},
                "DBT_TARGET_PATH": str(folder / "target"),
                "DBT_LOG_PATH": str(folder / "logs"),
                "DBT_PROFILES_DIR": str(folder),
                "DBT_USE_COLORS": "False",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = " ".join((done.stdout + done.stderr).split()) or "it says nothing"
            raise UploadError(
                f"{root}: dbt does not take the project: {said[-600:]}; 'dbt parse' says it here"
            )
        return constant(json.loads((folder / "target" / "manifest.json").read_bytes()))


def constant(manifest: dict[str, Any]) -> bytes:
    """A manifest of which only the project decides.

    Args:
        manifest: as dbt wrote it.
    """
    manifest["metadata"] = {k: v for k, v in manifest["metadata"].items() if k not in _PASSING}
    return json.dumps(_without_times(manifest), sort_keys=True).encode()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        # A column may be called so as well; what is said of it is no number.
        return {
            name: _without_times(inner)
            for name, inner in value.items()
            if not (name == "created_at" and isinstance(inner, int | float))
        }
    return [_without_times(item) for item in value] if isinstance(value, list) else value
