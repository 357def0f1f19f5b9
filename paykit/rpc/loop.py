"""The event loop every process runs on."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs ``main`` on a new uvloop and gives its result. Create gRPC objects inside it, never before a fork."""
    return uvloop.run(main)
