"""Matching the lines of a stored statement, a page at a time: memory does not grow with the file.

All of it may be done again from wherever it broke off, and by another process: what is settled already stays so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta

from paykit import context as business
from paykit.context import BusinessContext
from paykit.ids import slot_in
from paykit.store.command import Origin
from paykit.store.store import Store
from recon.rules import Rules
from recon.statements import queries
from recon.statements.commands import Finish, Recheck, Renew
from recon.statements.judging import ORDER_PREFIX
from recon.statements.running import Window, run_patiently
from recon.statements.settings import StatementsSettings
from recon.statements.settling import AdoptLine, Judged, ReleaseLine, Settle
from recon.statements.states import StatementState
from recon.tables import Break, Statement

_DAY_MS = 86_400_000
_ALL = "~"  # sorts behind every id
_HURRIED_PAGE = 4_000  # where the time is bounded

OnJudged = Callable[[Judged], None]


def covered_until(business_date: str, grace_days: int) -> str:
    """The last day whose orders must be on a statement by now, once that of ``business_date`` is there."""
    return (date.fromisoformat(business_date) - timedelta(days=grace_days)).isoformat()


class Matcher:
    """Matches stored statements, a page of each shard at a time.

    A page is of orders that follow each other in time, as the tables have them, and is divided by slot: a page by slot
    would touch rows all over the tables.
    """

    def __init__(self, store: Store, settings: StatementsSettings, rules: Rules) -> None:
        self.store, self.settings, self._rules = store, settings, rules

    async def match(self, statement: Statement, on_judged: OnJudged, until_s: float | None = None) -> Statement:
        """Goes on from where it is, to the end (DONE) or, by the loop's time, ``until_s``; as it is then.

        Unavailable IMPORT_TAKEN_OVER where another process goes on with it.
        """
        context = business.unpack(statement.context)
        work = _Matching(self, context, statement, on_judged, until_s)
        async with Window(len(self.store.shards(context.mode))) as window:
            for shard in self.store.shards(context.mode):
                await window.start(work.of_shard(shard))
        if work.is_over:
            return await work.renew(lease_ms=0)
        await work.renew()
        await self._settle_missing(context, statement, on_judged)
        finish = Finish(Origin.timer(context), statement, int(self.settings.recheck_s * 1000))
        return await run_patiently(self.store, finish)

    async def settle(
        self, context: BusinessContext, slot: int, refs: Sequence[str], statement: Statement, until: str = ""
    ) -> Judged:
        """Judges orders of one slot, and lines that name none."""
        command = Settle(
            Origin.timer(context),
            slot,
            refs,
            self._rules,
            self.settings.grace_days,
            channel=statement.channel,
            replaces_id=statement.replaces_id,
            covered_until=until,
            by_reference=self.settings.by_reference,
        )
        return await run_patiently(self.store, command)

    async def _settle_missing(self, context: BusinessContext, statement: Statement, on_judged: OnJudged) -> None:
        """Orders that should have been on a statement by now, and of which none has said anything."""
        until = covered_until(statement.business_date, self.settings.grace_days)
        limit = self.settings.lines_per_command
        for shard in self.store.shards(context.mode):
            after = ("", "")
            while True:
                page = await queries.unsettled_orders(
                    self.store, context.mode, shard, statement.channel, until, after, limit
                )
                for slot, refs in by_slot(id_ for _, id_ in page).items():
                    on_judged(await self.settle(context, slot, refs, statement, until))
                if len(page) < limit:
                    break
                after = page[-1]

    async def recheck(self, statement: Statement, now_ms: int) -> None:
        """Judges anew the lines of the channel whose orders were not here: they may have been recorded since."""
        context = business.unpack(statement.context)
        limit = self.settings.lines_per_command
        is_left = False
        for shard in self.store.shards(context.mode):
            after = ""
            while True:
                page = await queries.orderless(self.store, context.mode, shard, statement.channel, after, limit)
                is_left = is_left or bool(page)
                named = (row.channel_order_id for row in page if row.channel_order_id.startswith(ORDER_PREFIX))
                for slot, refs in by_slot(named).items():
                    await self.settle(context, slot, refs, statement)
                await self._explain(context, shard, statement, [row for row in page if not row.channel_order_id])
                if len(page) < limit:
                    break
                after = page[-1].id
        age_ms = now_ms - (statement.finished_at_ms or now_ms)
        again = is_left and age_ms < self.settings.recheck_days * _DAY_MS
        due_at_ms = now_ms + int(self.settings.recheck_s * 1000) if again else None
        await run_patiently(self.store, Recheck(Origin.timer(context), statement, due_at_ms))

    async def _explain(
        self, context: BusinessContext, shard: str, statement: Statement, breaks: Sequence[Break]
    ) -> None:
        """Brings lines to their orders that are known by now by the provider's reference.

        The line is stored anew on the slot of its order before the old one is given up: whatever ends this in between,
        the next time does the rest.
        """
        ids = [row.subject_id for row in breaks if row.subject_id]
        lines = await queries.lines_by_id(self.store, context.mode, shard, ids) if ids else []
        references = sorted({line.provider_reference for line in lines if line.provider_reference})
        found = await queries.orders_by_reference(self.store, references, context.shadow)
        for line in lines:
            order_id = queries.best_of(found.get(line.provider_reference, []), line.channel, line)
            if order_id:
                origin = Origin.timer(context)
                await run_patiently(self.store, AdoptLine(origin, line, order_id))
                await self.settle(context, slot_in(order_id), [order_id], statement)
                await run_patiently(self.store, ReleaseLine(origin, line.id))


class _Matching:
    """How far one statement is, on every shard."""

    def __init__(
        self,
        matcher: Matcher,
        context: BusinessContext,
        statement: Statement,
        on_judged: OnJudged,
        until_s: float | None,
    ) -> None:
        self._matcher, self._context, self._statement = matcher, context, statement
        self._on_judged, self._until_s = on_judged, until_s
        self._after = dict.fromkeys(matcher.store.shards(context.mode), statement.matched_ref)
        self._time_s = asyncio.get_running_loop().time
        self._renewed_s = self._time_s()
        self._turn = asyncio.Lock()

    @property
    def is_over(self) -> bool:
        """Whether its time is over before all is matched."""
        is_late = self._until_s is not None and self._time_s() >= self._until_s
        return is_late and any(after != _ALL for after in self._after.values())

    async def of_shard(self, shard: str) -> None:
        """Matches what lies on one shard."""
        store, settings = self._matcher.store, self._matcher.settings
        replaced = [self._statement.replaces_id] if self._statement.replaces_id else []
        ids, limit = [self._statement.id, *replaced], settings.lines_per_page
        if self._until_s is not None:  # how far it is, is known at the end of a page only
            limit = min(limit, _HURRIED_PAGE)
        while self._after[shard] != _ALL and not self.is_over:
            refs = await queries.refs_of_shard(store, self._context.mode, shard, ids, self._after[shard], limit)
            async with Window(settings.commands_at_once) as window:
                for slot, some in by_slot(refs).items():
                    for start in range(0, len(some), settings.lines_per_command):
                        if self._time_s() - self._renewed_s > settings.lease_s / 4:
                            await self.renew()
                        await window.start(self._settle(slot, some[start : start + settings.lines_per_command]))
            self._after[shard] = refs[-1] if len(refs) == limit else _ALL

    async def _settle(self, slot: int, refs: Sequence[str]) -> None:
        self._on_judged(await self._matcher.settle(self._context, slot, refs, self._statement))

    async def renew(self, lease_ms: int | None = None) -> Statement:
        """Notes how far it is; ``lease_ms`` 0: anybody may go on."""
        lease_ms = int(self._matcher.settings.lease_s * 1000) if lease_ms is None else lease_ms
        async with self._turn:
            self._renewed_s = self._time_s()
            after = min(self._after.values())
            renew = Renew(Origin.timer(self._context), self._statement, StatementState.MATCHING, lease_ms, after)
            return await run_patiently(self._matcher.store, renew)


def by_slot(ids: Iterable[str]) -> dict[int, list[str]]:
    """Ids by the slot they carry, each once."""
    found: dict[int, dict[str, None]] = {}
    for id_ in ids:
        found.setdefault(slot_in(id_), {})[id_] = None
    return {slot: list(some) for slot, some in found.items()}
