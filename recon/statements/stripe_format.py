"""Stripe balance transactions: one JSON object a line, or Stripe's own lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO

import msgspec

from paykit.money import EXPONENT
from recon.statements import model
from recon.statements.model import Declared, Item, Line, LineKind, Problem, Unreadable
from recon.statements.settings import StripeSettings

_DOCUMENT_BYTES_MAX = 16 << 20  # of a list that is written over several lines
_DAY_S = 86_400

# What is of no order: money between Stripe's balance and our bank, or reserved by Stripe. A payout that names an order
# of ours is one.
_TRANSFERS = frozenset(
    {
        "payout", "payout_cancel", "payout_failure", "topup", "topup_reversal", "transfer", "transfer_cancel",
        "transfer_failure", "transfer_refund", "reserve_transaction", "reserved_funds", "reserve_hold",
        "reserve_release", "advance", "advance_funding", "anticipation_repayment", "connect_collection_transfer",
    }
)  # fmt: skip
_FEES = frozenset(
    {"stripe_fee", "stripe_fx_fee", "tax_fee", "network_cost", "application_fee", "application_fee_refund"}
)
_REVERSALS = frozenset(
    {"refund_failure", "payment_failure_refund", "payment_reversal", "payout_cancel", "payout_failure"}
)


class _Source(msgspec.Struct):
    id: str = ""
    metadata: dict[str, str] | None = None


class _Transaction(msgspec.Struct):
    id: str
    type: str
    amount: int
    fee: int
    net: int
    currency: str
    created: int
    source: str | _Source | None = None
    metadata: dict[str, str] | None = None
    available_on: int | None = None


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


_transaction = msgspec.json.Decoder(_Transaction)
_list = msgspec.json.Decoder(_List)


def read(stream: BinaryIO, declared: Declared, settings: StripeSettings) -> Iterator[Item]:
    """The lines of a file. Amounts come as Stripe has them, in minor units; a line is gross, with its fee beside it."""
    start = stream.tell() if stream.seekable() else None
    number = 0
    try:
        for number, text in model.text_lines(stream):
            if not text.strip():
                continue
            found = _objects(text)
            if found is None and number == 1 and start is not None:
                yield from _document(stream, start, declared, settings)
                return
            if found is None:
                yield Problem(number, "is not a JSON object")
                continue
            for one in found:
                yield _item(one, number, declared, settings)
    except Unreadable as error:
        yield Problem(number + 1, str(error))


def _document(stream: BinaryIO, start: int, declared: Declared, settings: StripeSettings) -> Iterator[Item]:
    """A list over several lines: read whole, so it must be small. Its lines are counted as transactions."""
    stream.seek(start)
    text = stream.read(_DOCUMENT_BYTES_MAX + 1)
    if len(text) > _DOCUMENT_BYTES_MAX:
        raise Unreadable(f"a list over several lines is larger than {_DOCUMENT_BYTES_MAX} bytes: write one line each")
    found = _objects(text)
    if found is None:
        yield Problem(1, "is not a JSON object")
        return
    for number, one in enumerate(found, start=1):
        yield _item(one, number, declared, settings)


def _objects(text: bytes) -> list[Any] | None:
    """The transactions of a line: itself, or those of the list that it is; None where it is no JSON object."""
    try:
        return list(_list.decode(text).data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # no list: a transaction, or nothing that can be read
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return [text] if raw else None


def _item(text: bytes, number: int, declared: Declared, settings: StripeSettings) -> Item:
    try:
        return _line(_transaction.decode(text), number, declared, settings)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Problem(number, "is not a balance transaction: id, type, amount, fee, net, currency, created")
    except Unreadable as error:
        return Problem(number, str(error))


def _line(found: _Transaction, number: int, declared: Declared, settings: StripeSettings) -> Line:
    if found.net != found.amount - found.fee:
        raise Unreadable("net is not amount less fee")
    source = found.source if isinstance(found.source, _Source) else _Source(found.source or "")
    metadata = (source.metadata or {}) | (found.metadata or {})
    reference = model.reference_of(metadata.get(settings.metadata_key, ""))
    currency = model.currency_of(found.currency.upper())
    return Line(
        line_no=number,
        account=declared.account,
        line_id=model.reference_of(found.id),
        kind=_kind(found.type, bool(reference)),
        reference=reference,
        provider_reference=model.reference_of(source.id),
        amount_minor=model.bounded(_minor(found.amount, currency)),
        fee_minor=model.bounded(_minor(found.fee, currency)),
        currency=currency,
        business_date=_day(found.created // _DAY_S),
        is_reversal=found.type in _REVERSALS,
    )


def _minor(amount: int, currency: str) -> int:
    """Stripe's own unit as ISO 4217 has it: it counts some currencies in hundredths that have no smaller unit."""
    places = _STRIPE_EXPONENT.get(currency)
    if places is None or places == EXPONENT[currency]:
        return amount
    step: int = 10 ** (places - EXPONENT[currency])
    whole, rest = divmod(amount, step)
    if rest:
        raise Unreadable(f"an amount has more than the {EXPONENT[currency]} places of {currency}")
    return whole


_STRIPE_EXPONENT = {"ISK": 2, "UGX": 2}


def _kind(type_: str, names_order: bool) -> LineKind:
    if type_ in _FEES:
        return LineKind.FEE
    return LineKind.TRANSFER if type_ in _TRANSFERS and not names_order else LineKind.MOVEMENT


@lru_cache(maxsize=4096)
def _day(number: int) -> str:
    try:
        return datetime.fromtimestamp(number * _DAY_S, UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        raise Unreadable("a time is beyond what a date can say") from None
