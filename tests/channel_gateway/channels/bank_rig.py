"""The bank of docs/channels.md for the contract suite: signed JSON, HMAC."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channel_gateway.channels.signed_json_settings import SignedJsonChannelSettings
from channel_gateway.tables import ChannelOrder
from tests.channel_gateway.channels.bank import BASE_PATH, Bank, signature_header
from tests.channel_gateway.channels.outside_book import Entry, Kind, State, Wanted, token_of
from tests.channel_gateway.channels.outside_provider import Account
from tests.channel_gateway.channels.page import channels_of_page, with_secrets
from tests.channel_gateway.channels.rig import TIMEOUT_S, Answer, Does, Inbox, Rig

SECRETS = {
    "harbour_requests": "live-requests-secret",
    "harbour_bank_1": "live-bank-old-secret",
    "harbour_bank_2": "live-bank-new-secret",
    "harbour_test_requests": "test-requests-secret",
    "harbour_test_bank_1": "test-bank-secret-0001",
}


class BankRig(Rig):
    """``bank.Bank``."""

    kind = "signed_json"

    def __init__(self, folder: Path, inbox: Inbox) -> None:
        super().__init__(folder, inbox)
        self.wrong_key = {"value": "another-requests-secret"}
        self.table = with_secrets(channels_of_page()["harbour_bank"], SECRETS)
        shadow = self.table["shadow"]
        self.live = Account(
            key_id=self.table["key_id"],
            merchant_id=self.table["merchant_id"],
            livemode=True,
            client_key=SECRETS["harbour_requests"].encode(),
            provider_key=SECRETS["harbour_bank_2"].encode(),
            provider_key_id="bank-2",
        )
        self.test = Account(
            key_id=shadow["key_id"],
            merchant_id=shadow["merchant_id"],
            livemode=False,
            client_key=SECRETS["harbour_test_requests"].encode(),
            provider_key=SECRETS["harbour_test_bank_1"].encode(),
            provider_key_id="bank-t1",
        )
        self.bank = Bank(inbox.url, [self.live, self.test])

    async def start(self) -> None:
        await self.bank.start()

    async def stop(self) -> None:
        await self.bank.stop()

    def settings(self, **changes: Any) -> SignedJsonChannelSettings:
        table = self.table | {"timeout_s": TIMEOUT_S}
        if self.bank.url:
            table["base_url"] = self.bank.url + BASE_PATH
            table["shadow"] = self.table["shadow"] | {"base_url": self.bank.url + BASE_PATH}
        if changes.get("captures_max", 1) > 1:
            capture = self.table["calls"]["CAPTURE"]
            keeps = capture | {"body": capture["body"] | {"final": False}}
            table["calls"] = self.table["calls"] | {"CAPTURE": keeps}
        return SignedJsonChannelSettings.model_validate(table | changes)

    def token(
        self, does: Does, *, refund: Does | None = None, capture: Does | None = None, void: Does | None = None
    ) -> str:
        return token_of(does, refund=refund, capture=capture, void=void)

    def sign(self, body: bytes, *, key: str = "new", shadow: bool = False, age_s: float = 0) -> Mapping[str, str]:
        account = self.test if shadow else self.live
        key_id, secret = {
            "new": (account.provider_key_id, account.provider_key),
            "old": ("bank-1", SECRETS["harbour_bank_1"].encode()),
            "unknown": ("bank-3", b"an-unknown-secret-000"),
        }[key]
        return {"X-Bank-Signature": signature_header(secret, body, time.time() - age_s, key_id)}

    def truth(self, order: ChannelOrder, asks: str) -> Answer:
        return self._answer(self._said(order))

    def lies(self, order: ChannelOrder, asks: str) -> Mapping[str, Answer]:
        def lie(**changes: Any) -> Answer:
            said = self._said(order)
            return self._answer(said | {"order": said["order"] | changes})

        def priced(value: Any, currency: Any = "EUR") -> Answer:
            return lie(amount={"value": value, "currency": currency})

        true = self.truth(order, asks)
        return {
            "other order": lie(reference="another order"),
            "no order": lie(reference=None),
            "unknown state": lie(status="PERHAPS"),
            "no state": lie(status=None),
            "a list for a state": lie(status=["COMPLETED"]),
            "fractional amount": priced("10.005"),
            "a number for an amount": priced(10.0),
            "signed amount": priced("-10.00"),
            "exponent": priced("1e1"),
            "no amount": priced(None),
            "no such currency": priced("10.00", "XXQ"),
            "no currency": priced("10.00", None),
            "strange reference": lie(id="<script>"),
            "long reference": lie(id="x" * 65),
            "other mode": self._answer(self._said(order) | {"mode": "test"}),
            "no merchant": self._answer(self._said(order) | {"merchant": None}),
            "no mode": self._answer(self._said(order) | {"mode": None}),
            "a key twice": self._answer(true.body[:-1] + b', "mode": "live"}'),
            "not a number": self._answer(true.body[:-1] + b', "x": NaN}'),
            "unsigned": Answer(headers={"Content-Type": "application/json"}, body=true.body),
            "tampered": Answer(headers=true.headers, body=true.body.replace(b"10.00", b"90.00")),
            "signed by another": self._answer(true.body, key=b"an-unknown-secret-000"),
            "signed long ago": self._answer(true.body, age_s=1000),
            "compressed": Answer(headers={**true.headers, "Content-Encoding": "gzip"}, body=true.body),
            "unsigned refusal": Answer(status=400, body=b'{"error": {"code": "bad_request"}}'),
        }

    def _said(self, order: ChannelOrder) -> dict[str, Any]:
        wanted = Wanted(kind=Kind.CHARGE, reference=order.id, amount_minor=order.amount_minor, currency=order.currency)
        entry = Entry(
            wanted=wanted,
            id="CHA000000abcdef",
            does=Does.SUCCEED,
            token="",
            moved_minor=order.amount_minor,
            settles_at_s=0,
            first_state=State.DONE,
        )
        said: dict[str, Any] = json.loads(Bank.body(self.live, entry, State.DONE, order.amount_minor))
        return said

    def _answer(self, said: dict[str, Any] | bytes, key: bytes = b"", age_s: float = 0) -> Answer:
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        header = signature_header(key or self.live.provider_key, body, time.time() - age_s)
        return Answer(headers={"Content-Type": "application/json", "X-Bank-Signature": header}, body=body)
