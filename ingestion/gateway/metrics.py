"""What a gateway counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ingestion.gateway.health import CONNECTED
from ingestion.gateway.limits import Budget


class Metrics:
    """The counters of one gateway.

    Args:
        budget: what is under way.
        kafka_state: as the Kafka sink says it.
    """

    def __init__(self, budget: Budget, kafka_state: Callable[[], str]) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "gateway_requests", "Requests answered.", ["resource", "status"], registry=registry
        )
        self._seconds = Histogram(
            "gateway_request_seconds",
            "From a request's headers to its answer.",
            ["resource"],
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20),
            registry=registry,
        )
        self._bytes = Counter(
            "gateway_request_bytes", "Bytes of bodies.", ["resource"], registry=registry
        )
        self._records = Counter(
            "gateway_records",
            "Records, acknowledged or failed.",
            ["resource", "outcome"],
            registry=registry,
        )
        for name, what, value in (
            ("in_flight_requests", "Requests waiting to be acknowledged.", lambda: budget.requests),
            ("in_flight_bytes", "Bytes of requests under way.", lambda: budget.bytes),
            ("kafka_connected", "Whether Kafka answers.", lambda: kafka_state() == CONNECTED),
        ):
            Gauge(f"gateway_{name}", what, registry=registry).set_function(value)

    def answered(self, resource: str, status: int, seconds: float, size: int) -> None:
        """Count a request."""
        self._requests.labels(resource, str(status)).inc()
        self._seconds.labels(resource).observe(seconds)
        self._bytes.labels(resource).inc(size)

    def records(self, resource: str, acknowledged: int, failed: int) -> None:
        """Count records that were sent on."""
        self._records.labels(resource, "acknowledged").inc(acknowledged)
        self._records.labels(resource, "failed").inc(failed)
