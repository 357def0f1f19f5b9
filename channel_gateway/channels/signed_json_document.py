"""JSON as it comes from outside: read strictly, numbers as they are written, one value to a key; and JSON paths.

A path is keys joined by dots, ``payment.amount.value``; a number picks from a list, ``results.0.state``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import msgspec
from pydantic import StringConstraints

DEPTH_MAX = 8
_NUMBER_LENGTH_MAX = 40
_SEGMENT = r"[A-Za-z0-9_@$-]{1,64}"

JsonPath = Annotated[str, StringConstraints(pattern=rf"^{_SEGMENT}(\.{_SEGMENT}){{0,{DEPTH_MAX - 1}}}$")]


class DocumentInvalid(Exception):
    """Not JSON, or not as it was declared; the message holds nothing of it."""


class Number(str):
    """A JSON number as it is written."""

    __slots__ = ()


Scalar = str | bool  # a string, a Number, true or false


def parse_document(body: bytes) -> Any:
    """The value; DocumentInvalid for anything but UTF-8 JSON, for NaN, long numbers, depth, and a key that comes twice:
    two readers could take different values of it."""
    try:
        return _DECODER.decode(body.decode())
    except (ValueError, RecursionError):
        raise DocumentInvalid("not JSON") from None


def find(document: Any, path: str) -> Scalar | None:
    """What stands at ``path``; None for nothing, null or the empty string; DocumentInvalid for an object or list."""
    value = document
    for segment in path.split("."):
        if isinstance(value, dict):
            value = value.get(segment)
        elif isinstance(value, list) and segment.isdecimal() and len(segment) < 4 and int(segment) < len(value):
            value = value[int(segment)]
        else:
            return None
    if isinstance(value, dict | list):
        raise DocumentInvalid(f"{path} is not a single value")
    scalar: Scalar | None = value
    return None if scalar == "" else scalar


def find_text(document: Any, path: str) -> str | None:
    """As ``find``, as text: ``true`` and ``false`` by their names, numbers as they are written."""
    value = find(document, path)
    return value if value is None else text_of(value)


def text_of(value: Scalar) -> str:
    """A single value as text."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def build_document(values: Mapping[str, Any]) -> bytes:
    """The compact JSON object with each value at its path, in order."""
    root: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split(".")
        table = root
        for segment in parents:
            table = table.setdefault(segment, {})
        table[last] = value
    return msgspec.json.encode(root)


def colliding(paths: list[str]) -> str:
    """A path that leads through another one of ``paths``; empty where none does."""
    known = set(paths)
    for path in paths:
        segments = path.split(".")
        if any(".".join(segments[:depth]) in known for depth in range(1, len(segments))):
            return path
    return ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key comes twice")
    return table


def _number(text: str) -> Number:
    if len(text) > _NUMBER_LENGTH_MAX:
        raise ValueError("a number beyond all bounds")
    return Number(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError("not a number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_number, parse_int=_number, parse_constant=_no_constant
)
