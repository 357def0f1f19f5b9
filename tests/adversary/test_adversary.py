"""A small run against the adversary: every fault on, JetStream's store lost in the middle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from tests.adversary import misdeeds
from tests.adversary.__main__ import show
from tests.adversary.adversary_run import Options, run

ORDERS = 150

pytestmark = [pytest.mark.faults, pytest.mark.mariadb, pytest.mark.nats, pytest.mark.timeout(600)]


async def test_every_book_agrees_to_the_cent_whatever_the_provider_does() -> None:
    with tempfile.TemporaryDirectory(prefix="paymesh-adversary-", ignore_cleanup_errors=True) as directory:
        summary = await run(Options(orders=ORDERS, seed=7), Path(directory))
    show(summary, Console(highlight=False, soft_wrap=True))  # pytest prints it where something does not hold
    assert summary.all_problems == []
    assert summary.report is not None
    assert summary.report.violated == set()
    # The provider did wrong, the store was lost, and statements were read and refused.
    assert len(summary.deeds) > 15
    assert summary.store_lost_s > 0
    assert summary.imported.files > 0
    assert {reason.split()[0] for reason in summary.imported.refused} == {"truncated", "wrong_closing"}
    assert summary.states.total() >= summary.orders


def test_the_rates_of_each_operation_are_a_whole_and_name_what_there_is() -> None:
    rules = misdeeds.rules()
    assert all(0 < rule["probability"] < 1 for rule in rules)
    by_kind = {kind: [rule for rule in rules if rule["kind"] == kind] for kind in {rule["kind"] for rule in rules}}
    for of_kind in by_kind.values():
        left = 1.0
        for rule in of_kind:
            left *= 1 - rule["probability"]
        assert 0.3 < left < 0.95  # what goes as it should
