"""The sandbox provider as a process, for the contract suite."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from channel_gateway.signature import HEADER, sign
from channel_gateway.tables import ChannelOrder
from tests.channel_gateway.channels.rig import TIMEOUT_S, Answer, Does, Inbox, Rig
from tests.channel_gateway.gateway import channel_settings
from tests.channel_gateway.provider import LIVE_SIGNING, SHADOW_SIGNING, ProviderProcess

_NAMES = {
    Does.SUCCEED: "ok",
    Does.DECLINE: "declined",
    Does.HANG: "timeout_uncharged",
    Does.BOOK_AND_HANG: "timeout_charged",
    Does.BOOK_AND_DROP: "drop_charged",
    Does.BOOK_AND_ERROR: "error_charged",
    Does.NOTIFY: "notify_only",
    Does.NOTIFY_TWICE: "notify_twice",
    Does.NOTIFY_WRONG_AMOUNT: "notify_wrong_amount",
    Does.PAY_MORE: "pays_more",
    Does.CARD_EXPIRED: "expired",
    Does.AUTH_EXPIRED: "auth_expired",
}
_NOWHERE = "http://127.0.0.1:1"  # until it is started
_OLD, _UNKNOWN = "old-signing-secret", "unknown-signing-secret"


class SandboxRig(Rig):
    """``python -m channel_gateway.sandbox``."""

    kind = "sandbox"
    statements: ClassVar[Mapping[str, Any]] = {"statement_format": "csv"}

    def __init__(self, folder: Path, inbox: Inbox) -> None:
        super().__init__(folder, inbox)
        self._process = ProviderProcess(folder, inbox.url, settle_ms=30)

    async def start(self) -> None:
        await self._process.start()

    async def stop(self) -> None:
        assert await self._process.end() == 0

    def settings(self, **changes: Any) -> SandboxChannelSettings:
        keys = {"live-0": {"value": _OLD}, "live-1": {"value": LIVE_SIGNING}}
        common = {"timeout_s": TIMEOUT_S, "notification_keys": keys}
        return SandboxChannelSettings.model_validate(channel_settings(self._process.url or _NOWHERE) | common | changes)

    def token(
        self, does: Does, *, refund: Does | None = None, capture: Does | None = None, void: Does | None = None
    ) -> str:
        following = {"refund": refund, "capture": capture, "void": void}
        marks = [f"__{kind}_{_NAMES[done]}" for kind, done in following.items() if done is not None]
        return f"tok_{_NAMES[does]}" + "".join(marks)

    def sign(self, body: bytes, *, key: str = "new", shadow: bool = False, age_s: float = 0) -> Mapping[str, str]:
        new = ("shadow-1", SHADOW_SIGNING) if shadow else ("live-1", LIVE_SIGNING)
        key_id, secret = {"new": new, "old": ("live-0", _OLD), "unknown": ("live-1", _UNKNOWN)}[key]
        return {HEADER: sign(secret.encode(), key_id, int(time.time() - age_s), body)}

    def truth(self, order: ChannelOrder, asks: str) -> Answer:
        return _answer(order)

    def lies(self, order: ChannelOrder, asks: str) -> Mapping[str, Answer]:
        return {
            "other order": _answer(order, reference="another order"),
            "unknown state": _answer(order, status="perhaps"),
            "fractional amount": _answer(order, amount_minor=10.5),
            "strange reference": _answer(order, provider_reference="<script>"),
            "long reference": _answer(order, provider_reference="x" * 65),
            "other mode": _answer(order, livemode=False),
        }


def _answer(order: ChannelOrder, **changes: Any) -> Answer:
    said = {
        "provider_reference": "p1",
        "reference": order.id,
        "status": "succeeded",
        "failure_code": "",
        "amount_minor": order.amount_minor,
        "currency": order.currency,
        "livemode": True,
    }
    return Answer(headers={"Content-Type": "application/json"}, body=msgspec.json.encode(said | changes))
