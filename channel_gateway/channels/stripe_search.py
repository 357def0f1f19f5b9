"""Finding at Stripe what was made for an order of ours when its answer was lost.

A search by metadata is one call, and may not know yet what was made a minute ago (an hour, when Stripe is in trouble).
A list is complete as soon as something is made, but can be long. So both: only a list that was read to its end shows
that nothing was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import stripe
import structlog

from channel_gateway.channel_order import ChannelOrderKind
from channel_gateway.channels.stripe_objects import ORDER_KEY, Intent, Page, read
from channel_gateway.tables import ChannelOrder

if TYPE_CHECKING:
    from stripe.params import PaymentIntentListParams, PayoutListParams, RefundListParams

log = structlog.get_logger(__name__)

_PAGE_SIZE = 100
_CLOCK_SKEW_S = 60  # what our clock and Stripe's may be apart
_FINAL = frozenset({"succeeded", "canceled"})
_K = ChannelOrderKind


class Unreadable(Exception):
    """A list that is not of the form it has, or is too long: it shows nothing."""


class Finder:
    """Gives objects as plain data, None where it is certain now that there is none; StripeError, Unreadable."""

    def __init__(self, api: stripe.V1Services, channel: str, timeout_s: float, pages_max: int) -> None:
        self._api = api
        self._channel = channel
        self._timeout_s = timeout_s
        self._pages_max = pages_max

    async def find(self, order: ChannelOrder) -> dict[str, Any] | None:
        """What was made for a charge, authorisation, refund or payout."""
        if order.kind == _K.REFUND:
            return await self._refund(order)
        if order.kind == _K.PAYOUT:
            return await self._payout(order)
        if order.provider_reference:
            return await self.intent(order.provider_reference)
        found = await self._searched(order)
        if found is not None:
            # A search may show an old state: only one that never changes again is taken from it.
            return found if found["status"] in _FINAL else await self.intent(found["id"])
        params: PaymentIntentListParams = {"created": self._window(order)}
        customer, _, _ = order.token.rpartition(":")
        if customer:
            params["customer"] = customer
        return await self._listed(self._api.payment_intents.list_async, params, order.id)

    async def intent(self, reference: str) -> dict[str, Any] | None:
        """A payment intent by its own id."""
        return await _retrieved(self._api.payment_intents.retrieve_async, reference)

    async def _refund(self, order: ChannelOrder) -> dict[str, Any] | None:
        if order.provider_reference:
            return await _retrieved(self._api.refunds.retrieve_async, order.provider_reference)
        if not order.original_provider_reference:
            raise Unreadable("all refunds there are")
        params: RefundListParams = {"payment_intent": order.original_provider_reference}
        try:
            return await self._listed(self._api.refunds.list_async, params, order.id)
        except stripe.InvalidRequestError as error:
            if _is_missing(error):  # there is no such payment to give back
                return None
            raise

    async def _payout(self, order: ChannelOrder) -> dict[str, Any] | None:
        if order.provider_reference:
            return await _retrieved(self._api.payouts.retrieve_async, order.provider_reference)
        params: PayoutListParams = {"created": self._window(order)}
        return await self._listed(self._api.payouts.list_async, params, order.id)

    def _window(self, order: ChannelOrder) -> Any:
        """When something can have been made for the order, as Stripe's clock may show it."""
        sent_s = (order.sent_at_ms or order.created_at_ms) // 1000
        return {"gte": sent_s - _CLOCK_SKEW_S, "lte": sent_s + int(self._timeout_s) + _CLOCK_SKEW_S}

    async def _searched(self, order: ChannelOrder) -> dict[str, Any] | None:
        """The payment intent that the search knows; None where it knows none, or there is no search."""
        query = f"metadata['{ORDER_KEY}']:'{order.id}'"
        try:
            said = await self._api.payment_intents.search_async({"query": query, "limit": 2})
        except stripe.InvalidRequestError:
            return None  # some accounts and compatible servers have none
        page = _page(said)
        if not page.data:
            return None
        if len(page.data) > 1:
            log.error("channel_found_twice", channel=self._channel, channel_order_id=order.id)
            raise Unreadable("more than one")
        if read(page.data[0], Intent) is None:
            raise Unreadable("not a payment intent")
        return page.data[0]

    async def _listed(self, method: Any, wanted: Mapping[str, Any], order_id: str) -> dict[str, Any] | None:
        params: dict[str, Any] = {**wanted, "limit": _PAGE_SIZE}
        for _ in range(self._pages_max):
            page = _page(await method(params))
            for said in page.data:
                metadata = said.get("metadata")
                if isinstance(metadata, dict) and metadata.get(ORDER_KEY) == order_id:
                    return said
            if not page.has_more:
                return None
            if not page.data or page.data[-1].get("id") == params.get("starting_after"):
                raise Unreadable("a list that does not go on")
            params = params | {"starting_after": page.data[-1].get("id")}
        log.warning("channel_list_too_long", channel=self._channel, channel_order_id=order_id)
        raise Unreadable("too long")


async def _retrieved(method: Any, reference: str) -> dict[str, Any] | None:
    try:
        said = await method(reference)
    except stripe.InvalidRequestError as error:
        if _is_missing(error):
            return None
        raise
    plain: dict[str, Any] = said.to_dict()
    return plain


def _is_missing(error: stripe.InvalidRequestError) -> bool:
    return error.http_status == 404 and error.code == "resource_missing"


def _page(said: stripe.StripeObject) -> Page:
    page = read(said.to_dict(), Page)
    if page is None:
        raise Unreadable("not a list")
    return page
