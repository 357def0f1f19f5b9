"""What the contract suite needs of a kind of channel: its own real provider over HTTP, settings, tokens, a signer."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
from aiohttp import web

from channel_gateway.channel_settings import ChannelSettings
from channel_gateway.tables import ChannelOrder

TIMEOUT_S = 0.6  # of the checks that wait for one


class Does(StrEnum):
    """How an order goes at the provider, whatever it calls that itself."""

    SUCCEED = "SUCCEED"
    DECLINE = "DECLINE"  # the card is declined
    HANG = "HANG"  # nothing is booked, and no answer comes within the timeout
    BOOK_AND_HANG = "BOOK_AND_HANG"
    BOOK_AND_DROP = "BOOK_AND_DROP"  # the connection is closed without an answer
    BOOK_AND_ERROR = "BOOK_AND_ERROR"  # the answer is a 5xx
    NOTIFY = "NOTIFY"  # the reply says pending, a notification that it succeeded
    NOTIFY_TWICE = "NOTIFY_TWICE"  # the same, delivered twice
    NOTIFY_WRONG_AMOUNT = "NOTIFY_WRONG_AMOUNT"  # the same, with one unit more in the notification
    PAY_MORE = "PAY_MORE"  # the customer pays 5.00 more
    CARD_EXPIRED = "CARD_EXPIRED"
    AUTH_EXPIRED = "AUTH_EXPIRED"  # of a capture: the authorisation has lapsed


class Feature(StrEnum):
    """What a provider may lack, and then its rig says so. Operations it lacks are those its settings leave out."""

    CARD_EXPIRY = "CARD_EXPIRY"  # refunds to expired cards fail
    AUTH_EXPIRY = "AUTH_EXPIRY"
    MANY_CAPTURES = "MANY_CAPTURES"  # of one authorisation
    OTHER_AMOUNT = "OTHER_AMOUNT"  # a charge may bring another amount
    LIVEMODE = "LIVEMODE"  # it says in notifications for which mode they are
    NOTIFIED_TWICE = "NOTIFIED_TWICE"  # the test provider can repeat a notification
    WRONG_AMOUNT = "WRONG_AMOUNT"  # the test provider can lie in a notification


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes


class Notice(msgspec.Struct, frozen=True):
    """A notification as it came over HTTP; ``headers`` are compared without case."""

    headers: Mapping[str, str]
    body: bytes


class Inbox:
    """An HTTP endpoint that takes notifications: each in ``notices``."""

    def __init__(self) -> None:
        self.notices: asyncio.Queue[Notice] = asyncio.Queue()
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> Self:
        application = web.Application()
        application.router.add_post("/", self._take)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.notices.put_nowait(Notice(request.headers, await request.read()))
        return web.Response(text="success")


class Rig(abc.ABC):
    """One provider to show the contract against. Notifications of it arrive in ``inbox``."""

    kind: ClassVar[str]  # its entry in CHANNELS; a kind may have several rigs
    lacks: ClassVar[frozenset[Feature]] = frozenset()
    # What this channel calls a failure for which the suite has another name.
    reasons: ClassVar[Mapping[str, str]] = {}
    currency: ClassVar[str] = "EUR"
    # Settings with which it hands statements over, where it has any.
    statements: ClassVar[Mapping[str, Any]] = {}
    wrong_key: Mapping[str, Any] = {"value": "wrong"}  # an api_key that the provider does not accept
    # Where signatures stand in the body, nonsense cannot be signed: it is refused for want of one.
    signs_bodies: ClassVar[bool] = False

    def __init__(self, folder: Path, inbox: Inbox) -> None:
        self.folder = folder
        self.inbox = inbox

    @abc.abstractmethod
    async def start(self) -> None:
        """Starts the provider; its notifications go to the inbox."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """Ends it."""

    @abc.abstractmethod
    def settings(self, **changes: Any) -> ChannelSettings:
        """A channel to the provider, with a shadow account; ``changes`` to keys of the live one."""

    @abc.abstractmethod
    def token(
        self, does: Does, *, refund: Does | None = None, capture: Does | None = None, void: Does | None = None
    ) -> str:
        """A token whose orders go like that, and those that follow them."""

    @abc.abstractmethod
    def sign(self, body: bytes, *, key: str = "new", shadow: bool = False, age_s: float = 0) -> Mapping[str, str]:
        """The headers of a notification that was signed so long ago: with the account's ``new`` key, with its ``old``
        one, which is still accepted, or with one that is ``unknown``."""

    def sealed(self, body: bytes, *, key: str = "new", shadow: bool = False, age_s: float = 0) -> Notice:
        """A notification so signed; its body is another one where the signature stands in it."""
        return Notice(self.sign(body, key=key, shadow=shadow, age_s=age_s), body)

    def forged(self, notice: Notice) -> Mapping[str, Notice]:
        """Notifications that look like ``notice`` and are not signed rightly, by what is wrong with them."""
        names = self.sign(notice.body)
        return {
            "a byte more": Notice(notice.headers, notice.body + b" "),
            "a byte less": Notice(notice.headers, notice.body[:-1]),
            "unsigned": Notice({}, notice.body),
            "empty": Notice(dict.fromkeys(names, ""), notice.body),
            "malformed": Notice(dict.fromkeys(names, "\xff,;=\u00e9"), notice.body),
        }

    @abc.abstractmethod
    def truth(self, order: ChannelOrder, asks: str) -> Answer:
        """How the provider answers that the charge ``order`` succeeded: to the charge itself (``asks`` CHARGE), or to
        a QUERY."""

    @abc.abstractmethod
    def lies(self, order: ChannelOrder, asks: str) -> Mapping[str, Answer]:
        """Answers in its form, signed as it signs, that cannot be true; by name, those of LIES among them."""


# What every rig has a lie for: it names another order, a state nobody knows, and amounts and references out of form.
LIES = frozenset({"other order", "unknown state", "fractional amount", "strange reference"})
