"""Rules files for tests, and payments to decide."""

from __future__ import annotations

from typing import Any

from pay_core.ledger import AccountKind
from pay_core.rules import FundingFact, PayeeFact, PaymentFacts, RuleSet, load

HEAD = """\
version: 1
points: {rate: {points: 100, amount_minor: 100}}
tools:
  - {name: standard, when: "true", allow: [coupon, points, balance, card, bank_account, wallet]}
"""


def rules(text: str = "", head: str = HEAD) -> RuleSet:
    """The rules of ``text``, with a version and all tools allowed put before it."""
    return load(head + text, "rules.yaml")


def transfer(amount_minor: int = 10_000, **changes: Any) -> PaymentFacts:
    """A transfer from ann's balance to one merchant, or with changes."""
    facts: dict[str, Any] = {
        "operation": "TRANSFER",
        "currency": "EUR",
        "amount_minor": amount_minor,
        "payer_id": "ann",
        "fundings": (FundingFact("balance", amount_minor),),
        "payees": (PayeeFact("shop", AccountKind.MERCHANT, amount_minor, "trd_1"),),
    }
    return PaymentFacts(**(facts | changes))
