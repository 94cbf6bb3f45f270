"""SeaweedFS, an S3 store that refuses to overwrite where it is told to, as Delta commits need."""

from __future__ import annotations

import json
from pathlib import Path

import stack
from stack.process import Server, ServerError, free_port

#: Where `make services` puts it.
HOME = stack.HOME / "s3"

#: What clients of the store on this machine present; it takes connections from this machine alone.
ACCESS_KEY, SECRET_KEY = "local", "local-only"


def missing(home: Path = HOME) -> str | None:
    """What keeps it from starting, with the way out; None if nothing does."""
    if not (home / "bin" / "weed").exists():
        return f"SeaweedFS is not in {home}: make services"
    return None


def server(port: int, folder: Path, home: Path = HOME) -> Server:
    """An S3 store at ``http://127.0.0.1:{port}``, which keeps its objects in its folder.

    Args:
        port: of 127.0.0.1.
        folder: for its objects and its log.
        home: where it lies.

    Raises:
        ServerError: it is not installed.
    """
    if reason := missing(home):
        raise ServerError(reason)
    folder = folder.resolve()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "local", "credentials": credentials, "actions": ["Admin"]}
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    # Every part listens somewhere; the ports must not be those of another store on the machine.
    parts = ("master", "volume", "filer")
    ports = [f"-{part}.port{kind}={free_port()}" for part in parts for kind in ("", ".grpc")]
    return Server(
        "S3",
        [
            str((home / "bin" / "weed").resolve()), "server", f"-dir={folder / 'data'}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports, f"-s3.port.grpc={free_port()}",
            "-s3", f"-s3.port={port}", f"-s3.config={folder / 'identities.json'}",
            # Other doors, always at the same ports, which another store would find taken.
            "-s3.port.iceberg=0", "-s3.port.lance=0",
            # One master is elected at once; started again on its data, it waits for others first.
            "-master.electionTimeout=1s", "-master.telemetry=false",
            # A bucket takes seven volumes of its own.
            "-master.volumeSizeLimitMB=128", "-volume.max=500", "-volume.preStopSeconds=0",
        ],
        port,
        folder,
        # Its own settings as variables, and credentials that it would let in besides those above.
        drop=("WEED_", "AWS_", "S3_"),
    )  # fmt: skip


def environment(port: int) -> dict[str, str]:
    """What clients need to reach a store on this machine."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
