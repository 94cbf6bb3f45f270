"""The gateway as an ASGI application."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from fastapi import FastAPI
from fastapi_swagger import patch_fastapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ingestion.gateway.answers import (
    KAFKA_ANSWERS,
    RETRIABLE,
    AllPlaced,
    Disconnected,
    Offset,
    Offsets,
    Placed,
    Reason,
    Refused,
    accepted,
    json_response,
    kafka_refusal,
    kinesis_refusal,
)
from ingestion.gateway.bodies import (
    KAFKA_TYPE,
    KINESIS_TYPES,
    KafkaRecord,
    KinesisRecord,
    check_type,
    kafka_records,
    kinesis_record,
    kinesis_records,
)
from ingestion.gateway.health import UNREACHABLE
from ingestion.gateway.keys import ANYBODY, Keys
from ingestion.gateway.limits import RECORD_BYTES, Budget, Hold, Limits, Rates, read_body
from ingestion.gateway.metrics import Metrics
from ingestion.gateway.openapi import describe

_RETRY_AFTER = 1.0

access = logging.getLogger("ingestion.gateway.access")


class Kafka(Protocol):
    """Where records for topics go."""

    @property
    def state(self) -> str:
        """One of the words of :mod:`ingestion.gateway.health`."""

    async def start(self) -> None:
        """Begin to connect."""

    async def stop(self) -> None:
        """Send what is left and close."""

    async def names(self) -> list[str]:
        """The names of all topics."""

    async def send(self, name: str, records: Sequence[KafkaRecord]) -> list[Offset]:
        """Send records and say for each what became of it."""


class Kinesis(Protocol):
    """Where records for streams go."""

    @property
    def state(self) -> str:
        """One of the words of :mod:`ingestion.gateway.health`."""

    async def stop(self) -> None:
        """Wait for what is under way."""

    async def put(self, stream: str, record: KinesisRecord) -> Placed:
        """Send one record."""

    async def put_many(self, stream: str, records: Sequence[KinesisRecord]) -> list[Placed]:
        """Send records and say for each what became of it."""


Answer = Callable[[Request, Hold], Awaitable[Response]]
Serve = Callable[[Request], Awaitable[Response]]


class Gateway:
    """What the gateway's resources share.

    Args:
        limits: of requests.
        keys: whom to let in; None for everybody.
        kafka: where records for topics go.
        kinesis: where records for streams go.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        limits: Limits,
        keys: Keys | None,
        kafka: Kafka,
        kinesis: Kinesis,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._keys = keys
        self._kafka = kafka
        self._kinesis = kinesis
        self._now = now
        self._budget = Budget(limits)
        self._rates = Rates(limits, now)
        self._metrics = Metrics(self._budget, lambda: kafka.state)

    def application(self) -> FastAPI:
        """The ASGI application."""
        app = FastAPI(
            title="Gateway",
            # The page about it comes with its scripts: it works where there is no network.
            docs_url=None,
            redoc_url=None,
            swagger_ui_oauth2_redirect_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _no_such_resource},
        )
        app.openapi = lambda: describe(self._limits, self._keys is not None)  # type: ignore[method-assign]
        patch_fastapi(app, redirect_from_root_to_docs=False)
        # One segment before the resource, as an API Gateway's stage, makes no difference.
        for stage in ("", "/{stage}"):
            for method, path, answer in (
                ("GET", "/topics", self._kafka_resource("topics", self._list)),
                ("POST", "/topics/{topic}", self._kafka_resource("topic", self._produce)),
                ("PUT", "/streams/{stream}/record", self._kinesis_resource("record", self._put)),
                (
                    "PUT",
                    "/streams/{stream}/records",
                    self._kinesis_resource("records", self._put_many),
                ),
            ):
                app.router.add_route(stage + path, answer, [method], include_in_schema=False)
        app.router.add_route("/healthz", self._health, ["GET"], include_in_schema=False)
        app.router.add_route("/metrics", self._show_metrics, ["GET"], include_in_schema=False)
        return app

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        await self._kafka.start()
        yield
        await self._kafka.stop()
        await self._kinesis.stop()

    # The resources of the REST Proxy.

    async def _list(self, request: Request, hold: Hold) -> Response:
        media_type = self._kafka_media_type(request)
        hold.start()
        return json_response(await self._kafka.names(), media_type)

    async def _produce(self, request: Request, hold: Hold) -> Response:
        check_type(request.headers, KAFKA_TYPE)
        media_type = self._kafka_media_type(request)
        body = await self._body(request, hold)
        records = kafka_records(body, self._limits.records)
        hold.take(len(records) * RECORD_BYTES)
        hold.start()
        offsets = await self._kafka.send(request.path_params["topic"], records)
        failed = [offset for offset in offsets if offset.error_code is not None]
        self._metrics.records("topic", len(offsets) - len(failed), len(failed))
        if len(failed) == len(offsets) and all(o.error_code == RETRIABLE for o in failed):
            # A client that looks at the status alone must not take this for success.
            raise Refused(
                Reason.UNAVAILABLE,
                f"Kafka took none of the records: {failed[0].error}",
                _RETRY_AFTER,
            )
        return json_response(Offsets(offsets), media_type)

    def _kafka_media_type(self, request: Request) -> str:
        media_type = accepted(request.headers.get("accept"), KAFKA_ANSWERS)
        if media_type is None:
            raise Refused(
                Reason.NOT_ACCEPTABLE, f"answers are of the types {', '.join(KAFKA_ANSWERS)}"
            )
        return media_type

    # The resources of the API Gateway in front of Kinesis.

    async def _put(self, request: Request, hold: Hold) -> Response:
        check_type(request.headers, *KINESIS_TYPES)
        stream = request.path_params["stream"]
        record = kinesis_record(await self._body(request, hold), stream)
        hold.start()
        placed = await self._kinesis.put(stream, record)
        self._metrics.records("record", 1, 0)
        return json_response(placed)

    async def _put_many(self, request: Request, hold: Hold) -> Response:
        check_type(request.headers, *KINESIS_TYPES)
        stream = request.path_params["stream"]
        records = kinesis_records(await self._body(request, hold), stream, self._limits.records)
        hold.take(len(records) * RECORD_BYTES)
        hold.start()
        placed = await self._kinesis.put_many(stream, records)
        failed = sum(1 for one in placed if one.ErrorCode)
        self._metrics.records("records", len(placed) - failed, failed)
        return json_response(AllPlaced(failed, placed))

    # What is the same for all.

    async def _body(self, request: Request, hold: Hold) -> bytes:
        declared = request.headers.get("content-length")
        body = await read_body(request.receive, declared, self._limits, hold)
        request.scope["gateway.bytes"] = len(body)
        return body

    def _kafka_resource(self, name: str, answer: Answer) -> Serve:
        def refused(request: Request, why: Refused) -> Response:
            media_type = accepted(request.headers.get("accept"), KAFKA_ANSWERS)
            return kafka_refusal(why, media_type or KAFKA_ANSWERS[0])

        return self._resource(name, answer, refused)

    def _kinesis_resource(self, name: str, answer: Answer) -> Serve:
        return self._resource(name, answer, lambda _, why: kinesis_refusal(why))

    def _resource(
        self, name: str, answer: Answer, refused: Callable[[Request, Refused], Response]
    ) -> Serve:
        async def serve(request: Request) -> Response:
            begun = self._now()
            try:
                self._let_in(request)
                with self._budget.hold() as hold:
                    response = await answer(request, hold)
            except Refused as why:
                response = refused(request, why)
            except Disconnected:
                response = Response(status_code=499)  # nobody reads it
            seconds = self._now() - begun
            size = request.scope.get("gateway.bytes", 0)
            self._metrics.answered(name, response.status_code, seconds, size)
            if access.isEnabledFor(logging.INFO):
                access.info(
                    "%s %s %d %d bytes %.1f ms",
                    request.method, request.scope["raw_path"].decode("latin-1"),
                    response.status_code, size, seconds * 1000,
                )  # fmt: skip
            return response

        return serve

    def _let_in(self, request: Request) -> None:
        client: str | None = ANYBODY
        if self._keys is not None:
            client = self._keys.client(request.headers.get("x-api-key"))
        if client is None:
            raise Refused(Reason.FORBIDDEN, "the header x-api-key holds none of the API keys")
        self._rates.spend(client)

    async def _health(self, _: Request) -> Response:
        states = {"kafka": self._kafka.state, "kinesis": self._kinesis.state}
        if UNREACHABLE in states.values():
            return json_response({"status": "unavailable", **states}, status=503)
        return json_response({"status": "serving", **states})

    async def _show_metrics(self, _: Request) -> Response:
        return PlainTextResponse(
            generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST
        )


async def _no_such_resource(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"error_code": error.status_code, "message": f"HTTP {error.status_code} {error.detail}"}
    return json_response(body, status=error.status_code, headers=dict(error.headers or {}))
