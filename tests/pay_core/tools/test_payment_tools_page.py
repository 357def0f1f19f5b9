"""The tool that docs/payment-tools.md adds is one file and one line, and works with everything else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pay_core.ledger import AccountKind
from pay_core.payment import Funding
from pay_core.rules import load
from pay_core.rules.model import TOOLS as RULE_TOOLS
from pay_core.tables import Account
from pay_core.tools import TOOLS
from tests.pay_core.world import World, card

PAGE = Path(__file__).parents[3] / "docs" / "payment-tools.md"
RULES = load(
    """
version: 1
tools:
  - {name: all, when: "true", allow: [cash, balance, card]}
""",
    "cash",
    known_tools=RULE_TOOLS | {"cash"},
)
SHOP = AccountKind.MERCHANT


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose payments may be made in cash, by the code of the page."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module: dict[str, Any] = {"__name__": "pay_core.tools.cash"}
    exec(compile(code, str(PAGE), "exec"), module)
    tool = module["CashTool"]()
    monkeypatch.setitem(TOOLS, tool.name, tool)
    return World(RULES)


def at_counter(world: World) -> int:
    """What lies at the counter."""
    found = [a for a in world.all(Account) if "cash-till-7" in a.account_key]
    return -sum(int(account.balance_minor) for account in found)


def test_cash_pays_with_a_card_and_comes_back_in_proportion(world: World) -> None:
    fundings = [Funding(300, "cash", token="till-7"), card(700)]
    paid = world.transfer("ann", fundings, [("shop", SHOP, 1000)], "t1")
    world.drain()
    assert (at_counter(world), world.balance("shop", SHOP)) == (300, 1000)
    world.refund(paid.payment.id, 500, "f1")
    world.drain()
    assert (at_counter(world), world.provider_net["card", "EUR"]) == (150, 350)


def test_cash_is_given_back_when_the_card_is_declined(world: World) -> None:
    fundings = [Funding(300, "cash", token="till-7"), card(700)]
    paid = world.transfer("ann", fundings, [("shop", SHOP, 1000)], "t1")
    assert at_counter(world) == 300
    world.deliver(world.calls.pop(), provider_agrees=False)
    assert world.payment(paid).state == "FAILED"
    assert at_counter(world) == 0
