"""What is signed, and the check that a provider signed it: raw bytes, constant time, a window of time, keys by id."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from channel_gateway.channels.signed_json_document import DocumentInvalid, find_text, parse_document, text_of
from channel_gateway.channels.signed_json_keys import Verify, decode_signature
from channel_gateway.channels.signed_json_signature_settings import ProviderSignatureSettings
from channel_gateway.channels.signed_json_templates import Template, fits, parse, parse_signature_header
from channel_gateway.channels.signed_json_times import TimeFormat, read_time_s
from channel_gateway.signature import SignatureInvalid


def sorted_fields(document: Any, unsigned: Collection[str]) -> str:
    """``key=value&…`` of an object's fields sorted by key, without the ``unsigned`` and those that are empty or null.

    DocumentInvalid where the text could be read in another way (a key with ``=`` or ``&``, a value with ``&``) or a
    field is a table or list: such fields would not be what was signed.
    """
    if not isinstance(document, dict):
        raise DocumentInvalid("no object")
    parts = []
    for key in sorted(document):
        value = document[key]
        if key in unsigned or value is None or value == "":
            continue
        if isinstance(value, dict | list):
            raise DocumentInvalid("a signed field is not a single value")
        text = text_of(value)
        if "=" in key or "&" in key or "&" in text:
            raise DocumentInvalid("a signed field could be read in two ways")
        parts.append(f"{key}={text}")
    return "&".join(parts)


def signed_bytes(
    template: Template, values: Mapping[str, str], body: bytes, unsigned: Collection[str], document: Any = None
) -> bytes:
    """What is signed. ``document``: the object whose sorted fields are; where left out, that of the whole body.

    DocumentInvalid where the body does not have the form that is needed for it.
    """
    pieces = [template.texts[0].encode()]
    for name, text in zip(template.names, template.texts[1:], strict=True):
        if name in _OF_BODY:
            piece = _OF_BODY[name](body)
        elif name == "sorted_fields":
            piece = _encoded(sorted_fields(parse_document(body) if document is None else document, unsigned))
        else:
            piece = _encoded(values[name])
        pieces += (piece, text.encode())
    return b"".join(pieces)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise DocumentInvalid("not text") from None


_OF_BODY: Mapping[str, Callable[[bytes], bytes]] = {
    "body": lambda body: body,
    "body_sha256_hex": lambda body: hashlib.sha256(body).hexdigest().encode(),
    "body_sha256_base64": lambda body: base64.b64encode(hashlib.sha256(body).digest()),
}


class Verifier:
    """Checks what a provider signs: answers, or notifications."""

    def __init__(
        self,
        settings: ProviderSignatureSettings,
        keys: Mapping[str, Verify],
        merchant_id: str,
        time_format: TimeFormat,
        utc_offset_minutes: int,
    ) -> None:
        """``keys``: one or two, by id."""
        assert keys
        self._settings = settings
        self._keys = keys
        self._unsigned = settings.left_out()
        self._merchant_id = merchant_id
        self._time = settings.time_format or time_format, utc_offset_minutes
        self._signed = parse(settings.signed)
        self._headers = {name: parse_signature_header(form).pattern() for name, form in settings.headers.items()}

    def check(self, headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float) -> None:
        """SignatureInvalid where no known key signed ``body``, or not within ``tolerance_s`` of ``now_s``."""
        try:
            self._check(headers, body, now_s, tolerance_s)
        except DocumentInvalid as error:
            raise SignatureInvalid(str(error)) from None

    def _check(self, headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float) -> None:
        found: dict[str, str] = {"merchant_id": self._merchant_id}
        for name, pattern in self._headers.items():
            match = pattern.fullmatch(headers.get(name, ""))
            if match is None:
                raise SignatureInvalid("malformed signature header")
            found |= match.groupdict()
        document = None
        if self._settings.fields or "sorted_fields" in self._signed.names:
            document = parse_document(body)
        for name, path in self._settings.fields.items():
            text = find_text(document, path)
            if text is None or not fits(name, text):
                raise SignatureInvalid("malformed signature field")
            found[name] = text
        data = signed_bytes(self._signed, found, body, self._unsigned, document)
        signature = decode_signature(found["signature"], self._settings.encoding)
        if not self._is_signed(data, signature, found.get("key_id")):
            raise SignatureInvalid("signature does not match")
        if "timestamp" in found:
            at_s = read_time_s(found["timestamp"], *self._time)
            if at_s is None or abs(now_s - at_s) > tolerance_s:
                raise SignatureInvalid("timestamp outside the window")

    def _is_signed(self, data: bytes, signature: bytes, key_id: str | None) -> bool:
        if key_id is not None:
            # For an unknown id another key is tried in vain: how long it takes does not tell which ids there are.
            known = self._keys.get(key_id)
            holds = (known or next(iter(self._keys.values())))(data, signature)
            return holds and known is not None
        # Every key is tried, whichever it was: how long it takes tells nothing of them.
        held = [verify(data, signature) for verify in self._keys.values()]
        return any(held)
