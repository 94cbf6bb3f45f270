"""What a request is answered: where its records are, or why they are not taken."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import msgspec
from starlette.responses import Response

#: Media types of the REST Proxy's answers, the preferred one first.
KAFKA_ANSWERS = (
    "application/vnd.kafka.v2+json",
    "application/vnd.kafka+json",
    "application/json",
)
JSON = "application/json"

_MESSAGE_LENGTH = 300

#: Codes of a record that failed within an answer of 200.
NOT_RETRIABLE, RETRIABLE = 1, 2


class Offset(msgspec.Struct, gc=False):
    """Where a record is in its topic, or why it is not.

    Attributes:
        partition: None if it failed.
        offset: None if it failed.
        error_code: None, or 2 where sending it again may help, or 1 where that does not.
        error: why it failed.
    """

    partition: int | None
    offset: int | None
    error_code: int | None = None
    error: str | None = None


class Offsets(msgspec.Struct, gc=False):
    """The REST Proxy's answer to records of JSON: an offset for each, in their order."""

    offsets: list[Offset]
    key_schema_id: int | None = None
    value_schema_id: int | None = None


class Placed(msgspec.Struct, gc=False, omit_defaults=True):
    """Where a record is in its stream, or why it is not, as Kinesis says it."""

    SequenceNumber: str | None = None
    ShardId: str | None = None
    EncryptionType: str | None = None
    ErrorCode: str | None = None
    ErrorMessage: str | None = None


class AllPlaced(msgspec.Struct, gc=False):
    """Kinesis' answer to several records, in their order."""

    FailedRecordCount: int
    Records: list[Placed]


class Reason(Enum):
    """Why a request was refused: status and code of the REST Proxy; status and type of Kinesis."""

    MALFORMED = (422, 42203), (400, "SerializationException")
    INVALID = (422, 422), (400, "ValidationException")
    FORBIDDEN = (403, 403), (403, "ForbiddenException")
    UNKNOWN = (404, 40401), (404, "ResourceNotFoundException")
    UNKNOWN_PARTITION = (404, 40402), (404, "ResourceNotFoundException")
    NOT_ACCEPTABLE = (406, 406), (406, "NotAcceptableException")
    TOO_SLOW = (408, 408), (408, "RequestTimeoutException")
    TOO_LARGE = (413, 413), (413, "RequestEntityTooLargeException")
    MEDIA_TYPE = (415, 415), (415, "UnsupportedMediaTypeException")
    TOO_OFTEN = (429, 429), (429, "TooManyRequestsException")
    UNAVAILABLE = (503, 503), (503, "ServiceUnavailableException")


class Refused(Exception):
    """A request that is not taken, none of its records.

    Args:
        reason: gives status and code.
        message: the thing and the way out.
        retry_after: seconds after which it may be sent again.
        kind: the Kinesis exception, where it is not the reason's own.
    """

    def __init__(
        self, reason: Reason, message: str, retry_after: float | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message[:_MESSAGE_LENGTH]  # some of it may be what the client sent
        self.retry_after = retry_after
        self.kind = kind


class Disconnected(Exception):
    """The client went away before its request was complete."""


def kafka_refusal(refused: Refused, media_type: str = KAFKA_ANSWERS[0]) -> Response:
    """The answer of the REST Proxy."""
    status, code = refused.reason.value[0]
    return _refusal(status, {"error_code": code, "message": refused.message}, refused, media_type)


def kinesis_refusal(refused: Refused) -> Response:
    """The answer of Kinesis."""
    status, kind = refused.reason.value[1]
    body = {"__type": refused.kind or kind, "message": refused.message}
    return _refusal(status, body, refused, JSON)


def _refusal(status: int, body: dict[str, Any], refused: Refused, media_type: str) -> Response:
    headers = {}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refused.retry_after)))
    if refused.reason is Reason.TOO_SLOW:
        headers["Connection"] = "close"
    return json_response(body, media_type, status, headers)


def json_response(
    body: Any,
    media_type: str = JSON,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """An answer with a JSON body."""
    return Response(msgspec.json.encode(body), status, headers, media_type)


def accepted(accept: str | None, offers: tuple[str, ...]) -> str | None:
    """The first media type offered that the client likes best; None if it takes none of them."""
    if accept is None or not accept.strip():
        return offers[0]
    ranges = [_range(text) for text in accept.split(",")]
    best, liked = None, 0.0
    for offer in offers:
        kind = offer.partition("/")[0]
        # The most specific range decides.
        for pattern in (offer, f"{kind}/*", "*/*"):
            weights = [weight for name, weight in ranges if name == pattern]
            if weights:
                if max(weights) > liked:
                    best, liked = offer, max(weights)
                break
    return best


def _range(text: str) -> tuple[str, float]:
    name, *parameters = text.split(";")
    weight = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                weight = min(1.0, float(value))
            except ValueError:
                weight = 0.0
    return name.strip().lower(), weight
