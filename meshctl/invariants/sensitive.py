"""Finds what no table may hold: card numbers and configured secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import make_url

from channel_gateway.channel_settings import ProviderAccountSettings
from meshctl.settings import MeshSettings

SECRET_LENGTH_MIN = 8  # a shorter one would be found by chance

# A number that stands alone in a text, in one piece or in the groups that cards show.
_IN_TEXT = re.compile(
    rb"(?<![0-9A-Za-z])(?:[2-6][0-9]{12,18}|[2-6][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}"
    rb"|3[0-9]{3}[ -][0-9]{6}[ -][0-9]{5})(?![0-9A-Za-z])"
)
# A string field of 13 to 19 bytes of a protobuf message or of msgpack: what follows it may be any byte.
_IN_FIELD = re.compile(rb"([\x0d-\x13\xad-\xb3])([2-6][0-9]{12,18})")
# Hexadecimal by chance all of digits.
_TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# Issuers' ranges with the lengths they use. Times in milliseconds and order numbers are not cards.
_ISSUED = re.compile(
    rb"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2[2-7][0-9]{14}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}"
    rb"|35[0-9]{14}|6(?:011|2[0-9]{2}|4[4-9][0-9]|5[0-9]{2})[0-9]{12}(?:[0-9]{3})?"
)


def text_of(values: Iterable[Any]) -> bytes:
    """All texts and bytes of a row, a line each."""
    texts = [value.encode() if isinstance(value, str) else value for value in values if isinstance(value, str | bytes)]
    return b"\n".join(texts)


def holds_card_number(text: bytes) -> bool:
    """Whether a number in ``text`` is one that a card could have: an issuer's range and length, and the check digit."""
    if not _has_card_number(text):
        return False
    return _has_card_number(_TRACEPARENT.sub(b"", text))


def _has_card_number(text: bytes) -> bool:
    for found in _IN_TEXT.finditer(text):
        if _is_card_number(found[0]):
            return True
    # The length stands before the field, in the lowest five bits.
    return any(_is_card_number(found[2][: found[1][0] & 0x1F]) for found in _IN_FIELD.finditer(text))


def _is_card_number(text: bytes) -> bool:
    digits = text.replace(b" ", b"").replace(b"-", b"")
    if _ISSUED.fullmatch(digits) is None:
        return False
    # Luhn: from the right, every second digit doubled, its digits summed.
    numbers = [digit - 48 for digit in digits[::-1]]
    return sum(numbers[::2] + [sum(divmod(2 * number, 10)) for number in numbers[1::2]]) % 10 == 0


def holds_secret(text: bytes, secrets: Sequence[bytes]) -> bool:
    """Whether one of ``secrets`` stands in ``text``."""
    for secret in secrets:  # noqa: SIM110  (run for every row: a generator costs twice as much)
        if secret in text:
            return True
    return False


def secrets_of(settings: MeshSettings) -> list[bytes]:
    """Every secret that the settings name; ConfigurationError where the file of one cannot be read."""
    found: set[str] = set()
    if settings.channel_gateway is not None:
        for channel in settings.channel_gateway.channels.values():
            found.update(_of_account(channel))
            if channel.shadow is not None:
                found.update(_of_account(channel.shadow))
    if settings.sandbox is not None:
        found.add(settings.sandbox.admin_key.get_secret_value())
        for account in settings.sandbox.accounts.values():
            found |= {account.api_key.get_secret_value(), account.notification_key.get_secret_value()}
    for service in settings.services().values():
        urls = [url for shard in service.shards.values() for url in (shard.live, shard.shadow) if url is not None]
        found |= {str(make_url(url).password or "") for url in urls}
    return sorted(secret.encode() for secret in found if len(secret) >= SECRET_LENGTH_MIN)


def _of_account(account: ProviderAccountSettings) -> list[str]:
    return [secret.read() for secret in account.all_secrets()]
