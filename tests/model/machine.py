"""Any history of orders, payments, messages, providers and time, driven through both cores against the plain model."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.errors import StopTest
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.model import asking, laws
from tests.model.asking import BENEFIT, DAY_MS, TRADE
from tests.model.cores import Cores
from tests.model.history import History
from tests.model.money import Issued
from tests.model.provider import WALLET

PAYABLE = (
    asking.PURCHASE,
    asking.ESCROW,
    asking.PRE_AUTHORIZATION,
    asking.SPLIT,
    asking.MERGED,
    trade_pb2.TRADE_TYPE_INSTALMENT,
    asking.TOP_UP,
)
SHOPPING = ("balance", "card", "wallet", "points", "coupon")
REFUSALS = ("CARD_DECLINED", "CARD_EXPIRED", "ACCOUNT_CLOSED")
PAUSES_MS = (1_000, 4_000, 16_000, 70_000, 1_900_000, 1_900_000, DAY_MS, 8 * DAY_MS)

_CREATED, _PAYING = trade_pb2.TRADE_STATE_CREATED, trade_pb2.TRADE_STATE_PAYING
_PAID, _AUTHORIZED = trade_pb2.TRADE_STATE_PAID, trade_pb2.TRADE_STATE_AUTHORIZED
_PARTLY = trade_pb2.TRADE_STATE_PARTIALLY_PAID

numbers = st.integers(0, 40)
amounts = st.integers(1, 900)
percents = st.integers(1, 100)
buyers = st.integers(0, 2)
merchants = st.integers(0, 1)
kinds = st.sampled_from((asking.PURCHASE, asking.PURCHASE, asking.ESCROW, asking.PRE_AUTHORIZATION))
tools = st.lists(st.sampled_from(SHOPPING), min_size=1, max_size=3, unique=True)
moods = st.integers(0, 2**16)  # of providers, see history.verdict_of; 0: all goes well


class AnyHistory(RuleBasedStateMachine):
    """See the module. ``cores`` are set before a run; one pair of stores serves all of its histories."""

    cores: ClassVar[Cores]
    counts: ClassVar[Counter[str]] = Counter()
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.history = History(self.cores, self.counts)

    def _step(self, name: str) -> History:
        type(self).steps += 1
        self.counts[f"step: {name}"] += 1
        self.cores.clock.advance(1)
        return self.history

    @initialize(amount=st.integers(1500, 4000), is_harsh=st.sampled_from((False, False, True)))
    def give_everybody_something(self, amount: int, is_harsh: bool) -> None:
        history = self.history
        for buyer in history.people.buyers:
            request = asking.create(asking.TOP_UP, history.fresh(), buyer, amount)
            request.pay_methods.append(asking.method("card", amount))
            history.ask(TRADE, "CreateTrade", request, buyer)
        history.deliver_at_once(0)
        for buyer in history.people.buyers:
            history.grant(buyer, 3000)
        history.is_harsh = is_harsh

    # What customers ask for

    @rule(buyer=buyers, amount=amounts, tool=st.sampled_from(("card", "wallet")), is_top_up=st.booleans())
    def top_up_or_cash_out(self, buyer: int, amount: int, tool: str, is_top_up: bool) -> None:
        history = self._step("top up" if is_top_up else "cash out")
        owner = history.people.buyers[buyer]
        kind = asking.TOP_UP if is_top_up else asking.CASH_OUT
        request = asking.create(kind, history.fresh(), owner, amount)
        request.pay_methods.append(asking.method(tool if is_top_up else "bank", amount))
        history.ask(TRADE, "CreateTrade", request, owner)

    @rule(buyer=buyers, to=buyers, amount=amounts)
    def send_to_a_peer(self, buyer: int, to: int, amount: int) -> None:
        history = self._step("peer transfer")
        payer, payee = history.people.buyers[buyer], history.people.buyers[to]
        if payer == payee:
            return
        request = asking.create(asking.PEER, history.fresh(), payer, amount, payee_id=payee)
        request.pay_methods.append(asking.method("balance", amount))
        history.ask(TRADE, "CreateTrade", request, payer)

    @rule(buyer=buyers, merchant=merchants, kind=kinds, amount=amounts, wanted=tools)
    def buy(self, buyer: int, merchant: int, kind: int, amount: int, wanted: list[str]) -> None:
        self._order("buy", buyer, merchant, kind, amount, wanted)

    @rule(buyer=buyers, amount=amounts, wanted=tools)
    def buy_held(self, buyer: int, amount: int, wanted: list[str]) -> None:
        kind = asking.ESCROW if amount % 2 else asking.PRE_AUTHORIZATION
        self._order("buy, held", buyer, amount % 3 // 2, kind, amount, wanted)

    @rule(buyer=buyers, merchant=merchants, amount=amounts)
    def order(self, buyer: int, merchant: int, amount: int) -> None:
        self._order("order", buyer, merchant, asking.PURCHASE, amount, ())

    def _order(self, step: str, buyer: int, merchant: int, kind: int, amount: int, wanted: Sequence[str]) -> None:
        history = self._step(step)
        owner, payee = history.people.buyers[buyer], history.people.merchants[merchant]
        request = asking.create(kind, history.fresh(), owner, amount, payee_id=payee)
        if wanted:
            request.pay_methods.extend(history.methods(owner, kind, amount, wanted, {payee: amount}))
        history.ask(TRADE, "CreateTrade", request, owner)

    @rule(buyer=buyers, merchant=merchants, amount=st.integers(10, 900), parts=st.integers(2, 4))
    def order_by_instalments(self, buyer: int, merchant: int, amount: int, parts: int) -> None:
        history = self._step("instalment plan")
        owner, now_ms = history.people.buyers[buyer], self.cores.clock.now_ms()
        due = [now_ms + DAY_MS * (i + 1) for i in range(parts)]
        request = asking.create(asking.PLAN, history.fresh(), owner, amount)
        request.payee_id = history.people.merchants[merchant]
        request.parts.extend(asking.parts_of(amount, parts, [], due))
        history.ask(TRADE, "CreateTrade", request, owner)

    @rule(buyer=buyers, amount=st.integers(10, 900), parts=st.integers(2, 4), wanted=tools, pays=st.booleans())
    def order_from_several(self, buyer: int, amount: int, parts: int, wanted: list[str], pays: bool) -> None:
        history = self._step("split purchase")
        owner = history.people.buyers[buyer]
        request = asking.create(asking.SPLIT, history.fresh(), owner, amount)
        request.parts.extend(asking.parts_of(amount, parts, history.people.merchants, []))
        if pays:
            paid: Counter[str] = Counter()
            for part in request.parts:
                paid[part.payee_id] += part.amount.amount_minor
            request.pay_methods.extend(history.methods(owner, asking.SPLIT, amount, wanted, paid))
        history.ask(TRADE, "CreateTrade", request, owner)

    @rule(buyer=buyers, number=st.integers(2, 4), wanted=tools, pays=st.booleans())
    def merge(self, buyer: int, number: int, wanted: list[str], pays: bool) -> None:
        history = self._step("merge")
        owner = history.people.buyers[buyer]
        rows = history.trades(_CREATED, kinds=(asking.PURCHASE,), owner=owner)
        free = [row for row in rows if not row.part_count and not row.group_trade_id][-number:]
        if len(free) < 2:
            self.order(buyer, number % 2, 100 + number)
            return
        amount = sum(trade.amount_minor for trade in free)
        request = asking.create(asking.MERGED, history.fresh(), owner, amount)
        request.merged_trade_ids.extend(trade.id for trade in free)
        if pays:
            paid: Counter[str] = Counter()
            for trade in free:
                paid[trade.payee_id] += trade.amount_minor
            request.pay_methods.extend(history.methods(owner, asking.MERGED, amount, wanted, paid))
        history.ask(TRADE, "CreateTrade", request, owner)

    @rule(pick=numbers, wanted=tools)
    def pay(self, pick: int, wanted: list[str]) -> None:
        history = self._step("pay")
        trade = history.pick(pick, _CREATED, _PAYING, kinds=PAYABLE if pick % 9 else ())
        if trade is None:
            self._buy_instead(pick)
            return
        request = pb.PayTradeRequest(request_id=history.fresh(), trade_id=trade.id)
        request.pay_methods.extend(history.methods_of(trade, wanted))
        history.ask(TRADE, "PayTrade", request, trade.buyer_id)

    @rule(pick=numbers, percent=percents, wanted=tools)
    def pay_a_part(self, pick: int, percent: int, wanted: list[str]) -> None:
        history = self._step("pay a part")
        trade = history.pick(pick, _CREATED, _PARTLY, kinds=(asking.PURCHASE,))
        if trade is None:
            self.order(pick % 3, pick % 2, 50 + 11 * pick)
            return
        left = trade.amount_minor - trade.paid_minor
        amount = max(1, left * percent // 100)
        request = pb.PayTradeRequest(request_id=history.fresh(), trade_id=trade.id, is_partial=True)
        paid = {trade.payee_id: amount}
        request.pay_methods.extend(
            history.methods(trade.buyer_id, asking.PURCHASE, amount, wanted, paid, is_partial=True)
        )
        history.ask(TRADE, "PayTrade", request, trade.buyer_id)

    def _buy_instead(self, pick: int) -> None:
        """There is nothing yet to do it with."""
        self.buy(pick % 3, pick % 2, asking.PURCHASE, 20 + 13 * pick, [SHOPPING[pick % 5], SHOPPING[(pick + 1) % 5]])

    @rule(pick=numbers, percent=st.sampled_from((100, 100, 50, 33, 7, 1, 120)), is_all=st.booleans())
    def refund(self, pick: int, percent: int, is_all: bool) -> None:
        history = self._step("refund")
        trade = history.pick(pick, _PAID, _PARTLY, refundable=True)
        if trade is None:
            self._buy_instead(pick)
            return
        amount = max(1, trade.refundable_minor * percent // 100)
        request = pb.RefundTradeRequest(request_id=history.fresh(), trade_id=trade.id)
        if not is_all:
            request.amount.CopyFrom(asking.eur(amount))
        answer = history.ask(TRADE, "RefundTrade", request, trade.buyer_id)
        laws.refund_is_as_shown(trade, None if is_all else amount, answer)

    @rule(pick=numbers, percent=percents, keeps=st.booleans())
    def capture(self, pick: int, percent: int, keeps: bool) -> None:
        history = self._step("capture")
        trade = history.pick(pick, _AUTHORIZED)
        if trade is None:
            self.buy_held(pick % 3, 10 + 7 * pick, [SHOPPING[pick % 5], "card"][: 1 + pick % 2])
            return
        held = trade.amount_minor - trade.paid_minor
        amount = max(1, held * percent // 100)
        request = pb.CaptureTradeRequest(request_id=history.fresh(), trade_id=trade.id, keep_rest=keeps)
        if percent < 100:
            request.amount.CopyFrom(asking.eur(amount))
            self.counts["capture: partial"] += 1
        laws.must(history.ask(TRADE, "CaptureTrade", request, trade.buyer_id), "an AUTHORIZED trade is captured")

    @rule(pick=numbers, how=st.sampled_from(("void", "close", "close")))
    def give_up(self, pick: int, how: str) -> None:
        history = self._step(how)
        if how == "void":
            trade = history.pick(pick, _AUTHORIZED)
            if trade is not None:
                request = pb.VoidTradeRequest(request_id=history.fresh(), trade_id=trade.id, reason="no more")
                laws.must(history.ask(TRADE, "VoidTrade", request, trade.buyer_id), "an AUTHORIZED trade is voided")
            return
        trade = history.pick(pick, _CREATED, _PAYING, _PARTLY)
        if trade is not None:
            closing = pb.CloseTradeRequest(request_id=history.fresh(), trade_id=trade.id, reason="no more")
            history.ask(TRADE, "CloseTrade", closing, trade.buyer_id)

    @rule(pick=numbers, amount=amounts)
    def reprice(self, pick: int, amount: int) -> None:
        history = self._step("reprice")
        trade = history.pick(pick, _CREATED, _PAYING)
        if trade is None:
            return
        request = pb.RepriceTradeRequest(request_id=history.fresh(), trade_id=trade.id, amount=asking.eur(amount))
        history.ask(TRADE, "RepriceTrade", request, trade.buyer_id)

    @rule(buyer=buyers, merchant=st.sampled_from((None, 0, 1)), face=st.integers(1, 300))
    def issue_coupon(self, buyer: int, merchant: int | None, face: int) -> None:
        history = self._step("issue coupon")
        owner = history.people.buyers[buyer]
        funder = "" if merchant is None else history.people.merchants[merchant]
        until_ms = self.cores.clock.now_ms() + 30 * DAY_MS
        request = asking.coupon(history.fresh(), owner, face, funder, until_ms)
        response = laws.must(history.ask(BENEFIT, "IssueCoupon", request, owner), "a coupon is issued")
        history.money.coupons[response.coupon.coupon_id] = Issued(face, funder)

    # What the platform does

    @rule(what=st.sampled_from(("points", "freeze", "overdraft", "case", "case")), pick=numbers)
    def run_the_platform(self, what: str, pick: int) -> None:
        history = self._step(f"platform: {what}")
        people = history.people
        everybody = (*people.buyers, *people.merchants)
        if what == "points":
            history.grant(people.buyers[pick % 3], 1 + 10 * pick)
        elif what == "freeze":
            for account in history.accounts(everybody[pick % len(everybody)])[:1]:
                history.freeze(account)
        elif what == "overdraft":
            for account in history.accounts(people.merchants[pick % 2]):
                history.allow_overdraft(account, 20 * pick)
        elif cases := history.open_cases():
            case = cases[pick % len(cases)]
            names = ["RETRY", "ACCEPT"] if case.type == "RELEASE_FAILED" else ["RETRY", "TO_BALANCE", "ACCEPT"]
            history.decide(case, names[pick % len(names)])
        else:
            history.deliver_some(3, pick, pick)

    # Messages, providers, time

    # Hypothesis takes each rule as often as any other: what shall happen more often stands here more often.

    @rule(number=st.integers(1, 6), first=numbers, mood=moods)
    def deliver_some(self, number: int, first: int, mood: int) -> None:
        self._step("deliver").deliver_some(number, first, mood)

    @rule(number=st.integers(1, 6), mood=moods)
    def deliver_the_next(self, number: int, mood: int) -> None:
        self._step("deliver").deliver_some(number, 0, mood)

    @rule(number=st.integers(1, 6), mood=moods)
    def deliver_the_latest(self, number: int, mood: int) -> None:
        self._step("deliver").deliver_some(number, -1, mood)

    @rule(mood=moods)
    def deliver_all(self, mood: int) -> None:
        self._step("deliver all").deliver_all(mood)

    @rule()
    def deliver_all_and_all_goes_well(self) -> None:
        self._step("deliver all").deliver_all(0)

    @rule(pick=numbers)
    def deliver_again(self, pick: int) -> None:
        self._step("deliver again").deliver_again(pick)

    @rule(pick=numbers)
    def lose(self, pick: int) -> None:
        self._step("lose").lose(pick)

    @rule(pick=numbers, verdict=st.sampled_from(("yes", "yes", "no", "other")), reason=st.sampled_from(REFUSALS))
    def provider_answers(self, pick: int, verdict: str, reason: str) -> None:
        history = self._step("provider answers")
        found = self.cores.provider.open_orders()
        if not found:
            history.deliver_some(2, pick, pick)
            return
        order = found[pick % len(found)]
        self.counts["late: wallet" if order.request.channel == WALLET else "late: other"] += 1
        history.settle(order, verdict, reason)

    @rule(pause_ms=st.sampled_from(PAUSES_MS))
    def time_passes(self, pause_ms: int) -> None:
        self._step("time passes").pass_time(pause_ms)

    # The same again

    @precondition(lambda self: self.history.asked)
    @rule(pick=numbers, is_other=st.booleans())
    def ask_again(self, pick: int, is_other: bool) -> None:
        self._step("ask again, otherwise" if is_other else "ask again").ask_again(pick, is_other=is_other)

    def teardown(self) -> None:
        # One that is broken has no end worth looking at. One that was merely drawn too long has.
        if sys.exc_info()[0] in (None, StopTest):
            self.history.end()
