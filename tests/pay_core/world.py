"""pay_core without storage or network: its commands over rows in a dictionary, its messages delivered by hand.

Commands are pure, so the whole service can be driven through thousands of histories a second: messages in any order,
twice, late or never, and with any outcome from the providers. Nothing but rows and outbox messages lies between two
commands: whatever comes next is what a process would find that starts after a crash.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple, cast

import msgspec
from google.protobuf.wrappers_pb2 import StringValue

from pay_core import closing, holds, transit
from pay_core.benefits import GrantPoints, IssueCoupon
from pay_core.capture import CapturePayment, ExpirePayment, VoidPayment
from pay_core.case import CaseResolution
from pay_core.case_commands import ResolveCase
from pay_core.chains import Order
from pay_core.commands import Advance, Refund, SettleInstruction, StartPayment
from pay_core.coupon import CouponFunder
from pay_core.ledger import KIND_OF_NUMBER, AccountKind
from pay_core.orchestration import PaymentView
from pay_core.payment import (
    BALANCE,
    CHANNEL,
    Action,
    Funding,
    InstructionState,
    Operation,
    Payee,
    SettlementMode,
    collected_minor,
    is_terminal,
)
from pay_core.rules import load
from pay_core.rules.book import default_text
from pay_core.rules.rule_set import RuleSet
from pay_core.tables import Account, Book, Entry, Hold, Instruction, Journal, Payment, PaymentCase
from pay_core.terms import Terms
from pay_core.tools.balance import DRAW_TRANSIT, RECEIVE_TRANSIT
from pay_core.tools.base import Outcome
from pay_core.tools.channel import SUBMIT_CHANNEL_ORDER
from paykit import context as business_context
from paykit.ids import slot_of
from paykit.store.command import Command, Origin, R
from paykit.store.system import Outbox
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2
from paymesh.pay.v1 import ledger_service_pb2
from tests.paykit.store.memory import MemoryRows

NOW_MS = 1_700_000_000_000
DUE_MS = 15_000
DUE_MAX_MS = 3_600_000
DAY_MS = 86_400_000
RULES = load(default_text(), "default.yaml")

_IN = (channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE, channel_order_pb2.CHANNEL_ORDER_KIND_CAPTURE)
_OUT = (channel_order_pb2.CHANNEL_ORDER_KIND_REFUND, channel_order_pb2.CHANNEL_ORDER_KIND_PAYOUT)


def card(amount_minor: int, channel: str = "card") -> Funding:
    """A card as a funding."""
    return Funding(amount_minor, CHANNEL, channel, "tok_ok", "CARD")


def bank(amount_minor: int) -> Funding:
    """A bank account as a destination."""
    return Funding(amount_minor, CHANNEL, "bank", "tok_ok", "BANK_ACCOUNT")


def origin(owner: str, request_id: str, *, body: str = "") -> Origin:
    """The origin of a request by the test."""
    context = business_context.mint(slot_of(owner), NOW_MS, caller="tester")
    return Origin.rpc(context, "Test", owner, request_id, StringValue(value=body))


class Result(NamedTuple):
    """What a channel has to say of an instruction."""

    message_id: str
    payment_id: str
    instruction_id: str
    outcome: Outcome


class World(MemoryRows):
    """All rows of pay_core, the calls it has sent, and what the provider did."""

    def __init__(self, rules: RuleSet = RULES) -> None:
        super().__init__()
        self.rules = rules
        self.now_ms = NOW_MS
        self.calls: list[Outbox] = []
        self.events: list[Outbox] = []
        self.results: list[Result] = []  # of channels, on their way
        self.verdicts: dict[str, Outcome] = {}  # of channels, by instruction: a provider does not change its mind
        self.provider_net: Counter[tuple[str, str]] = Counter()  # (channel, currency): taken less given

    def terms(self) -> Terms:
        """The terms of a decision made now."""
        return Terms(self.rules, DUE_MS, DUE_MAX_MS)

    def run(self, command: Command[R]) -> R:
        """Carries out one command, alone in its batch; what was done before is answered with None."""
        carried = self.carry_out(command, self.now_ms)
        for message in carried.outbox:
            (self.calls if message.kind == "call" else self.events).append(message)
        return cast(R, carried.result)

    # What callers ask for

    def start(self, order: Order, request_id: str, biz_code: str = "") -> PaymentView:
        """Any operation that stands alone."""
        asked = origin(order.payer_id, request_id)
        if biz_code:
            context = type(asked.context)(biz_id=asked.context.biz_id, biz_code=biz_code, caller="tester")
            asked = Origin(asked.trigger, asked.key, context, asked.request_id, asked.input_hash)
        return self.run(StartPayment(asked, order, request_id, self.terms()))

    def recharge(self, owner: str, amount_minor: int, request_id: str) -> PaymentView:
        """A top-up by card."""
        return self.start(Order(Operation.RECHARGE, owner, "EUR", amount_minor, (card(amount_minor),)), request_id)

    def withdraw(self, owner: str, amount_minor: int, request_id: str) -> PaymentView:
        """A cash-out to a bank."""
        return self.start(Order(Operation.WITHDRAW, owner, "EUR", amount_minor, (bank(amount_minor),)), request_id)

    def transfer(
        self,
        payer: str,
        fundings: list[Funding],
        payees: list[tuple[Any, ...]],
        request_id: str,
        mode: SettlementMode = SettlementMode.IMMEDIATE,
    ) -> PaymentView:
        """A payment to payees: (owner, kind, amount) and, where it matters, a reference."""
        to = tuple(Payee(*payee) for payee in payees)
        total_minor = sum(payee.amount_minor for payee in to)
        expires_in_ms = None if mode == SettlementMode.IMMEDIATE else 7 * DAY_MS
        order = Order(Operation.TRANSFER, payer, "EUR", total_minor, tuple(fundings), to, mode, expires_in_ms)
        return self.start(order, request_id)

    def refund(
        self, payment_id: str, amount_minor: int, request_id: str, reference: str = "", is_repair: bool = False
    ) -> PaymentView:
        """A refund of a transfer."""
        asked = origin(payment_id, request_id)
        command = Refund(
            asked,
            payment_id,
            "EUR",
            amount_minor,
            request_id,
            self.terms(),
            payee_reference=reference,
            is_repair=is_repair,
        )
        return self.run(command)

    def capture(self, payment_id: str, amount_minor: int, request_id: str, *, keep_rest: bool = False) -> PaymentView:
        """A capture; 0 is all that is left."""
        asked = origin(payment_id, request_id)
        return self.run(CapturePayment(asked, payment_id, "EUR", amount_minor, keep_rest, self.terms()))

    def void(self, payment_id: str, request_id: str, reason: str = "") -> PaymentView:
        """A void."""
        return self.run(VoidPayment(origin(payment_id, request_id), payment_id, reason, self.terms()))

    def resolve(self, case_id: str, resolution: CaseResolution, request_id: str) -> PaymentCase:
        """A person decides."""
        asked = origin(case_id, request_id)
        return self.run(ResolveCase(asked, case_id, resolution, "decided in a test", self.terms()))

    def coupon(self, owner: str, amount_minor: int, request_id: str, merchant_id: str = "") -> str:
        """A coupon, funded by a merchant where one is named; its id."""
        funder = CouponFunder.MERCHANT if merchant_id else CouponFunder.PLATFORM
        expires_at_ms = self.now_ms + 30 * DAY_MS
        asked = origin(owner, request_id)
        return self.run(IssueCoupon(asked, owner, "EUR", amount_minor, funder, merchant_id, "spring", expires_at_ms)).id

    def points(self, owner: str, count: int, request_id: str) -> None:
        """Points for a user."""
        self.run(GrantPoints(origin(owner, request_id), owner, count, "welcome"))

    # What the world answers

    def deliver(
        self, row: Outbox, *, provider_agrees: bool = True, reason: str = "CARD_DECLINED", settled_minor: int = 0
    ) -> None:
        """Makes a durable call, as its callee would carry it out; channel orders get their result at once."""
        self.accept(row, provider_agrees=provider_agrees, reason=reason, settled_minor=settled_minor)
        while self.results:
            self.tell(self.results.pop(0))

    def accept(
        self, row: Outbox, *, provider_agrees: bool = True, reason: str = "CARD_DECLINED", settled_minor: int = 0
    ) -> None:
        """As ``deliver``, but the result of a channel order stays on its way."""
        context = business_context.unpack(row.context)
        if row.destination == SUBMIT_CHANNEL_ORDER:
            self._submit(row, provider_agrees, reason, settled_minor)
        elif row.destination in (RECEIVE_TRANSIT, DRAW_TRANSIT):
            kind = transit.ReceiveTransit if row.destination == RECEIVE_TRANSIT else transit.DrawTransit
            request = ledger_service_pb2.ReceiveTransitRequest.FromString(row.body)
            called = Origin.rpc(context, kind.__name__, request.owner_id, request.instruction_id, request)
            amount = request.amount
            self.run(
                kind(
                    called,
                    request.instruction_id,
                    request.payment_id,
                    request.owner_id,
                    KIND_OF_NUMBER[request.account_kind],
                    amount.currency_code,
                    amount.amount_minor,
                    request.accounting_date,
                )
            )
        else:
            answer = ledger_service_pb2.SettleTransitRequest.FromString(row.body)
            called = Origin.rpc(context, "SettleTransit", answer.instruction_id, answer.instruction_id, answer)
            outcome = Outcome("" if answer.drawn else answer.failure_reason)
            self._settle(called, answer.payment_id, answer.instruction_id, BALANCE, outcome)

    def _submit(self, row: Outbox, agrees: bool, reason: str, settled_minor: int) -> None:
        request = channel_service_pb2.SubmitChannelOrderRequest.FromString(row.body)
        amount = request.amount
        if request.instruction_id not in self.verdicts:
            if agrees:
                moved_minor = settled_minor if settled_minor and request.kind in _IN else amount.amount_minor
                sign = 1 if request.kind in _IN else -1 if request.kind in _OUT else 0
                self.provider_net[request.channel, amount.currency_code] += sign * moved_minor
                said = moved_minor if moved_minor != amount.amount_minor else 0
                verdict = Outcome("", f"chn_{request.instruction_id[4:]}", _moved(request), said)
            else:
                verdict = Outcome(reason, f"chn_{request.instruction_id[4:]}", _moved(request))
            self.verdicts[request.instruction_id] = verdict
        verdict = self.verdicts[request.instruction_id]
        self.results.append(Result(row.id, request.payment_id, request.instruction_id, verdict))

    def tell(self, result: Result) -> None:
        """A channel's result arrives."""
        payment = self.rows[Payment][result.payment_id]
        assert isinstance(payment, Payment)
        context = business_context.unpack(payment.context)
        called = Origin.event(context, "channel_results", result.message_id)
        self._settle(called, result.payment_id, result.instruction_id, CHANNEL, result.outcome)

    def _settle(self, asked: Origin, payment_id: str, instruction_id: str, tool: str, outcome: Outcome) -> None:
        self.run(SettleInstruction(asked, payment_id, instruction_id, tool=tool, outcome=outcome, terms=self.terms()))

    def fire(self, payment: Payment) -> None:
        """The timer finds a payment due."""
        asked = Origin.timer(business_context.unpack(payment.context))
        if payment.state == "AUTHORIZED":
            self.run(ExpirePayment(asked, payment.id, self.terms()))
            return
        for ins in self.all(Instruction):
            if ins.payment_id == payment.id and ins.state == InstructionState.PROCESSING and ins.id in self.verdicts:
                self._settle(asked, payment.id, ins.id, ins.tool, self.verdicts[ins.id])
        self.run(Advance(asked, payment.id, self.terms()))

    def drain(self, *, expires: bool = False, provider_agrees: bool = True) -> None:
        """Delivers everything, in order, and lets time pass until nothing waits; what is AUTHORIZED stays so."""
        for _ in range(2000):
            if self.calls:
                self.deliver(self.calls.pop(0), provider_agrees=provider_agrees)
                continue
            due = [p for p in self.all(Payment) if p.due_at_ms is not None and (expires or p.state != "AUTHORIZED")]
            if not due:
                return
            first = min(due, key=lambda payment: payment.due_at_ms)
            self.now_ms = max(self.now_ms, first.due_at_ms)
            self.fire(first)
        raise AssertionError("it never comes to an end")

    def next_date(self) -> None:
        """A day passes, and every book has its next accounting date open."""
        self.now_ms += DAY_MS
        for book in self.all(Book):
            open_date = closing.date_at(self.now_ms)
            self.rows[Book][book.id] = msgspec.structs.replace(book, open_date=open_date)

    # What is to be seen

    def balance(self, owner: str, kind: AccountKind = AccountKind.USER, unit: str = "EUR") -> int:
        """What an owner has, in cents, or in points."""
        keys = {account.account_key: account.balance_minor for account in self.all(Account)}
        return int(keys.get(f"{owner}/{kind}/{unit}", 0))

    def total(self, kind: AccountKind) -> int:
        """What all accounts of a kind have."""
        return sum(account.balance_minor for account in self.all(Account) if account.kind == kind)

    def payment(self, view: PaymentView) -> Payment:
        """A payment as it now is."""
        row = self.rows[Payment][view.payment.id]
        assert isinstance(row, Payment)
        return row

    def chain(self, view: PaymentView) -> list[Instruction]:
        """A payment's chain as it now is."""
        mine = [ins for ins in self.all(Instruction) if ins.payment_id == view.payment.id]
        return sorted(mine, key=lambda ins: ins.seq)

    def check(self) -> None:
        """What must hold at any moment, and what must hold when nothing is under way."""
        self._check_ledger()
        chains: dict[str, list[Instruction]] = {}
        for ins in self.all(Instruction):
            chains.setdefault(ins.payment_id, []).append(ins)
            assert 0 <= ins.refunded_minor <= ins.amount_minor
            assert 0 <= ins.refunded_unit_count <= ins.unit_count
        for payment in self.all(Payment):
            assert 0 <= payment.refunded_minor + payment.refunding_minor <= payment.amount_minor
            assert payment.captured_minor <= payment.amount_minor
            done = [ins for ins in chains[payment.id] if ins.state == InstructionState.SUCCEEDED]
            into = sum(collected_minor(ins) for ins in done if ins.action == Action.COLLECT)
            out = sum(ins.amount_minor for ins in done if ins.action == Action.DISBURSE)
            assert into >= out, "more went out than came in"
            if is_terminal(payment) or payment.state == "AUTHORIZED":
                assert into == out, f"{payment.id} {payment.state}: {into} came in, {out} went out"
        if not self.calls and not self.results and all(self._rests(payment) for payment in self.all(Payment)):
            self._check_rest()

    def _rests(self, payment: Payment) -> bool:
        return is_terminal(payment) or payment.state == "AUTHORIZED" or payment.due_at_ms is None

    def _check_ledger(self) -> None:
        entries: Counter[str] = Counter()
        journals: Counter[tuple[str, str]] = Counter()
        for entry in self.all(Entry):
            entries[entry.account_id] += entry.amount_minor
            journals[entry.journal_id, entry.currency] += entry.amount_minor
        assert not any(journals.values())
        assert {journal_id for journal_id, _ in journals} <= {journal.id for journal in self.all(Journal)}
        kept: Counter[str] = Counter()
        for hold in self.all(Hold):
            if hold.state == "ACTIVE":
                kept[hold.account_id] += holds.kept_minor(hold)
        for account in self.all(Account):
            assert account.balance_minor == entries[account.id]
            assert account.held_minor == kept[account.id]
            assert account.floor_minor is None or account.balance_minor - account.held_minor >= account.floor_minor

    def _check_rest(self) -> None:
        """Nothing is on its way: what is not with a customer or a provider is explained by a case or a reserve."""
        cases = self.all(PaymentCase)
        stuck = sum(c.amount_minor for c in cases if c.state == "OPEN" and c.type == "REVERSAL_FAILED")
        assert self.total(AccountKind.CLEARING) == stuck
        assert self.total(AccountKind.IN_TRANSIT) == 0
        assert -self.total(AccountKind.EXTERNAL) == sum(self.provider_net.values())
        states = Counter(payment.state for payment in self.all(Payment))
        if not states["AUTHORIZED"]:
            assert self.total(AccountKind.ESCROW) == 0
            if not any(case.state == "OPEN" for case in cases):
                assert self.total(AccountKind.COUPON) == 0
                assert not [hold for hold in self.all(Hold) if hold.state == "ACTIVE"]
        if not any(case.state == "OPEN" for case in cases):
            assert set(states) <= {"SUCCEEDED", "FAILED", "VOIDED", "AUTHORIZED"}
            assert all(payment.refunding_minor == 0 for payment in self.all(Payment))


def _moved(request: Any) -> tuple[int, str]:
    return request.amount.amount_minor, request.amount.currency_code
