"""Stripe's balance transactions of a day as JSON lines, page by page: what recon reads as ``stripe_balance``.

A line is Stripe's own object with its source in it, both cut down to what matching needs, amounts in Stripe's units;
and beside them ``metadata``, which names the channel order. For the most part that is the metadata of the source. A
capture is not named by its charge, which has the metadata of the authorisation: its payment intent is read for it.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

import msgspec
import stripe
import structlog

from channel_gateway.channel_order import ChannelOrderKind
from channel_gateway.channels.base import StatementUnreadable
from channel_gateway.channels.stripe_http import Unanswered, Unreachable
from channel_gateway.channels.stripe_objects import (
    KIND_KEY,
    ORDER_KEY,
    Intent,
    Page,
    T,
    read,
)
from channel_gateway.channels.stripe_outcomes import captures_of
from paykit.ids import is_id

log = structlog.get_logger(__name__)

_PAGE_SIZE = 100
_ATTEMPTS = 4  # of a page: reading is harmless, and a day has many
_INTENTS_AT_ONCE = 8
_DAY_S = 86_400

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_]+$")]
_Signed = Annotated[int, msgspec.Meta(ge=-(10**15), le=10**15)]
_Word = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[a-z0-9_.]*$")]


class Source(msgspec.Struct, frozen=True):
    """What moved the balance."""

    id: _Id
    object: _Word = ""
    amount: _Signed | None = None
    currency: _Word | None = None
    payment_intent: _Id | None = None
    metadata: dict[str, str] | None = None

    def told(self, key: str) -> str:
        """What the metadata says; empty where it says nothing."""
        return (self.metadata or {}).get(key, "")


class Transaction(msgspec.Struct, frozen=True):
    """A movement of the balance."""

    id: _Id
    type: _Word
    amount: _Signed
    fee: _Signed
    net: _Signed
    currency: _Word
    created: int
    available_on: int
    status: _Word
    reporting_category: _Word = ""
    exchange_rate: float | None = None
    source: Source | _Id | None = None

    def moved_by(self) -> Source | None:
        """Its source; of what Stripe does not show here, the id alone."""
        return Source(id=self.source) if isinstance(self.source, str) else self.source


class Line(msgspec.Struct, frozen=True):
    """One line of the statement."""

    id: str
    object: str
    type: str
    reporting_category: str
    amount: int
    fee: int
    net: int
    currency: str
    created: int
    available_on: int
    status: str
    exchange_rate: float | None
    source: Source | None
    metadata: dict[str, str]


async def lines(
    api: stripe.V1Services, channel: str, date: datetime.date, retry_delay_s: float
) -> AsyncGenerator[bytes, None]:
    """The lines of a UTC day, a page at a time, newest first as Stripe lists them; StatementUnreadable."""
    start_s = int(datetime.datetime.combine(date, datetime.time(), datetime.UTC).timestamp())
    created: Any = {"gte": start_s, "lt": start_s + _DAY_S}
    after: str | None = None
    encode = msgspec.json.Encoder().encode_lines
    while True:
        params: Any = {"created": created, "limit": _PAGE_SIZE, "expand": ["data.source"]}
        if after is not None:
            params["starting_after"] = after
        list_page = functools.partial(api.balance_transactions.list_async, params)
        page = _form(await _read(list_page, channel, retry_delay_s), Page)
        transactions = [_form(item, Transaction) for item in page.data]
        if any(not start_s <= transaction.created < start_s + _DAY_S for transaction in transactions):
            raise StatementUnreadable("a transaction of another day")
        if transactions:
            captures = await _captures(api, channel, transactions, retry_delay_s)
            yield encode([_line(transaction, captures) for transaction in transactions])
        if not page.has_more:
            return
        if not transactions or transactions[-1].id == after:
            raise StatementUnreadable("a list that does not go on")
        after = transactions[-1].id


async def _captures(
    api: stripe.V1Services, channel: str, transactions: list[Transaction], retry_delay_s: float
) -> dict[str, dict[str, int]]:
    """The captures, by channel order id, of each authorisation among the sources, by payment intent."""
    sources = [transaction.moved_by() for transaction in transactions]
    wanted = {
        source.payment_intent
        for source in sources
        if source is not None and source.payment_intent and _is_authorization(source)
    }
    places = asyncio.Semaphore(_INTENTS_AT_ONCE)

    async def captures(reference: str) -> tuple[str, dict[str, int]]:
        async with places:
            said = await _read(lambda: api.payment_intents.retrieve_async(reference), channel, retry_delay_s)
        return reference, captures_of(_form(said, Intent))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(captures(reference)) for reference in sorted(wanted)]
    except* StatementUnreadable:
        raise StatementUnreadable("a payment intent of it is refused") from None
    return dict(task.result() for task in tasks)


def _is_authorization(source: Source) -> bool:
    return source.object == "charge" and source.told(KIND_KEY) == ChannelOrderKind.AUTHORIZE


def _line(transaction: Transaction, captures: dict[str, dict[str, int]]) -> Line:
    source = transaction.moved_by()
    order_id = _order_of(transaction, captures)
    return Line(
        id=transaction.id,
        object="balance_transaction",
        type=transaction.type,
        reporting_category=transaction.reporting_category,
        amount=transaction.amount,
        fee=transaction.fee,
        net=transaction.net,
        currency=transaction.currency,
        created=transaction.created,
        available_on=transaction.available_on,
        status=transaction.status,
        exchange_rate=transaction.exchange_rate,
        # No metadata of it: others may have put into it what is none of recon's business.
        source=None if source is None else msgspec.structs.replace(source, metadata=None),
        metadata={ORDER_KEY: order_id} if order_id else {},
    )


def _order_of(transaction: Transaction, captures: dict[str, dict[str, int]]) -> str:
    """The channel order that moved this; empty where it was none of ours, or which one cannot be told.

    Of several captures of one authorisation it is told by the amount, where no other has the same.
    """
    source = transaction.moved_by()
    if source is None:
        return ""
    if not _is_authorization(source):
        order_id = source.told(ORDER_KEY)
        return order_id if is_id(order_id, "chn") else ""
    taken = captures.get(source.payment_intent or "", {})
    fitting = [order_id for order_id, amount in taken.items() if len(taken) == 1 or amount == transaction.amount]
    return fitting[0] if len(fitting) == 1 else ""


async def _read(call: Callable[[], Awaitable[stripe.StripeObject]], channel: str, retry_delay_s: float) -> Any:
    """The answer as plain data. What may be over in a moment is asked again; StatementUnreadable."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            await asyncio.sleep(retry_delay_s * 2 ** (attempt - 1))
        try:
            return (await call()).to_dict()
        except stripe.StripeError as error:
            log.warning("statement_page_refused", channel=channel, http_status=error.http_status, attempt=attempt)
            if not _is_passing(error):
                break
        except Exception as error:
            # The SDK stumbled over the answer: its traceback would show it.
            raise StatementUnreadable(f"an answer that cannot be read: {type(error).__name__}") from None
    raise StatementUnreadable("a page of it is refused")


def _is_passing(error: stripe.StripeError) -> bool:
    status = error.http_status
    return isinstance(error, Unreachable | Unanswered) or status in (409, 429) or (status is not None and status >= 500)


def _form(said: Any, type_: type[T]) -> T:
    found = read(said, type_)
    if found is None:
        raise StatementUnreadable("not of the form it has")
    return found
