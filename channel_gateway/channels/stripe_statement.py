"""Stripe's balance transactions of a day as JSON lines, page by page: what recon reads as ``stripe_balance``.

A line is Stripe's own object with its source in it, both cut down to what matching needs, amounts in Stripe's units;
and beside them ``metadata``, which names the channel order. For the most part that is the metadata of the source. A
capture is not named by its charge, which has the metadata of the authorisation: its payment intent is read for it.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from stripe.params import BalanceTransactionListParams

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


_NOBODY = Source(id="none")


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
    reader = _Reader(api, channel, retry_delay_s)
    start_s = int(datetime.datetime.combine(date, datetime.time(), datetime.UTC).timestamp())
    wanted: BalanceTransactionListParams = {"created": {"gte": start_s, "lt": start_s + _DAY_S}}
    after: str | None = None
    encode = msgspec.json.Encoder().encode_lines
    while True:
        transactions, has_more = await reader.page(wanted, after)
        if any(not start_s <= transaction.created < start_s + _DAY_S for transaction in transactions):
            raise StatementUnreadable("a transaction of another day")
        if transactions:
            captures = await reader.captures(transactions)
            yield encode([_line(transaction, captures) for transaction in transactions])
        if not has_more:
            return
        if not transactions or transactions[-1].id == after:
            raise StatementUnreadable("a list that does not go on")
        after = transactions[-1].id


class _Reader:
    """Reads what a statement is made of."""

    def __init__(self, api: stripe.V1Services, channel: str, retry_delay_s: float) -> None:
        self._api = api
        self._channel = channel
        self._retry_delay_s = retry_delay_s

    async def page(
        self, wanted: BalanceTransactionListParams, after: str | None = None
    ) -> tuple[list[Transaction], bool]:
        """Transactions with their sources, and whether there are more."""
        params: BalanceTransactionListParams = {**wanted, "limit": _PAGE_SIZE, "expand": ["data.source"]}
        if after is not None:
            params["starting_after"] = after
        said = await self._read(functools.partial(self._api.balance_transactions.list_async, params))
        page = _form(said, Page)
        return [_form(item, Transaction) for item in page.data], page.has_more

    async def captures(self, transactions: list[Transaction]) -> dict[str, str]:
        """The channel orders of the captures among ``transactions``, by transaction."""
        sources = (transaction.moved_by() for transaction in transactions)
        charges = {source.id: source.payment_intent for source in sources if source is not None and _is_capture(source)}
        places = asyncio.Semaphore(_INTENTS_AT_ONCE)

        async def of_one(charge: str, reference: str) -> dict[str, str]:
            async with places:
                return await self._of_charge(charge, reference, transactions)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(of_one(charge, r)) for charge, r in sorted(charges.items()) if r]
        except* StatementUnreadable:
            raise StatementUnreadable("a payment intent of it is refused") from None
        return {transaction: order for task in tasks for transaction, order in task.result().items()}

    async def _of_charge(self, charge: str, reference: str, transactions: list[Transaction]) -> dict[str, str]:
        """As ``captures``, of one charge. Where it was captured more than once, all of its transactions are looked at,
        so that each of them gets the same order on whatever day it is told."""
        said = await self._read(functools.partial(self._api.payment_intents.retrieve_async, reference))
        taken = captures_of(_form(said, Intent))
        if len(taken) > 1:
            transactions, _ = await self.page({"source": charge})
        return pair(taken, [one for one in transactions if (one.moved_by() or _NOBODY).id == charge])

    async def _read(self, call: Callable[[], Awaitable[stripe.StripeObject]]) -> Any:
        """The answer as plain data. What may be over in a moment is asked again; StatementUnreadable."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._retry_delay_s * 2 ** (attempt - 1))
            try:
                return (await call()).to_dict()
            except stripe.StripeError as error:
                status = error.http_status
                log.warning("statement_page_refused", channel=self._channel, http_status=status, attempt=attempt)
                if not _is_passing(error):
                    break
            except Exception as error:
                # The SDK stumbled over the answer: its traceback would show it.
                raise StatementUnreadable(f"an answer that cannot be read: {type(error).__name__}") from None
        raise StatementUnreadable("a page of it is refused")


def pair(taken: Mapping[str, int], transactions: Sequence[Transaction]) -> dict[str, str]:
    """Which capture each transaction of a charge is. ``taken``: what each took, by channel order id.

    Among captures of the same amount any order is as true as another, and must be the same each time: the earlier
    transaction is the earlier order. Where there are not as many of both, none is named.
    """
    if len(taken) == 1:
        return {transaction.id: order_id for transaction in transactions for order_id in taken}
    found: dict[str, str] = {}
    for amount in set(taken.values()):
        orders = sorted(order_id for order_id, took in taken.items() if took == amount)
        moved = sorted((one.created, one.id) for one in transactions if one.amount == amount)
        if len(orders) == len(moved):
            found |= {transaction_id: order_id for (_, transaction_id), order_id in zip(moved, orders, strict=True)}
    return found


def _is_capture(source: Source) -> bool:
    return source.object == "charge" and source.told(KIND_KEY) == ChannelOrderKind.AUTHORIZE


def _line(transaction: Transaction, captures: Mapping[str, str]) -> Line:
    source = transaction.moved_by()
    order_id = _order_of(transaction.id, source, captures)
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


def _order_of(transaction_id: str, source: Source | None, captures: Mapping[str, str]) -> str:
    """The channel order that moved this; empty where it was none of ours, or which one cannot be told."""
    if source is None:
        return ""
    order_id = captures.get(transaction_id, "") if _is_capture(source) else source.told(ORDER_KEY)
    return order_id if is_id(order_id, "chn") else ""


def _is_passing(error: stripe.StripeError) -> bool:
    status = error.http_status
    return isinstance(error, Unreachable | Unanswered) or status in (409, 429) or (status is not None and status >= 500)


def _form(said: Any, type_: type[T]) -> T:
    found = read(said, type_)
    if found is None:
        raise StatementUnreadable("not of the form it has")
    return found
