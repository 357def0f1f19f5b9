"""The Stripe-shaped server, for the contract suite."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from channel_gateway.channels.stripe_settings import StripeChannelSettings
from channel_gateway.tables import ChannelOrder
from tests.channel_gateway.channels.rig import TIMEOUT_S, Answer, Does, Feature, Inbox, Rig
from tests.channel_gateway.channels.stripe_server import Merchant, StripeServer
from tests.channel_gateway.channels.stripe_webhooks import sign
from tests.channel_gateway.orders import NOW_MS

LIVE_KEY, TEST_KEY = "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "rk_test_4eC39HqLyjWDarjtT1zdp7dc"
LIVE_SECRET, OLD_SECRET, TEST_SECRET = "whsec_new", "whsec_old", "whsec_test"

_NOWHERE = "http://127.0.0.1:1"  # until it is started
_CARD = "pm_card_visa"
_FAULTS = {
    Does.HANG: "hang",
    Does.BOOK_AND_HANG: "booked_hang",
    Does.BOOK_AND_DROP: "booked_drop",
    Does.BOOK_AND_ERROR: "booked_error",
    Does.NOTIFY: "processing",
    Does.NOTIFY_TWICE: "processing_twice",
    Does.NOTIFY_WRONG_AMOUNT: "processing_wrong",
    Does.CARD_EXPIRED: "expired",
    Does.AUTH_EXPIRED: "expired",
}


class StripeRig(Rig):
    """A server of Stripe's form in this process, over real HTTP."""

    kind = "stripe"
    lacks = frozenset({Feature.OTHER_AMOUNT})

    def __init__(self, folder: Path, inbox: Inbox) -> None:
        super().__init__(folder, inbox)
        self.server = StripeServer(lambda: NOW_MS / 1000)  # when the suite's orders are sent
        self.live: Merchant = self.server.add(LIVE_KEY, True, inbox.url, [LIVE_SECRET])
        self.test: Merchant = self.server.add(TEST_KEY, False, inbox.url, [TEST_SECRET])

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()

    def settings(self, **changes: Any) -> StripeChannelSettings:
        url = self.server.url or _NOWHERE
        live: dict[str, Any] = {
            "base_url": url,
            "api_key": {"value": LIVE_KEY},
            "notification_keys": {"old": {"value": OLD_SECRET}, "new": {"value": LIVE_SECRET}},
            "shadow": {
                "base_url": url,
                "api_key": {"value": TEST_KEY},
                "notification_keys": {"test": {"value": TEST_SECRET}},
            },
            "timeout_s": TIMEOUT_S,
            "query_ladder_s": [0.3, 0.5, 1, 2],
            "resend_delay_s": 0.05,
        }
        return StripeChannelSettings.model_validate(live | changes)

    def token(
        self, does: Does, *, refund: Does | None = None, capture: Does | None = None, void: Does | None = None
    ) -> str:
        if does is Does.DECLINE:
            return "pm_card_chargeDeclined"
        faults = {"create": does, "refund": refund, "capture": capture, "cancel": void}
        return _CARD + "".join(f"__{call}_{_FAULTS[how]}" for call, how in faults.items() if how in _FAULTS)

    def sign(self, body: bytes, *, key: str = "new", shadow: bool = False, age_s: float = 0) -> Mapping[str, str]:
        new = TEST_SECRET if shadow else LIVE_SECRET
        secret = {"new": new, "old": OLD_SECRET, "unknown": "whsec_unknown"}[key]
        return {"Stripe-Signature": sign(body, [secret], int(time.time() - age_s))}

    def truth(self, order: ChannelOrder, asks: str) -> Answer:
        return answer(intent(order), asks)

    def lies(self, order: ChannelOrder, asks: str) -> Mapping[str, Answer]:
        changed: dict[str, dict[str, Any]] = {
            "other order": {"metadata": {"channel_order_id": "chn_another"}},
            "unknown state": {"status": "perhaps"},
            "fractional amount": {"amount_received": 10.5},
            "strange reference": {"id": "<script>"},
            "long reference": {"id": "pi_" + "x" * 65},
            "other mode": {"livemode": False},
            "other capture": {"capture_method": "manual"},
            "no currency": {"currency": "zzz"},
        }
        return {name: answer(intent(order) | changes, asks) for name, changes in changed.items()}


def intent(order: ChannelOrder) -> dict[str, Any]:
    """The payment intent of a charge that succeeded."""
    return {
        "id": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "object": "payment_intent",
        "livemode": True,
        "status": "succeeded",
        "capture_method": "automatic",
        "amount": order.amount_minor,
        "amount_received": order.amount_minor,
        "amount_capturable": 0,
        "currency": order.currency.lower(),
        "metadata": {"channel_order_id": order.id, "channel_order_kind": "CHARGE"},
        "latest_charge": "ch_3MtwBwLkdIwHu7ix0snN0B15",
    }


def answer(said: dict[str, Any], asks: str) -> Answer:
    """To a charge the intent itself, to a query a search that found it."""
    found = {"object": "search_result", "url": "/v1/payment_intents/search", "has_more": False, "data": [said]}
    body = said if asks == "CHARGE" else found
    return Answer(headers={"Content-Type": "application/json"}, body=msgspec.json.encode(body))
