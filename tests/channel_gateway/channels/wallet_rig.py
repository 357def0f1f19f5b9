"""The wallet of docs/channels.md for the contract suite: signed JSON, RSA over sorted parameters."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from channel_gateway.channels.signed_json_settings import SignedJsonChannelSettings
from channel_gateway.tables import ChannelOrder
from tests.channel_gateway.channels.outside_book import Entry, Kind, State, Wanted, token_of
from tests.channel_gateway.channels.outside_provider import Account
from tests.channel_gateway.channels.page import channels_of_page, with_secrets
from tests.channel_gateway.channels.rig import TIMEOUT_S, Answer, Does, Feature, Inbox, Notice, Rig
from tests.channel_gateway.channels.wallet import Wallet, compact_time, sealed


@functools.cache
def key(name: str) -> rsa.RSAPrivateKey:
    """A pair of keys of that name, made once."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(name: str) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key(name).private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def public_pem(name: str) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key(name).public_key().public_bytes(serialization.Encoding.PEM, form).decode()


class WalletRig(Rig):
    """``wallet.Wallet``."""

    kind = "signed_json"
    lacks = frozenset({Feature.LIVEMODE, Feature.AUTH_EXPIRY, Feature.MANY_CAPTURES})
    signs_bodies = True

    def __init__(self, folder: Path, inbox: Inbox) -> None:
        super().__init__(folder, inbox)
        secrets = {
            "lotus_private.pem": private_pem("ours"),
            "lotus_public_1.pem": public_pem("old"),
            "lotus_public_2.pem": public_pem("new"),
            "lotus_test_private.pem": private_pem("ours in test"),
            "lotus_test_public.pem": public_pem("test"),
        }
        self.wrong_key = {"value": private_pem("unknown")}
        self.table = with_secrets(channels_of_page()["lotus_wallet"], secrets)
        self.live = self._account(self.table, "ours", "new", livemode=True)
        self.test = self._account(self.table["shadow"], "ours in test", "test", livemode=False)
        self.wallet = Wallet(inbox.url, [self.live, self.test])

    @staticmethod
    def _account(table: Mapping[str, Any], client: str, provider: str, *, livemode: bool) -> Account:
        return Account(
            key_id=table["key_id"],
            merchant_id=table["merchant_id"],
            livemode=livemode,
            client_key=key(client).public_key(),
            provider_key=key(provider),
            provider_key_id="",
        )

    async def start(self) -> None:
        await self.wallet.start()

    async def stop(self) -> None:
        await self.wallet.stop()

    def settings(self, **changes: Any) -> SignedJsonChannelSettings:
        table = self.table | {"timeout_s": TIMEOUT_S}
        if self.wallet.url:
            table["base_url"] = self.wallet.url
            table["shadow"] = self.table["shadow"] | {"base_url": self.wallet.url}
        return SignedJsonChannelSettings.model_validate(table | changes)

    def token(
        self, does: Does, *, refund: Does | None = None, capture: Does | None = None, void: Does | None = None
    ) -> str:
        return token_of(does, refund=refund, capture=capture, void=void)

    def sign(self, body: bytes, *, key: str = "new", shadow: bool = False, age_s: float = 0) -> Mapping[str, str]:
        return {}  # its headers say nothing

    def sealed(self, body: bytes, *, key: str = "new", shadow: bool = False, age_s: float = 0) -> Notice:
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            return Notice({}, body)
        if not isinstance(fields, dict):
            return Notice({}, body)
        fields |= {"notify_time": compact_time(time.time() - age_s)}
        return Notice({}, sealed(_key("test" if shadow else key), fields))

    def forged(self, notice: Notice) -> Mapping[str, Notice]:
        fields = json.loads(notice.body)

        def forge(**changes: Any) -> Notice:
            return Notice({}, json.dumps(fields | changes).encode())

        return {
            "another amount": forge(total_fee="99999"),
            "another state": forge(trade_state="PAYERROR"),
            "another time": forge(notify_time="20300101000000"),
            "a field more": forge(attach="x"),
            "a table": forge(attach={"x": 1}),
            "a field in two ways": forge(out_no=f"{fields['out_no']}&trade_state=SUCCESS", trade_state=""),
            "no signature": forge(sign=None),
            "an empty signature": forge(sign=""),
            "a number for a signature": forge(sign=1),
            "a malformed signature": forge(sign="\xff\u00e9"),
            "half a character": forge(attach="\ud800"),
            "a key twice": Notice({}, notice.body[:-1] + b', "total_fee": "99999"}'),
        }

    def truth(self, order: ChannelOrder, asks: str) -> Answer:
        return self._answer(self._said(order))

    def lies(self, order: ChannelOrder, asks: str) -> Mapping[str, Answer]:
        said = self._said(order)
        true = self._answer(said)
        return {
            "other order": self._answer(said | {"out_no": "another order"}),
            "unknown state": self._answer(said | {"trade_state": "PERHAPS"}),
            "unknown code": self._answer(said | {"code": "PERHAPS"}),
            "fractional amount": self._answer(said | {"total_fee": "1000.5"}),
            "a number for an amount": self._answer(said | {"total_fee": 1000}),
            "an endless amount": self._answer(said | {"total_fee": "9" * 19}),
            "strange reference": self._answer(said | {"transaction_id": "<script>"}),
            "unsigned": Answer(headers=true.headers, body=json.dumps(said).encode()),
            "tampered": Answer(headers=true.headers, body=true.body.replace(b'"1000"', b'"9000"')),
            "a field more": Answer(headers=true.headers, body=true.body[:-1] + b', "x": "y"}'),
            "signed by another": self._answer(said, "unknown"),
            "an unsigned refusal": Answer(headers=true.headers, body=b'{"code": "PARAM_ERROR"}'),
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
        return {"code": "SUCCESS"} | Wallet.fields(self.live, entry, State.DONE, order.amount_minor)

    def _answer(self, said: dict[str, Any], signer: str = "new") -> Answer:
        return Answer(headers={"Content-Type": "application/json"}, body=sealed(_key(signer), said))


_key = key
