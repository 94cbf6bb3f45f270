"""The servers of this machine: what they are called, where they listen, how they are started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import stack
from stack import airflow, kafka, kinesis, mysql, process, s3, spark

#: Where the servers of this machine keep their data, their logs and the records of their processes.
RUN = stack.HOME / "run"


def _port(name: str, usual: int) -> int:
    """A server's port: the usual one, or that of the variable ``STACK_{name}_PORT``."""
    said = os.environ.get(f"STACK_{name}_PORT") or str(usual)
    if not said.isdecimal() or not 0 < int(said) < 65536:
        raise SystemExit(f"error: STACK_{name}_PORT is {said}, not a port's number")
    return int(said)


KAFKA_PORT = _port("KAFKA", 9092)
KINESIS_PORT = _port("KINESIS", 4567)
S3_PORT = _port("S3", 8333)
MYSQL_PORT = _port("MYSQL", 3307)
GATEWAY_PORT = _port("GATEWAY", 8080)
AIRFLOW_PORT = _port("AIRFLOW", 8090)

#: Variables that begin so lead clients elsewhere, or say who they are there.
FOREIGN = ("AWS_", "KAFKA_", "GATEWAY_")


@dataclass(frozen=True)
class Local:
    """A server that has its place on this machine.

    Attributes:
        name: what commands call it.
        folder: its own.
        server: makes what it takes to run it.
        address: says where clients find it.
        ready: raises an OSError while it does not answer; its port may be open before that.
        port_variable: what chooses its port.
        end: ends it; whether it ran.
        patience: seconds without progress after which its start has failed.
        about: how long its start takes.
    """

    name: str
    folder: Path
    server: Callable[[], process.Server]
    address: Callable[[], str]
    ready: Callable[[], object] = lambda: None
    port_variable: str = ""
    end: Callable[[Path], bool] = process.stop
    patience: float = 90.0
    about: str = "1 to 20 s"

    def up(self) -> int:
        """Start it, unless it runs, and wait until it answers.

        Returns:
            The id of its process.

        Raises:
            ServerError: it does not start.
        """
        try:
            return process.start(self.server(), self.ready, patience=self.patience)
        except process.PortTakenError as error:
            variable = self.port_variable or f"STACK_{self.name.upper()}_PORT"
            raise process.ServerError(f"{error} with {variable}") from error

    def down(self) -> bool:
        """End it; whether it ran."""
        return self.end(self.folder)


def environment() -> dict[str, str]:
    """What the project's commands need to work with the servers of this machine."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{KAFKA_PORT}",
        "AWS_ENDPOINT_URL_KINESIS": f"http://127.0.0.1:{KINESIS_PORT}",
        "SOURCE_DATABASE_URL": mysql.url(MYSQL_PORT),
        "GATEWAY_URL": f"http://127.0.0.1:{GATEWAY_PORT}",
        **s3.environment(S3_PORT),
    }


def led_here(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment whose commands work with the servers of this machine and with no others."""
    kept = {name: value for name, value in environ.items() if not name.startswith(FOREIGN)}
    return kept | environment()


def servers() -> dict[str, Local]:
    """Every server of this machine by its name, in the order in which they are started."""
    known = [
        Local(
            "mysql",
            RUN / "mysql",
            lambda: mysql.server(MYSQL_PORT, RUN / "mysql"),
            lambda: mysql.url(MYSQL_PORT),
        ),
        Local(
            "kafka",
            RUN / "kafka",
            lambda: kafka.broker(KAFKA_PORT, process.free_port(), RUN / "kafka"),
            lambda: f"127.0.0.1:{KAFKA_PORT}",
        ),
        Local(
            "kinesis",
            RUN / "kinesis",
            lambda: kinesis.server(KINESIS_PORT, RUN / "kinesis"),
            lambda: f"http://127.0.0.1:{KINESIS_PORT}",
        ),
        Local(
            "s3",
            RUN / "s3",
            lambda: s3.server(S3_PORT, RUN / "s3"),
            lambda: f"http://127.0.0.1:{S3_PORT}",
            lambda: _answers(f"http://127.0.0.1:{S3_PORT}/"),
        ),
        Local(
            "gateway",
            RUN / "gateway",
            _gateway,
            lambda: f"http://127.0.0.1:{GATEWAY_PORT}",
            lambda: _answers(f"http://127.0.0.1:{GATEWAY_PORT}/healthz"),
        ),
        Local(
            "spark",
            _spark_folder(),
            lambda: spark.connect_server(_spark_port(), _spark_folder()),
            lambda: f"sc://127.0.0.1:{_spark_port()}",
            port_variable="SPARK_REMOTE",
            about="10 s to 1 min",
        ),
        Local(
            "airflow",
            RUN / "airflow",
            lambda: airflow.server(AIRFLOW_PORT, RUN / "airflow"),
            lambda: f"http://127.0.0.1:{AIRFLOW_PORT}",
            lambda: airflow_client().ready(),
            end=airflow.stop,
            patience=120.0,
            about="20 s to 2 min",
        ),
    ]
    return {server.name: server for server in known}


#: What `make stack` starts: everything but Spark, another engine for the same models, and Airflow.
PIPELINE = ("mysql", "kafka", "kinesis", "s3", "gateway")


def airflow_client() -> airflow.Client:
    """A client of this machine's Airflow, which must have been started once."""
    folder = RUN / "airflow"
    address = f"http://127.0.0.1:{AIRFLOW_PORT}"
    return airflow.Client(address, airflow.password(folder), airflow.progress(folder))


def _gateway() -> process.Server:
    port = str(GATEWAY_PORT)
    command = [sys.executable, "-m", "ingestion", "gateway", "--open", "--port", port]
    folder = RUN / "gateway"
    return process.Server("The gateway", command, GATEWAY_PORT, folder, environment(), FOREIGN)


def _spark_folder() -> Path:
    """Spark's folder; a server that was started by an earlier version has its data elsewhere."""
    earlier = spark.HOME / "run"
    return earlier if process.find(earlier) else RUN / "spark"


def _spark_port() -> int:
    """The port of the spark target's default server, or another that SPARK_REMOTE names."""
    address = urlsplit(os.environ.get("SPARK_REMOTE") or "sc://127.0.0.1:15002")
    if address.hostname not in ("127.0.0.1", "localhost"):
        raise process.ServerError(
            f"SPARK_REMOTE names a server on {address.hostname}; unset it to start one here"
        )
    return address.port or 15002


def _answers(url: str) -> None:
    """Raise an OSError unless something answers, whatever it says."""
    try:
        with urlopen(url, timeout=30):
            pass
    except URLError as error:
        if getattr(error, "code", None) is None:
            raise
