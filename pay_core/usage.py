"""Limits per day: what an owner has used of each, counted with the payment and given back when it comes to nothing.

A limit of an owner has one row, which counts one accounting date: the dates of a slot's books never go back, and what
was counted on a date that is over is asked by nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from pay_core.rules.model import Limit, LimitPer
from pay_core.tables import LimitUsage, Payment
from paykit.errors import FailedPrecondition
from paykit.store.command import Rows, Work
from paykit.store.row import Key, key


class Used(NamedTuple):
    """What was used of a limit on a date."""

    amount_minor: int
    payment_count: int


def usage_key(owner_id: str, limit: Limit, currency: str) -> str:
    """Unique: one row for an owner, a limit and a currency."""
    return f"{owner_id}/{limit.name}/{currency}"


def usage_keys(owner_id: str, limits: Iterable[Limit], currency: str) -> list[Key]:
    """What a command must read to count a payment on the limits per day among ``limits``."""
    names = [usage_key(owner_id, limit, currency) for limit in limits if limit.per is LimitPer.DAY]
    return [key(LimitUsage, name, "usage_key") for name in names]


def used(rows: Rows, name: str, accounting_date: str) -> Used:
    """What was used by now, by the key of the row."""
    row = rows.get(LimitUsage, name, "usage_key")
    if row is None or row.accounting_date != accounting_date:
        return Used(0, 0)
    return Used(row.amount_minor, row.payment_count)


def count_usage(work: Work, payment: Payment, limits: Iterable[Limit]) -> tuple[str, ...]:
    """Counts a new payment; the keys of the rows it is counted on. FailedPrecondition (LIMIT_EXCEEDED)."""
    names = []
    for limit in limits:
        if limit.per is not LimitPer.DAY:
            continue
        name = usage_key(payment.payer_id, limit, payment.currency)
        before = used(work, name, payment.accounting_date)
        after = Used(before.amount_minor + payment.amount_minor, before.payment_count + 1)
        _check(limit, before, after)
        _write(work, payment, limit.name, name, after)
        names.append(name)
    return tuple(names)


def give_usage_back(work: Work, payment: Payment, names: Iterable[str]) -> None:
    """Takes a payment that came to nothing off the limits it was counted on, where its date is still counted."""
    for name in names:
        row = work.get(LimitUsage, name, "usage_key")
        if row is not None and row.accounting_date == payment.accounting_date:
            amount_minor, count = row.amount_minor - payment.amount_minor, row.payment_count - 1
            assert amount_minor >= 0
            assert count >= 0
            work.update(msgspec.structs.replace(row, amount_minor=amount_minor, payment_count=count), audit=False)


def _check(limit: Limit, before: Used, after: Used) -> None:
    is_over = limit.max_amount_minor is not None and after.amount_minor > limit.max_amount_minor
    if not is_over and (limit.max_count is None or after.payment_count <= limit.max_count):
        return
    raise FailedPrecondition(
        f"the payment is beyond the limit {limit.name} of the day",
        reason="LIMIT_EXCEEDED",
        metadata={
            "limit": limit.name,
            "per": limit.per.value,
            "max_amount_minor": "" if limit.max_amount_minor is None else str(limit.max_amount_minor),
            "max_count": "" if limit.max_count is None else str(limit.max_count),
            "used_minor": str(before.amount_minor),
            "used_count": str(before.payment_count),
        },
    )


def _write(work: Work, payment: Payment, limit_name: str, name: str, after: Used) -> None:
    row = work.get(LimitUsage, name, "usage_key")
    if row is None:
        row = LimitUsage(
            id=work.new_id("usg"),
            slot=payment.slot,
            usage_key=name,
            owner_id=payment.payer_id,
            limit_name=limit_name,
            accounting_date=payment.accounting_date,
            amount_minor=after.amount_minor,
            payment_count=after.payment_count,
        )
        work.insert(row, audit=False)
        return
    changed = msgspec.structs.replace(
        row,
        accounting_date=payment.accounting_date,
        amount_minor=after.amount_minor,
        payment_count=after.payment_count,
    )
    work.update(changed, audit=False)
