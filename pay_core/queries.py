"""Reads of pay_core that decide nothing: all statements in one place."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select

from pay_core.orchestration import PaymentView
from pay_core.rule_versions import RULES_SLOT
from pay_core.tables import Coupon, Instruction, Payment, PaymentCase, RuleVersion
from paykit.errors import NotFound
from paykit.ids import is_id, slot_in, slot_of
from paykit.store.row import Row
from paykit.store.store import Store


def _by(row_type: type[Row], column: str, value: str) -> Select[Any]:
    table = row_type.__table__
    return select(table).where(table.c[column] == value)


async def payment_by_id(store: Store, payment_id: str, *, shadow: bool) -> PaymentView:
    """A payment with its chain; NotFound (PAYMENT_NOT_FOUND)."""
    slot = slot_in(payment_id)
    found = await store.fetch(Payment, _by(Payment, "id", payment_id), slot=slot, shadow=shadow)
    return await _with_chain(store, found, f"no payment {payment_id}", shadow=shadow)


async def payment_by_source(store: Store, source_id: str, *, shadow: bool) -> PaymentView:
    """The newest payment made for a source; a source id that is none of paymesh's is looked for on every shard."""
    statement = _by(Payment, "source_id", source_id).order_by(Payment.__table__.c.id.desc()).limit(1)
    if is_id(source_id):
        found = await store.fetch(Payment, statement, slot=slot_in(source_id), shadow=shadow)
    else:
        found = await store.fetch_everywhere(Payment, statement, shadow=shadow)
    return await _with_chain(store, found, f"no payment for {source_id}", shadow=shadow)


async def _with_chain(store: Store, found: list[Payment], missing: str, *, shadow: bool) -> PaymentView:
    if not found:
        raise NotFound(missing, reason="PAYMENT_NOT_FOUND")
    payment = max(found, key=lambda row: row.id)
    statement = _by(Instruction, "payment_id", payment.id).order_by(Instruction.__table__.c.seq)
    chain = await store.fetch(Instruction, statement, slot=payment.slot, shadow=shadow)
    return PaymentView(payment, chain)


async def payments_of(store: Store, payer_id: str, before_id: str | None, limit: int, *, shadow: bool) -> list[Payment]:
    """A payer's payments, newest first, older than ``before_id``."""
    statement = _by(Payment, "payer_id", payer_id).order_by(Payment.__table__.c.id.desc()).limit(limit)
    if before_id is not None:
        statement = statement.where(Payment.__table__.c.id < before_id)
    return await store.fetch(Payment, statement, slot=slot_of(payer_id), shadow=shadow)


async def coupons_of(store: Store, owner_id: str, before_id: str | None, limit: int, *, shadow: bool) -> list[Coupon]:
    """An owner's coupons, newest first, older than ``before_id``."""
    statement = _by(Coupon, "owner_id", owner_id).order_by(Coupon.__table__.c.id.desc()).limit(limit)
    if before_id is not None:
        statement = statement.where(Coupon.__table__.c.id < before_id)
    return await store.fetch(Coupon, statement, slot=slot_of(owner_id), shadow=shadow)


async def awaited_instructions(store: Store, payment: Payment, *, shadow: bool) -> list[Instruction]:
    """The PROCESSING instructions of a payment."""
    statement = _by(Instruction, "payment_id", payment.id).where(Instruction.__table__.c.state == "PROCESSING")
    return await store.fetch(Instruction, statement, slot=payment.slot, shadow=shadow)


async def case_by_id(store: Store, case_id: str, *, shadow: bool) -> PaymentCase:
    """A case; NotFound (CASE_NOT_FOUND)."""
    found = await store.fetch(PaymentCase, _by(PaymentCase, "id", case_id), slot=slot_in(case_id), shadow=shadow)
    if not found:
        raise NotFound(f"no case {case_id}", reason="CASE_NOT_FOUND")
    return found[0]


async def cases_in(store: Store, state: str, before_id: str | None, limit: int, *, shadow: bool) -> list[PaymentCase]:
    """Cases of all shards, newest first, older than ``before_id``; of every state where ``state`` is empty."""
    table = PaymentCase.__table__
    statement = select(table).order_by(table.c.id.desc()).limit(limit)
    if state:
        statement = statement.where(table.c.state == state)
    if before_id is not None:
        statement = statement.where(table.c.id < before_id)
    found = await store.fetch_everywhere(PaymentCase, statement, shadow=shadow)
    return sorted(found, key=lambda case: case.id, reverse=True)[:limit]


async def rule_version(store: Store, version: int, *, shadow: bool) -> RuleVersion | None:
    """A version of the rules that was active."""
    statement = _by(RuleVersion, "rule_key", str(version))
    found = await store.fetch(RuleVersion, statement, slot=RULES_SLOT, shadow=shadow)
    return found[0] if found else None
