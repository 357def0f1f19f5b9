"""Goes on with repairs: asks providers, outside any transaction and within the limits of their lanes."""

from __future__ import annotations

from sqlalchemy import select

from channel_gateway import doubt as doubts
from channel_gateway import stray
from channel_gateway.channel_order import ChannelOrderKind, ChannelOrderState
from channel_gateway.compensation_commands import (
    AnswerDoubtAsRepair,
    DoubtAnother,
    EndOrAskLater,
    GiveBack,
    LookAtRefund,
    TakeAnswer,
    is_of_another,
)
from channel_gateway.doubt import DoubtState
from channel_gateway.tables import ChannelDoubt, ChannelOrder, Compensation
from channel_gateway.worker import Dispatcher, Lane
from paykit.compensation import CompensationState, Outcome, request_of
from paykit.context import current
from paykit.events.timers import Timer
from paykit.ids import is_id, slot_in
from paykit.store.command import Origin
from paykit.store.store import Store

_UNSENT = frozenset({ChannelOrderState.ACCEPTED.value, ChannelOrderState.SENDING.value})


class Compensating:
    """The timer of repairs. Every step is stored with its due time; a process that dies is followed by another."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def timer(self) -> Timer[Compensation]:
        """Fires on ``compensation.due_at_ms``."""
        return Timer("compensation_due", Compensation, self.fire)

    async def fire(self, row: Compensation) -> None:
        """Takes the next step of a repair."""
        if row.state == CompensationState.WAITING:
            await self._store.run(LookAtRefund(Origin.timer(current()), row))
        elif row.kind == "REFUND":
            await self._give_back(row)
        else:
            await self._query(row)

    async def _query(self, row: Compensation) -> None:
        request = request_of(row)
        doubt = await self._doubt(row, request.subject_id)
        if doubt is not None:
            await self._query_doubt(row, doubt)
            return
        order = await self._order(row, request.channel_order_id, request.instruction_id)
        if order is None:
            await self._end(row, Outcome.NOTHING_TO_DO, "there is no such channel order")
        elif order.state in _UNSENT:
            await self._end(row, None, f"{order.id} is {order.state}")
        elif is_of_another(order, request):
            await self._store.run(
                DoubtAnother(Origin.timer(current()), row, order.id, self._lane(request.channel).channel.policy)
            )
        else:
            lane = self._lane(order.channel)
            asked_at_ms = self._store.clock.now_ms()
            answer = await lane.ask(row.id, order)
            if answer is None:
                await self._end(row, None, f"{order.channel} has no room for a question now")
                return
            origin = Origin.timer(current())
            await self._store.run(TakeAnswer(origin, row, order.id, lane.channel.policy, answer, asked_at_ms))

    async def _query_doubt(self, row: Compensation, doubt: ChannelDoubt) -> None:
        order = await self._order(row, doubt.channel_order_id, "")
        if doubt.state != DoubtState.OPEN or order is None:
            await self._end(row, Outcome.NOTHING_TO_DO, f"{doubt.id} is {doubt.state} already")
            return
        lane = self._lane(doubt.channel)
        asked_at_ms = self._store.clock.now_ms()
        answer = await lane.ask(row.id, doubts.question(order, doubt))
        if answer is None:
            await self._end(row, None, f"{doubt.channel} has no room for a question now")
            return
        origin = Origin.timer(current())
        await self._store.run(AnswerDoubtAsRepair(origin, row, doubt, lane.channel.policy, answer, asked_at_ms))

    async def _give_back(self, row: Compensation) -> None:
        """Asks the provider once more that the charge stands; what gives it back is ordered in one transaction."""
        doubt = await self._doubt(row, request_of(row).subject_id)
        order = None if doubt is None else await self._order(row, doubt.channel_order_id, "")
        followers = [] if order is None else await self._followers(order)
        flaw = stray.flaw(doubt, order, followers)
        if flaw is None:
            assert doubt is not None
            assert order is not None
            lane = self._lane(doubt.channel)
            if ChannelOrderKind.REFUND not in lane.channel.operations:
                flaw = stray.Verdict(Outcome.REFUSED, f"{doubt.channel} gives nothing back")
            else:
                flaw = stray.stands(doubt, await lane.ask(row.id, doubts.question(order, doubt)))
        if flaw is not None:
            await self._end(row, *flaw)
            return
        assert doubt is not None
        await self._store.run(GiveBack(Origin.timer(current()), row, doubt))
        made = await self._order(row, "", row.repair_id)
        if made is not None and made.state == ChannelOrderState.ACCEPTED:
            self._lane(made.channel).offer(made)

    def _lane(self, channel: str) -> Lane:
        return self._dispatcher.lane(current().mode, channel)

    async def _end(self, row: Compensation, outcome: Outcome | None, detail: str) -> None:
        await self._store.run(EndOrAskLater(Origin.timer(current()), row, outcome, detail))

    async def _doubt(self, row: Compensation, doubt_id: str) -> ChannelDoubt | None:
        if not is_id(doubt_id, "dbt") or slot_in(doubt_id) != row.slot:
            return None
        return await self._store.get(ChannelDoubt, doubt_id, slot=row.slot, shadow=current().shadow)

    async def _order(self, row: Compensation, order_id: str, instruction_id: str) -> ChannelOrder | None:
        for id_, column in ((order_id, "id"), (instruction_id, "instruction_id")):
            if is_id(id_) and slot_in(id_) == row.slot:
                found = await self._store.get(ChannelOrder, id_, column, slot=row.slot, shadow=current().shadow)
                if found is not None:
                    return found
        return None

    async def _followers(self, order: ChannelOrder) -> list[ChannelOrder]:
        table = ChannelOrder.__table__
        statement = select(table).where(table.c.original_channel_order_id == order.id)
        return await self._store.fetch(ChannelOrder, statement, slot=order.slot, shadow=current().shadow)
