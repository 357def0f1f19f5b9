"""A bank made for tests: paths by resource, nested JSON, amounts as decimal texts, HMAC over lines and bodies."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import re
import time
from decimal import Decimal

from aiohttp import web

from tests.channel_gateway.channels.outside_book import Entry, Kind, State, Wanted
from tests.channel_gateway.channels.outside_provider import Account, OutsideProvider, Refused
from tests.channel_gateway.channels.rig import Notice

BASE_PATH = "/pay"
DIGITS = {"EUR": 2, "JPY": 0, "BHD": 3}
WINDOW_S = 60.0

_POSTS = {
    "/v2/payments": Kind.CHARGE,
    "/v2/payouts": Kind.PAYOUT,
    "/v2/authorizations": Kind.AUTHORIZE,
    "/v2/payments/{}/refunds": Kind.REFUND,
    "/v2/authorizations/{}/captures": Kind.CAPTURE,
    "/v2/authorizations/{}/voids": Kind.VOID,
}
_STATES = {State.DONE: "COMPLETED", State.DECLINED: "REJECTED", State.PENDING: "PROCESSING"}
_DECLINES = {
    "card_declined": "05",
    "card_expired": "54",
    "auth_expired": "A1",
    "auth_not_open": "A2",
    "capture_exceeds_auth": "A3",
    "refund_exceeds_charge": "R1",
    "original_not_found": "R2",
}
_STATUSES = {"unauthorized": 401, "bad_request": 400, "conflict": 409, "order_not_found": 404}


def hex_hmac(key: bytes, text: bytes) -> str:
    return hmac.new(key, text, "sha256").hexdigest()


def signature_header(key: bytes, body: bytes, at_s: float, key_id: str = "") -> str:
    """``t=…,k=…,v1=…`` of an answer or a notification; answers have no key id."""
    at = str(int(at_s))
    name = f"k={key_id}," if key_id else ""
    return f"t={at},{name}v1={hex_hmac(key, at.encode() + b'.' + body)}"


class Bank(OutsideProvider):
    """Keys are bytes."""

    def __init__(self, notification_url: str, accounts: list[Account]) -> None:
        super().__init__(notification_url, accounts)
        self._nonces: set[str] = set()

    def authenticate(self, request: web.Request, body: bytes) -> Account:
        headers = request.headers
        account = next((a for a in self.accounts if a.key_id == headers.get("X-Key-Id")), None)
        if account is None:
            raise Refused("unauthorized")
        at, nonce = headers["X-Timestamp"], headers["X-Nonce"]
        lines = [request.method, request.raw_path, at, nonce, hashlib.sha256(body).hexdigest()]
        expected = hex_hmac(account.client_key, "\n".join(lines).encode())
        age_s = time.time() - datetime.datetime.fromisoformat(at).timestamp()
        if headers["X-Signature"] != f"v1={expected}" or abs(age_s) > WINDOW_S or nonce in self._nonces:
            raise Refused("unauthorized")
        self._nonces.add(nonce)
        return account

    def file(self, request: web.Request, account: Account) -> bytes | None:
        """A day's statement: today's is not ready."""
        found = re.fullmatch(BASE_PATH + r"/v2/statements/([0-9-]{10})", request.path)
        if found is None:
            return None
        if datetime.date.fromisoformat(found[1]) >= datetime.datetime.now(datetime.UTC).date():
            raise Refused("order_not_found")
        lines = [f"{e.wanted.reference},{e.moved_minor}" for e in account.book.entries.values() if not e.code]
        return "\n".join(["reference,amount_minor", *lines]).encode()

    def read(self, request: web.Request, body: bytes) -> Wanted | str:
        path = request.path.removeprefix(BASE_PATH)
        if request.method == "GET" and (found := re.fullmatch(r"/v2/orders/([^/]+)", path)):
            return found[1]
        match = re.fullmatch(r"(/v2/[a-z]+)(?:/([^/]+)(/[a-z]+))?", path)
        kind = _POSTS.get(match[1] + (f"/{{}}{match[3]}" if match[2] else "")) if match else None
        said = json.loads(body)
        reference = said["order"]["reference"]
        if match is None or kind is None or request.headers.get("Idempotency-Key") != reference:
            raise Refused("bad_request")
        value, currency = said["order"]["amount"]["value"], said["order"]["amount"]["currency"]
        digits = DIGITS[currency]
        if not isinstance(value, str) or len(value.partition(".")[2]) != digits:
            raise Refused("bad_request")
        return Wanted(
            kind=kind,
            reference=reference,
            amount_minor=int(Decimal(value).scaleb(digits)),
            currency=currency,
            token=said.get("source", {}).get("token", ""),
            original=match[2] or "",
            is_final=said.get("final", True),
        )

    def answer(self, account: Account, entry: Entry, state: State) -> tuple[int, dict[str, str], bytes]:
        body = self.body(account, entry, state, entry.moved_minor)
        return 200 if entry.wanted.kind is Kind.VOID else 201, self._signed(account, body), body

    def refusal(self, account: Account | None, code: str) -> tuple[int, dict[str, str], bytes]:
        body = json.dumps({"error": {"code": code}}).encode()
        return _STATUSES[code], {} if account is None else self._signed(account, body), body

    def notice(self, account: Account, entry: Entry, amount_minor: int) -> Notice:
        said = json.loads(self.body(account, entry, State.DONE, amount_minor))
        body = json.dumps({"eventId": f"evt-{entry.id}", "type": "order.changed"} | said).encode()
        return Notice(
            {"X-Bank-Signature": signature_header(account.provider_key, body, time.time(), account.provider_key_id)},
            body,
        )

    def is_acknowledged(self, status: int, body: bytes) -> bool:
        return status == 200

    @staticmethod
    def body(account: Account, entry: Entry, state: State, amount_minor: int) -> bytes:
        """An order as the bank tells it."""
        wanted = entry.wanted
        digits = DIGITS[wanted.currency]
        order = {
            "reference": wanted.reference,
            "id": entry.id,
            "status": _STATES[state],
            "amount": {"value": f"{Decimal(amount_minor).scaleb(-digits):.{digits}f}", "currency": wanted.currency},
            "declineCode": _DECLINES[entry.code] if entry.code else None,
        }
        mode = "live" if account.livemode else "test"
        return json.dumps({"order": order, "merchant": account.merchant_id, "mode": mode}).encode()

    @staticmethod
    def _signed(account: Account, body: bytes) -> dict[str, str]:
        header = signature_header(account.provider_key, body, time.time())
        return {"Content-Type": "application/json", "X-Bank-Signature": header}
