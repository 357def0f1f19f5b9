"""The channel to Stripe, by its own SDK in the asynchronous form; nothing of the SDK's global state is used.

A charge is a payment intent that is created and confirmed in one call, without a customer present; an authorisation
the same with manual capture. Each call carries the channel order's id as its idempotency key, and is made once. The id
is in the metadata of whatever is made, which is how it is found again when an answer was lost; a capture leaves it in
the metadata of the authorisation's intent. A token is a payment method ("pm_…"), where it belongs to a customer with
that before it ("cus_…:pm_…"); for a payout an external account ("ba_…").
"""

from __future__ import annotations

import asyncio
import datetime
import re
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import stripe
import structlog

from channel_gateway.channel_order import ChannelOrderKind, ProviderResult, ResultStatus
from channel_gateway.channel_settings import ProviderAccountSettings
from channel_gateway.channels import stripe_outcomes as outcomes
from channel_gateway.channels.base import NotificationInvalid, ReceivedNotification
from channel_gateway.channels.stripe_events import HEADER, read_event, verify
from channel_gateway.channels.stripe_http import HttpClient, Unanswered, Unreachable, silence_sdk
from channel_gateway.channels.stripe_objects import (
    KIND_KEY,
    ORDER_KEY,
    PAYMENT_KEY,
    Intent,
    Payout,
    Refund,
    T,
    Unrepresentable,
    read,
    to_stripe,
)
from channel_gateway.channels.stripe_search import Finder
from channel_gateway.channels.stripe_settings import StripeChannelSettings
from channel_gateway.channels.stripe_statement import lines
from channel_gateway.tables import ChannelOrder
from paykit.errors import ConfigurationError

if TYPE_CHECKING:
    from stripe.params import (
        PaymentIntentCaptureParams,
        PaymentIntentCreateParams,
        PayoutCreateParams,
        RefundCreateParams,
    )

log = structlog.get_logger(__name__)

# Beside the calls of the lane: statements, of which four are read at once, each with nine calls at the most.
_MORE_CONNECTIONS = 40
_KEY_MODE = re.compile(r"(?:sk|rk)_(live|test)_")
_K = ChannelOrderKind


class _Refused(Exception):
    """An answer that is not 2xx, or none; with what it means for the order that was sent."""

    def __init__(self, result: ProviderResult) -> None:
        super().__init__(result.status.value)
        self.result = result


class StripeChannel:
    """One account at Stripe, live or test."""

    statement_format: str | None = "stripe_balance"

    def __init__(
        self, name: str, livemode: bool, settings: StripeChannelSettings, account: ProviderAccountSettings
    ) -> None:
        silence_sdk()
        api_key = account.api_key.read()
        _check_mode(name, livemode, api_key)
        base_url = account.base_url.rstrip("/")
        self.name = name
        self.operations = settings.operations
        self.captures_max = settings.captures_max
        self.policy = settings.policy()
        self._livemode = livemode
        self._settings = settings
        self._merchant_id = account.merchant_id
        self._secrets = tuple(secret.read() for secret in account.notification_keys.values())
        self._http = HttpClient(
            base_url,
            settings.timeout_s,
            settings.connect_timeout_s,
            settings.max_in_flight + _MORE_CONNECTIONS,
        )
        client = stripe.StripeClient(
            api_key,
            stripe_account=account.merchant_id or None,
            stripe_version=settings.stripe_version,
            # All of them: nothing of this channel goes anywhere else.
            base_addresses={"api": base_url, "connect": base_url, "files": base_url, "meter_events": base_url},
            max_network_retries=0,
            http_client=self._http,
        )
        self._api = client.v1
        self._finder = Finder(self._api, name, settings.timeout_s, settings.query_pages_max)

    async def start(self) -> None:
        await self._http.open()

    async def stop(self) -> None:
        await self._http.close_async()

    async def charge(self, order: ChannelOrder) -> ProviderResult:
        return await self._intend(order, "automatic")

    async def authorize(self, order: ChannelOrder) -> ProviderResult:
        return await self._intend(order, "manual")

    async def _intend(self, order: ChannelOrder, capture_method: Literal["automatic", "manual"]) -> ProviderResult:
        """A payment intent, confirmed. Where it turns out to need its customer it is given up."""
        customer, _, payment_method = order.token.rpartition(":")
        until_s = asyncio.get_running_loop().time() + self._settings.timeout_s
        try:
            params: PaymentIntentCreateParams = {
                "amount": _amount(order),
                "currency": order.currency.lower(),
                "payment_method": payment_method,
                "capture_method": capture_method,
                "confirm": True,
                "off_session": True,
                "error_on_requires_action": True,
                "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
                "metadata": _metadata(order),
                "transfer_group": order.id,
                "description": order.id,
            }
            if customer:
                params["customer"] = customer
            if capture_method == "manual" and self.captures_max > 1:
                params["payment_method_options"] = {"card": {"request_multicapture": "if_available"}}
            said = await self._ask(order, self._api.payment_intents.create_async(params, _once(order)))
        except _Refused as refused:
            return refused.result
        intent = self._own(order, read(said, Intent))
        if intent is None:
            return outcomes.UNKNOWN
        return outcomes.of_intent(order, intent) or await self._give_up(order, intent, until_s)

    async def capture(self, order: ChannelOrder) -> ProviderResult:
        try:
            amount = _amount(order)
            params: PaymentIntentCaptureParams = {
                "amount_to_capture": amount,
                "metadata": {order.id: str(amount)},  # the mark by which it is found again
            }
            if self.captures_max > 1:
                params["final_capture"] = False  # what is not taken stays reserved until it is voided
            reference = _original(order)
            return await self._follow(order, self._api.payment_intents.capture_async(reference, params, _once(order)))
        except _Refused as refused:
            return refused.result

    async def void(self, order: ChannelOrder) -> ProviderResult:
        try:
            reference = _original(order)
            return await self._follow(order, self._api.payment_intents.cancel_async(reference, {}, _once(order)))
        except _Refused as refused:
            return refused.result

    async def _follow(self, order: ChannelOrder, call: Awaitable[Any]) -> ProviderResult:
        """What a capture or void of an authorisation's payment intent comes to; _Refused."""
        intent = read(await self._ask(order, call), Intent)
        if intent is None or intent.id != order.original_provider_reference or intent.livemode is not self._livemode:
            self._malformed(order)
            return outcomes.UNKNOWN
        result = outcomes.of_following(order, intent)
        return outcomes.UNKNOWN if result.status is ResultStatus.NOT_FOUND else result

    async def refund(self, order: ChannelOrder) -> ProviderResult:
        try:
            params: RefundCreateParams = {
                "payment_intent": _original(order),
                "amount": _amount(order),
                "metadata": _metadata(order),
            }
            said = await self._ask(order, self._api.refunds.create_async(params, _once(order)))
        except _Refused as refused:
            return refused.result
        refund = self._own(order, read(said, Refund))
        return outcomes.UNKNOWN if refund is None else outcomes.of_refund(refund)

    async def payout(self, order: ChannelOrder) -> ProviderResult:
        try:
            params: PayoutCreateParams = {
                "amount": _amount(order),
                "currency": order.currency.lower(),
                "destination": order.token,
                "metadata": _metadata(order),
                "description": order.id,
            }
            said = await self._ask(order, self._api.payouts.create_async(params, _once(order)))
        except _Refused as refused:
            return refused.result
        payout = self._own(order, read(said, Payout))
        return outcomes.UNKNOWN if payout is None else outcomes.of_payout(payout)

    async def query(self, order: ChannelOrder) -> ProviderResult:
        """NOT_FOUND only where a list that is complete, or the object itself, shows that nothing was done."""
        until_s = asyncio.get_running_loop().time() + self._settings.timeout_s
        try:
            async with asyncio.timeout_at(until_s):
                return await self._find(order, until_s)
        except (_Refused, TimeoutError):
            return outcomes.UNKNOWN  # the question was refused, which says nothing of the order

    async def _find(self, order: ChannelOrder, until_s: float) -> ProviderResult:
        if order.kind in (_K.CAPTURE, _K.VOID):
            found = await self._ask(order, self._finder.intent(_original(order)))
            if found is None:
                return outcomes.NOT_FOUND
            original = read(found, Intent)
            if original is None or original.livemode is not self._livemode:
                self._malformed(order)
                return outcomes.UNKNOWN
            return outcomes.of_following(order, original)
        found = await self._ask(order, self._finder.find(order))
        if found is None:
            return outcomes.NOT_FOUND
        if order.kind == _K.REFUND:
            refund = self._own(order, read(found, Refund))
            return outcomes.UNKNOWN if refund is None else outcomes.of_refund(refund)
        if order.kind == _K.PAYOUT:
            payout = self._own(order, read(found, Payout))
            return outcomes.UNKNOWN if payout is None else outcomes.of_payout(payout)
        intent = self._own(order, read(found, Intent))
        if intent is None:
            return outcomes.UNKNOWN
        return outcomes.of_intent(order, intent) or await self._give_up(order, intent, until_s)

    async def _give_up(self, order: ChannelOrder, intent: Intent, until_s: float) -> ProviderResult:
        """Cancels an intent that waits for a customer who is not there; PENDING until it is certain that it is.

        Only then nothing can come of it any more. An intent that a call under way has locked is not canceled.
        """
        pending = ProviderResult(status=ResultStatus.PENDING, provider_reference=intent.id)
        call = self._api.payment_intents.cancel_async(
            intent.id,
            {"cancellation_reason": outcomes.GIVEN_UP},
            {"idempotency_key": f"{order.id}:give_up"},
        )
        try:
            async with asyncio.timeout_at(until_s):
                given_up = self._own(order, read(await self._ask(order, call), Intent))
        except (_Refused, TimeoutError):
            return pending
        return (None if given_up is None else outcomes.of_intent(order, given_up)) or pending

    async def _ask(self, order: ChannelOrder, call: Awaitable[Any]) -> Any:
        """The answer as plain data, None where a search ended without one; _Refused with what the refusal means."""
        try:
            said = await call
        except Unreachable as error:
            log.warning("channel_unreachable", channel=self.name, channel_order_id=order.id, error=error.user_message)
            raise _Refused(outcomes.NOT_SENT) from None
        except Unanswered as error:
            log.warning("channel_unanswered", channel=self.name, channel_order_id=order.id, error=error.user_message)
            raise _Refused(outcomes.UNKNOWN) from None
        except stripe.StripeError as error:
            # The error holds the body, and its message may: neither is passed on.
            result = outcomes.of_refusal(order, self._livemode, error.http_status, error.json_body)
            level = log.info if result.status is ResultStatus.FAILED else log.warning
            level(
                "channel_refused",
                channel=self.name,
                channel_order_id=order.id,
                http_status=error.http_status,
                outcome=result.status.value,
                reason=result.failure_reason,
                provider_request=error.request_id,
            )
            raise _Refused(result) from None
        except Exception as error:
            # The SDK stumbled over an answer: its traceback would show it.
            log.error("channel_answer_malformed", channel=self.name, channel_order_id=order.id, error=_name(error))
            raise _Refused(outcomes.UNKNOWN) from None
        return said.to_dict() if isinstance(said, stripe.StripeObject) else said

    def _own(self, order: ChannelOrder, found: T | None) -> T | None:
        """What was read, where it names the order and is of the channel's mode."""
        metadata: Mapping[str, str] = getattr(found, "metadata", {})
        # A refund does not tell its mode, but can only be found by a key of its mode.
        if metadata.get(ORDER_KEY) == order.id and getattr(found, "livemode", self._livemode) is self._livemode:
            return found
        self._malformed(order)
        return None

    def _malformed(self, order: ChannelOrder) -> None:
        log.error("channel_answer_malformed", channel=self.name, channel_order_id=order.id)

    def read_notification(self, body: bytes, headers: Mapping[str, str], now_s: float) -> ReceivedNotification:
        try:
            body.decode()
        except UnicodeDecodeError:
            raise NotificationInvalid("not UTF-8") from None
        verify(headers.get(HEADER, ""), body, self._secrets, now_s, self._settings.notification_tolerance_s)
        return read_event(body, self._livemode, self._merchant_id)

    def statement(self, date: datetime.date) -> AsyncGenerator[bytes, None]:
        return lines(self._api, self.name, date, self._settings.resend_delay_s)


def _amount(order: ChannelOrder) -> int:
    """The order's amount in Stripe's units; _Refused, before anything is sent, where it has none."""
    try:
        return to_stripe(order.amount_minor, order.currency)
    except Unrepresentable:
        raise _Refused(outcomes.failed(outcomes.AMOUNT_UNREPRESENTABLE)) from None


def _original(order: ChannelOrder) -> str:
    """Stripe's id of what the order goes back to or on with; _Refused, before anything is sent, where it is missing."""
    if not order.original_provider_reference:
        raise _Refused(outcomes.failed("PROVIDER_REFERENCE_MISSING"))
    return order.original_provider_reference


def _metadata(order: ChannelOrder) -> dict[str, str]:
    return {ORDER_KEY: order.id, KIND_KEY: order.kind, PAYMENT_KEY: order.payment_id}


def _once(order: ChannelOrder) -> stripe.RequestOptions:
    """Whatever arrives twice is done once."""
    return {"idempotency_key": order.id}


def _check_mode(name: str, livemode: bool, api_key: str) -> None:
    """ConfigurationError where a key says that it is of the other mode than the account is used for."""
    told = _KEY_MODE.match(api_key)
    if told is not None and (told[1] == "live") is not livemode:
        wanted = "live" if livemode else "test"
        raise ConfigurationError(f"channel {name}: the API key is not one of {wanted} mode, as its account must be")


def _name(error: Exception) -> str:
    return type(error).__name__
