"""The signature on notifications: HMAC-SHA256 over "timestamp.raw body", with the id of the key that made it."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

HEADER = "Paymesh-Sandbox-Signature"

_FORM = re.compile(r"t=([0-9]{1,12}),k=([A-Za-z0-9_.-]{1,32}),v1=([0-9a-f]{64})")
_ABSENT_KEY = b"\x00" * 32


class SignatureInvalid(Exception):
    """The signature is missing, malformed, too old, too new, or not made by a known key."""


def sign(secret: bytes, key_id: str, timestamp_s: int, body: bytes) -> str:
    """The header value for ``body``: ``t=<unix seconds>,k=<key id>,v1=<hex digest>``."""
    return f"t={timestamp_s},k={key_id},v1={_digest(secret, timestamp_s, body)}"


def verify(header: str, body: bytes, keys: Mapping[str, bytes], now_s: float, tolerance_s: float) -> str:
    """The id of the key that signed ``body``; SignatureInvalid where none did or the time is outside the window.

    The digest is computed and compared in constant time for an unknown key too, so that key ids cannot be probed.
    """
    match = _FORM.fullmatch(header)
    if match is None:
        raise SignatureInvalid("malformed signature header")
    timestamp_s, key_id, digest = int(match[1]), match[2], match[3]
    secret = keys.get(key_id)
    expected = _digest(secret if secret is not None else _ABSENT_KEY, timestamp_s, body)
    if not hmac.compare_digest(expected, digest) or secret is None:
        raise SignatureInvalid("signature does not match")
    if abs(now_s - timestamp_s) > tolerance_s:
        raise SignatureInvalid("timestamp outside the window")
    return key_id


def _digest(secret: bytes, timestamp_s: int, body: bytes) -> str:
    return hmac.new(secret, b"%d." % timestamp_s + body, hashlib.sha256).hexdigest()
