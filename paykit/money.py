"""Money: whole minor units of an ISO 4217 currency. No float anywhere."""

from __future__ import annotations

from collections.abc import Sequence

INT64_MAX = 2**63 - 1
AMOUNT_MINOR_MAX = 10**15  # of one operation: ten million million euros, and sums of thousands fit an int64

# ISO 4217 (list one, active codes of countries and regions): the exponents that are not 2, and the codes that are.
_EXPONENT_0 = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_EXPONENT_3 = "BHD IQD JOD KWD LYD OMR TND"
_EXPONENT_4 = "CLF UYW"
_EXPONENT_2 = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW"
    " CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF"
    " IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK"
    " MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP"
    " SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER"
    " ZAR ZMW ZWG"
)

EXPONENT = (
    dict.fromkeys(_EXPONENT_0.split(), 0)
    | dict.fromkeys(_EXPONENT_2.split(), 2)
    | dict.fromkeys(_EXPONENT_3.split(), 3)
    | dict.fromkeys(_EXPONENT_4.split(), 4)
)


def is_currency(code: str) -> bool:
    """Whether ``code`` is an active ISO 4217 currency."""
    return code in EXPONENT


def format_minor(amount_minor: int, currency: str) -> str:
    """For people: ``format_minor(-1050, "EUR") == "-10.50 EUR"``."""
    exponent = EXPONENT[currency]
    sign = "-" if amount_minor < 0 else ""
    whole, part = divmod(abs(amount_minor), 10**exponent)
    return f"{sign}{whole}.{part:0{exponent}d} {currency}" if exponent else f"{sign}{whole} {currency}"


def allocate(amount_minor: int, weights: Sequence[int]) -> list[int]:
    """Splits an amount in proportion to non-negative ``weights``; the parts add up to it exactly.

    Rounding: largest remainder (Hamilton), ties to the earlier part. No part exceeds its weight where the amount
    does not exceed the sum of the weights.
    """
    total = sum(weights)
    assert amount_minor >= 0
    assert total > 0
    assert min(weights) >= 0
    parts = [amount_minor * weight // total for weight in weights]
    remainders = [amount_minor * weight % total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-remainders[i], i))
    for i in by_remainder[: amount_minor - sum(parts)]:
        parts[i] += 1
    return parts
