"""A call to the provider, made of an order: target, headers and body, signed. Pure: time and nonce are passed in."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from channel_gateway.channels.signed_json_amounts import amount_text, amount_value
from channel_gateway.channels.signed_json_document import build_document
from channel_gateway.channels.signed_json_keys import Sign, encode_signature
from channel_gateway.channels.signed_json_settings import (
    CallSettings,
    SignedJsonAccountSettings,
    SignedJsonChannelSettings,
)
from channel_gateway.channels.signed_json_signatures import signed_bytes
from channel_gateway.channels.signed_json_templates import Template, parse
from channel_gateway.channels.signed_json_times import time_text
from channel_gateway.tables import ChannelOrder
from paykit.errors import ConfigurationError

_JSON = "application/json"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request, to be sent as it is. ``target``: path and query, percent-encoded."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None


class ReferenceMissing(Exception):
    """The call needs the provider's reference of the original order, which the provider never told."""


class CallMaker:
    """Makes one kind of call for one account."""

    def __init__(
        self,
        settings: SignedJsonChannelSettings,
        account: SignedJsonAccountSettings,
        call: CallSettings,
        sign: Sign | None,
        base_path: str,
    ) -> None:
        """``base_path``: the path of the base URL, which is signed as a part of the request's."""
        self._settings = settings
        self._method = call.method
        self._sign = sign
        self._signature = settings.request_signature
        self._signed = None if self._signature is None else parse(self._signature.signed)
        self._base_path = base_path
        self._path = parse(call.path)
        self._headers = {name: parse(text) for name, text in (settings.headers | call.headers).items()}
        self._body = {path: parse(v) if isinstance(v, str) else v for path, v in call.body.items()}
        self._of_account = {
            "merchant_id": account.merchant_id,
            "key_id": account.key_id,
            **{f"values.{name}": value for name, value in account.values.items()},
        }
        self._secrets = {f"secrets.{name}": _header_secret(name, s.read()) for name, s in account.secrets.items()}

    def make(self, order: ChannelOrder, now_ms: int, nonce: str) -> Call:
        """The call for ``order``; ReferenceMissing."""
        values = self._values(order, now_ms, nonce)
        return self._call(values, self._document(values, order))

    def make_for_day(self, date: datetime.date, now_ms: int, nonce: str) -> Call:
        """The call for the statement of ``date``, without the headers that name an order."""
        at = time_text(now_ms, self._settings.time_format, self._settings.utc_offset_minutes)
        return self._call(self._of_account | {"date": date.isoformat(), "timestamp": at, "nonce": nonce}, {})

    def _call(self, values: dict[str, str], body: dict[str, Any]) -> Call:
        target = self._base_path + self._target(values)
        content = build_document(body) if body else None
        if self._signature is not None:
            assert self._signed is not None
            assert self._sign is not None
            parts = values | {"method": self._method, "path": target}
            data = signed_bytes(self._signed, parts, content or b"", self._signature.unsigned_fields)
            signature = encode_signature(self._sign(data), self._signature.encoding)
            if self._signature.field:
                content = build_document(body | {self._signature.field: signature})
            values |= {"signature": signature}
        values |= self._secrets
        forms = self._headers.items()
        headers = {name: form.render(values) for name, form in forms if values.keys() >= set(form.names)}
        if content is not None:
            headers["Content-Type"] = _JSON
        return Call(method=self._method, target=target, headers=headers, body=content)

    def _values(self, order: ChannelOrder, now_ms: int, nonce: str) -> dict[str, str]:
        form, offset = self._settings.time_format, self._settings.utc_offset_minutes
        return self._of_account | {
            "order_id": order.id,
            "provider_reference": order.provider_reference,
            "original_order_id": order.original_channel_order_id,
            "original_provider_reference": order.original_provider_reference,
            "payment_id": order.payment_id,
            "amount": amount_text(order.amount_minor, order.currency, self._settings.amount_format),
            "currency": order.currency,
            "token": order.token,
            "created": time_text(order.created_at_ms, form, offset),
            "timestamp": time_text(now_ms, form, offset),
            "nonce": nonce,
        }

    def _target(self, values: Mapping[str, str]) -> str:
        """Each value percent-encoded whole, so that none becomes a separator of the path or query."""
        encoded = {}
        for name in self._path.names:
            if not values[name]:
                raise ReferenceMissing(name)
            encoded[name] = quote(values[name], safe="")
        return self._path.render(encoded)

    def _document(self, values: Mapping[str, str], order: ChannelOrder) -> dict[str, Any]:
        """What stands at each path. A text of placeholders that are all empty is left out."""
        document: dict[str, Any] = {}
        for path, form in self._body.items():
            if not isinstance(form, Template):
                document[path] = form
            elif form.sole == "amount":
                document[path] = amount_value(order.amount_minor, order.currency, self._settings.amount_format)
            elif not form.names or any(values[name] for name in form.names):
                document[path] = form.render(values)
            elif any(name.startswith("original_") for name in form.names):
                raise ReferenceMissing(form.names[0])
        return document


def _header_secret(name: str, secret: str) -> str:
    if not secret.isascii() or not secret.isprintable():
        raise ConfigurationError(f"secrets.{name}: a header holds printable ASCII characters only")
    return secret
