"""Apache Kafka: one broker that is its own controller, on this machine."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

import stack
from stack.process import Server, ServerError

#: Where `make services` puts its libraries.
HOME = stack.HOME / "kafka"


def missing(home: Path = HOME) -> str | None:
    """What keeps Kafka from starting, with the way out; None if nothing does."""
    if shutil.which("java") is None:
        return "Kafka needs Java 17 or newer: apt-get install default-jre-headless maven"
    if not list((home / "jars").glob("kafka_2.13-*.jar")):
        return f"Kafka is not in {home}: make services"
    return None


def broker(
    port: int,
    controller_port: int,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    home: Path = HOME,
) -> Server:
    """A broker; its storage is made the first time and kept.

    Args:
        port: of 127.0.0.1, where clients connect.
        controller_port: of 127.0.0.1, where it talks to itself.
        folder: for its storage and its log.
        settings: lines of ``server.properties``, besides or instead of those here.
        home: where Kafka lies.

    Raises:
        ServerError: Kafka is not installed, or its storage cannot be made.
    """
    if reason := missing(home):
        raise ServerError(reason)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        **(settings or {}),
    }
    properties = folder / "server.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    java = ["java", "-Xmx512m", "-cp", f"{(home / 'jars').resolve()}/*"]
    if not (folder / "data" / "meta.properties").exists():
        identity = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [
            *java,
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={identity}",  # it may begin with a dash
            "-c",
            str(properties),
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ServerError(f"{folder}/data cannot be made: {said[-1] if said else 'no reason'}")
    return Server("Kafka", [*java, "kafka.Kafka", str(properties)], port, folder)
