"""What the rules are asked and what they answer. Amounts are minor units of the payment's currency."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from pay_core.ledger import AccountKind
from paykit.errors import ConfigurationError

# Tools that an instrument outside stands behind; each needs a channel.
INSTRUMENT_OF_TOOL = {"card": "CARD", "bank_account": "BANK_ACCOUNT", "wallet": "WALLET"}
POINTS = "points"
TOOLS = frozenset({"coupon", POINTS, "balance", *INSTRUMENT_OF_TOOL})

OPERATIONS = ("RECHARGE", "WITHDRAW", "TRANSFER", "REFUND")
SETTLEMENT_MODES = ("IMMEDIATE", "AUTHORIZE", "ESCROW")


class Place(NamedTuple):
    """Where in a rules file: line and column count from 1; ``path`` is like ``fees[2].rate_ppm``, or empty."""

    source: str
    line: int
    column: int
    path: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column} {self.path}".rstrip()


class Problem(NamedTuple):
    """One thing that is wrong with a rules file."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class RulesInvalid(ConfigurationError):
    """A rules file is wrong. The message has a line for each problem: place and what is wrong there."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class FundingFact(NamedTuple):
    """What pays, or is paid out to: a tool, how much, and the channel where the caller chose one."""

    tool: str
    amount_minor: int
    channel: str = ""


class PayeeFact(NamedTuple):
    """Who is to be paid. ``reference`` names this payee's part of the payment (a trade's id), and may be empty."""

    owner_id: str
    account_kind: AccountKind
    amount_minor: int
    reference: str = ""


class PaymentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One payment, as far as rules may look at it.

    ``payees`` add up to ``amount_minor``. Left empty, the payment has one: the payer's own balance for RECHARGE, the
    outside for WITHDRAW. ``merchant``, ``trade_type`` and ``scene`` are parts of the business code and may be empty.
    """

    operation: str
    currency: str
    amount_minor: int
    payer_id: str
    fundings: tuple[FundingFact, ...] = ()
    payees: tuple[PayeeFact, ...] = ()
    settlement_mode: str = "IMMEDIATE"
    merchant: str = ""
    trade_type: str = ""
    scene: str = ""


class RouteStrategy(StrEnum):
    """How one of several channels is chosen. The names are those of the proto."""

    FIRST = "FIRST"
    LOWEST_COST = "LOWEST_COST"
    BEST_SUCCESS = "BEST_SUCCESS"
    WEIGHTED = "WEIGHTED"


class RouteCandidate(msgspec.Struct, frozen=True, array_like=True):
    """A channel that may carry an instruction: its weight, and what it costs (minor units, parts per million)."""

    channel: str
    weight: int = 1
    fixed_minor: int = 0
    rate_ppm: int = 0


class Route(msgspec.Struct, frozen=True, array_like=True):
    """Several channels that may carry an instruction: channel_gateway, which knows how they fare, chooses.

    ``channels_max``: on how many it may be tried in all, another one only on a failure for a reason in ``switch_on``.
    """

    candidates: tuple[RouteCandidate, ...]
    strategy: RouteStrategy = RouteStrategy.FIRST
    channels_max: int = 1
    switch_on: tuple[str, ...] = ()


class Collect(msgspec.Struct, frozen=True):
    """A funding in its turn: its index among the facts, and its channel, which is empty for tools inside.

    ``route``: where another channel may carry it too; ``channel`` is then the first of them.
    """

    index: int
    channel: str = ""
    route: Route | None = None


class Bearer(StrEnum):
    """Who bears a fee: PAYER pays it on top, PAYEE gets less."""

    PAYER = "PAYER"
    PAYEE = "PAYEE"


class ShareKind(StrEnum):
    """Why somebody gets a share of a payment."""

    PAYEE = "PAYEE"
    SPLIT = "SPLIT"
    FEE = "FEE"


class Share(NamedTuple):
    """Who gets how much of the amount; never zero.

    ``reference`` is that of the payee it is part of, or was taken from. A FEE share goes to the platform: its
    ``owner_id`` is empty, ``account_kind`` FEES, ``bearer_id`` and ``bearer_kind`` are whose account of which kind it
    was taken from, and ``rule`` is the fee's name. A SPLIT share's ``bearer_id`` is the payee too, its ``rule`` the
    split's name.
    """

    kind: ShareKind
    owner_id: str
    account_kind: AccountKind
    amount_minor: int
    reference: str = ""
    bearer_id: str = ""
    rule: str = ""
    bearer_kind: AccountKind = AccountKind.USER


class Fee(NamedTuple):
    """One fee that applies; never zero."""

    name: str
    amount_minor: int
    borne_by: Bearer


class LimitPer(StrEnum):
    """What a limit counts: one payment, or all of an owner on an accounting date."""

    PAYMENT = "payment"
    DAY = "day"


class Limit(NamedTuple):
    """A limit that applies; at least one maximum is set."""

    name: str
    per: LimitPer
    max_amount_minor: int | None = None
    max_count: int | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules say about one payment.

    ``collects``: every funding once, in the order in which they collect. ``shares``: add up to the amount exactly.
    ``fees``: those of the shares summed by name, and those the payer bears, whose sum ``payer_fee_minor`` is on top.
    ``limits``: every one that applies. This payment alone is within each; what came before it on the day is for the
    caller to add.
    """

    rules_version: int
    collects: tuple[Collect, ...]
    shares: tuple[Share, ...]
    fees: tuple[Fee, ...]
    payer_fee_minor: int
    limits: tuple[Limit, ...]


class RefundPolicy(NamedTuple):
    """How a refund treats fees that payees bore: given back in proportion, or kept."""

    return_fees: bool


class Fallback(StrEnum):
    """Where refunded money goes when its route refuses for good. NONE: nowhere, the refund fails."""

    BALANCE = "BALANCE"
    NONE = "NONE"


class ReversalFallback(StrEnum):
    """What becomes of money that could not be given back after every attempt: a case, or the payer's balance."""

    CASE = "CASE"
    BALANCE = "BALANCE"


class ReversalPolicy(NamedTuple):
    """How undoing is repeated: at most ``attempts_max`` times, with pauses doubling from the first to the longest."""

    attempts_max: int = 5
    first_pause_s: int = 2
    max_pause_s: int = 3600
    fallback: ReversalFallback = ReversalFallback.CASE
