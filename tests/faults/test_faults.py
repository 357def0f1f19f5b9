"""A small fault run: every part of the full stack is killed once while customers buy."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from tests.faults.__main__ import show
from tests.faults.fault_run import run
from tests.faults.outages import EACH_ONCE

PURCHASES = 200

pytestmark = [pytest.mark.faults, pytest.mark.mariadb, pytest.mark.nats, pytest.mark.timeout(600)]


async def test_nothing_is_lost_or_done_twice_while_every_part_is_killed_once() -> None:
    with tempfile.TemporaryDirectory(prefix="paymesh-faults-", ignore_cleanup_errors=True) as directory:
        summary = await run(PURCHASES, Path(directory), outages=EACH_ONCE)
    show(summary, Console(highlight=False, soft_wrap=True))  # pytest prints it where something does not hold
    assert summary.problems == []
    assert summary.report is not None
    assert summary.report.violated == set()
    assert [name for name, _ in summary.outages] == [outage.name for outage in EACH_ONCE]
    assert summary.states.total() == summary.orders + summary.refunds
    # The faults were felt, and what was unknown was found.
    assert summary.retries["UNAVAILABLE"] > 0
    assert summary.unknown.unknown > 0
