"""What to ask about the silent side of a pair, and what an answer means for it. Pure: recon.peers makes the calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from paykit.ids import slot_in, slot_of
from paymesh.channel.v1 import channel_order_pb2 as channel_pb2
from paymesh.pay.v1 import ledger_service_pb2 as ledger_pb2
from paymesh.pay.v1 import payment_pb2 as pay_pb2
from paymesh.trade.v1 import trade_pb2
from recon import facts
from recon.answers import Answer, Verdict
from recon.matching import BreakType, Fact, MatchKind, Side
from recon.pair import Pair, problem

_TERMINAL_PAYMENT = (
    pay_pb2.PAYMENT_STATE_SUCCEEDED,
    pay_pb2.PAYMENT_STATE_FAILED,
    pay_pb2.PAYMENT_STATE_VOIDED,
)
_TERMINAL_INSTRUCTION = (pay_pb2.INSTRUCTION_STATE_SUCCEEDED, pay_pb2.INSTRUCTION_STATE_FAILED)
_TERMINAL_ORDER = (channel_pb2.CHANNEL_ORDER_STATE_SUCCEEDED, channel_pb2.CHANNEL_ORDER_STATE_FAILED)
_TERMINAL_TRADE = (
    trade_pb2.TRADE_STATE_PAID,
    trade_pb2.TRADE_STATE_FAILED,
    trade_pb2.TRADE_STATE_CLOSED,
)
_OWNED: tuple[int, ...] = (pay_pb2.ACCOUNT_KIND_USER, pay_pb2.ACCOUNT_KIND_MERCHANT)
_IN_TRANSIT: tuple[int, ...] = (pay_pb2.ACCOUNT_KIND_IN_TRANSIT,)
_BALANCE_TOOL = "balance"
_SUSPENSE_TOOL = "suspense"
# Where the money of the other tools shows, on the payment's slot. Tools that may share an account name the same kinds.
_BENEFITS: tuple[int, ...] = (pay_pb2.ACCOUNT_KIND_MARKETING, pay_pb2.ACCOUNT_KIND_COUPON)
_INTERNAL: Mapping[str, tuple[int, ...]] = {
    facts.CHANNEL_TOOL: (pay_pb2.ACCOUNT_KIND_EXTERNAL,),
    "coupon": _BENEFITS,
    "coupon_account": _BENEFITS,
    "points": _BENEFITS,
    "fees": (pay_pb2.ACCOUNT_KIND_FEES,),
    "escrow": (pay_pb2.ACCOUNT_KIND_ESCROW,),
    _SUSPENSE_TOOL: (pay_pb2.ACCOUNT_KIND_SUSPENSE,),
}


class Silent(NamedTuple):
    """A pair that waits for one of its sides, and what it belongs to."""

    payment_id: str
    source_id: str  # what the payment was made for; empty where it was not heard
    pair: Pair

    @property
    def kind(self) -> MatchKind:
        """Which two records."""
        return MatchKind(self.pair.kind)

    @property
    def key(self) -> str:
        """The id that both records share."""
        return self.pair.key

    @property
    def wrong(self) -> BreakType | None:
        """What is wrong as the facts stand."""
        found = problem(self.pair)
        return None if found is None else found.type

    @property
    def is_expected(self) -> bool:
        """Whether nobody has spoken yet of what was sent."""
        found = problem(self.pair)
        return found is not None and found.side is Side.EXPECTED


def whom_to_ask(silent: Silent) -> str:
    """Who is asked about a pair whose window has passed: ``trade``, ``payment``, ``channel_order`` or ``ledger``."""
    kind = silent.kind
    if kind is MatchKind.TRANSIT:
        return "ledger"
    if silent.wrong is BreakType.MISSING_FIRST:
        return "trade" if kind is MatchKind.TRADE_PAY else "payment"
    return {MatchKind.TRADE_PAY: "payment", MatchKind.PAY_CHANNEL: "channel_order", MatchKind.PAY_LEDGER: "ledger"}[
        kind
    ]


def of_payment(silent: Silent, payment: pay_pb2.Payment | None) -> Answer:
    """What pay_core's answer means for the trade, the channel order or the journal that waits for its payment."""
    if payment is None:
        return Answer(Verdict.NO, f"pay_core knows no payment {silent.payment_id}")
    evidence = f"payment {payment.payment_id} is {pay_pb2.PaymentState.Name(payment.state)}"
    is_final = payment.state in _TERMINAL_PAYMENT
    if silent.kind == MatchKind.TRADE_PAY:
        evidence += f", made for {payment.source_id!r}"
    else:
        instruction = _instruction_of(silent, payment)
        if instruction is None:
            is_final = True
            evidence += f" and has no instruction {silent.key}"
        else:
            is_final = is_final or instruction.state in _TERMINAL_INSTRUCTION
            evidence += f", the instruction {pay_pb2.InstructionState.Name(instruction.state)}"
    return Answer(Verdict.NO if is_final else Verdict.LATER, evidence, tuple(facts.of_payment(payment)))


def of_channel_order(silent: Silent, order: channel_pb2.ChannelOrder | None) -> Answer:
    """What channel_gateway's answer means. Where the outcome was unknown and still is, the answer is no."""
    if order is None:
        return Answer(Verdict.NO, f"channel_gateway knows no order for {silent.key}")
    evidence = f"channel order {order.channel_order_id} is {channel_pb2.ChannelOrderState.Name(order.state)}"
    if order.state in _TERMINAL_ORDER:
        return Answer(Verdict.NO, evidence, tuple(facts.of_channel_order(order)))
    # Of what is only expected the gateway still asks the provider: it says so when it has given up.
    still_unknown = (
        order.state == channel_pb2.CHANNEL_ORDER_STATE_UNKNOWN
        and silent.wrong is BreakType.RESULT_UNKNOWN
        and not silent.is_expected
    )
    return Answer(Verdict.NO if still_unknown else Verdict.LATER, evidence)


def of_trades(silent: Silent, trades: Iterable[trade_pb2.Trade]) -> Answer:
    """What trade_core's trades of the business id mean for a payment that has no trade; the attempt ties them."""
    for trade in trades:
        for attempt in trade.attempts:
            if attempt.attempt_id != silent.source_id and attempt.payment_id != silent.payment_id:
                continue
            state = trade_pb2.TradeState.Name(trade.state)
            evidence = f"trade {trade.trade_id} is {state}, attempt {attempt.attempt_no} " + (
                trade_pb2.AttemptState.Name(attempt.state)
            )
            if attempt.state == trade_pb2.ATTEMPT_STATE_EFFECTIVE:
                return Answer(Verdict.NO, evidence, tuple(facts.of_trade(trade, silent.payment_id)))
            if attempt.state == trade_pb2.ATTEMPT_STATE_RETURNED:
                return Answer(Verdict.NO, evidence, (_returned(silent, attempt),))
            return Answer(Verdict.NO if trade.state in _TERMINAL_TRADE else Verdict.LATER, evidence)
    return Answer(Verdict.NO, f"trade_core knows no trade with attempt {silent.source_id!r}")


class Place(NamedTuple):
    """Where in the ledger a payment must have left its mark: the sum of its entries on accounts of these kinds."""

    owner_id: str
    account_kinds: tuple[int, ...]
    currency: str
    expected_minor: int
    since_ms: int  # Unix milliseconds; no entry of the payment is older


class Found(NamedTuple):
    """What the ledger shows there. ``is_complete`` is False where there were more entries than are looked through."""

    entry_count: int
    sum_minor: int
    is_complete: bool


def ledger_place(silent: Silent, payment: pay_pb2.Payment) -> Place | None:
    """Where the journal that a match waits for shows; None where the payment has no instruction that is booked.

    Seen from the accounts, every collection is a debit and every disbursement a credit: of the owner's account, of an
    internal account of the payment's slot, or of IN_TRANSIT there, where the owner lives on another.
    """
    instruction = _instruction_of(silent, payment)
    if instruction is None or not _is_booked(instruction):
        return None
    slot = slot_in(payment.payment_id)
    is_remote = _is_remote(instruction, slot)
    is_collect = instruction.action == pay_pb2.INSTRUCTION_ACTION_COLLECT
    is_arrival = silent.kind == MatchKind.TRANSIT and silent.wrong is BreakType.MISSING_SECOND
    touching = [i for i in payment.instructions if _is_booked(i)]
    excess_minor = 0
    if instruction.tool in _INTERNAL:
        owner_id, kinds = internal_owner(slot), _INTERNAL[instruction.tool]
        if instruction.tool == _SUSPENSE_TOOL:
            excess_minor = sum(_excess_minor(i) for i in touching)
        touching = [i for i in touching if _INTERNAL.get(i.tool) == kinds]
    elif is_remote and is_collect is is_arrival:
        # A collection arrives at the payment's slot, a disbursement leaves it.
        owner_id, kinds = internal_owner(slot), _IN_TRANSIT
        touching = [i for i in touching if _is_remote(i, slot)]
    else:
        owner_id, kinds = instruction.owner_id, _OWNED
        touching = [i for i in touching if i.tool == _BALANCE_TOOL and i.owner_id == instruction.owner_id]
    expected_minor = excess_minor + sum(
        -facts.moved_minor(i) if i.action == pay_pb2.INSTRUCTION_ACTION_COLLECT else facts.moved_minor(i)
        for i in touching
    )
    return Place(
        owner_id, kinds, instruction.amount.currency_code, expected_minor, payment.create_time.ToMilliseconds()
    )


def _is_booked(instruction: pay_pb2.Instruction) -> bool:
    return instruction.state == pay_pb2.INSTRUCTION_STATE_SUCCEEDED and facts.moves_money(instruction)


def _excess_minor(instruction: pay_pb2.Instruction) -> int:
    """What came in beyond what was asked for: it is booked as suspense."""
    if instruction.action != pay_pb2.INSTRUCTION_ACTION_COLLECT:
        return 0
    return max(0, facts.moved_minor(instruction) - instruction.amount.amount_minor)


def internal_owner(slot: int) -> str:
    """The owner of a slot's internal accounts."""
    return f"internal.{slot}"


def accounts_at(place: Place, accounts: Iterable[ledger_pb2.Account]) -> list[str]:
    """The ids of the accounts that a place names."""
    return [
        account.account_id
        for account in accounts
        if account.kind in place.account_kinds and account.balance.currency_code == place.currency
    ]


def of_ledger(silent: Silent, payment: pay_pb2.Payment, place: Place, found: Found) -> Answer:
    """What the ledger's entries mean for the journal that a match waits for."""
    evidence = (
        f"{found.entry_count} entries of {payment.payment_id} on accounts of {place.owner_id} sum to {found.sum_minor}"
        f" {place.currency} minor, expected {place.expected_minor}"
    )
    if found.entry_count and found.sum_minor == place.expected_minor:
        instruction = _instruction_of(silent, payment)
        assert instruction is not None
        return Answer(Verdict.NO, evidence, (_booked(silent, instruction),))
    if not found.is_complete:
        return Answer(Verdict.LATER, f"{evidence}; there are more entries than are looked through")
    is_final = payment.state in _TERMINAL_PAYMENT
    return Answer(Verdict.NO if is_final else Verdict.LATER, evidence)


def _booked(silent: Silent, instruction: pay_pb2.Instruction) -> Fact:
    side = Side.FIRST if silent.wrong is BreakType.MISSING_FIRST else Side.SECOND
    amount = instruction.amount
    booked_minor = min(facts.moved_minor(instruction), amount.amount_minor)
    key, currency = instruction.instruction_id, amount.currency_code
    return Fact(silent.kind, key, side, booked_minor, currency, silent.payment_id)


def _returned(silent: Silent, attempt: trade_pb2.PayAttempt) -> Fact:
    """That a trade knows of the payment and gives it back by a trade of its own: all of it, or what was captured."""
    known_minor = min(silent.pair.second.amount_minor if silent.pair.second else 0, attempt.amount.amount_minor)
    currency = attempt.amount.currency_code
    return Fact(MatchKind.TRADE_PAY, silent.payment_id, Side.FIRST, known_minor, currency, silent.payment_id)


def _instruction_of(silent: Silent, payment: pay_pb2.Payment) -> pay_pb2.Instruction | None:
    key = silent.key
    return next((i for i in payment.instructions if i.instruction_id == key), None)


def _is_remote(instruction: pay_pb2.Instruction, slot: int) -> bool:
    return instruction.tool == _BALANCE_TOOL and slot_of(instruction.owner_id) != slot
