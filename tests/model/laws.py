"""What must hold: of each answer, and of everything once a history has come to its end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pay_core.tables import Account, Coupon, Hold, Payment
from tests.model.cores import Cores
from tests.model.provider import Violation
from trade_core.tables import PayAttempt, Trade

if TYPE_CHECKING:
    from tests.model.history import History

REFUSALS = ("CARD_DECLINED", "CARD_EXPIRED", "ACCOUNT_CLOSED")
_OVER = ("PAID", "FAILED", "CLOSED")
_EMPTY = ("CLEARING", "IN_TRANSIT", "COUPON", "ESCROW")  # once nothing is under way


def must(response: Any, what: str) -> Any:
    """A response that has to be there."""
    if response is None:
        raise Violation(f"refused, though {what}")
    return response


def refund_is_as_shown(trade: Trade, amount_minor: int | None, response: Any) -> None:
    """A refund is accepted where, and only where, the trade shows so much as refundable."""
    wanted = trade.refundable_minor if amount_minor is None else amount_minor
    is_due = trade.state == "PAID" and 0 < wanted <= trade.refundable_minor
    if is_due is not (response is not None):
        raise Violation(f"a refund of {wanted} of {trade} {'is refused' if is_due else 'is accepted'}")


def altered(request: Any) -> bool:
    """Changes a request so that it is another one which is as well formed; False where there is no such change."""
    names = request.DESCRIPTOR.fields_by_name
    for name in ("reason", "scene", "campaign"):
        if name in names:
            setattr(request, name, "other")
            return True
    if "keep_rest" in names:
        request.keep_rest = not request.keep_rest
        return True
    return False


async def internal_totals(cores: Cores, slots: list[int]) -> Counter[str]:
    """What the platform's own accounts have, by kind."""
    owners = [f"internal.{slot}" for slot in slots]
    totals: Counter[str] = Counter()
    for row in await cores.rows("pay_core", Account, Account.__table__.c.owner_id.in_(owners)):
        totals[row.kind] += row.balance_minor
    return totals


def check_end(history: History) -> None:
    """Everything is over, and every cent is where the model says."""
    cores = history.cores
    cases = cores.do(history.cases())
    trades = history.trades()
    payments = cores.do(_payments(history))
    _check_states(trades, payments)
    _check_trades(history, trades, payments, cores.do(_attempts(history, trades)))
    _check_customers(history, cases)
    totals = cores.do(internal_totals(cores, sorted({row.slot for row in payments} | _slots(history))))
    totals.subtract(history.books_before)
    for kind in _EMPTY:
        if totals[kind]:
            raise Violation(f"{totals[kind]} is left in {kind}")
    if -totals["EXTERNAL"] != history.provider.net():
        raise Violation(f"EXTERNAL changed by {totals['EXTERNAL']}, the provider's book by {history.provider.net()}")
    kept = sum(c.amount_minor for c in cases if c.type != "RELEASE_FAILED" and c.resolution == "ACCEPT")
    if totals["SUSPENSE"] != kept:
        raise Violation(f"SUSPENSE changed by {totals['SUSPENSE']}, accepted was {kept}")


def _slots(history: History) -> set[int]:
    from tests.model.history import SLOTS

    return set(SLOTS)


async def _payments(history: History) -> list[Payment]:
    columns = Payment.__table__.c
    rows: list[Payment] = await history.cores.rows("pay_core", Payment, columns.payer_id.in_(history.people.buyers))
    return rows


async def _attempts(history: History, trades: list[Trade]) -> dict[str, list[PayAttempt]]:
    columns = PayAttempt.__table__.c
    rows = await history.cores.rows("trade_core", PayAttempt, columns.trade_id.in_([trade.id for trade in trades]))
    found: dict[str, list[PayAttempt]] = {}
    for row in rows:
        found.setdefault(row.trade_id, []).append(row)
    return found


def _check_states(trades: list[Trade], payments: list[Payment]) -> None:
    for trade in trades:
        if trade.state not in _OVER:
            raise Violation(f"{trade.id} is {trade.state} for ever: {trade}")
        if trade.purpose and trade.state != "PAID":
            raise Violation(f"{trade.id} should give money back, and is {trade.state}")
    for payment in payments:
        if payment.state not in ("SUCCEEDED", "FAILED", "VOIDED"):
            raise Violation(f"{payment.id} is {payment.state} for ever: {payment}")


def _check_trades(
    history: History, trades: list[Trade], payments: list[Payment], attempts: dict[str, list[PayAttempt]]
) -> None:
    """Each attempt says what its payment says; what paid nothing went back whole; refunds add up."""
    by_source: dict[str, list[Payment]] = {}
    for payment in payments:
        by_source.setdefault(payment.source_id, []).append(payment)
    refunds: Counter[str] = Counter()
    for trade in trades:
        if trade.trade_type == "REFUND" and trade.state == "PAID" and not trade.repairs_attempt_id:
            refunds[trade.parent_trade_id] += trade.amount_minor
    for trade in trades:
        if trade.refunded_minor != refunds[trade.id]:
            raise Violation(f"{trade.id} says {trade.refunded_minor} refunded, its refunds {refunds[trade.id]}")
        for attempt in attempts.get(trade.id, []):
            made = by_source.get(attempt.id, [])
            if len(made) > 1:
                raise Violation(f"{attempt.id} made {len(made)} payments")
            _check_attempt(trade, attempt, made[0] if made else None)
            history.counts[f"attempt: {attempt.state} {attempt.failure_reason}"] += 1
        history.counts[f"ended: {trade.trade_type} {trade.state} {trade.purpose}"] += 1


def _check_attempt(trade: Trade, attempt: PayAttempt, payment: Payment | None) -> None:
    state = "" if payment is None else payment.state
    wanted = {"EFFECTIVE": ("SUCCEEDED",), "FAILED": ("", "FAILED", "VOIDED"), "RETURNED": ("SUCCEEDED", "VOIDED")}
    if state not in wanted.get(attempt.state, ()):
        raise Violation(f"{attempt.id} is {attempt.state}, its payment {state or 'does not exist'}")
    if payment is None:
        return
    if attempt.state == "RETURNED" and state == "SUCCEEDED" and payment.refunded_minor != payment.amount_minor:
        raise Violation(f"{payment.id} paid nothing, and {payment.refunded_minor} of it went back")
    if attempt.state == "EFFECTIVE" and trade.state != "PAID":
        raise Violation(f"{attempt.id} has paid {trade.id}, which is {trade.state}")


def _check_customers(history: History, cases: list[Any]) -> None:
    """What everybody has; nothing is held; coupons are used or free."""
    expected = history.money.expected(cases)
    found: Counter[tuple[str, str]] = Counter()
    rows = history.cores.do(_accounts(history))
    for row in rows:
        found[row.owner_id, row.kind] += row.balance_minor
        if row.held_minor:
            raise Violation(f"{row.account_key} still holds {row.held_minor}")
    for key in {*expected, *found}:
        if expected[key] != found[key]:
            raise Violation(f"{key} has {found[key]}, and should have {expected[key]}")
    holds = history.cores.do(_holds(history, [row.id for row in rows]))
    if holds:
        raise Violation(f"holds are left: {holds}")
    for coupon in history.cores.do(_coupons(history)):
        if coupon.state not in ("AVAILABLE", "USED"):
            raise Violation(f"coupon {coupon.id} is {coupon.state}")


async def _accounts(history: History) -> list[Account]:
    columns = Account.__table__.c
    return await history.cores.rows("pay_core", Account, columns.owner_id.in_(sorted(history.people.owners)))


async def _holds(history: History, account_ids: list[str]) -> list[Hold]:
    columns = Hold.__table__.c
    return await history.cores.rows("pay_core", Hold, columns.account_id.in_(account_ids), columns.state == "ACTIVE")


async def _coupons(history: History) -> list[Coupon]:
    return await history.cores.rows("pay_core", Coupon, Coupon.__table__.c.owner_id.in_(history.people.buyers))
