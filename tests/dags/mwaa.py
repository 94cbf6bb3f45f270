"""MWAA on this machine: its Airflow, its folders, its startup script, a bucket."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from stack import s3

#: Where `make services` puts MWAA's Airflow and dbt's environment.
HOME = s3.HOME.parent / "mwaa"

#: How MWAA runs a startup script: sourced by bash, which writes its variables down when the script
#: ends, also when it ends by `exit`.
RUN = """
written_down() { env -0 >"$VARIABLES"; unalias exit; exit; }
shopt -s expand_aliases
alias exit=written_down
source "$1"
written_down
"""


def missing() -> str | None:
    """What keeps MWAA's Airflow from running here, with the way out; None if nothing does."""
    if not (HOME / ".installed").exists():
        return f"MWAA's Airflow is not in {HOME}: make services"
    return None


def source(script: Path, folder: Path, **environ: str) -> tuple[dict[str, str], str]:
    """Run a startup script as MWAA does.

    Args:
        script: its file.
        folder: for the file of variables.
        environ: all variables that it finds, besides the search path.

    Returns:
        The variables afterwards, and what the script said.
    """
    variables = folder / "variables"
    done = subprocess.run(
        ["bash", "-c", RUN, "run", str(script)],
        env={
            "PATH": os.environ["PATH"],
            "VARIABLES": str(variables),
            "PIP_USER": "true",
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    pairs = variables.read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair), done.stdout


def sync(client: Any, bucket: str, folder: Path) -> None:
    """Copy a bucket to where MWAA has it: the DAGs, the startup script, the requirements.

    Args:
        client: of S3.
        bucket: its name.
        folder: Airflow's home.
    """
    for prefix, below in (("dags/", ""), ("startup.sh", "startup"), ("requirements.txt", "")):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for item in (item for page in pages for item in page.get("Contents", ())):
            path = folder / below / item["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
