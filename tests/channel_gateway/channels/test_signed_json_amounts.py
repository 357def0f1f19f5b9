"""Amounts and times as providers write them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.channels.signed_json_amounts import AmountFormat, amount_text, amount_value, read_amount
from channel_gateway.channels.signed_json_document import DocumentInvalid, Number, Scalar, find, parse_document
from channel_gateway.channels.signed_json_times import TimeFormat, read_time_s, time_text
from paykit.money import EXPONENT, INT64_MAX

CURRENCIES = {0: "JPY", 2: "EUR", 3: "BHD", 4: "CLF"}


def test_the_currencies_here_have_every_exponent_there_is() -> None:
    assert {exponent: EXPONENT[currency] for exponent, currency in CURRENCIES.items()} == {e: e for e in CURRENCIES}
    assert set(EXPONENT.values()) == set(CURRENCIES)


@given(
    amount_minor=st.integers(0, INT64_MAX),
    currency=st.sampled_from(sorted(EXPONENT)),
    form=st.sampled_from(AmountFormat),
)
def test_an_amount_comes_back_from_json_as_it_was_written(amount_minor: int, currency: str, form: AmountFormat) -> None:
    body = msgspec.json.encode({"amount": amount_value(amount_minor, currency, form)})
    value = find(parse_document(body), "amount")
    assert value is not None
    assert read_amount(value, currency, form) == amount_minor
    assert str(value) == amount_text(amount_minor, currency, form)


@pytest.mark.parametrize(
    ("currency", "form", "text"),
    [
        ("JPY", AmountFormat.DECIMAL, "1050"),
        ("EUR", AmountFormat.DECIMAL, "10.50"),
        ("BHD", AmountFormat.DECIMAL, "1.050"),
        ("CLF", AmountFormat.DECIMAL_NUMBER, "0.1050"),
        ("EUR", AmountFormat.MINOR, "1050"),
        ("EUR", AmountFormat.MINOR_TEXT, "1050"),
    ],
)
def test_a_decimal_has_all_digits_of_its_currency(currency: str, form: AmountFormat, text: str) -> None:
    assert amount_text(1050, currency, form) == text


@given(amount_minor=st.integers(0, INT64_MAX), digits=st.integers(1, 4))
def test_a_decimal_may_leave_zeros_at_its_end_out_and_nothing_else(amount_minor: int, digits: int) -> None:
    text = amount_text(amount_minor, "CLF", AmountFormat.DECIMAL)
    if text.endswith("0" * digits) and digits < 4:
        assert read_amount(text[:-digits], "CLF", AmountFormat.DECIMAL) == amount_minor
    with pytest.raises(DocumentInvalid):
        read_amount(text + "0", "CLF", AmountFormat.DECIMAL)


@pytest.mark.parametrize("form", list(AmountFormat))
@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1 ", "1e2", "1.", ".5", "01", "0x1", "1,0", "1.005", "NaN", "١", "9" * 19, "9" * 30]
)
def test_what_is_no_amount_is_refused(form: AmountFormat, text: str) -> None:
    for value in (text, Number(text)):
        with pytest.raises(DocumentInvalid):
            read_amount(value, "EUR", form)


@pytest.mark.parametrize(
    ("value", "currency", "form"),
    [
        (Number("1050"), "EUR", AmountFormat.MINOR_TEXT),
        ("1050", "EUR", AmountFormat.MINOR),
        (Number("10.50"), "EUR", AmountFormat.DECIMAL),
        ("10.50", "EUR", AmountFormat.DECIMAL_NUMBER),
        ("10.50", "EUR", AmountFormat.MINOR_TEXT),
        ("10.5", "JPY", AmountFormat.DECIMAL),
        ("10.50", "XXQ", AmountFormat.DECIMAL),
        (True, "EUR", AmountFormat.MINOR),
    ],
)
def test_an_amount_of_another_json_type_or_form_is_refused(value: Scalar, currency: str, form: AmountFormat) -> None:
    with pytest.raises(DocumentInvalid):
        read_amount(value, currency, form)


@given(
    at_ms=st.integers(0, 4_000_000_000_000),
    form=st.sampled_from(TimeFormat),
    offset=st.integers(-1080, 1080),
)
def test_a_time_comes_back_to_the_second(at_ms: int, form: TimeFormat, offset: int) -> None:
    read_s = read_time_s(time_text(at_ms, form, offset), form, offset)
    assert read_s is not None
    assert 0 <= at_ms / 1000 - read_s < 1


@given(text=st.text(max_size=40) | st.from_regex(r"[0-9TZ:+-]{1,40}"), form=st.sampled_from(TimeFormat))
def test_any_text_is_a_time_or_none(text: str, form: TimeFormat) -> None:
    assert read_time_s(text, form, 0) is None or text.isascii()


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("20261332000000", TimeFormat.COMPACT),
        ("2026-11-29", TimeFormat.ISO8601),
        ("2026-11-29T10:00:00", TimeFormat.ISO8601),
        ("0000-00-00T00:00:00Z", TimeFormat.ISO8601),
        ("1.5", TimeFormat.UNIX_S),
        ("-1", TimeFormat.UNIX_MS),
        ("", TimeFormat.UNIX_S),
    ],
)
def test_what_is_no_time_is_none(text: str, form: TimeFormat) -> None:
    assert read_time_s(text, form, 0) is None


def test_a_compact_time_is_of_the_providers_zone() -> None:
    assert time_text(1_764_384_543_000, TimeFormat.COMPACT, 480) == "20251129104903"
    assert time_text(1_764_384_543_000, TimeFormat.ISO8601, 480) == "2025-11-29T02:49:03Z"
    assert read_time_s("2025-11-29T10:49:03+08:00", TimeFormat.ISO8601, 0) == 1_764_384_543
