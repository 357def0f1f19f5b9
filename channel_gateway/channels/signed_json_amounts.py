"""How a provider writes amounts: minor units, or decimals with the currency's exponent. Never by way of a float."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from channel_gateway.channels.signed_json_document import DocumentInvalid, Number, Scalar
from paykit.money import EXPONENT, INT64_MAX


class AmountFormat(StrEnum):
    """In JSON: ``1050``, ``"1050"``, ``"10.50"`` or ``10.50`` for 10.50 EUR."""

    MINOR = "minor"
    MINOR_TEXT = "minor_text"
    DECIMAL = "decimal"
    DECIMAL_NUMBER = "decimal_number"


_IS_NUMBER = {
    AmountFormat.MINOR: True,
    AmountFormat.MINOR_TEXT: False,
    AmountFormat.DECIMAL: False,
    AmountFormat.DECIMAL_NUMBER: True,
}
_WHOLE = re.compile(r"(0|[1-9][0-9]{0,18})")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,18})(?:\.([0-9]{1,4}))?")
_MINOR = frozenset({AmountFormat.MINOR, AmountFormat.MINOR_TEXT})


def amount_text(amount_minor: int, currency: str, form: AmountFormat) -> str:
    """The amount as text, with all digits of the currency's exponent: ``10.50``, ``1050`` of a yen, ``1.050``."""
    if form in _MINOR:
        return str(amount_minor)
    exponent = EXPONENT[currency]
    whole, part = divmod(amount_minor, 10**exponent)
    return f"{whole}.{part:0{exponent}d}" if exponent else str(whole)


def amount_value(amount_minor: int, currency: str, form: AmountFormat) -> str | msgspec.Raw:
    """The amount as a JSON value: a string, or a number digit by digit."""
    text = amount_text(amount_minor, currency, form)
    return msgspec.Raw(text.encode()) if _IS_NUMBER[form] else text


def read_amount(value: Scalar, currency: str, form: AmountFormat) -> int:
    """Minor units; DocumentInvalid for the other JSON type, signs, exponents, more digits than the currency has, and
    what no int64 holds."""
    exponent = EXPONENT.get(currency)
    if exponent is None or isinstance(value, bool) or isinstance(value, Number) is not _IS_NUMBER[form]:
        raise DocumentInvalid("not an amount of its form")
    match = (_WHOLE if form in _MINOR else _DECIMAL).fullmatch(value)
    if match is None:
        raise DocumentInvalid("not an amount")
    if form in _MINOR:
        amount_minor = int(match[1])
    else:
        part = match[2] or ""
        if len(part) > exponent:
            raise DocumentInvalid("more digits than the currency has")
        amount_minor = int(match[1] + part.ljust(exponent, "0"))
    if amount_minor > INT64_MAX:
        raise DocumentInvalid("an amount beyond all bounds")
    return amount_minor
