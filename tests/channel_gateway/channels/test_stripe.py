"""What the Stripe channel alone does; what every channel does is in the contract suite."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from channel_gateway.channel_order import ProviderResult, ResultStatus
from channel_gateway.channels import ChannelSet
from channel_gateway.channels.stripe_settings import StripeChannelSettings
from channel_gateway.tables import ChannelOrder
from paykit.errors import ConfigurationError
from tests.channel_gateway.channels.bench import Bench, opened
from tests.channel_gateway.channels.liar import Liar
from tests.channel_gateway.channels.page import channels_of_page, with_secrets
from tests.channel_gateway.channels.rig import Does, Inbox
from tests.channel_gateway.channels.stripe_rig import LIVE_KEY, TEST_KEY, StripeRig
from tests.channel_gateway.orders import make_sending

R = ResultStatus


@pytest.fixture
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StripeRig]:
    inbox = await Inbox().start()
    rig = StripeRig(tmp_path_factory.mktemp("stripe"), inbox)
    await rig.start()
    yield rig
    await rig.stop()
    await inbox.stop()


@pytest.fixture
async def bench(rig: StripeRig) -> AsyncIterator[Bench]:
    async with opened(rig, timeout_s=1.5) as bench:
        yield bench


def calls(rig: StripeRig) -> list[str]:
    """What the server was called for, and then forgets."""
    found = [f"{method} {path.removeprefix('/v1/')}" for method, path, _, _ in rig.server.requests]
    rig.server.requests.clear()
    return found


def intents(rig: StripeRig) -> list[dict[str, Any]]:
    return list(rig.live.book.objects["payment_intents"].values())


async def test_a_charge_is_one_call_that_names_the_order_wherever_it_can_be_looked_for(
    bench: Bench, rig: StripeRig
) -> None:
    order = bench.order(token="cus_NffrFeUfNV2Hib:pm_card_visa", currency="ISK", amount_minor=500)
    result = await bench.live.charge(order)
    assert (result.status, result.amount_minor, result.currency) == (R.SUCCEEDED, 500, "ISK")
    [(method, path, headers, params)] = rig.server.requests
    assert (method, path) == ("POST", "/v1/payment_intents")
    assert params == {
        "amount": "50000",
        "currency": "isk",
        "payment_method": "pm_card_visa",
        "customer": "cus_NffrFeUfNV2Hib",
        "capture_method": "automatic",
        "confirm": "true",
        "off_session": "true",
        "error_on_requires_action": "true",
        "automatic_payment_methods": {"enabled": "true", "allow_redirects": "never"},
        "metadata": {
            "channel_order_id": order.id,
            "channel_order_kind": "CHARGE",
            "payment_id": order.payment_id,
        },
        "transfer_group": order.id,
        "description": order.id,
    }
    assert headers["Idempotency-Key"] == order.id
    assert headers["Authorization"] == f"Bearer {LIVE_KEY}"
    assert headers["Stripe-Version"] == rig.settings().stripe_version
    assert headers["User-Agent"] == "paymesh"
    assert not [name for name in headers if name.lower().startswith("x-stripe")]


async def test_a_connected_account_is_acted_for_where_the_settings_name_one(rig: StripeRig) -> None:
    async with opened(rig, merchant_id="acct_1032D82eZvKYlo2C") as bench:
        await bench.charge(Does.SUCCEED)
    assert rig.server.requests[0][2]["Stripe-Account"] == "acct_1032D82eZvKYlo2C"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("pm_card_chargeDeclinedInsufficientFunds", "INSUFFICIENT_FUNDS"),
        ("pm_card_chargeDeclinedExpiredCard", "CARD_EXPIRED"),
        ("pm_card_authenticationRequired", "AUTHENTICATION_REQUIRED"),
        ("tok_of_another_provider", "RESOURCE_MISSING"),
    ],
)
async def test_a_decline_has_the_reason_that_the_card_gave(bench: Bench, token: str, reason: str) -> None:
    order = bench.order(token=token)
    result = await bench.live.charge(order)
    assert (result.status, result.failure_reason) == (R.FAILED, reason)
    assert await bench.live.charge(order) == result


async def test_an_amount_that_stripe_cannot_count_is_not_sent(bench: Bench, rig: StripeRig) -> None:
    result = await bench.live.charge(bench.order(currency="MGA", amount_minor=1_050))
    assert (result.status, result.failure_reason) == (R.FAILED, "AMOUNT_UNREPRESENTABLE")
    assert calls(rig) == []


async def test_an_answer_that_was_given_before_is_given_again_and_moves_nothing(bench: Bench, rig: StripeRig) -> None:
    order, first = await bench.charge(Does.SUCCEED)
    assert [await bench.live.charge(order) for _ in range(3)] == [first] * 3
    assert len(intents(rig)) == 1
    assert len(rig.live.book.objects["balance_transactions"]) == 1


async def test_an_id_that_was_used_for_something_else_leaves_the_outcome_open(bench: Bench, rig: StripeRig) -> None:
    order, first = await bench.charge(Does.SUCCEED)
    changed = make_sending(id=order.id, channel=order.channel, token=order.token, amount_minor=2_000)
    assert (await bench.live.charge(changed)).status is R.UNKNOWN
    assert await bench.live.query(order) == first
    assert len(intents(rig)) == 1


async def test_a_call_beside_one_that_is_under_way_leaves_the_outcome_open(bench: Bench, rig: StripeRig) -> None:
    order = bench.order(token=bench.rig.token(Does.BOOK_AND_HANG))
    first = asyncio.create_task(bench.live.charge(order))
    await asyncio.wait_for(rig.server.hangs.wait(), 5)
    assert (await bench.live.charge(order)).status is R.UNKNOWN
    assert (await first).status is R.UNKNOWN
    assert len(intents(rig)) == 1


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, "rate_limit", R.NOT_SENT),
        (429, "lock_timeout", R.NOT_SENT),
        (401, None, R.NOT_SENT),
        (403, None, R.NOT_SENT),
        (409, "lock_timeout", R.UNKNOWN),
        (500, None, R.UNKNOWN),
        (503, None, R.UNKNOWN),
    ],
)
async def test_what_was_turned_away_is_told_from_what_may_have_been_done(
    bench: Bench, rig: StripeRig, status: int, code: str | None, expected: ResultStatus
) -> None:
    rig.server.refusal = status, {"error": {"type": "invalid_request_error", "code": code}}
    order, result = await bench.charge(Does.SUCCEED)
    assert result.status is expected
    assert len(calls(rig)) == 1, "it was sent again"
    assert (await bench.live.query(order)).status is R.UNKNOWN


async def test_an_intent_that_needs_its_customer_is_given_up(bench: Bench, rig: StripeRig) -> None:
    order = bench.order(token="pm_card_visa__create_requires_action")
    result = await bench.live.charge(order)
    assert (result.status, result.failure_reason) == (R.FAILED, "AUTHENTICATION_REQUIRED")
    [intent] = intents(rig)
    assert (intent["status"], intent["cancellation_reason"]) == ("canceled", "abandoned")
    assert await bench.live.query(order) == result
    assert calls(rig)[1] == f"POST payment_intents/{intent['id']}/cancel"


async def test_what_cannot_be_given_up_now_is_pending_and_is_given_up_by_a_query(bench: Bench, rig: StripeRig) -> None:
    order = bench.order(token="pm_card_visa__create_requires_action__cancel_hang")
    result = await bench.live.charge(order)
    [intent] = intents(rig)
    assert (result.status, result.provider_reference) == (R.PENDING, intent["id"])
    intent["payment_method"] = "pm_card_visa"
    assert (await bench.live.query(order)).failure_reason == "AUTHENTICATION_REQUIRED"


async def test_what_is_done_while_it_is_being_given_up_is_found_done(bench: Bench, rig: StripeRig) -> None:
    order = bench.order(token="pm_card_visa__create_requires_action__cancel_hang")
    pending = await bench.live.charge(order)
    rig.live.book.go_through(intents(rig)[0])
    known = make_sending(id=order.id, token=order.token, provider_reference=pending.provider_reference)
    assert (await bench.live.query(known)).status is R.SUCCEEDED


async def lost(bench: Bench, kind: str = "CHARGE") -> tuple[ChannelOrder, ProviderResult]:
    """An order that was done and whose answer was lost, and what it came to."""
    order = bench.order(kind=kind, token=bench.rig.token(Does.BOOK_AND_DROP))
    assert (await bench.perform(order)).status is R.UNKNOWN
    return order, await bench.live.query(order)


async def test_a_lost_answer_is_searched_for_by_the_order_and_asked_for_by_its_own_id_then(
    bench: Bench, rig: StripeRig
) -> None:
    order, found = await lost(bench, "AUTHORIZE")
    assert found.status is R.SUCCEEDED
    reference = found.provider_reference
    assert calls(rig)[1:] == ["GET payment_intents/search", f"GET payment_intents/{reference}"]
    known = make_sending(kind="AUTHORIZE", id=order.id, provider_reference=reference)
    assert await bench.live.query(known) == found
    assert calls(rig) == [f"GET payment_intents/{reference}"]


@pytest.mark.parametrize("has_search", [True, False])
async def test_what_the_search_does_not_know_yet_is_found_in_the_list(
    bench: Bench, rig: StripeRig, has_search: bool
) -> None:
    rig.server.search_lag_s, rig.server.has_search = 3_600, has_search
    _, found = await lost(bench)
    assert found.status is R.SUCCEEDED
    assert calls(rig)[1:] == ["GET payment_intents/search", "GET payment_intents"]


async def test_a_list_is_read_page_by_page_and_one_that_is_too_long_proves_nothing(rig: StripeRig) -> None:
    rig.server.search_lag_s = 3_600
    async with opened(rig, query_pages_max=2, timeout_s=5) as bench:
        order, _ = await lost(bench)
        for number in range(150):
            rig.live.book.create_intent({"amount": 1_000, "currency": "eur", "payment_method": f"pm_{number}"})
        calls(rig)
        assert (await bench.live.query(order)).status is R.SUCCEEDED
        assert calls(rig) == ["GET payment_intents/search", "GET payment_intents", "GET payment_intents"]
        assert (await bench.live.query(bench.order())).status is R.NOT_FOUND
        for number in range(100):
            rig.live.book.create_intent({"amount": 1_000, "currency": "eur", "payment_method": f"pm_{number}"})
        for unknown in (order, bench.order()):
            assert (await bench.live.query(unknown)).status is R.UNKNOWN


async def test_only_what_was_made_about_the_time_it_was_sent_is_looked_through(bench: Bench, rig: StripeRig) -> None:
    await bench.live.query(bench.order(token="cus_1:pm_card_visa"))
    params = rig.server.requests[-1][3]
    order = bench.order()
    assert order.sent_at_ms is not None
    assert int(params["created"]["gte"]) == order.sent_at_ms // 1_000 - 60
    assert int(params["created"]["lte"]) >= order.sent_at_ms // 1_000 + 60
    assert params["customer"] == "cus_1"


async def test_two_intents_of_one_order_are_nothing_to_choose_from(bench: Bench, rig: StripeRig) -> None:
    order, _ = await bench.charge(Does.SUCCEED)
    [intent] = intents(rig)
    rig.live.book.objects["payment_intents"]["pi_twin"] = intent | {"id": "pi_twin"}
    assert (await bench.live.query(order)).status is R.UNKNOWN


async def test_a_lost_refund_and_a_lost_payout_are_found_by_what_they_were_sent_for(
    bench: Bench, rig: StripeRig
) -> None:
    charge, known = await bench.charge(Does.SUCCEED, refund=Does.BOOK_AND_DROP)
    refund = bench.following(charge, known, "REFUND", 300)
    assert (await bench.live.refund(refund)).status is R.UNKNOWN
    found = await bench.live.query(refund)
    assert (found.status, found.amount_minor) == (R.SUCCEEDED, 300)
    assert calls(rig)[-1] == "GET refunds"
    assert (await bench.live.query(bench.following(charge, known, "REFUND", 300))).status is R.NOT_FOUND

    payout = bench.order(kind="PAYOUT", token="ba_1MtIhL2eZvKYlo2C__payouts_booked_drop")
    assert (await bench.live.payout(payout)).status is R.UNKNOWN
    assert (await bench.live.query(payout)).status is R.SUCCEEDED
    assert (await bench.live.query(bench.order(kind="PAYOUT"))).status is R.NOT_FOUND


async def test_what_follows_an_authorization_that_stripe_does_not_have_is_not_found(bench: Bench) -> None:
    for kind in ("CAPTURE", "VOID", "REFUND"):
        order = bench.order(kind=kind, token="", original_provider_reference="pi_nowhere")
        assert (await bench.live.query(order)).status is R.NOT_FOUND
        result = await bench.perform(order)
        assert (result.status, result.failure_reason) == (R.FAILED, "RESOURCE_MISSING")


async def test_what_follows_something_without_a_name_at_stripe_is_not_sent(bench: Bench, rig: StripeRig) -> None:
    for kind in ("CAPTURE", "VOID", "REFUND"):
        order = bench.order(kind=kind, token="", original_provider_reference="")
        result = await bench.perform(order)
        assert (result.status, result.failure_reason) == (R.FAILED, "PROVIDER_REFERENCE_MISSING")
        assert (await bench.live.query(order)).status is R.UNKNOWN
    assert calls(rig) == []


async def test_a_payout_is_pending_until_the_bank_has_it(bench: Bench, rig: StripeRig) -> None:
    order = bench.order(kind="PAYOUT", token="ba_1MtIhL2eZvKYlo2C__payouts_pending")
    pending = await bench.live.payout(order)
    assert pending.status is R.PENDING
    known = make_sending(kind="PAYOUT", id=order.id, provider_reference=pending.provider_reference)
    assert (await bench.live.query(known)).status is R.PENDING
    [payout] = rig.live.book.objects["payouts"].values()
    rig.live.book.settle_payout(payout, "failed", "account_closed")
    result = await bench.live.query(known)
    assert (result.status, result.failure_reason) == (R.FAILED, "ACCOUNT_CLOSED")


async def test_a_payout_beyond_the_balance_is_a_definite_failure(bench: Bench) -> None:
    result = await bench.live.payout(bench.order(kind="PAYOUT", token="ba_1", amount_minor=10**10))
    assert (result.status, result.failure_reason) == (R.FAILED, "BALANCE_INSUFFICIENT")


async def test_many_captures_are_asked_for_and_told_apart(rig: StripeRig) -> None:
    async with opened(rig, captures_max=3) as bench:
        authorization, known = await bench.authorize()
        captures = [bench.following(authorization, known, "CAPTURE", amount) for amount in (300, 500)]
        results = [await bench.live.capture(capture) for capture in captures]
        assert [(result.status, result.amount_minor) for result in results] == [(R.SUCCEEDED, 300), (R.SUCCEEDED, 500)]
        assert [await bench.live.query(capture) for capture in captures] == results
        void = bench.following(authorization, known, "VOID", 200)
        assert (await bench.live.void(void)).status is R.SUCCEEDED
    params = [params for method, _, _, params in rig.server.requests if method == "POST"]
    assert params[0]["payment_method_options"] == {"card": {"request_multicapture": "if_available"}}
    assert params[1]["final_capture"] == "false"


@pytest.mark.parametrize(
    ("changes", "shadow_key"),
    [({"api_key": {"value": TEST_KEY}}, TEST_KEY), ({}, LIVE_KEY), ({}, "rk_live_1"), ({}, "sk_live_1")],
)
def test_a_key_of_the_other_mode_is_refused_at_start(rig: StripeRig, changes: dict[str, Any], shadow_key: str) -> None:
    shadow = rig.settings().shadow
    assert shadow is not None
    other = shadow.model_dump() | {"api_key": {"value": shadow_key}, "notification_keys": {"k": {"value": "whsec"}}}
    with pytest.raises(ConfigurationError, match="mode"):
        ChannelSet({"card": rig.settings(shadow=other, **changes)})


@pytest.mark.parametrize("value", ["debug", "info"])
def test_a_sdk_that_would_print_bodies_is_refused_at_start(
    rig: StripeRig, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("STRIPE_LOG", value)
    with pytest.raises(ConfigurationError, match="STRIPE_LOG"):
        ChannelSet({"card": rig.settings()})


@pytest.mark.parametrize("base_url", ["http://api.stripe.com", "http://127.0.0.1.example", "ftp://127.0.0.2"])
def test_a_key_is_sent_over_tls_or_not_off_this_machine(rig: StripeRig, base_url: str) -> None:
    shadow = {"base_url": base_url, "api_key": {"value": TEST_KEY}, "notification_keys": {"k": {"value": "whsec"}}}
    for changes in ({"base_url": base_url}, {"shadow": shadow}):
        with pytest.raises(ValueError, match="https"):
            rig.settings(**changes)
    assert rig.settings(base_url="https://api.stripe.com").base_url


def test_a_merchant_that_is_no_connected_account_is_refused(rig: StripeRig) -> None:
    with pytest.raises(ValueError, match="acct_"):
        rig.settings(merchant_id="M4711")


async def test_the_channel_that_the_page_configures_works_as_it_stands(rig: StripeRig) -> None:
    secrets = {
        "stripe_live_key": LIVE_KEY,
        "stripe_webhook": "whsec_new",
        "stripe_test_key": TEST_KEY,
        "stripe_test_webhook": "whsec_test",
    }
    table = with_secrets(channels_of_page()["stripe_card"], secrets)
    settings = StripeChannelSettings.model_validate(table)
    assert settings.policy().confirm_notifications
    here = {"base_url": rig.server.url}
    async with opened(rig, **table | here | {"shadow": table["shadow"] | here}) as bench:
        for channel in (bench.live, bench.shadow):
            assert (await channel.charge(bench.order(token="pm_card_visa"))).status is R.SUCCEEDED


async def test_what_is_of_the_other_mode_is_not_believed(bench: Bench, rig: StripeRig) -> None:
    order = bench.order(token=bench.rig.token(Does.SUCCEED))
    rig.live.book.livemode = False  # as if the live address led to the test mode
    assert (await bench.live.charge(order)).status is R.UNKNOWN
    assert (await bench.live.query(order)).status is R.UNKNOWN
    payout = bench.order(kind="PAYOUT", token="ba_1")
    assert (await bench.live.payout(payout)).status is R.UNKNOWN


async def test_a_notice_of_the_provider_is_not_repeated_as_a_warning(rig: StripeRig, liar: Liar) -> None:
    async with opened(rig, base_url=liar.url) as bench:
        order = bench.order(token="pm_card_visa")
        truth = rig.truth(order, "CHARGE")
        liar.answer = msgspec.structs.replace(truth, headers={**truth.headers, "Stripe-Notice": "upgrade now"})
        with warnings.catch_warnings(record=True) as caught:
            assert (await bench.live.charge(order)).status is R.SUCCEEDED
        assert caught == []
