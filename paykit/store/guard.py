"""Asserts that no other service and no provider is called while a transaction is open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_in_transaction: ContextVar[bool] = ContextVar("in_transaction", default=False)


@contextlib.contextmanager
def transaction_open() -> Iterator[None]:
    """Marks the block as running inside a transaction."""
    token = _in_transaction.set(True)
    try:
        yield
    finally:
        _in_transaction.reset(token)


def assert_outside_transaction() -> None:
    """Raises where a transaction is open in this task: an outside call would hold its locks for as long as it takes."""
    if _in_transaction.get():
        raise AssertionError("an outside call inside a transaction")
