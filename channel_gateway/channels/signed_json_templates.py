"""Texts with placeholders in braces: paths, headers, values of bodies and what is signed. Each is checked at start.

A placeholder is one of a fixed list for its place. What is signed must be unambiguous: two different calls never have
the same signed text, so nothing of one can be moved into another.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
from pydantic import AfterValidator, StringConstraints

TEXT_LENGTH_MAX = 500

_PLACEHOLDER = re.compile(r"\{([a-z0-9_]+(?:\.[A-Za-z0-9_-]+)?)\}")
_GROUPS = ("values.", "secrets.")  # names of the account's own

_OF_ORDER = frozenset(
    {"order_id", "provider_reference", "original_order_id", "original_provider_reference", "payment_id", "merchant_id"}
)
IN_PATH = _OF_ORDER | {"values."}
IN_STATEMENT_PATH = frozenset({"date", "merchant_id", "values."})
IN_BODY = IN_PATH | {"amount", "currency", "token", "created", "timestamp", "nonce", "key_id"}
IN_HEADER = IN_PATH | {"created", "timestamp", "nonce", "key_id", "signature", "secrets."}
_BODIES = frozenset({"body", "body_sha256_hex", "body_sha256_base64", "sorted_fields"})
_SIGNED = _BODIES | {"timestamp", "nonce", "key_id", "merchant_id"}
IN_SIGNED_REQUEST = _SIGNED | {"method", "path", "order_id"}
IN_SIGNED_BY_PROVIDER = _SIGNED
IN_SIGNATURE_HEADER = frozenset({"signature", "timestamp", "nonce", "key_id"})

# What each may hold in a text that is signed, as a character class; of those left out, anything.
_ALPHABETS = {
    "method": "A-Z",
    "path": r"!#-~",
    "timestamp": r"0-9TZ:+-",
    "nonce": r"A-Za-z0-9_.-",
    "key_id": r"A-Za-z0-9_.-",
    "merchant_id": r"A-Za-z0-9_.:-",
    "order_id": r"A-Za-z0-9_",
    "body_sha256_hex": r"0-9a-f",
    "body_sha256_base64": r"A-Za-z0-9+/=",
    "signature": r"A-Za-z0-9+/=_-",
}
_LENGTHS_MAX = {"timestamp": 40, "nonce": 64, "key_id": 32, "signature": 1024}


class Template(msgspec.Struct, frozen=True):
    """A parsed text: literals and placeholders by turns, ``texts[0] {names[0]} texts[1] … texts[-1]``."""

    texts: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def sole(self) -> str:
        """The placeholder that is all of it; else empty."""
        return self.names[0] if self.texts == ("", "") else ""

    def render(self, values: Mapping[str, str]) -> str:
        """With each placeholder replaced; all of them must be in ``values``."""
        parts = [self.texts[0]]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            parts += (values[name], text)
        return "".join(parts)

    def pattern(self) -> re.Pattern[str]:
        """What reads the placeholders back from a text, each once and within its bounds."""
        parts = [re.escape(self.texts[0])]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            parts.append(f"(?P<{name}>[{_ALPHABETS[name]}]{{1,{_LENGTHS_MAX[name]}}}){re.escape(text)}")
        return re.compile("".join(parts))


def fits(name: str, text: str) -> bool:
    """Whether ``text`` may stand for a placeholder of a signature."""
    return len(text) <= _LENGTHS_MAX[name] and re.fullmatch(f"[{_ALPHABETS[name]}]+", text) is not None


def parse(text: str) -> Template:
    """ValueError where braces hold no placeholder."""
    pieces = _PLACEHOLDER.split(text)
    template = Template(tuple(pieces[::2]), tuple(pieces[1::2]))
    stray = next((piece for piece in template.texts if "{" in piece or "}" in piece), None)
    if stray is not None:
        raise ValueError(f"{stray[:40]!r} has a brace that belongs to no placeholder")
    return template


def parse_signed(text: str) -> Template:
    """What is signed; ValueError also where it does not fix the body, or where two different calls could give the same
    text: each placeholder ends where the character after it, which it cannot hold, comes first."""
    template = parse(text)
    if not _BODIES & set(template.names):
        raise ValueError("signs nothing of the body: it needs one of " + _listed(_BODIES))
    if len(set(template.names)) != len(template.names):
        raise ValueError("has a placeholder twice")
    for name, following in list(zip(template.names, template.texts[1:], strict=True))[:-1]:
        alphabet = _ALPHABETS.get(name)
        if alphabet is None:
            raise ValueError(f"{{{name}}} may hold anything, so it must be the last placeholder")
        if not following or re.match(f"[{alphabet}]", following):
            raise ValueError(f"{{{name}}} needs a character after it that it cannot hold, such as a newline")
    return template


def parse_signature_header(text: str) -> Template:
    """How a header carries a signature; ValueError also where it could be read in two ways."""
    template = parse(text)
    for place, (name, following) in enumerate(zip(template.names, template.texts[1:], strict=True), start=1):
        is_at_end = not following and place == len(template.names)
        if not is_at_end and (not following or re.match(f"[{_ALPHABETS[name]}]", following)):
            raise ValueError(f"{{{name}}} needs a character after it that it cannot hold, such as a comma")
    if len(set(template.names)) != len(template.names):
        raise ValueError("has a placeholder twice")
    return template


def _checked(text: str, allowed: frozenset[str]) -> str:
    for name in parse(text).names:
        group = name.partition(".")[0] + "." if "." in name else name
        if group not in allowed:
            raise ValueError(f"{{{name}}} is not known here; known are {_listed(allowed)}")
    return text


def _listed(names: frozenset[str]) -> str:
    shown = sorted(name + "NAME" if name in _GROUPS else name for name in names)
    return ", ".join(f"{{{name}}}" for name in shown)


def _of(allowed: frozenset[str]) -> AfterValidator:
    return AfterValidator(functools.partial(_checked, allowed=allowed))


def _signed(text: str) -> str:
    parse_signed(text)
    return text


def _signature_header(text: str) -> str:
    parse_signature_header(text)
    return text


_Text = Annotated[str, StringConstraints(max_length=TEXT_LENGTH_MAX)]
# Of a path all that stands between placeholders goes as it is: it is what URLs may hold, percent-encoded already.
_Path = Annotated[str, StringConstraints(max_length=TEXT_LENGTH_MAX, pattern=r"^/[A-Za-z0-9_.~/?&=%:@,;+{}-]*$")]
PathTemplate = Annotated[_Path, _of(IN_PATH)]
StatementPathTemplate = Annotated[_Path, _of(IN_STATEMENT_PATH)]
HeaderTemplate = Annotated[
    str, StringConstraints(min_length=1, max_length=TEXT_LENGTH_MAX, pattern=r"^[ -~]*$"), _of(IN_HEADER)
]
BodyTemplate = Annotated[_Text, _of(IN_BODY)]
SignedRequestTemplate = Annotated[_Text, _of(IN_SIGNED_REQUEST), AfterValidator(_signed)]
SignedByProviderTemplate = Annotated[_Text, _of(IN_SIGNED_BY_PROVIDER), AfterValidator(_signed)]
SignatureHeaderTemplate = Annotated[
    str,
    StringConstraints(min_length=1, max_length=TEXT_LENGTH_MAX, pattern=r"^[ -~]*$"),
    _of(IN_SIGNATURE_HEADER),
    AfterValidator(_signature_header),
]
