"""Checks of fields that several of pay_core's services have."""

from __future__ import annotations

from typing import Any

from pay_core.closing import is_date
from pay_core.ledger import OWNED_KINDS, is_internal
from paykit.rpc.checks import Fields
from paymesh.pay.v1 import payment_pb2

ACCOUNT_KIND: Any = payment_pb2.AccountKind  # at run time an EnumTypeWrapper; its stub is a class
OWNED_NUMBERS = [payment_pb2.AccountKind.Value(f"ACCOUNT_KIND_{kind}") for kind in OWNED_KINDS]


def customer(fields: Fields, field: str, owner_id: str) -> str:
    """A checked owner who is not the platform itself."""
    if is_internal(owner_id):
        fields.fail(field, "names an owner of the platform's own accounts")
    return fields.name(field, owner_id)


def accounting_date(fields: Fields, field: str, value: str) -> str:
    """A checked accounting date."""
    if not is_date(value):
        fields.fail(field, "must be a date, as in 2026-11-22" if value else "required")
    return value
