"""Breaks to repair, and the people who do, for the tests of repairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import select

from paykit.context import BusinessContext
from paykit.ids import is_id, slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key
from paykit.store.store import Store
from paykit.store.system import Outbox
from paymesh.event.v1 import compensation_pb2
from paymesh.recon.v1 import repair_service_pb2
from recon.breaks import Subject, close_break, open_break, others_keys, others_of
from recon.matching import BreakType, MatchKind, match_key
from recon.repair import Outcome
from recon.repair_commands import (
    REQUESTED,
    AdvanceRepair,
    ApproveRepair,
    ProposeRepair,
    RejectRepair,
    TakeOutcome,
)
from recon.rules import Rules
from recon.settings import RepairSettings
from recon.tables import Break, Repair
from tests.recon.support import SLOT, mint, rules

MAKER, CHECKER = "ann@example.org", "bob@example.org"


def rules_with(**repairs: Any) -> Rules:
    """The default rules, with these settings of repairs."""
    return msgspec.structs.replace(rules(), repairs=RepairSettings(**repairs).rules())


class OpenBreak(Command[Break]):
    """Opens one break that names all it could, but for ``changes``."""

    result_type = Break

    def __init__(
        self,
        context: BusinessContext,
        type_: BreakType,
        kind: MatchKind,
        rules: Rules,
        amount_minor: int,
        slot: int = SLOT,
        **changes: Any,
    ) -> None:
        super().__init__(slot, Origin.timer(context))
        subject = Subject(
            slot,
            context.biz_id,
            kind.value,
            match_key(kind, mint("ins", slot)),
            payment_id=mint("pay", slot),
            channel="sandbox_card",
            channel_order_id=mint("chn", slot),
            subject_id=mint("dbt", slot),
            difference_minor=amount_minor,
        )
        self.type, self.rules, self.amount_minor = type_, rules, amount_minor
        self.subject = subject._replace(**changes)

    def reads(self, rows: Rows) -> Iterable[Key]:
        return others_keys(rows, self.subject.channel_order_id)

    def decide(self, work: Work) -> Break:
        risk = (abs(self.amount_minor), "EUR")
        others = others_of(work, self.subject.channel_order_id)
        return open_break(work, self.subject, self.type, risk, "seen by the test", self.rules, others=others)


class CloseByMatch(Command[None]):
    """What was missing came: the break is closed by whatever found it."""

    def __init__(self, context: BusinessContext, broken: Break) -> None:
        super().__init__(broken.slot, Origin.timer(context))
        self.break_id = broken.id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield Key(Break, "id", self.break_id)

    def decide(self, work: Work) -> None:
        found = work.get(Break, self.break_id)
        assert found is not None
        close_break(work, found, "LATE_MATCH")


class Desk:
    """The store of a recon, its rules, and short names for what is done to it."""

    def __init__(self, store: Store, rules: Rules, *, shadow: bool = False, slot: int = SLOT) -> None:
        self.store, self.rules, self.shadow, self.slot = store, rules, shadow, slot
        self.context = BusinessContext(biz_id=mint("biz", slot), shadow=shadow, caller="test")

    def by(self, caller: str) -> BusinessContext:
        """A call of somebody, which comes with a business id of its own."""
        return msgspec.structs.replace(self.context, caller=caller, biz_id=mint("biz", self.slot))

    def _asked(self, caller: str, method: str, owner: str, request_id: str) -> Origin:
        request = repair_service_pb2.ApproveRepairRequest(request_id=request_id)
        return Origin.rpc(self.by(caller), method, owner, request_id, request)

    async def opened(
        self,
        type_: BreakType = BreakType.MISSING_HERE,
        amount_minor: int = 500,
        kind: MatchKind = MatchKind.STATEMENT,
        **changes: Any,
    ) -> Break:
        """A new break."""
        command = OpenBreak(self.context, type_, kind, self.rules, amount_minor, self.slot, **changes)
        return await self.store.run(command)

    async def propose(
        self, broken: Break, amount_minor: int = 0, *, caller: str = MAKER, request_id: str = "p1"
    ) -> Repair:
        """A person proposes."""
        origin = self._asked(caller, "ProposeRepair", broken.id, request_id)
        return await self.store.run(ProposeRepair(origin, broken.id, "the bank says so", amount_minor, self.rules))

    async def approve(self, repair: Repair, *, caller: str = CHECKER, request_id: str = "a1") -> Repair:
        """A person approves."""
        origin = self._asked(caller, "ApproveRepair", repair.id, request_id)
        return await self.store.run(ApproveRepair(origin, repair.id, "I have seen the letter"))

    async def reject(self, repair: Repair, *, caller: str = CHECKER) -> Repair:
        """A person declines."""
        origin = self._asked(caller, "RejectRepair", repair.id, "x1")
        return await self.store.run(RejectRepair(origin, repair.id, "not ours"))

    async def advance(self, repair: Repair) -> Repair:
        """The timer fires."""
        return await self.store.run(AdvanceRepair(Origin.timer(self.context), repair.id, self.rules))

    async def match(self, broken: Break) -> None:
        """The break closes by itself."""
        await self.store.run(CloseByMatch(self.context, broken))

    async def told(
        self, repair: Repair, outcome: Outcome = Outcome.DONE, *, message_id: str = "m1", service: str = ""
    ) -> None:
        """The service says what it did."""
        origin = Origin.event(self.context, "repairs", message_id)
        effect_id = mint("adj") if outcome is Outcome.DONE else ""
        command = TakeOutcome(
            origin, repair.id, service or repair.service, outcome, f"{outcome} it", effect_id, self.rules
        )
        await self.store.run(command)

    async def sent(self, amount_minor: int = 500) -> tuple[Break, Repair]:
        """A break whose ADJUST two people have sent."""
        broken = await self.opened(amount_minor=amount_minor)
        repair = await self.advance(await self.approve(await self.propose(broken)))
        assert repair.state == "SENT"
        return broken, repair

    # What is to be seen

    async def broken(self, row: Break) -> Break:
        """A break as it now is."""
        statement = select(Break.__table__).where(Break.__table__.c.id == row.id)
        (found,) = await self.store.fetch(Break, statement, slot=slot_in(row.id), shadow=self.shadow)
        return found

    async def repair(self, row: Repair) -> Repair:
        """A repair as it now is."""
        return next(found for found in await self.repairs() if found.id == row.id)

    async def repairs(self, broken: Break | None = None) -> list[Repair]:
        """All repairs, or those of a break, oldest first."""
        rows = await self.store.fetch_everywhere(Repair, select(Repair.__table__), shadow=self.shadow)
        rows = [row for row in rows if broken is None or row.break_id == broken.id]
        assert all(is_id(row.id, "rpr") for row in rows)
        return sorted(rows, key=lambda row: row.id)

    async def requested(self) -> list[compensation_pb2.CompensationRequestedEvent]:
        """What was sent to services, oldest first."""
        rows = await self.store.fetch_everywhere(Outbox, select(Outbox.__table__), shadow=self.shadow)
        wanted = [row for row in sorted(rows, key=lambda row: row.id) if row.destination == REQUESTED]
        return [compensation_pb2.CompensationRequestedEvent.FromString(row.body) for row in wanted]
