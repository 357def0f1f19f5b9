"""docs/rules.md: its examples are valid rules, and its figures are what they give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pay_core.ledger import AccountKind
from pay_core.rules import PayeeFact, RuleSet, ShareKind, load
from pay_core.rules.amounts import TierMode
from pay_core.rules.scope import fallback_scope, route_scope, split_scope
from tests.pay_core.rules.support import transfer

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "rules.md").read_text()
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def documented() -> RuleSet:
    assert len(EXAMPLES) == 7
    return load("version: 7\n" + "".join(EXAMPLES), "docs/rules.md")


def test_the_fees_are_those_of_the_table(documented: RuleSet) -> None:
    price = {fee.name: fee.price for fee in documented.fees}
    by_size = price["by-size"]
    whole = by_size._replace(mode=TierMode.WHOLE)
    rows = {
        amount: (price["merchant-fee"].of(amount), by_size.of(amount), whole.of(amount))
        for amount in (100, 10_000, 10_100, 900_000)
    }
    assert rows == {
        int(row[0].replace(",", "")): tuple(int(cell.replace(",", "")) for cell in row[1:])
        for row in re.findall(r"^\| ([\d,]+) \|" + r".*?\*\*([\d,]+)\*\* \|" * 3, TEXT, re.MULTILINE)
    }


def test_the_shares_are_those_of_the_table(documented: RuleSet) -> None:
    payees = (PayeeFact("shop", AccountKind.MERCHANT, 1_019, "t"),)
    shares = documented.decide(transfer(1_019, payees=payees)).shares
    assert [(share.kind, share.owner_id, share.amount_minor) for share in shares] == [
        (ShareKind.PAYEE, "shop", 914),
        (ShareKind.SPLIT, "partner", 50),
        (ShareKind.SPLIT, "house", 30),
        (ShareKind.FEE, "", 25),
    ]


def test_points_cost_what_it_says(documented: RuleSet) -> None:
    assert documented.points_for(101) == 202


def test_every_variable_is_named() -> None:
    names = {*route_scope(frozenset()), *split_scope(frozenset()), *fallback_scope(frozenset())}
    assert sorted(name for name in names if f"`{name}`" not in TEXT) == []
