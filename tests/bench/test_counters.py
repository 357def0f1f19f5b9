"""What a load used is shared out among the processes."""

from __future__ import annotations

import pytest

from bench.counters import Measured
from bench.flow import Outcome
from bench.measure import Sample


def test_every_process_counts_once_in_what_an_operation_costs() -> None:
    processes = ("pay_core", "mariadb-1", "mariadb-2", "channel_gateway", "sandbox", "recon", "trade_core", "nats")
    used_s = dict.fromkeys((*processes, "load"), 0.1)
    shares = Measured(Outcome(Sample(1, 1, 1), count=100, cpu_s=0.1), used_s).shares()
    assert shares.pop("all") == pytest.approx(9.0)
    assert sum(shares.values()) == pytest.approx(9.0)
    assert shares["databases"] == pytest.approx(2.0)
