"""What the client orders: purchases of every kind, held ones among them, refunds of some, and peer transfers and
cash-outs between them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from google.protobuf.duration_pb2 import Duration

from meshctl.scenarios.desk import bank, card, from_balance, money, wallet
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1 import trade_pb2, trade_service_pb2
from tests.faults.client import Client

USER = int(payment_pb2.ACCOUNT_KIND_USER)
MERCHANT = int(payment_pb2.ACCOUNT_KIND_MERCHANT)

TOP_UP_MINOR = 60_000
AMOUNT_MINOR_MAX = 5_000
BALANCE_SHARE_MINOR_MAX = 1_500
BEYOND_EVERY_BALANCE_MINOR = 90_000_000
MERCHANTS = 8
EXPIRES_SOON_S = 10
HELD = (trade_pb2.TRADE_TYPE_PRE_AUTHORIZATION, trade_pb2.TRADE_TYPE_ESCROW)

# How the provider behaves, by weight: most cards work; the others cover every way that an answer can come, or not.
CARDS: dict[str, int] = {
    "tok_ok": 56,
    "tok_declined": 6,
    "tok_insufficient": 2,
    "tok_notify_declined": 2,
    "tok_notify_only": 8,
    "tok_notify_twice": 6,
    "tok_notify_late": 3,
    "tok_notify_before_reply": 4,
    "tok_notify_never": 3,
    "tok_timeout_charged": 3,
    "tok_timeout_uncharged": 2,
    "tok_drop_charged": 2,
    "tok_drop_uncharged": 1,
    "tok_error_charged": 2,
}
REFUNDABLE_CARDS = ("tok_ok", "tok_ok__refund_timeout_charged", "tok_ok__refund_notify_only", "tok_ok__refund_declined")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One order that the client will make. ``balance_minor``: what of ``amount_minor`` the buyer's balance pays.

    ``refund_minor``: given back once PAID; 0 for none. ``after_decline``: "again" pays by a card that works, "close"
    closes the trade, "leave" lets it expire.
    """

    trade_type: int
    buyer_id: str
    payee_id: str
    amount_minor: int
    balance_minor: int
    token: str  # of the card, or the bank account, that pays the rest or is paid to
    refund_minor: int
    after_decline: str
    is_by_wallet: bool = False  # the token is a wallet's: its customer confirms
    capture_minor: int = 0  # of a held one: taken once AUTHORIZED; 0 lets it go

    @property
    def is_purchase(self) -> bool:
        """Whether it counts as one of the run's purchases."""
        return self.trade_type == trade_pb2.TRADE_TYPE_PURCHASE or self.is_held

    @property
    def is_held(self) -> bool:
        """Whether its money is held first."""
        return self.trade_type in HELD

    def methods(self) -> list[trade_pb2.PayMethod]:
        """What pays it, or is paid."""
        if self.trade_type == trade_pb2.TRADE_TYPE_CASH_OUT:
            return [bank(self.token)]
        if not self.balance_minor:
            return [wallet(self.token) if self.is_by_wallet else card(self.token)]
        if self.balance_minor == self.amount_minor:
            return [from_balance()]
        return [from_balance(self.balance_minor), card(self.token)]


class Ordered(msgspec.Struct, frozen=True):
    """A plan, and the trades it became. ``refund_id`` is empty where nothing was given back."""

    plan: Plan
    trade_id: str
    refund_id: str = ""


def top_ups(client: Client, count: int) -> list[Plan]:
    """A top-up for each user that pays from a balance later."""
    return [
        Plan(
            trade_type=trade_pb2.TRADE_TYPE_TOP_UP,
            buyer_id=client.name(f"user{number}"),
            payee_id="",
            amount_minor=TOP_UP_MINOR,
            balance_minor=0,
            token="tok_ok",
            refund_minor=0,
            after_decline="again",
        )
        for number in range(count)
    ]


class Tokens(msgspec.Struct, frozen=True):
    """What orders are paid with: cards by weight, and those whose purchases are given back."""

    cards: Mapping[str, int]
    refundable: Sequence[str]
    banks: Sequence[str]


_BANKS = ("tok_ok", "tok_ok", "tok_notify_only", "tok_timeout_charged", "tok_declined")
_TOKENS = Tokens(CARDS, REFUNDABLE_CARDS, _BANKS)


def plans(
    client: Client, purchases: int, users: Sequence[str], dice: random.Random, tokens: Tokens = _TOKENS
) -> list[Plan]:
    """``purchases`` purchases, a tenth as many peer transfers and a twentieth as many cash-outs, shuffled."""
    made = [_purchase(client, users, dice, tokens) for _ in range(purchases)]
    made += [_peer_transfer(users, dice) for _ in range(purchases // 10)]
    made += [_cash_out(users, dice, tokens) for _ in range(purchases // 20)]
    dice.shuffle(made)
    return made


def _purchase(client: Client, users: Sequence[str], dice: random.Random, tokens: Tokens) -> Plan:
    amount_minor = dice.randint(200, AMOUNT_MINOR_MAX)
    token = dice.choices(list(tokens.cards), list(tokens.cards.values()))[0]
    balance_minor, refund_minor = 0, 0
    kind = dice.random()
    if kind < 0.2:
        amount_minor = balance_minor = dice.randint(100, BALANCE_SHARE_MINOR_MAX)
        if dice.random() < 0.05:
            amount_minor = balance_minor = BEYOND_EVERY_BALANCE_MINOR
    elif kind < 0.35:
        balance_minor = dice.randint(1, min(amount_minor - 1, BALANCE_SHARE_MINOR_MAX))
    if dice.random() < 0.2:
        if balance_minor < amount_minor:
            token = dice.choice(tokens.refundable)
        # What a partial refund takes from which tool is the payment core's affair: of a mixed purchase all goes back.
        is_mixed = 0 < balance_minor < amount_minor
        refund_minor = amount_minor if is_mixed or dice.random() < 0.5 else dice.randint(1, amount_minor)
    is_by_card = not balance_minor and not refund_minor
    trade_type: int = trade_pb2.TRADE_TYPE_PURCHASE
    if is_by_card and dice.random() < 0.3:
        trade_type = dice.choice(HELD)
    is_by_wallet = is_by_card and trade_type == trade_pb2.TRADE_TYPE_PURCHASE and dice.random() < 0.2
    return Plan(
        trade_type=trade_type,
        is_by_wallet=is_by_wallet,
        capture_minor=dice.choice((amount_minor, amount_minor // 2, 0)) if trade_type in HELD else 0,
        buyer_id=dice.choice(users),
        payee_id=client.name(f"shop{dice.randrange(MERCHANTS)}"),
        amount_minor=amount_minor,
        balance_minor=balance_minor,
        token=token,
        refund_minor=refund_minor,
        after_decline=dice.choices(("again", "close", "leave"), (5, 4, 1))[0],
    )


def _peer_transfer(users: Sequence[str], dice: random.Random) -> Plan:
    payer, payee = dice.sample(users, 2)
    amount_minor = dice.randint(1, BALANCE_SHARE_MINOR_MAX)
    return Plan(
        trade_type=trade_pb2.TRADE_TYPE_PEER_TRANSFER,
        buyer_id=payer,
        payee_id=payee,
        amount_minor=amount_minor,
        balance_minor=amount_minor,
        token="",
        refund_minor=0,
        after_decline="",
    )


def _cash_out(users: Sequence[str], dice: random.Random, tokens: Tokens) -> Plan:
    return Plan(
        trade_type=trade_pb2.TRADE_TYPE_CASH_OUT,
        buyer_id=dice.choice(users),
        payee_id="",
        amount_minor=dice.randint(1, BALANCE_SHARE_MINOR_MAX),
        balance_minor=0,
        token=dice.choice(tokens.banks),
        refund_minor=0,
        after_decline="",
    )


async def carry_out(client: Client, plan: Plan) -> Ordered:
    """Orders, follows, tries again or gives up after a decline, and gives back what the plan says."""
    request = trade_service_pb2.CreateTradeRequest(
        request_id=client.request_id(),
        trade_type=trade_pb2.TradeType.ValueType(plan.trade_type),
        buyer_id=plan.buyer_id,
        payee_id=plan.payee_id,
        scene="faults",
        amount=money(plan.amount_minor),
        pay_methods=plan.methods(),
    )
    if plan.after_decline == "leave":
        request.time_to_live.CopyFrom(Duration(seconds=EXPIRES_SOON_S))
    trade = await client.create(request)
    trade_id = trade.trade_id
    if trade.state == trade_pb2.TRADE_STATE_PAYING:
        trade = await client.followed(trade_id)
    if trade.state == trade_pb2.TRADE_STATE_CREATED and plan.after_decline == "again":
        trade = await client.pay(trade_id, card())
        if trade.state == trade_pb2.TRADE_STATE_PAYING:
            trade = await client.followed(trade_id)
    if trade.state == trade_pb2.TRADE_STATE_CREATED and plan.after_decline in ("again", "close"):
        trade = await client.close(trade_id)
    if trade.state == trade_pb2.TRADE_STATE_AUTHORIZED:
        await _settle(client, plan, trade_id)
    if trade.state != trade_pb2.TRADE_STATE_PAID or not plan.refund_minor:
        return Ordered(plan, trade_id)
    refund = await client.refund(
        trade_service_pb2.RefundTradeRequest(
            request_id=client.request_id(), trade_id=trade_id, amount=money(plan.refund_minor), reason="faults"
        )
    )
    if refund.state == trade_pb2.TRADE_STATE_PAYING:
        await client.followed(refund.trade_id)
    return Ordered(plan, trade_id, refund.trade_id)


async def _settle(client: Client, plan: Plan, trade_id: str) -> None:
    """Takes what the plan says of held money, and lets the rest go."""
    if plan.capture_minor:
        trade = await client.capture(trade_id, money(plan.capture_minor))
    else:
        trade = await client.void(trade_id)
    if trade.state == trade_pb2.TRADE_STATE_SETTLING:
        await client.followed(trade_id)


def expected_balances(ordered: Sequence[Ordered], trades: dict[str, trade_pb2.Trade]) -> Counter[tuple[str, int]]:
    """(owner, kind of account) -> minor units, by what became of each order."""
    expected: Counter[tuple[str, int]] = Counter()
    for order in ordered:
        plan, trade = order.plan, trades[order.trade_id]
        if trade.state != trade_pb2.TRADE_STATE_PAID:
            continue
        if plan.trade_type == trade_pb2.TRADE_TYPE_TOP_UP:
            expected[plan.buyer_id, USER] += plan.amount_minor
        elif plan.trade_type == trade_pb2.TRADE_TYPE_CASH_OUT:
            expected[plan.buyer_id, USER] -= plan.amount_minor
        else:
            # A second attempt is by card alone.
            is_first = trade.attempts[0].state == trade_pb2.ATTEMPT_STATE_EFFECTIVE
            balance_minor = plan.balance_minor if is_first else 0
            kind = MERCHANT if plan.is_purchase else USER
            expected[plan.buyer_id, USER] -= balance_minor
            expected[plan.payee_id, kind] += plan.capture_minor if plan.is_held else plan.amount_minor
            refund = trades.get(order.refund_id)
            if refund is not None and refund.state == trade_pb2.TRADE_STATE_PAID:
                expected[plan.payee_id, kind] -= plan.refund_minor
                expected[plan.buyer_id, USER] += min(balance_minor, plan.refund_minor)
    return expected
