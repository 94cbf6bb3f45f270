"""`ingest gateway`: records over HTTP to Kafka and Kinesis."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ingestion.console import out
from ingestion.errors import PipelineError


def gateway(
    host: Annotated[
        str, typer.Option(envvar="GATEWAY_HOST", help="The address to listen at.", metavar="HOST")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(envvar="GATEWAY_PORT", min=0, max=65535, help="Its port; 0 for any."),
    ] = 8080,
    api_keys_file: Annotated[
        Path | None,
        typer.Option(
            envvar="GATEWAY_API_KEYS_FILE",
            help="API keys, one a line, besides those of GATEWAY_API_KEYS (comma separated).",
            metavar="FILE",
        ),
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Ask for no API key; only on this machine's own address.")
    ] = False,
    max_request_bytes: Annotated[
        int,
        typer.Option(envvar="GATEWAY_MAX_REQUEST_BYTES", min=1, help="Bytes of a request's body."),
    ] = 4 * 2**20,
    max_records: Annotated[
        int, typer.Option(envvar="GATEWAY_MAX_RECORDS", min=1, help="Records of a request.")
    ] = 5_000,
    max_in_flight_bytes: Annotated[
        int,
        typer.Option(
            envvar="GATEWAY_MAX_IN_FLIGHT_BYTES",
            min=1,
            help="Bytes of all requests under way; more are answered 503.",
        ),
    ] = 64 * 2**20,
    rate: Annotated[
        float,
        typer.Option(
            envvar="GATEWAY_RATE", min=0, help="Requests a second of an API key; 0: any number."
        ),
    ] = 0.0,
    burst: Annotated[
        int, typer.Option(envvar="GATEWAY_BURST", min=1, help="Requests of an API key at once.")
    ] = 100,
    body_timeout: Annotated[
        float,
        typer.Option(
            envvar="GATEWAY_BODY_TIMEOUT", min=0.1, help="Seconds that a body may take to arrive."
        ),
    ] = 15.0,
    ack_timeout: Annotated[
        float,
        typer.Option(
            envvar="GATEWAY_ACK_TIMEOUT",
            min=1,
            help="Seconds that records may take to be acknowledged.",
        ),
    ] = 10.0,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="A line on standard error for each request.")
    ] = False,
) -> None:
    """Take records over HTTP and send them to Kafka topics and Kinesis streams.

    `POST /topics/TOPIC` is the Confluent REST Proxy's (v2, JSON), `PUT /streams/STREAM/record` and
    `/records` are those of an API Gateway in front of Kinesis; a stage may stand before them.
    `/docs` describes them, `/healthz` and `/metrics` watch them. An answer of 200 with an offset
    or a sequence number means that the record is stored by all in-sync replicas.

    `/healthz` is 503 while Kafka or Kinesis does not answer, at the latest after 10 seconds. Kafka
    counts where KAFKA_BOOTSTRAP_SERVERS is set or it was reached, Kinesis from the first record.

    SIGTERM ends it: what is under way is finished first. It starts without Kafka and connects as
    soon as it can.
    """
    from ingestion.gateway.app import Gateway
    from ingestion.gateway.kafka import KafkaSink
    from ingestion.gateway.keys import keys_for, read_keys
    from ingestion.gateway.kinesis import KinesisSink
    from ingestion.gateway.limits import RECORD_BYTES, Limits
    from ingestion.gateway.server import bind, log_to_stderr, serve
    from ingestion.sources.kafka import client_settings

    limits = Limits(
        request_bytes=max_request_bytes,
        records=max_records,
        in_flight_bytes=max_in_flight_bytes,
        rate=rate,
        burst=burst,
        body_seconds=body_timeout,
        ack_seconds=ack_timeout,
    )
    most = max_request_bytes + max_records * RECORD_BYTES
    if max_in_flight_bytes < most:
        raise PipelineError(
            f"--max-in-flight-bytes {max_in_flight_bytes} is less than the {most} that one request "
            f"may take: its --max-request-bytes, and {RECORD_BYTES} for each of its --max-records; "
            "raise the one or lower the others"
        )
    keys = keys_for(read_keys(os.environ, api_keys_file), host, open_to_all)
    expected = bool(os.environ.get("KAFKA_BOOTSTRAP_SERVERS"))
    kafka = KafkaSink(client_settings(os.environ), ack_timeout, expected=expected)
    listener = bind(host, port)
    log_to_stderr(access_log)
    address = f"[{host}]" if ":" in host else host
    out.print(f"listening on http://{address}:{listener.getsockname()[1]}")
    serve(Gateway(limits, keys, kafka, KinesisSink(ack_timeout)).application(), listener, limits)
