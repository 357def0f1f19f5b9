"""What the book can be asked, and how it refuses."""

from __future__ import annotations

import msgspec

from channel_gateway.sandbox.behaviour import Behaviour
from channel_gateway.sandbox.entries import Decision, Deed, Entry, OrderRequest


class Placed(msgspec.Struct, frozen=True):
    """What became of an order: new (``decision``), or the same as before (``earlier``)."""

    decision: Decision | None
    earlier: Entry | None


class IdempotencyConflict(Exception):
    """The key, or the reference, was used for another body."""


class NotPending(Exception):
    """The order is settled, or no customer is asked about it: nothing was done."""


class BookBusy(Exception):
    """Too many operations wait already; nothing was done."""


class BookClosed(Exception):
    """The book is closed."""


class Place(msgspec.Struct, frozen=True):
    """Decide and book an order."""

    request: OrderRequest
    forced: Behaviour | None


class Find(msgspec.Struct, frozen=True):
    """The entry of an account's reference."""

    account: str
    reference: str


class CustomerDecision(msgspec.Struct, frozen=True):
    """Confirm or decline a pending order as its customer."""

    reference: str
    confirms: bool


class Due(msgspec.Struct, frozen=True):
    """Notifications due at ``now_ms``, up to ``page_size``."""

    now_ms: int
    page_size: int


class Mark(msgspec.Struct, frozen=True):
    """How a delivery went: the notification as it now is."""

    id: str
    state: str
    due_at_ms: int
    attempt_count: int


class Page(msgspec.Struct, frozen=True):
    """Entries after a sequence number, as they are there at ``now_ms``."""

    after: int
    page_size: int
    now_ms: int


class Deeds(msgspec.Struct, frozen=True):
    """Deeds after a sequence number."""

    after: int
    page_size: int


Asked = Place | Find | CustomerDecision | Due | Mark | Page | Deed | Deeds
