"""The channel that docs/channels.md adds by code, for the contract suite: its code is run as it stands there."""

from __future__ import annotations

import re
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channel_gateway.channel_settings import ChannelSettings
from channel_gateway.channels import CHANNELS
from channel_gateway.tables import ChannelOrder
from tests.channel_gateway.channels.giro import Giro, signed
from tests.channel_gateway.channels.outside_book import OutsideBook, token_of
from tests.channel_gateway.channels.outside_provider import Account
from tests.channel_gateway.channels.page import PAGE
from tests.channel_gateway.channels.rig import TIMEOUT_S, Answer, Does, Feature, Inbox, Rig

KIND = "giro"
MODULE = "channel_gateway.channels.giro"
NOWHERE = "http://127.0.0.1:1"  # until it is started
CLIENTS = {"live": b"giro-live-client-key", "shadow": b"giro-test-client-key"}
BANKS = {"old": b"giro-live-old-secret", "new": b"giro-live-new-secret", "shadow": b"giro-test-bank-secret"}


def module_of_page() -> types.ModuleType:
    """The code of the page as the module it would be."""
    if MODULE not in sys.modules:
        (code,) = re.findall(r"```python\n(\"\"\"A giro bank.*?)```", PAGE.read_text(), re.DOTALL)
        module = types.ModuleType(MODULE)
        sys.modules[MODULE] = module  # where its settings class looks names up
        exec(compile(code, str(PAGE), "exec"), module.__dict__)
    return sys.modules[MODULE]


class GiroRig(Rig):
    """``giro.Giro``."""

    kind = KIND
    lacks = frozenset({Feature.LIVEMODE})

    def __init__(self, folder: Path, inbox: Inbox) -> None:
        super().__init__(folder, inbox)
        self.module = module_of_page()
        accounts = [
            Account(
                key_id=mode,
                merchant_id="",
                livemode=mode == "live",
                client_key=key,
                provider_key=BANKS["new" if mode == "live" else "shadow"],
                provider_key_id="",
                book=OutsideBook(),
            )
            for mode, key in CLIENTS.items()
        ]
        self.giro = Giro(inbox.url, accounts)

    async def start(self) -> None:
        CHANNELS[KIND] = self.module.GiroChannel
        await self.giro.start()

    async def stop(self) -> None:
        await self.giro.stop()
        del CHANNELS[KIND]

    def settings(self, **changes: Any) -> ChannelSettings:
        def account(mode: str, *keys: str) -> dict[str, Any]:
            return {
                "base_url": self.giro.url or NOWHERE,
                "api_key": {"value": CLIENTS[mode].decode()},
                "notification_keys": {key: {"value": BANKS[key].decode()} for key in keys},
            }

        table = account("live", "old", "new") | {"shadow": account("shadow", "shadow"), "timeout_s": TIMEOUT_S}
        settings: ChannelSettings = self.module.GiroChannelSettings.model_validate(table | changes)
        return settings

    def token(
        self, does: Does, *, refund: Does | None = None, capture: Does | None = None, void: Does | None = None
    ) -> str:
        return token_of(does, refund=refund, capture=capture, void=void)

    def sign(self, body: bytes, *, key: str = "new", shadow: bool = False, age_s: float = 0) -> Mapping[str, str]:
        secret = BANKS.get("shadow" if shadow else key, b"giro-unknown-secret")
        return signed(secret, body, time.time() - age_s)

    def truth(self, order: ChannelOrder, asks: str) -> Answer:
        return Answer(body=f"DONE G1 {order.id} {order.amount_minor} {order.currency} \n".encode())

    def lies(self, order: ChannelOrder, asks: str) -> Mapping[str, Answer]:
        def lie(text: str) -> Answer:
            return Answer(body=text.encode())

        return {
            "other order": lie(f"DONE G1 chn_{'0' * 26} 1000 EUR \n"),
            "unknown state": lie(f"PERHAPS G1 {order.id} 1000 EUR \n"),
            "fractional amount": lie(f"DONE G1 {order.id} 1000.5 EUR \n"),
            "strange reference": lie(f"DONE <script> {order.id} 1000 EUR \n"),
            "two lines": lie(f"DONE G1 {order.id} 1000 EUR \n" * 2),
        }
