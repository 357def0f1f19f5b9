"""A wallet made for tests: flat JSON, result codes under HTTP 200, RSA over sorted parameters, signed in the body."""

from __future__ import annotations

import base64
import datetime
import json
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from tests.channel_gateway.channels.outside_book import Entry, Kind, State, Wanted
from tests.channel_gateway.channels.outside_provider import Account, OutsideProvider, Refused
from tests.channel_gateway.channels.rig import Notice

ZONE = datetime.timezone(datetime.timedelta(hours=8))
_KINDS = {"/gateway/pay": Kind.CHARGE, "/gateway/refund": Kind.REFUND, "/gateway/transfer": Kind.PAYOUT}
_STATES = {State.DONE: "SUCCESS", State.DECLINED: "PAYERROR", State.PENDING: "USERPAYING"}
_CODES = {
    "unauthorized": "SIGNERROR",
    "bad_request": "PARAM_ERROR",
    "conflict": "OUT_TRADE_NO_USED",
    "order_not_found": "ORDERNOTEXIST",
}


def parameters(fields: Mapping[str, Any]) -> bytes:
    """The text that is signed."""
    pairs = sorted((key, str(value)) for key, value in fields.items() if key != "sign" and value not in ("", None))
    return "&".join(f"{key}={value}" for key, value in pairs).encode()


def sealed(key: RSAPrivateKey, fields: Mapping[str, Any]) -> bytes:
    """The fields as JSON with their signature."""
    signature = key.sign(parameters(fields), padding.PKCS1v15(), hashes.SHA256())
    return json.dumps(dict(fields) | {"sign": base64.b64encode(signature).decode()}).encode()


def compact_time(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s, ZONE).strftime("%Y%m%d%H%M%S")


class Wallet(OutsideProvider):
    """Keys are RSA keys: public ones of its clients, private ones of its own."""

    def authenticate(self, request: web.Request, body: bytes) -> Account:
        fields = json.loads(body)
        account = next((a for a in self.accounts if a.key_id == fields.get("app_id")), None)
        key: RSAPublicKey | None = None if account is None else account.client_key
        try:
            signature = base64.b64decode(fields.get("sign", ""), validate=True)
            if key is not None and account is not None:
                key.verify(signature, parameters(fields), padding.PKCS1v15(), hashes.SHA256())
                return account
        except (ValueError, InvalidSignature):
            pass  # refused below, as an unknown application is
        raise Refused("unauthorized")

    def read(self, request: web.Request, body: bytes) -> Wanted | str:
        fields = json.loads(body)
        if request.path == "/gateway/query":
            reference: str = fields["out_no"]
            return reference
        if request.path not in _KINDS or not isinstance(fields["total_fee"], str):
            raise Refused("bad_request")
        return Wanted(
            kind=_KINDS[request.path],
            reference=fields["out_no"],
            amount_minor=int(fields["total_fee"]),
            currency=fields["fee_type"],
            token=fields.get("auth_code", ""),
            original=fields.get("out_trade_no", ""),
        )

    def answer(self, account: Account, entry: Entry, state: State) -> tuple[int, dict[str, str], bytes]:
        return self._sent(account, {"code": "SUCCESS"} | self.fields(account, entry, state, entry.moved_minor))

    def refusal(self, account: Account | None, code: str) -> tuple[int, dict[str, str], bytes]:
        return self._sent(account or self.accounts[0], {"code": _CODES[code], "msg": ""})

    def notice(self, account: Account, entry: Entry, amount_minor: int) -> Notice:
        fields = {"notify_id": f"N{entry.id}", "notify_time": compact_time(time.time())}
        said = self.fields(account, entry, State.DONE, amount_minor)
        return Notice({}, sealed(account.provider_key, fields | said))

    def is_acknowledged(self, status: int, body: bytes) -> bool:
        return body == b"success"

    @staticmethod
    def fields(account: Account, entry: Entry, state: State, amount_minor: int) -> dict[str, Any]:
        """An order as the wallet tells it."""
        return {
            "mch_id": account.merchant_id,
            "out_no": entry.wanted.reference,
            "transaction_id": entry.id,
            "trade_state": _STATES[state],
            "err_code": entry.code.upper(),
            "total_fee": str(amount_minor),
            "fee_type": entry.wanted.currency,
        }

    @staticmethod
    def _sent(account: Account, fields: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, sealed(account.provider_key, fields)
