"""What the demo shows and the end-to-end tests hold: whole orders, from the first call to the last cent."""

from __future__ import annotations

from meshctl.scenarios import channels, holding, orders, parts, refunds, trouble, unwanted
from meshctl.scenarios.desk import Desk, Scenario, ScenarioFailed

SCENARIOS: tuple[Scenario, ...] = (
    *orders.SCENARIOS,
    *refunds.SCENARIOS,
    *holding.SCENARIOS,
    *parts.SCENARIOS,
    *unwanted.SCENARIOS,
    *trouble.SCENARIOS,
    *channels.SCENARIOS,
)

__all__ = ["SCENARIOS", "Desk", "Scenario", "ScenarioFailed"]
