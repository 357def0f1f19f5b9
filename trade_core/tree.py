"""The tree: a whole order by any of its ids, over all services."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

import structlog
from sqlalchemy import select

from paykit import ops
from paykit.clock import Clock
from paykit.context import BusinessContext, current
from paykit.errors import ConfigurationError, DeadlineExceeded, MeshError, NotFound
from paykit.ids import is_id, slot_in
from paykit.store.row import Row
from paykit.store.store import Store
from paymesh.channel.v1.channel_order_pb2 import ChannelOrder
from paymesh.pay.v1 import pay_service_pb2
from paymesh.recon.v1 import repair_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from trade_core import wire
from trade_core.order_rows import TRADES_MAX, read_order
from trade_core.peers import CHANNEL_GATEWAY, PAY_CORE, RECON, Peers
from trade_core.tables import PayAttempt, Trade, TradeLine, TradeRelation
from trade_core.wire import TradeView

# Who knows what an id of another service belongs to. Anything else is asked of the gateway: a provider's reference.
_OWNERS = {
    "pay": PAY_CORE,
    "ins": PAY_CORE,
    "jnl": PAY_CORE,
    "hld": PAY_CORE,
    "cas": PAY_CORE,
    "chn": CHANNEL_GATEWAY,
    "ntf": CHANNEL_GATEWAY,
    "brk": RECON,
    "rpr": RECON,
    "adj": PAY_CORE,
    "mat": RECON,
}
_LOCAL: dict[str, tuple[type[Row], str]] = {
    "att": (PayAttempt, "trade_id"),
    "lin": (TradeLine, "trade_id"),
    "rel": (TradeRelation, "parent_trade_id"),
}
_SHARE = 0.5  # of the time left that one part may take while others come after it

A = TypeVar("A")

_log = structlog.get_logger(__name__)


class _Start(NamedTuple):
    """Where a tree is entered: trades of one slot, or a business id on it."""

    slot: int
    trade_ids: tuple[str, ...] = ()
    biz_ids: tuple[str, ...] = ()


class TradeTree:
    """Reads whole orders."""

    def __init__(self, store: Store, peers: Peers, clock: Clock, wait_max_s: float, margin_s: float) -> None:
        """``wait_max_s``: how long the other services are waited for at most; ``margin_s``: kept of a deadline."""
        self._store = store
        self._peers = peers
        self._clock = clock
        self._wait_max_s = wait_max_s
        self._margin_s = margin_s

    async def get(self, id_: str) -> pb.GetTradeTreeResponse:
        """The order that ``id_`` belongs to: an id of any service, a provider's reference, or the business id.

        An order is all trades of one buyer that hang together by relations or share a business id; a business id that
        was given to orders of several buyers finds all of theirs.

        What it is consistent in, while the order changes: the trades, lines, attempts and relations are of one moment;
        so are the payments with their instructions, cases and the journals of their slot's shard, of a later moment;
        journals elsewhere, channel orders, and then breaks and the timeline are read after that, in this order. A
        service tells another what it did only when that is durable, and trade_core is told last: so whatever an earlier
        part refers to is in a later one. The payment of an attempt that names one is there; the journal of an
        instruction that moved money is there; the channel order of an instruction that names one is there. A later part
        may show more than an earlier one refers to: a refund's payment always comes after its trade was written, but
        may have done more than the trade has heard of, and the timeline may name a trade that was not yet there. The
        versions and states say how far each had come.

        ``missing_parts`` names what could not be asked in time, as "service: reason"; that part is empty then. Without
        pay_core, the channel orders are those of the payments that attempts name. NotFound (TRADE_TREE_NOT_FOUND);
        FailedPrecondition (TREE_TOO_LARGE); the error of the service that alone knows what ``id_`` belongs to.
        """
        context = current()
        budget = _Budget(self._wait_s(context))
        views: list[TradeView] = []
        for start in await self._starts(id_, context.shadow, budget):
            views += await read_order(self._store, start.slot, start.trade_ids, start.biz_ids, shadow=context.shadow)
        if not views:
            raise _not_found(id_)
        response = pb.GetTradeTreeResponse(trades=[wire.trade(view) for view in views])
        missing = _Missing()
        await self._add_payments(response, views, budget, missing)
        await self._add_channel_orders(response, views, budget, missing)
        await self._add_history(response, views, context.shadow, budget, missing)
        response.missing_parts.extend(missing.parts)
        return response

    def _wait_s(self, context: BusinessContext) -> float:
        if context.deadline_ms is None:
            return self._wait_max_s
        left_s = (context.deadline_ms - self._clock.now_ms()) / 1000
        return min(self._wait_max_s, left_s - self._margin_s)

    # Where it begins

    async def _starts(self, id_: str, shadow: bool, budget: _Budget) -> list[_Start]:
        if is_id(id_, "trd"):
            return [_Start(slot_in(id_), trade_ids=(id_,))]
        prefix = id_[:3] if is_id(id_) else ""
        if prefix in _LOCAL:
            row_type, column = _LOCAL[prefix]
            statement = select(row_type.__table__).where(row_type.__table__.c.id == id_)
            rows = await self._store.fetch(row_type, statement, slot=slot_in(id_), shadow=shadow)
            return [_Start(row.slot, trade_ids=(getattr(row, column),)) for row in rows]
        biz_id = id_ if prefix == "biz" else await self._biz_id_of(prefix, id_, shadow, budget)
        if not biz_id:
            return []
        statement = select(Trade.__table__).where(Trade.__table__.c.biz_id == biz_id).limit(TRADES_MAX)
        trades = await self._store.fetch_everywhere(Trade, statement, shadow=shadow)
        return [_Start(slot, biz_ids=(biz_id,)) for slot in sorted({trade.slot for trade in trades})]

    async def _biz_id_of(self, prefix: str, id_: str, shadow: bool, budget: _Budget) -> str:
        service = _OWNERS.get(prefix, CHANNEL_GATEWAY)
        try:
            return await self._peers.biz_id_of(service, id_, shadow, budget.share_s())
        except TimeoutError:
            raise DeadlineExceeded(f"{service}, which knows what {id_} belongs to, did not answer in time") from None

    # What the others have

    async def _add_payments(
        self, response: pb.GetTradeTreeResponse, views: Sequence[TradeView], budget: _Budget, missing: _Missing
    ) -> None:
        sources: dict[int, list[str]] = {}
        for view in views:
            for attempt in view.attempts:
                sources.setdefault(attempt.slot, []).append(attempt.id)
        asked = [self._peers.payments(source_ids, budget.share_s()) for source_ids in sources.values()]
        for found in await asyncio.gather(*(missing.unless(PAY_CORE, call) for call in asked)):
            if isinstance(found, pay_service_pb2.GetPaymentTreeResponse):
                response.payments.extend(found.payments)
                response.journals.extend(found.journals)
                response.cases.extend(found.cases)

    async def _add_channel_orders(
        self, response: pb.GetTradeTreeResponse, views: Sequence[TradeView], budget: _Budget, missing: _Missing
    ) -> None:
        ask: Callable[[Sequence[str], float], Awaitable[list[ChannelOrder]]]
        if missing.parts:
            ask = self._peers.channel_orders_of
            named = [attempt.payment_id for view in views for attempt in view.attempts if attempt.payment_id]
        else:
            ask = self._peers.channel_orders_for
            steps = (step for payment in response.payments for step in payment.instructions)
            named = [step.instruction_id for step in steps if step.channel]
        if named:
            asked = ask(named, budget.share_s())
            response.channel_orders.extend(await missing.unless(CHANNEL_GATEWAY, asked) or ())

    async def _add_history(
        self,
        response: pb.GetTradeTreeResponse,
        views: Sequence[TradeView],
        shadow: bool,
        budget: _Budget,
        missing: _Missing,
    ) -> None:
        biz_ids = list(dict.fromkeys(view.trade.biz_id for view in views))
        left_s = budget.left_s()
        services = (self._store.service, PAY_CORE, CHANNEL_GATEWAY, RECON)  # in the order in which they call each other
        asked = (missing.unless(name, self._peers.timeline(name, biz_ids, shadow, left_s)) for name in services)
        breaks, timelines = await asyncio.gather(
            missing.unless(RECON, self._peers.breaks(biz_ids, left_s)), asyncio.gather(*asked)
        )
        response.breaks.extend(breaks or ())
        if breaks:
            await self._add_repairs(response, biz_ids, budget, missing)
        response.timeline.extend(ops.merged(part or () for part in timelines))

    async def _add_repairs(
        self, response: pb.GetTradeTreeResponse, biz_ids: Sequence[str], budget: _Budget, missing: _Missing
    ) -> None:
        """The repairs, and what they gave back: those orders belong to no instruction."""
        repairs = await missing.unless(RECON, self._peers.repairs(biz_ids, budget.share_s())) or []
        response.repairs.extend(repairs)
        known = {order.channel_order_id for order in response.channel_orders}
        refunds = [r for r in repairs if r.kind == repair_pb2.REPAIR_KIND_REFUND and r.effect_id not in known]
        made = [refund.repair_id for refund in refunds if is_id(refund.effect_id, "chn")]
        if made:
            asked = self._peers.channel_orders_for(made, budget.share_s())
            response.channel_orders.extend(await missing.unless(CHANNEL_GATEWAY, asked) or ())


class _Budget:
    """The time that may be spent on the other services: who is asked first leaves something for those after."""

    def __init__(self, seconds: float) -> None:
        self._until_s = asyncio.get_running_loop().time() + seconds

    def left_s(self) -> float:
        return self._until_s - asyncio.get_running_loop().time()

    def share_s(self) -> float:
        return self.left_s() * _SHARE


class _Missing:
    """What could not be asked."""

    def __init__(self) -> None:
        self._reasons: dict[str, None] = {}

    @property
    def parts(self) -> list[str]:
        return sorted(self._reasons)

    async def unless(self, service: str, asked: Awaitable[A]) -> A | None:
        """What ``service`` answers; None, and noted, where it does not."""
        try:
            return await asked
        except MeshError as error:
            reason = error.reason
        except TimeoutError:
            reason = DeadlineExceeded.default_reason
        except ConfigurationError:
            reason = "NOT_CONFIGURED"
        self._reasons[f"{service}: {reason}"] = None
        _log.warning("tree_part_missing", asked=service, reason=reason)
        return None


def _not_found(id_: str) -> NotFound:
    return NotFound(f"no order is known by {id_}", reason="TRADE_TREE_NOT_FOUND", metadata={"id": id_})
