"""Stripe's encoding of parameters: ``a[b]=c`` is a key in a map, ``a[0]=b`` an element of a list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_KEY = re.compile(r"\[([^\]]*)\]")


def parse(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The parameters as maps in maps; lists are given as lists."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        name, *inner = [key.split("[", 1)[0], *_KEY.findall(key)]
        place = found
        for step in inner:
            place = place.setdefault(name, {})
            name = step or str(len(place))
        place[name] = value
    return {name: _listed(value) for name, value in found.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _listed(item) for name, item in value.items()}
    return list(inner.values()) if inner and all(name.isdigit() for name in inner) else inner


def truth(value: Any) -> bool:
    """A boolean parameter."""
    return str(value).lower() == "true"
