"""What answers say by the tables, and that no answer ever says more than its tables let it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.channel_order import ProviderResult, ResultStatus
from channel_gateway.channels.signed_json_amounts import AmountFormat
from channel_gateway.channels.signed_json_answer_settings import AnswerSettings
from channel_gateway.channels.signed_json_answers import Irrelevant, Reader
from channel_gateway.channels.signed_json_document import DocumentInvalid
from tests.channel_gateway.channels.test_signed_json_document import JSON
from tests.channel_gateway.orders import make_sending

R = ResultStatus
ORDER = make_sending()
FORM: dict[str, Any] = {
    "http_statuses": {200: "ANSWER", 400: "FAILED", 404: "ANSWER", 429: "NOT_SENT"},
    "result_code": "code",
    "result_codes": {"OK": "STATE", "BAD": "FAILED", "NONE": "NOT_FOUND", "BUSY": "NOT_SENT", "EH": "UNKNOWN"},
    "state": ["type", "state"],
    "states": {
        "PAY/DONE": "SUCCEEDED",
        "PAY/NO": "FAILED",
        "PAY/": "PENDING",
        "PAY/GONE": "NOT_FOUND",
        "PAY/DONE/": "SUCCEEDED",
        "LOGIN/": "UNKNOWN",
    },
    "reference": "ref",
    "provider_reference": "id",
    "amount": "sum",
    "currency": "cur",
    "failure_code": "why",
    "livemode": "live",
}
SAID = {
    "code": "OK",
    "type": "PAY",
    "state": "DONE",
    "ref": ORDER.id,
    "id": "p1",
    "sum": 1000,
    "cur": "EUR",
    "live": True,
}
DONE = ProviderResult(status=R.SUCCEEDED, provider_reference="p1", amount_minor=1000, currency="EUR")


def reader(**changes: Any) -> Reader:
    form = AnswerSettings.model_validate(FORM | changes)
    return Reader(form, {"51": "NO_FUNDS", "BAD": "REQUEST_BAD"}, AmountFormat.MINOR, livemode=True)


def read(
    said: Any, status: int = 200, *, is_query: bool = False, nonce: str = "n1", using: Reader | None = None
) -> ProviderResult:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    try:
        return (using or reader()).answer(status, body, ORDER, nonce, is_query=is_query)
    except DocumentInvalid:
        return ProviderResult(status=R.UNKNOWN)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, DONE),
        ({"state": None}, ProviderResult(status=R.PENDING, provider_reference="p1")),
        (
            {"state": "NO", "why": "51"},
            ProviderResult(status=R.FAILED, provider_reference="p1", failure_reason="NO_FUNDS"),
        ),
        (
            {"state": "NO", "why": "99"},
            ProviderResult(status=R.FAILED, provider_reference="p1", failure_reason="PROVIDER_DECLINED"),
        ),
        ({"code": "BAD"}, ProviderResult(status=R.FAILED, failure_reason="REQUEST_BAD")),
        ({"code": "BAD", "ref": None}, ProviderResult(status=R.FAILED, failure_reason="REQUEST_BAD")),
        ({"code": "BUSY"}, ProviderResult(status=R.NOT_SENT)),
        ({"code": None}, DONE),
        ({"id": ""}, msgspec.structs.replace(DONE, provider_reference="")),
    ],
)
def test_an_answer_says_what_the_tables_say(changes: dict[str, Any], expected: ProviderResult) -> None:
    assert read(SAID | changes) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"code": "NONE"},
        {"code": "EH"},
        {"code": "WHO"},
        {"code": ["OK"]},
        {"code": "BAD", "ref": "another"},
        {"state": "GONE"},
        {"state": "PERHAPS"},
        {"type": "PAY/DONE", "state": ""},
        {"type": "LOGIN", "state": ""},
        {"ref": None},
        {"live": False},
        {"live": "yes"},
        {"sum": "1000"},
        {"sum": None},
        {"cur": None},
        {"cur": "eur"},
    ],
)
def test_what_no_table_has_leaves_an_order_unknown(changes: dict[str, Any]) -> None:
    assert read(SAID | changes).status is R.UNKNOWN


def test_a_query_that_is_refused_says_nothing_of_the_order() -> None:
    for code in ("BAD", "BUSY", "EH"):
        assert read(SAID | {"code": code}, is_query=True).status is R.UNKNOWN
    for status in (400, 429, 500, 302, 201):
        assert read(SAID, status, is_query=True).status is R.UNKNOWN
    assert read({"code": "NONE"}, 404, is_query=True).status is R.NOT_FOUND
    assert read(SAID | {"state": "GONE"}, is_query=True).status is R.NOT_FOUND
    assert read(SAID | {"state": "NO"}, is_query=True).status is R.FAILED


def test_an_http_status_says_what_its_table_says() -> None:
    assert read(b"<html>", 429).status is R.NOT_SENT
    assert read(b"<html>", 400) == ProviderResult(status=R.FAILED, failure_reason="PROVIDER_REFUSED")
    assert read({"code": "BAD"}, 400).failure_reason == "REQUEST_BAD"
    assert read({"code": "BAD", "ref": ORDER.id}, 400).status is R.FAILED
    assert read({"code": "BAD", "ref": "another"}, 400).status is R.UNKNOWN
    for status in (201, 301, 403, 500, 503):
        assert read(SAID, status).status is R.UNKNOWN


def test_an_answer_may_be_tied_by_the_nonce_or_by_the_call_where_that_is_declared() -> None:
    by_nonce = reader(tied_by="nonce")
    assert read(SAID | {"ref": "n1"}, using=by_nonce) == DONE
    assert read(SAID, using=by_nonce).status is R.UNKNOWN
    assert read(SAID | {"ref": None}, using=reader(tied_by="call")) == DONE


@given(st.sampled_from([200, 201, 302, 400, 404, 429, 500]), st.binary(max_size=100), st.booleans())
def test_any_bytes_are_an_answer_that_settles_nothing_unless_its_status_does(
    status: int, body: bytes, is_query: bool
) -> None:
    allowed = {R.UNKNOWN} | (set() if is_query else {400: {R.FAILED}, 429: {R.NOT_SENT}}.get(status, set()))
    assert read(body, status, is_query=is_query).status in allowed


ANY = st.fixed_dictionaries(
    {},
    optional={
        key: st.just(value) | st.sampled_from(["", "NO", "PAY", "BAD", 1, 1.5, True, None]) | JSON
        for key, value in SAID.items()
    },
)


@given(ANY, st.booleans())
def test_an_answer_succeeds_only_where_all_of_it_is_as_declared(said: dict[str, Any], is_query: bool) -> None:
    result = read(said, is_query=is_query)
    if result.status is R.SUCCEEDED:
        assert (said["type"], said["state"], said["ref"], said["live"]) == ("PAY", "DONE", ORDER.id, True)
        assert (result.amount_minor, result.currency) == (said["sum"], said["cur"])
        assert said.get("code") in ("OK", None, "")
    if result.status is R.FAILED:
        assert said.get("code") == "BAD" or said["state"] == "NO"
    if result.status is R.NOT_FOUND:
        assert is_query


def test_a_notification_names_its_order_and_its_id() -> None:
    received = reader().notification(json.dumps(SAID | {"n": "evt-1"}).encode(), "n")
    assert (received.notification_id, received.channel_order_id, received.result) == ("evt-1", ORDER.id, DONE)
    body = json.dumps(SAID).encode()
    first, again = (reader().notification(body, "").notification_id for _ in range(2))
    assert first == again != reader().notification(body + b" ", "").notification_id


@pytest.mark.parametrize(
    "changes",
    [
        {"ref": "trd_00000000000000000000000000"},
        {"ref": None},
        {"state": "PERHAPS"},
        {"n": None},
        {"n": "a b"},
        {"live": 0},
    ],
)
def test_a_notification_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DocumentInvalid):
        reader().notification(json.dumps(SAID | {"n": "evt-1"} | changes).encode(), "n")


def test_a_notification_of_something_else_is_irrelevant() -> None:
    with pytest.raises(Irrelevant):
        reader().notification(json.dumps({"type": "LOGIN", "n": "evt-1"}).encode(), "n")
