"""How an amount is shared out: splits first, then the fees that payees bear, the rest stays with the payees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pay_core.ledger import AccountKind
from pay_core.rules.amounts import PPM, Rounding, divided
from pay_core.rules.expression import Expression
from pay_core.rules.model import Fee, Share, ShareKind
from paykit.money import allocate


class SplitPart(NamedTuple):
    """A part for somebody else: a rate of what the payee gets, or a fixed amount (the other one is 0)."""

    owner_id: str
    account_kind: AccountKind
    rate_ppm: int
    fixed_minor: int


class SplitRule(NamedTuple):
    """When what a payee gets is shared with others."""

    name: str
    when: Expression
    parts: tuple[SplitPart, ...]
    rounding: Rounding


def shares_of(
    payees: list[Share],
    amount_minor: int,
    splits: Sequence[SplitRule],
    payee_fees: Sequence[Fee],
    values: Mapping[str, Any],
) -> list[Share]:
    """Who gets what; the shares add up to ``amount_minor``, which the payees add up to. None is zero.

    Each payee's share is split by the first rule that holds for it. Every fee is then shared over the payees in
    proportion to what each still has (``allocate``), and is never more than they have together.
    """
    if not splits and not payee_fees:
        return payees
    left = [payee.amount_minor for payee in payees]
    taken: list[Share] = []
    for i, payee in enumerate(payees):
        parts = _split(payee, splits, values)
        taken += parts
        left[i] -= sum([part.amount_minor for part in parts])
    for fee in payee_fees:
        total = min(fee.amount_minor, sum(left))
        if not total:
            break
        for i, part_minor in enumerate(allocate(total, left)):
            left[i] -= part_minor
            if part_minor:
                taken.append(_fee_share(fee, part_minor, payees[i]))
    kept = [payee._replace(amount_minor=minor) for payee, minor in zip(payees, left, strict=True) if minor]
    shares = kept + taken
    assert sum([share.amount_minor for share in shares]) == amount_minor
    assert all(share.amount_minor > 0 for share in shares)
    return shares


def _split(payee: Share, splits: Sequence[SplitRule], values: Mapping[str, Any]) -> list[Share]:
    if not splits:
        return []
    asked = {**values, "payee_id": payee.owner_id}
    rule = next((rule for rule in splits if rule.when.holds(asked)), None)
    if rule is None:
        return []
    shares: list[Share] = []
    left = payee.amount_minor
    for part in rule.parts:
        if (part.owner_id, part.account_kind) == (payee.owner_id, payee.account_kind):
            continue  # a payee's share of its own stays where it is
        due = part.fixed_minor or divided(payee.amount_minor * part.rate_ppm, PPM, rule.rounding)
        amount_minor = min(due, left)
        left -= amount_minor
        if amount_minor:
            shares.append(
                Share(
                    ShareKind.SPLIT,
                    part.owner_id,
                    part.account_kind,
                    amount_minor,
                    payee.reference,
                    bearer_id=payee.owner_id,
                    rule=rule.name,
                )
            )
    return shares


def _fee_share(fee: Fee, amount_minor: int, payee: Share) -> Share:
    return Share(
        ShareKind.FEE,
        "",
        AccountKind.FEES,
        amount_minor,
        payee.reference,
        bearer_id=payee.owner_id,
        rule=fee.name,
        bearer_kind=payee.account_kind,
    )
