"""Any history of payments, by any tools and in any settlement mode, keeps every cent.

Requests, channel results, timers and decisions of people come in any order, twice, late or never; providers refuse,
pay other amounts, and refuse to give back; rules change, accounts are frozen, dates end. Between any two of them the
process may have stopped: nothing is kept but rows and outbox messages. Once all is delivered, nothing is left in
clearing, in transit, in coupons or on hold that no open case explains.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pay_core.bookkeeping import FreezeAccount, UnfreezeAccount
from pay_core.case import RESOLUTIONS, CaseType
from pay_core.chart import CHART
from pay_core.ledger import AccountKind
from pay_core.payment import COUPON, POINTS, Funding, SettlementMode, plan_of
from pay_core.phases import capturable_minor
from pay_core.rules import RuleSet, load
from pay_core.tables import Account, Coupon, LimitUsage, Payment, PaymentCase
from paykit.errors import FailedPrecondition
from paykit.store.system import Outbox
from tests.pay_core.world import World, card, origin

OWNERS = ("ann", "bob", "cid")
SHOP = AccountKind.MERCHANT
REFUSALS = ("CARD_DECLINED", "CARD_EXPIRED")
MODES = tuple(SettlementMode)
LONG = os.environ.get("HISTORIES") == "long"

RULES = load(
    """
version: 7
points:
  rate: {points: 7, amount_minor: 3}
tools:
  - {name: all, when: "true", allow: [coupon, points, balance, card, bank_account, wallet]}
limits:
  - {name: daily, when: "operation == 'WITHDRAW'", per: day, max_amount_minor: 2_000, max_count: 20}
fees:
  - {name: service, when: "amount_minor > 300", rate_ppm: 20_000, fixed_minor: 1, borne_by: PAYEE}
  - {name: express, when: "settlement_mode != 'IMMEDIATE' && amount_minor % 2 == 0", fixed_minor: 3, borne_by: PAYER}
splits:
  - name: agency
    when: "payee_id == 'mall' && amount_minor % 3 == 0"
    shares: [{owner_id: agent, account_kind: MERCHANT, rate_ppm: 100_000}]
refunds:
  return_fees: "amount_minor % 5 == 0"
  fallback:
    - {when: "failure_reason == 'CARD_EXPIRED'", to: BALANCE}
    - {when: "true", to: NONE}
reversals: {attempts_max: 2, first_pause_s: 2, max_pause_s: 60, fallback: CASE}
""",
    "histories",
)


# What may be put in force at any moment: other fees, other ends of what is refused.
STRICTER = load(
    RULES.text.replace("version: 7", "version: 8")
    .replace("attempts_max: 2", "attempts_max: 1")
    .replace("fallback: CASE", "fallback: BALANCE")
    .replace("fixed_minor: 3", "fixed_minor: 11")
    .replace("amount_minor % 5 == 0", "amount_minor % 5 != 0"),
    "stricter",
)


@contextlib.contextmanager
def unless(*reasons: str) -> Iterator[None]:
    """A request that may be refused for some reasons, and for no other."""
    try:
        yield
    except FailedPrecondition as error:
        if error.reason not in reasons:
            raise


class AnyHistory(RuleBasedStateMachine):
    """See the module. ``delivered``: calls that were made once already and may be made again."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(RULES)
        self.number = 0
        self.delivered: list[Outbox] = []

    def _next(self) -> str:
        self.number += 1
        return f"r{self.number}"

    owners = st.sampled_from(OWNERS)
    amounts = st.integers(1, 500)
    refusals = st.sampled_from(REFUSALS)

    @initialize()
    def give_everybody_something(self) -> None:
        for owner in OWNERS:
            self.world.recharge(owner, 900, self._next())
            self.world.points(owner, 800, self._next())
        self.world.drain()

    # Requests

    @rule(owner=owners, amount=amounts)
    def recharge(self, owner: str, amount: int) -> None:
        self.world.recharge(owner, amount, self._next())

    @rule(owner=owners, amount=amounts)
    def withdraw(self, owner: str, amount: int) -> None:
        with unless("LIMIT_EXCEEDED"):
            self.world.withdraw(owner, amount, self._next())

    @rule(
        owner=owners,
        mode=st.sampled_from(MODES),
        balance=st.integers(0, 300),
        cards=st.lists(st.integers(1, 300), max_size=2),
        points=st.integers(0, 60),
        coupon=st.sampled_from(["", "", "platform", "shop", "mall"]),
        worth=st.integers(1, 80),
        to_two=st.booleans(),
    )
    def pay(
        self,
        owner: str,
        mode: SettlementMode,
        balance: int,
        cards: list[int],
        points: int,
        coupon: str,
        worth: int,
        to_two: bool,
    ) -> None:
        fundings = [Funding(balance)] if balance else []
        fundings += [card(amount) for amount in cards]
        fundings += [Funding(points, POINTS)] if points else []
        if coupon:
            merchant = "" if coupon == "platform" else coupon
            fundings.append(Funding(worth, COUPON, token=self.world.coupon(owner, worth, self._next(), merchant)))
        total = sum(funding.amount_minor for funding in fundings)
        if not total:
            return
        payees = [("shop", SHOP, total, "one")]
        if to_two and total > 1:
            payees = [("shop", SHOP, total // 3 + 1, "one"), ("mall", SHOP, total - total // 3 - 1, "two")]
        with unless("COUPON_NOT_APPLICABLE", "PAYER_FEE_UNFUNDED"):
            self.world.transfer(owner, fundings, [payee for payee in payees if payee[2]], self._next(), mode)

    @rule(payer=owners, payee=owners, amount=amounts)
    def peer_transfer(self, payer: str, payee: str, amount: int) -> None:
        self.world.transfer(payer, [Funding(amount)], [(payee, AccountKind.USER, amount)], self._next())

    @rule(
        data=st.data(),
        part=st.integers(1, 100),
        reference=st.sampled_from(["", "", "one", "two"]),
        repair=st.booleans(),
    )
    def refund(self, data: st.DataObject, part: int, reference: str, repair: bool) -> None:
        payment = self._one(data, "SUCCEEDED", "TRANSFER")
        if payment is None:
            return
        left = payment.amount_minor - payment.refunded_minor - payment.refunding_minor
        with unless("REFUND_EXCEEDS_PAYMENT", "PAYEE_NOT_FOUND"):
            self.world.refund(payment.id, max(1, left * part // 100), self._next(), reference, repair)

    @rule(data=st.data(), part=st.integers(1, 100), keep_rest=st.booleans())
    def capture(self, data: st.DataObject, part: int, keep_rest: bool) -> None:
        payment = self._one(data, "AUTHORIZED", "TRANSFER")
        if payment is None:
            return
        amount = max(1, capturable_minor(plan_of(payment)) * part // 100)
        with unless("KEEP_REST_NOT_POSSIBLE" if keep_rest else ""):
            self.world.capture(payment.id, amount, self._next(), keep_rest=keep_rest)

    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        payment = self._one(data, "AUTHORIZED", "TRANSFER")
        if payment is not None:
            self.world.void(payment.id, self._next(), "CANCELLED")

    def _one(self, data: st.DataObject, state: str, operation: str) -> Payment | None:
        found = [p for p in self.world.all(Payment) if p.operation == operation and p.state == state]
        return data.draw(st.sampled_from(found)) if found else None

    # What comes of them

    @precondition(lambda self: self.world.calls)
    @rule(
        data=st.data(),
        agrees=st.booleans(),
        reason=refusals,
        moved=st.sampled_from([0, 0, 0, 7, 400]),
        is_late=st.booleans(),
    )
    def deliver(self, data: st.DataObject, agrees: bool, reason: str, moved: int, is_late: bool) -> None:
        index = data.draw(st.integers(0, len(self.world.calls) - 1))
        message = self.world.calls.pop(index)
        self.delivered.append(message)
        send = self.world.accept if is_late else self.world.deliver
        send(message, provider_agrees=agrees, reason=reason, settled_minor=moved)

    @precondition(lambda self: self.world.calls)
    @rule(agrees=st.sampled_from([True, True, True, False]), reason=refusals)
    def deliver_what_waits(self, agrees: bool, reason: str) -> None:
        for _ in range(len(self.world.calls)):
            message = self.world.calls.pop(0)
            self.delivered.append(message)
            self.world.deliver(message, provider_agrees=agrees, reason=reason)

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        self.world.accept(data.draw(st.sampled_from(self.delivered)))

    @precondition(lambda self: self.world.results)
    @rule(data=st.data(), is_lost=st.booleans())
    def result_arrives_or_is_lost(self, data: st.DataObject, is_lost: bool) -> None:
        result = self.world.results.pop(data.draw(st.integers(0, len(self.world.results) - 1)))
        if not is_lost:
            self.world.tell(result)

    @rule(pause_ms=st.sampled_from([500, 3_000, 3_000, 60_000, 60_000, 3_600_000, 8 * 86_400_000]))
    def time_passes(self, pause_ms: int) -> None:
        self.world.now_ms += pause_ms
        for payment in self.world.all(Payment):
            if payment.due_at_ms is not None and payment.due_at_ms <= self.world.now_ms:
                self.world.fire(payment)

    @rule(data=st.data())
    def somebody_decides_a_case(self, data: st.DataObject) -> None:
        found = [case for case in self.world.all(PaymentCase) if case.state == "OPEN"]
        if found:
            case = data.draw(st.sampled_from(found))
            resolution = data.draw(st.sampled_from(sorted(RESOLUTIONS[CaseType(case.type)])))
            self.world.resolve(case.id, resolution, self._next())

    @rule(rules=st.sampled_from([RULES, STRICTER]))
    def rules_are_put_in_force(self, rules: RuleSet) -> None:
        self.world.rules = rules

    @rule(data=st.data())
    def an_account_is_frozen_or_freed(self, data: st.DataObject) -> None:
        account = data.draw(st.sampled_from([row for row in self.world.all(Account) if CHART[row.kind].may_freeze]))
        change = UnfreezeAccount if account.freeze_reason else FreezeAccount
        self.world.run(change(origin(account.owner_id, self._next()), account.id, "COURT_ORDER"))

    @rule()
    def a_date_is_over(self) -> None:
        self.world.next_date()

    @invariant()
    def every_cent_is_accounted_for(self) -> None:
        self.world.check()

    @invariant()
    def limits_count_what_has_not_come_to_nothing(self) -> None:
        for usage in self.world.all(LimitUsage):
            counted = [
                payment
                for payment in self.world.all(Payment)
                if usage.usage_key in plan_of(payment).usages and payment.accounting_date == usage.accounting_date
            ]
            amounts = [p.amount_minor for p in counted if p.state not in ("FAILED", "VOIDED")]
            assert (usage.amount_minor, usage.payment_count) == (sum(amounts), len(amounts))

    def teardown(self) -> None:
        world = self.world
        world.drain(expires=True)
        for _ in range(10):
            found = [case for case in world.all(PaymentCase) if case.state == "OPEN"]
            for case in found:
                world.resolve(case.id, min(RESOLUTIONS[CaseType(case.type)]), self._next())
            world.drain(expires=True)
        world.check()
        assert not world.calls
        assert {payment.state for payment in world.all(Payment)} <= {"SUCCEEDED", "FAILED", "VOIDED"}
        assert {coupon.state for coupon in world.all(Coupon)} <= {"AVAILABLE", "USED"}


AnyHistory.TestCase.settings = settings(
    max_examples=2500 if LONG else 40,
    stateful_step_count=80 if LONG else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_any_history_keeps_every_cent = AnyHistory.TestCase
