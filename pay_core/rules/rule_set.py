"""The rules of one version and what they decide about a payment. Pure: the same facts, the same decision."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from pay_core.ledger import BALANCE_MINOR_MAX, AccountKind
from pay_core.rules.amounts import Price, Rounding, divided
from pay_core.rules.expression import Expression
from pay_core.rules.model import (
    INSTRUMENT_OF_TOOL,
    POINTS,
    Bearer,
    Collect,
    Decision,
    Fallback,
    Fee,
    Limit,
    LimitPer,
    PaymentFacts,
    Place,
    RefundPolicy,
    ReversalPolicy,
    Route,
    Share,
    ShareKind,
)
from pay_core.rules.sharing import SplitRule, shares_of
from paykit.errors import FailedPrecondition
from paykit.money import AMOUNT_MINOR_MAX

Values = Mapping[str, Any]

_REFUND = "REFUND"
_TRANSFER = "TRANSFER"


class ToolRule(NamedTuple):
    """Which tools are allowed; their order is that in which they collect."""

    name: str
    when: Expression
    allow: tuple[str, ...]


class RouteRule(NamedTuple):
    """Which channels carry an instrument."""

    name: str
    when: Expression
    route: Route


class LimitRule(NamedTuple):
    """When a limit applies."""

    when: Expression
    limit: Limit


class FeeRule(NamedTuple):
    """When which fee is due, and from whom."""

    name: str
    price: Price
    borne_by: Bearer
    when: Expression


class FallbackRule(NamedTuple):
    """When refunded money goes where instead."""

    when: Expression
    to: Fallback


class PointsRate(NamedTuple):
    """``points`` points are worth ``amount_minor``; empty ``currencies`` means every one."""

    points: int
    amount_minor: int
    currencies: frozenset[str]


class RuleSet(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One valid rules file. Made by ``pay_core.rules.load`` only."""

    version: int
    version_place: Place
    text: str
    source: str
    tools: tuple[ToolRule, ...]
    routes: tuple[RouteRule, ...]
    limits: tuple[LimitRule, ...]
    fees: tuple[FeeRule, ...]
    splits: tuple[SplitRule, ...]
    points: PointsRate | None
    return_fees: Expression
    fallbacks: tuple[FallbackRule, ...]
    reversal: ReversalPolicy

    @property
    def sha256(self) -> str:
        """The hex digest of the text: two files with the same are the same rules."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def decide(self, facts: PaymentFacts) -> Decision:
        """What the rules say about a payment.

        FailedPrecondition with reason TOOL_NOT_ALLOWED, LIMIT_EXCEEDED, NO_ROUTE, or RULE_FAILED where an expression
        cannot be evaluated. For a REFUND only the limits are asked: the rest follows from the payment it gives back.
        """
        values = _values(facts)
        if facts.operation == _REFUND:
            limits = self._limits(facts, values)
            return Decision(
                rules_version=self.version, collects=(), shares=(), fees=(), payer_fee_minor=0, limits=limits
            )
        order = self._order(facts, values)
        limits = self._limits(facts, values)
        collects = tuple([self._collect(index, facts, values) for index in order])
        due = [
            Fee(rule.name, amount_minor, rule.borne_by)
            for rule in self.fees
            if rule.when.holds(values) and (amount_minor := rule.price.of(facts.amount_minor))
        ]
        payer_fees = [fee for fee in due if fee.borne_by is Bearer.PAYER]
        payer_fee_minor = sum([fee.amount_minor for fee in payer_fees])
        _check_platform_limit(facts.amount_minor + payer_fee_minor)
        splits = self.splits if facts.operation == _TRANSFER else ()
        payee_fees = [fee for fee in due if fee.borne_by is Bearer.PAYEE]
        shares = shares_of(_payees(facts), facts.amount_minor, splits, payee_fees, values)
        return Decision(
            rules_version=self.version,
            collects=collects,
            shares=tuple(shares),
            fees=tuple(_borne(due, shares)),
            payer_fee_minor=payer_fee_minor,
            limits=limits,
        )

    def refund_policy(self, facts: PaymentFacts) -> RefundPolicy:
        """How a refund of the payment ``facts`` treats the fees its payees bore."""
        return RefundPolicy(self.return_fees.holds(_values(facts)))

    def refund_fallback(self, failure_reason: str, channel: str, facts: PaymentFacts) -> Fallback:
        """Where refunded money of the payment ``facts`` goes when ``channel`` has refused it for good.

        FailedPrecondition RULE_FAILED where an expression cannot be evaluated.
        """
        values = {**_values(facts), "failure_reason": failure_reason, "channel": channel}
        return next((rule.to for rule in self.fallbacks if rule.when.holds(values)), Fallback.NONE)

    def points_for(self, amount_minor: int) -> int:
        """How many points pay an amount. Rounding: UP, so that no amount is paid with less than it is worth.

        Points of parts are to be taken as differences of this function, which adds up over any parts.
        FailedPrecondition: TOOL_NOT_ALLOWED where there is no rate, INSUFFICIENT_POINTS beyond what an account holds.
        """
        if self.points is None:
            raise FailedPrecondition("the rules name no rate for points", reason="TOOL_NOT_ALLOWED")
        points = divided(amount_minor * self.points.points, self.points.amount_minor, Rounding.UP)
        if points > BALANCE_MINOR_MAX:
            raise FailedPrecondition(f"{points} points are more than anybody has", reason="INSUFFICIENT_POINTS")
        return points

    def _order(self, facts: PaymentFacts, values: Values) -> list[int]:
        allowed = next((rule.allow for rule in self.tools if rule.when.holds(values)), ())
        for funding in facts.fundings:
            if funding.tool not in allowed or not self._is_payable_in(funding.tool, facts.currency):
                raise FailedPrecondition(
                    f"{funding.tool} may not be used for this payment",
                    reason="TOOL_NOT_ALLOWED",
                    metadata={"tool": funding.tool},
                )
        if len(facts.fundings) == 1:
            return [0]
        return sorted(range(len(facts.fundings)), key=lambda index: allowed.index(facts.fundings[index].tool))

    def _is_payable_in(self, tool: str, currency: str) -> bool:
        if tool != POINTS:
            return True
        return self.points is not None and (not self.points.currencies or currency in self.points.currencies)

    def _limits(self, facts: PaymentFacts, values: Values) -> tuple[Limit, ...]:
        limits = tuple([rule.limit for rule in self.limits if rule.when.holds(values)])
        for limit in limits:
            if limit.max_amount_minor is not None and facts.amount_minor > limit.max_amount_minor:
                raise FailedPrecondition(
                    f"{facts.amount_minor} is more than the {limit.max_amount_minor} of the limit {limit.name}",
                    reason="LIMIT_EXCEEDED",
                    metadata={
                        "limit": limit.name,
                        "per": limit.per.value,
                        "max_amount_minor": str(limit.max_amount_minor),
                    },
                )
        return limits

    def _collect(self, index: int, facts: PaymentFacts, values: Values) -> Collect:
        funding = facts.fundings[index]
        instrument = INSTRUMENT_OF_TOOL.get(funding.tool)
        if funding.channel or instrument is None:
            return Collect(index, funding.channel)
        asked = {**values, "instrument": instrument}
        route = next((rule.route for rule in self.routes if rule.when.holds(asked)), None)
        if route is None:
            raise FailedPrecondition(
                f"no channel carries {instrument} for this payment",
                reason="NO_ROUTE",
                metadata={"instrument": instrument},
            )
        return Collect(index, route.candidates[0].channel, route if len(route.candidates) > 1 else None)


def _payees(facts: PaymentFacts) -> list[Share]:
    if not facts.payees:
        return [Share(ShareKind.PAYEE, facts.payer_id, AccountKind.USER, facts.amount_minor)]
    shares = [Share(ShareKind.PAYEE, p.owner_id, p.account_kind, p.amount_minor, p.reference) for p in facts.payees]
    assert sum([share.amount_minor for share in shares]) == facts.amount_minor
    return shares


def _values(facts: PaymentFacts) -> dict[str, Any]:
    return {
        "operation": facts.operation,
        "currency": facts.currency,
        "amount_minor": facts.amount_minor,
        "payer_id": facts.payer_id,
        "payee_ids": tuple([payee.owner_id for payee in facts.payees]),
        "tools": tuple([funding.tool for funding in facts.fundings]),
        "settlement_mode": facts.settlement_mode,
        "merchant": facts.merchant,
        "trade_type": facts.trade_type,
        "scene": facts.scene,
    }


def _borne(due: list[Fee], shares: list[Share]) -> list[Fee]:
    """The fees with what is really taken: from payees not more than they get."""
    taken: dict[str, int] = {}
    for share in shares:
        if share.kind is ShareKind.FEE:
            taken[share.rule] = taken.get(share.rule, 0) + share.amount_minor
    actual = [fee if fee.borne_by is Bearer.PAYER else fee._replace(amount_minor=taken.get(fee.name, 0)) for fee in due]
    return [fee for fee in actual if fee.amount_minor]


def _check_platform_limit(total_minor: int) -> None:
    if total_minor > AMOUNT_MINOR_MAX:
        raise FailedPrecondition(
            f"{total_minor} with the payer's fees is more than the platform moves at once",
            reason="LIMIT_EXCEEDED",
            metadata={"limit": "platform", "per": LimitPer.PAYMENT.value, "max_amount_minor": str(AMOUNT_MINOR_MAX)},
        )
