"""Metrics have one prefix and can be scraped."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from paykit import telemetry
from paykit.errors import ConfigurationError


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text: str = response.read().decode()
    return text


def test_what_is_measured_can_be_scraped_until_the_endpoint_is_closed() -> None:
    registry = CollectorRegistry()
    telemetry.counter("things_total", "Things", ("kind",), registry).labels("small").inc(3)
    telemetry.gauge("waiting", "Waiting", registry=registry).set(2)
    telemetry.histogram("work_seconds", "Work", registry=registry).observe(0.003)
    endpoint = telemetry.MetricsEndpoint("127.0.0.1:0", registry)
    text = scrape(endpoint.port)
    assert 'paymesh_things_total{kind="small"} 3.0' in text
    assert "paymesh_waiting 2.0" in text
    assert 'paymesh_work_seconds_bucket{le="0.005"} 1.0' in text
    endpoint.close()
    with pytest.raises(OSError, match="refused"):
        scrape(endpoint.port)


def test_a_taken_address_is_refused_by_name() -> None:
    endpoint = telemetry.MetricsEndpoint("127.0.0.1:0", CollectorRegistry())
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{endpoint.port}"):
        telemetry.MetricsEndpoint(f"127.0.0.1:{endpoint.port}", CollectorRegistry())
    endpoint.close()


@pytest.mark.parametrize("address", ["127.0.0.1:metrics", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused_by_name(address: str) -> None:
    with pytest.raises(ConfigurationError, match=address):
        telemetry.MetricsEndpoint(address, CollectorRegistry())
