"""A giro bank made for tests, which speaks lines of text: what docs/channels.md adds a channel to by code."""

from __future__ import annotations

import hmac
import time
from urllib.parse import parse_qs

from aiohttp import web

from tests.channel_gateway.channels.outside_book import Entry, Kind, State, Wanted
from tests.channel_gateway.channels.outside_provider import Account, OutsideProvider, Refused
from tests.channel_gateway.channels.rig import Notice

_WORDS = {State.DONE: "DONE", State.DECLINED: "NO", State.PENDING: "WAIT"}
_STATUSES = {"unauthorized": 401, "bad_request": 400, "conflict": 409, "order_not_found": 404}


def line(entry: Entry, state: State, amount_minor: int) -> bytes:
    """An order as the bank tells it."""
    wanted = entry.wanted
    words = (_WORDS[state], entry.id.upper(), wanted.reference, amount_minor, wanted.currency, entry.code.upper())
    return (" ".join(map(str, words)) + "\n").encode()


def signed(key: bytes, body: bytes, at_s: float) -> dict[str, str]:
    """The headers of a notification."""
    at = str(int(at_s))
    return {"Giro-Time": at, "Giro-Mac": hmac.new(key, at.encode() + b"\n" + body, "sha256").hexdigest()}


class Giro(OutsideProvider):
    """Keys are bytes; a client shows its own."""

    def authenticate(self, request: web.Request, body: bytes) -> Account:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        account = next((account for account in self.accounts if account.client_key == given), None)
        if account is None:
            raise Refused("unauthorized")
        return account

    def read(self, request: web.Request, body: bytes) -> Wanted | str:
        if request.method == "GET":
            return request.path.removeprefix("/orders/")
        fields = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        return Wanted(
            kind=Kind(fields["what"].lower()),
            reference=fields["reference"],
            amount_minor=int(fields["amount"]),
            currency=fields["currency"],
            token=fields.get("account", ""),
            original=fields.get("original", ""),
            is_final=fields["final"] == "True",
        )

    def answer(self, account: Account, entry: Entry, state: State) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, line(entry, state, entry.moved_minor)

    def refusal(self, account: Account | None, code: str) -> tuple[int, dict[str, str], bytes]:
        return _STATUSES[code], {}, b"NONE\n"

    def notice(self, account: Account, entry: Entry, amount_minor: int) -> Notice:
        body = line(entry, State.DONE, amount_minor)
        return Notice(signed(account.provider_key, body, time.time()), body)

    def is_acknowledged(self, status: int, body: bytes) -> bool:
        return status == 200
