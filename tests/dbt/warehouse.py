"""A stand-in for a Databricks SQL warehouse: Spark's Thrift server, taught to speak as one does.

The connector of dbt-databricks speaks Thrift over HTTPS. So does Spark's own Thrift server, but for
TLS and for what Databricks added to the protocol; the stand-in puts those in between and passes on
everything else as it came. It stands for the warehouse of a workspace's ``hive_metastore``: what it
cannot honour, such as privileges and Unity Catalog's views of itself, it refuses with an error and
keeps in ``refused``.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
import yaml
from databricks.sql.thrift_api.TCLIService import TCLIService, ttypes
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from tests.dbt.lakes import ROOT
from tests.dbt.small_spark import Server

#: Statements that only Databricks understands, and what is said of them.
REFUSED = {
    "privileges": r"^(grant|revoke|show grants?)\b",
    "tags": r"^alter\s.*\b(un)?set tags\b",
    "Unity Catalog's information_schema": r"`?system`?\.`?information_schema`?",
}
#: What a SQL text may begin with that says nothing.
COMMENTS = re.compile(r"\A(\s+|/\*.*?\*/|--[^\n]*\n)+", re.DOTALL)
RUNNING = (ttypes.TOperationState.RUNNING_STATE, ttypes.TOperationState.PENDING_STATE)
#: How long an answer about a statement that still runs is held back, in seconds: the client asks
#: again at once.
PATIENCE = 2.0


@dataclass
class Warehouse:
    """A warehouse that runs, and what it was asked.

    Attributes:
        port: of 127.0.0.1, with TLS.
        backend: the Thrift server's port.
        certificate: of the authority that vouches for the certificate in use.
        tables: where managed tables lie.
        statements: in the order of their arrival, from all sessions, without leading comments.
        refused: those of them that got an error from the stand-in itself, each after its kind.
    """

    port: int
    backend: int
    certificate: Path
    tables: Path
    statements: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    _metadata: dict[bytes, Any] = field(default_factory=dict)

    def settings(self, folder: Path) -> dict[str, str]:
        """The environment of a dbt process that shall work with it.

        Args:
            folder: for its profile: the example, with the connection's parameters added.
        """
        profile = yaml.safe_load((ROOT / "profiles.example.yml").read_text())
        output = profile["pinterest"]["outputs"]["databricks"]
        output["connection_parameters"] = {
            # The host's port is for the adapter, the driver has its own from this address.
            "_connection_uri": f"https://127.0.0.1:{self.port}/cliservice",
            "_tls_trusted_ca_file": str(self.certificate),
            "enable_telemetry": False,
            "use_cloud_fetch": False,
        }
        output["threads"] = 4
        path = folder / "databricks"
        path.mkdir(exist_ok=True)
        (path / "profiles.yml").write_text(yaml.safe_dump(profile))
        return {
            "DBT_PROFILES_DIR": str(path),
            "DBT_TARGET": "databricks",
            "DATABRICKS_HOST": f"127.0.0.1:{self.port}",
            "DATABRICKS_HTTP_PATH": "/sql/1.0/warehouses/standin",
            "DATABRICKS_TOKEN": "any",
            "DATABRICKS_CATALOG": "hive_metastore",
            "REQUESTS_CA_BUNDLE": str(self.certificate),
            "NO_PROXY": "127.0.0.1",
        }

    def answer(self, request: bytes) -> bytes:
        """The answer to a call, as a warehouse would have given it."""
        name, number, arguments = decode(request, "args")
        requested = arguments.req
        if name == "OpenSession":
            requested.client_protocol = ttypes.TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V8
        elif name == "ExecuteStatement":
            statement = COMMENTS.sub("", requested.statement)
            self.statements.append(statement)
            for kind, pattern in REFUSED.items():
                if re.search(pattern, statement, re.IGNORECASE):
                    self.refused.append((kind, statement))
                    return refusal(number, f"the stand-in has no {kind}")
            requested.statement = in_spark(statement)
        answer = self._ask(name, number, arguments)
        given = answer.success
        if name == "OpenSession":
            given.serverProtocolVersion = ttypes.TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V4
            given.canUseMultipleCatalogs = True
            given.initialNamespace = requested.initialNamespace
        elif name == "GetOperationStatus":
            until = time.monotonic() + PATIENCE
            while given.operationState in RUNNING and time.monotonic() < until:
                time.sleep(0.02)
                given = (answer := self._ask(name, number, arguments)).success
        elif name == "GetResultSetMetadata" and given.schema is not None:
            given.resultFormat = ttypes.TSparkRowSetType.COLUMN_BASED_SET
            self._metadata[requested.operationHandle.operationId.guid] = given
        elif name == "FetchResults" and given.results is not None:
            metadata = self._metadata[requested.operationHandle.operationId.guid]
            given.resultSetMetadata = metadata
            if (
                not given.results.columns
            ):  # a statement that has no result has a column all the same
                nothing = ttypes.TColumn(stringVal=ttypes.TStringColumn(values=[], nulls=b""))
                given.results.columns = [nothing for _ in metadata.schema.columns]
        return encode(name, number, TMessageType.REPLY, answer)

    def _ask(self, name: str, number: int, arguments: Any) -> Any:
        """Put a call to Spark."""
        connection = http.client.HTTPConnection("127.0.0.1", self.backend)
        try:
            connection.request(
                "POST",
                "/cliservice",
                encode(name, number, TMessageType.CALL, arguments),
                {"Content-Type": "application/x-thrift", "Authorization": "Basic YW55OmFueQ=="},
            )
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, f"{name}: {response.status} {body[:500]!r}"
            return decode(body, "result")[2]
        finally:
            connection.close()


def in_spark(statement: str) -> str:
    """A statement with Spark's name for its own catalog, and Spark's word for choosing one."""
    statement = re.sub(r"\bhive_metastore\b", "spark_catalog", statement)
    return re.sub(r"\Ause catalog\b", "SET CATALOG", statement, flags=re.IGNORECASE)


def decode(message: bytes, part: str) -> tuple[str, int, Any]:
    """The name, the number and the ``args`` or ``result`` of a Thrift message."""
    protocol = TBinaryProtocol(TMemoryBuffer(message))
    name, kind, number = protocol.readMessageBegin()
    assert kind != TMessageType.EXCEPTION, f"{name}: {message[:500]!r}"
    structure = getattr(TCLIService, f"{name}_{part}")()
    structure.read(protocol)
    return name, number, structure


def encode(name: str, number: int, kind: int, structure: Any) -> bytes:
    """A Thrift message."""
    buffer = TMemoryBuffer()
    protocol = TBinaryProtocol(buffer)
    protocol.writeMessageBegin(name, kind, number)
    structure.write(protocol)
    protocol.writeMessageEnd()
    return bytes(buffer.getvalue())


def refusal(number: int, reason: str) -> bytes:
    """The answer to a statement that is not run."""
    status = ttypes.TStatus(statusCode=ttypes.TStatusCode.ERROR_STATUS, errorMessage=reason)
    answer = TCLIService.ExecuteStatement_result(ttypes.TExecuteStatementResp(status=status))
    return encode("ExecuteStatement", number, TMessageType.REPLY, answer)


@contextmanager
def warehouse(folder: Path, server: Server) -> Iterator[Warehouse]:
    """Run a warehouse for as long as the context lasts.

    Args:
        folder: for its certificate.
        server: answers for it.
    """
    authority = trustme.CA()
    certificate = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as front:
        front.daemon_threads = True
        front.socket = context.wrap_socket(
            front.socket, server_side=True, do_handshake_on_connect=False
        )
        running = Warehouse(front.server_address[1], server.thrift, certificate, server.tables)
        front.warehouse = running  # type: ignore[attr-defined]
        threading.Thread(target=front.serve_forever, daemon=True).start()
        try:
            yield running
        finally:
            front.shutdown()


class Handler(BaseHTTPRequestHandler):
    """HTTP in front of a warehouse."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(200, self.server.warehouse.answer(request))  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        """Clients ask for the workspace's description before they connect; this one has none."""
        described = self.path == "/.well-known/databricks-config"
        self._reply(200 if described else 404, b"{}")

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the statements are kept."""
