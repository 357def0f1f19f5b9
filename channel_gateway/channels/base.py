"""What the gateway needs of a channel: what it declares to do, its operations, and reading its notifications."""

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

import msgspec

from channel_gateway.channel_order import ChannelOrderKind, ChannelPolicy, ProviderResult
from channel_gateway.tables import ChannelOrder


class NotificationInvalid(Exception):
    """A notification that is signed rightly and yet makes no sense; the message holds nothing of its body."""


class NotificationIrrelevant(Exception):
    """A notification that is signed rightly and speaks of nothing that was sent from here: acknowledged, not stored."""


class StatementNotReady(Exception):
    """The provider does not have that day's statement yet."""


class StatementUnreadable(Exception):
    """The provider does not hand the statement over, or not as it should; the message holds nothing of its answer."""


class ReceivedNotification(msgspec.Struct, frozen=True, kw_only=True):
    """A verified notification: the provider's id for it, the channel order it names, and what it says."""

    notification_id: str
    channel_order_id: str
    result: ProviderResult


class Channel(Protocol):
    """One account at one provider. Its operations never raise for what the world does: that is their result.

    An operation answers within ``timeout_s`` of the channel's settings. NOT_SENT means that nothing can have been
    done; whatever is not certain is UNKNOWN.
    """

    name: str
    operations: frozenset[ChannelOrderKind]  # what it declares to do
    captures_max: int  # how often it can capture one authorisation
    policy: ChannelPolicy
    statement_format: str | None  # what recon reads its statements as; None where it has none

    async def start(self) -> None:
        """Opens what calls need."""
        ...

    async def stop(self) -> None:
        """Closes it."""
        ...

    async def charge(self, order: ChannelOrder) -> ProviderResult:
        """Takes money from the card or account behind ``order.token``."""
        ...

    async def refund(self, order: ChannelOrder) -> ProviderResult:
        """Gives money of the charge or capture ``order.original_provider_reference`` back."""
        ...

    async def payout(self, order: ChannelOrder) -> ProviderResult:
        """Sends money to the bank account behind ``order.token``."""
        ...

    async def authorize(self, order: ChannelOrder) -> ProviderResult:
        """Reserves money on the card or account behind ``order.token``."""
        ...

    async def capture(self, order: ChannelOrder) -> ProviderResult:
        """Takes money that ``order.original_provider_reference`` reserved.

        Where the channel captures once only, what is not taken is given up with it.
        """
        ...

    async def void(self, order: ChannelOrder) -> ProviderResult:
        """Gives up what ``order.original_provider_reference`` still reserves. A success where nothing is reserved any
        more; a failure where part of the amount was captured."""
        ...

    async def query(self, order: ChannelOrder) -> ProviderResult:
        """Asks what became of an order; NOT_FOUND where the provider says that it does not know it."""
        ...

    def read_notification(self, body: bytes, headers: Mapping[str, str], now_s: float) -> ReceivedNotification:
        """Verifies and reads a notification; SignatureInvalid, NotificationInvalid."""
        ...

    def statement(self, date: datetime.date) -> AsyncGenerator[bytes, None]:
        """The account's statement of a UTC day in ``statement_format``, in pieces as they come; memory stays bounded.

        StatementNotReady; StatementUnreadable, also after the first pieces: only a stream that ends is whole.
        Closing it ends the call to the provider.
        """
        ...


class WithoutStatements:
    """The part of a channel whose provider has no statements."""

    statement_format: str | None = None

    def statement(self, date: datetime.date) -> AsyncGenerator[bytes, None]:
        """Nobody asks, for there is no format."""
        raise AssertionError("a channel without a statement format was asked for a statement")
