"""Whole orders through all four services, as the demo shows them, on both backends."""

from __future__ import annotations

import pytest

from meshctl.scenarios import SCENARIOS, Desk, Scenario, ScenarioFailed
from meshctl.scenarios.desk import MERCHANT, card
from paymesh.trade.v1.trade_pb2 import TRADE_TYPE_PURCHASE


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_scenario(scenario: Scenario, desk: Desk) -> None:
    await scenario.run(desk)
    assert desk.biz_ids
    assert desk.held


async def test_a_scenario_fails_where_an_order_does_not_end_as_it_must(desk: Desk) -> None:
    shop = desk.name("shop")
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), 1000, card(), payee_id=shop)
    trade = await desk.finished(made.trade_id)
    with pytest.raises(ScenarioFailed, match=f"{trade.trade_id} is PAID"):
        desk.expect_state(trade, "FAILED")
    with pytest.raises(ScenarioFailed, match="providers moved"):
        await desk.expect_channel_moves(trade, ("CHARGE", 999))
    await desk.expect_balance(shop, 1000, MERCHANT)
