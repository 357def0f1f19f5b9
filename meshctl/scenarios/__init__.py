"""What the demo shows and the end-to-end tests hold: whole orders, from the first call to the last cent."""

from __future__ import annotations

from meshctl.scenarios import orders, refunds, trouble
from meshctl.scenarios.desk import Desk, Scenario, ScenarioFailed

SCENARIOS: tuple[Scenario, ...] = (*orders.SCENARIOS, *refunds.SCENARIOS, *trouble.SCENARIOS)

__all__ = ["SCENARIOS", "Desk", "Scenario", "ScenarioFailed"]
