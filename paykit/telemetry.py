"""Prometheus metrics: one prefix, one set of latency buckets, one endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from paykit.errors import ConfigurationError

PREFIX = "paymesh_"
# Seconds: from one batched commit on a fast disk to a call that waits for a slow provider.
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def counter(name: str, help_: str, labels: Sequence[str] = (), registry: CollectorRegistry = REGISTRY) -> Counter:
    """A counter ``paymesh_<name>``; end the name in ``_total``."""
    return Counter(PREFIX + name, help_, labels, registry=registry)


def gauge(name: str, help_: str, labels: Sequence[str] = (), registry: CollectorRegistry = REGISTRY) -> Gauge:
    """A gauge ``paymesh_<name>``; units last in the name."""
    return Gauge(PREFIX + name, help_, labels, registry=registry)


def histogram(
    name: str,
    help_: str,
    labels: Sequence[str] = (),
    buckets: Sequence[float] = LATENCY_BUCKETS_S,
    registry: CollectorRegistry = REGISTRY,
) -> Histogram:
    """A histogram ``paymesh_<name>``; ``_seconds`` with the default buckets, SIZE_BUCKETS for counts."""
    return Histogram(PREFIX + name, help_, labels, buckets=buckets, registry=registry)


class MetricsEndpoint:
    """The HTTP endpoint that Prometheus scrapes, on a thread of its own. ``port`` is the one it got."""

    def __init__(self, address: str, registry: CollectorRegistry = REGISTRY) -> None:
        """``address`` is host:port, port 0 for any; ConfigurationError names it where it cannot be listened on."""
        host, _, port = address.rpartition(":")
        self._server: WSGIServer
        self._thread: Thread
        try:
            self._server, self._thread = start_http_server(int(port), host.strip("[]") or "0.0.0.0", registry=registry)
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"metrics cannot be served on {address}: {error}") from None
        self.port = self._server.server_port

    def close(self) -> None:
        """Stops serving; waits for the thread, which ends at once."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)
