"""Which breaks a list shows: the filters of ListBreaks, as conditions."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement

from paykit.money import AMOUNT_MINOR_MAX, is_currency
from paykit.rpc.checks import Fields
from paymesh.recon.v1 import break_pb2, recon_service_pb2
from recon.tables import Break
from recon.views import STATES, TYPES

_AGE_MAX_MS = 10 * 366 * 86_400_000
_STATE: Any = break_pb2.BreakState  # the stubs show the class, not its wrapper
_TYPE: Any = break_pb2.BreakType
_STATE_NAMES: dict[int, str] = {number: name for name, number in STATES.items()}
_TYPE_NAMES: dict[int, str] = {number: name for name, number in TYPES.items()}

_break = Break.__table__.c


class BreakFilter(NamedTuple):
    """The conditions, and what makes the token of a page one of this list and no other."""

    conditions: list[ColumnElement[bool]]
    scope: str


def break_filter(request: recon_service_pb2.ListBreaksRequest, fields: Fields, now_ms: int) -> BreakFilter:
    """What ``request`` asks for; what is wrong with it goes to ``fields``."""
    wanted = {
        "state": _STATE_NAMES.get(_enum(fields, "state", request.state, _STATE), ""),
        "type": _TYPE_NAMES.get(_enum(fields, "type", request.type, _TYPE), ""),
        "biz_id": fields.id("biz_id", request.biz_id, "biz", required=False),
        "owner": fields.name("owner", request.owner, required=False),
        "channel": fields.name("channel", request.channel, required=False),
        "currency": request.currency_code,
    }
    if request.currency_code and not is_currency(request.currency_code):
        fields.fail("currency_code", "not an active ISO 4217 currency")
    conditions = [_break[column] == value for column, value in wanted.items() if value]
    age_ms = request.older_than.ToMilliseconds()
    if not 0 <= age_ms <= _AGE_MAX_MS:
        fields.fail("older_than", "must be zero to ten years")
    elif age_ms:
        # From page to page more breaks become old enough: they are newer than those of the page before.
        conditions.append(_break.opened_at_ms <= now_ms - age_ms)
    if not 0 <= request.amount_minor_min <= AMOUNT_MINOR_MAX:
        fields.fail("amount_minor_min", f"must be 0 to {AMOUNT_MINOR_MAX}")
    elif request.amount_minor_min:
        conditions.append(_break.amount_minor >= request.amount_minor_min)
    scope = "/".join(["recon.breaks", *wanted.values(), str(age_ms), str(request.amount_minor_min)])
    return BreakFilter(conditions, scope)


def _enum(fields: Fields, field: str, value: int, enum: Any) -> int:
    return fields.enum(field, value, enum) if value else 0
