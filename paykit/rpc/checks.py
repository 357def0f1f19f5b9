"""Field checks: every wrong field of a request in one InvalidArgument, and opaque page tokens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from paykit.errors import FieldViolation, InvalidArgument
from paykit.ids import ID_LENGTH, is_id
from paykit.money import AMOUNT_MINOR_MAX, is_currency

if TYPE_CHECKING:
    from paymesh.common.v1 import money_pb2

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 200
PAGE_TOKEN_MAX_CHARS = 512
MAX_VIOLATIONS = 50  # collected; the rest would tell nobody more

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_SCOPE_BYTES = 6

T = TypeVar("T")


class Fields:
    """Collects what is wrong with a request. Each check gives the value, for use after ``raise_if_any``.

    ``under`` is a path put before every field: ``Fields("lines[2]")`` reports "lines[2].title".
    """

    def __init__(self, under: str = "") -> None:
        self._under = under + "." if under else ""
        self.violations: list[FieldViolation] = []

    def under(self, path: str) -> Fields:
        """A collector for a nested message that reports into this one."""
        nested = Fields(self._under + path)
        nested.violations = self.violations
        return nested

    def fail(self, field: str, description: str) -> None:
        """Notes that ``field`` is wrong."""
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(FieldViolation(self._under + field, description))

    def raise_if_any(self) -> None:
        """InvalidArgument with every violation, where there is one."""
        if self.violations:
            raise InvalidArgument(self.violations)

    def request_id(self, value: str, field: str = "request_id") -> str:
        """Required, 1 to 64 visible ASCII characters."""
        if not value:
            self.fail(field, "required")
        elif not _REQUEST_ID.fullmatch(value):
            self.fail(field, "must be 1 to 64 visible ASCII characters")
        return value

    def name(self, field: str, value: str, *, required: bool = True) -> str:
        """An owner, a merchant, a reference: 1 to 64 of letters, digits, ``.``, ``_``, ``:``, ``-``."""
        if not value:
            if required:
                self.fail(field, "required")
        elif not _NAME.fullmatch(value):
            self.fail(field, "must be 1 to 64 of A-Z a-z 0-9 . _ : -")
        return value

    def id(self, field: str, value: str, *prefixes: str, required: bool = True) -> str:
        """An id of one of the kinds that ``prefixes`` name ("pay", "trd")."""
        kinds = " or ".join(prefix + "_…" for prefix in prefixes)
        if not value:
            if required:
                self.fail(field, "required")
        elif len(value) != ID_LENGTH or not is_id(value):
            self.fail(field, f"not an id ({kinds})")
        elif value[:3] not in prefixes:
            self.fail(field, f"an id of another kind: {value[:3]}_…, where {kinds} is wanted")
        return value

    def enum(self, field: str, value: int, enum: Any, allowed: Collection[int] = ()) -> int:
        """A number of the generated ``enum`` (``trade_pb2.Scene``), not 0, of ``allowed`` where that is given."""
        if value == 0:
            self.fail(field, "required")
        elif value not in enum.values():
            self.fail(field, f"{value} is not a value of {enum.DESCRIPTOR.name}")
        elif allowed and value not in allowed:
            self.fail(field, "must be one of " + ", ".join(enum.Name(number) for number in allowed))
        return value

    def money(self, field: str, value: money_pb2.Money, *, required: bool = True) -> money_pb2.Money | None:
        """An amount of 1 to 10^15 minor units of a known currency. None where it is left out."""
        if not value.currency_code and not value.amount_minor:
            if required:
                self.fail(field, "required")
            return None
        if not is_currency(value.currency_code):
            self.fail(f"{field}.currency_code", "not an active ISO 4217 currency")
        if value.amount_minor <= 0:
            self.fail(f"{field}.amount_minor", "must be greater than zero")
        elif value.amount_minor > AMOUNT_MINOR_MAX:
            self.fail(f"{field}.amount_minor", f"must be at most {AMOUNT_MINOR_MAX}")
        return value

    def same_currency(self, field: str, value: money_pb2.Money, currency_code: str) -> None:
        """That an amount is of the currency the request is in."""
        if value.currency_code != currency_code:
            self.fail(f"{field}.currency_code", f"must be {currency_code}, as elsewhere in the request")

    def count(self, field: str, values: Sequence[T], minimum: int, maximum: int) -> Sequence[T]:
        """A list of ``minimum`` to ``maximum`` elements."""
        if not minimum <= len(values) <= maximum:
            self.fail(field, f"must have {minimum} to {maximum} elements, not {len(values)}")
        return values

    def text(self, field: str, value: str, max_chars: int, *, required: bool = False) -> str:
        """Text for people: at most ``max_chars`` characters, none of them a control character."""
        if not value:
            if required:
                self.fail(field, "required")
        elif len(value) > max_chars:
            self.fail(field, f"at most {max_chars} characters, not {len(value)}")
        elif _has_control(value):
            self.fail(field, "must have no control characters")
        return value

    def page_size(self, value: int, field: str = "page_size") -> int:
        """1 to 200; 50 where it is left out (0)."""
        if value == 0:
            return PAGE_SIZE_DEFAULT
        if not 1 <= value <= PAGE_SIZE_MAX:
            self.fail(field, f"must be 1 to {PAGE_SIZE_MAX}")
        return value

    def page_token(self, value: str, scope: str, type_: type[T], field: str = "page_token") -> T | None:
        """The position that ``encode_page_token`` put into a token of the same ``scope``; None for the first page."""
        if not value:
            return None
        position = _decode_page_token(value, scope, type_)
        if position is None:
            self.fail(field, "not a token of this list")
        return position


def encode_page_token(scope: str, position: Any) -> str:
    """An opaque token. ``scope`` names the list and its filters: a token of one list is refused by another.

    ``position`` is what msgspec packs: an id, or a tuple of sort values.
    """
    return base64.urlsafe_b64encode(_digest(scope) + msgspec.msgpack.encode(position)).decode().rstrip("=")


def _decode_page_token(token: str, scope: str, type_: type[T]) -> T | None:
    if len(token) > PAGE_TOKEN_MAX_CHARS:
        return None
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        if data[:_SCOPE_BYTES] != _digest(scope):
            return None
        return msgspec.msgpack.decode(data[_SCOPE_BYTES:], type=type_)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None


def _digest(scope: str) -> bytes:
    return hashlib.blake2b(scope.encode(), digest_size=_SCOPE_BYTES).digest()


def _has_control(text: str) -> bool:
    """Whether it has C0, C1, delete, or the separators and direction marks that forge lines in logs and consoles."""
    return not text.isprintable() and any(_is_control(char) for char in text)


def _is_control(char: str) -> bool:
    code = ord(char)
    return code < 0x20 or 0x7F <= code <= 0x9F or code in _FORGERS


_FORGERS: frozenset[int] = frozenset(
    _code for _span in ((0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x2069)) for _code in range(_span[0], _span[1] + 1)
)
