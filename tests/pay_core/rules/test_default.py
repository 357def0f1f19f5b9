"""The rules that come with the package."""

from __future__ import annotations

import pytest

from pay_core.ledger import AccountKind
from pay_core.rules import Collect, Fallback, FundingFact, PayeeFact, ReversalFallback, ReversalPolicy, RuleBook
from paykit.money import AMOUNT_MINOR_MAX
from tests.pay_core.rules.support import transfer

SANDBOX = frozenset({"sandbox_card", "sandbox_card_b", "sandbox_bank", "sandbox_wallet"})


@pytest.fixture(scope="module")
def book() -> RuleBook:
    return RuleBook(known_channels=SANDBOX)


def test_every_tool_pays_the_ones_inside_first(book: RuleBook) -> None:
    tools = ("wallet", "bank_account", "card", "balance", "points", "coupon")
    fundings = tuple(FundingFact(tool, 100) for tool in tools)
    decision = book.active.decide(transfer(600, fundings=fundings))
    assert decision.collects == (
        Collect(5),
        Collect(4),
        Collect(3),
        Collect(2, "sandbox_card"),
        Collect(1, "sandbox_bank"),
        Collect(0, "sandbox_wallet"),
    )


@pytest.mark.parametrize("operation", ["RECHARGE", "WITHDRAW", "TRANSFER", "REFUND"])
@pytest.mark.parametrize("currency", ["EUR", "JPY", "KWD"])
@pytest.mark.parametrize("amount_minor", [1, AMOUNT_MINOR_MAX])
def test_nothing_is_limited_below_what_the_platform_moves_and_nothing_costs(
    book: RuleBook, operation: str, currency: str, amount_minor: int
) -> None:
    payees = (PayeeFact("shop", AccountKind.MERCHANT, amount_minor),)
    facts = transfer(amount_minor, operation=operation, currency=currency, payees=payees)
    decision = book.active.decide(facts)
    assert (decision.fees, decision.payer_fee_minor) == ((), 0)
    assert sum(share.amount_minor for share in decision.shares) == (0 if operation == "REFUND" else amount_minor)


def test_what_cannot_go_back_to_a_card_that_is_gone_goes_to_the_balance(book: RuleBook) -> None:
    for reason in ("CARD_EXPIRED", "ACCOUNT_CLOSED"):
        assert book.active.refund_fallback(reason, "sandbox_card", transfer()) is Fallback.BALANCE
    assert book.active.refund_fallback("DECLINED", "sandbox_card", transfer()) is Fallback.NONE
    assert not book.active.refund_policy(transfer()).return_fees
    assert book.active.reversal == ReversalPolicy(5, 2, 3600, ReversalFallback.CASE)
    assert book.active.points_for(1_234) == 1_234


async def test_it_is_not_watched_as_it_never_changes(book: RuleBook) -> None:
    await book.start()
    assert not await book.reload_if_changed()
    await book.stop()
    assert book.active.version == 2
