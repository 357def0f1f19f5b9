"""Matching the lines of a stored statement, slot by slot, a page at a time: memory does not grow with the file.

All of it may be done again from wherever it broke off, and by another process: what is settled already stays so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta

from paykit import context as business
from paykit.context import BusinessContext
from paykit.ids import SLOT_COUNT, slot_in
from paykit.store.command import Origin
from paykit.store.store import Store
from recon.rules import Rules
from recon.statements import queries
from recon.statements.commands import Finish, Recheck, Renew
from recon.statements.judging import ORDER_PREFIX
from recon.statements.running import Window, run_patiently
from recon.statements.settings import StatementsSettings
from recon.statements.settling import Judged, Settle
from recon.statements.states import StatementState
from recon.tables import Statement

_STRIDE = SLOT_COUNT // 2 + 1  # odd: every slot comes once, and neighbours in the order lie on different shards
_DAY_MS = 86_400_000

OnJudged = Callable[[Judged], None]


def rank_of(slot: int) -> int:
    """The place of a slot in the order in which slots are matched; ``Statement.matched_slot`` counts in it."""
    return slot * _STRIDE % SLOT_COUNT


def covered_until(business_date: str, grace_days: int) -> str:
    """The last day whose orders must be on a statement by now, once that of ``business_date`` is there."""
    return (date.fromisoformat(business_date) - timedelta(days=grace_days)).isoformat()


class Matcher:
    """Matches stored statements."""

    def __init__(self, store: Store, settings: StatementsSettings, rules: Rules) -> None:
        self._store, self._settings, self._rules = store, settings, rules

    async def match(self, statement: Statement, on_judged: OnJudged, until_s: float | None = None) -> Statement:
        """Goes on from where it is, to the end (DONE) or, by the loop's time, ``until_s``; as it is then.

        Unavailable IMPORT_TAKEN_OVER where another process goes on with it.
        """
        loop = asyncio.get_running_loop()
        context = business.unpack(statement.context)
        ids = [statement.id, *([statement.replaces_id] if statement.replaces_id else [])]
        slots = sorted(await queries.slots_with_lines(self._store, context.mode, ids), key=rank_of)
        left = [slot for slot in slots if rank_of(slot) > statement.matched_slot]
        group = self._settings.slots_at_once
        renewed_s = loop.time()
        for start in range(0, len(left), group):
            part = left[start : start + group]
            async with Window(group) as window:
                for slot in part:
                    await window.start(self._match_slot(context, statement, ids, slot, on_judged))
            is_over = until_s is not None and loop.time() >= until_s
            if is_over or loop.time() - renewed_s > self._settings.lease_s / 4:
                statement = await self._renew(context, statement, rank_of(part[-1]), is_over)
                renewed_s = loop.time()
            if is_over:
                return statement
        statement = await self._renew(context, statement, SLOT_COUNT, False)
        await self._settle_missing(context, statement, on_judged)
        finish = Finish(Origin.timer(context), statement, int(self._settings.recheck_s * 1000))
        return await run_patiently(self._store, finish)

    async def _renew(self, context: BusinessContext, statement: Statement, rank: int, is_over: bool) -> Statement:
        lease_ms = 0 if is_over else int(self._settings.lease_s * 1000)
        renew = Renew(Origin.timer(context), statement, StatementState.MATCHING, lease_ms, rank)
        return await run_patiently(self._store, renew)

    async def _match_slot(
        self, context: BusinessContext, statement: Statement, ids: Sequence[str], slot: int, on_judged: OnJudged
    ) -> None:
        limit, after = self._settings.lines_per_command, ""
        while True:
            refs = await queries.refs_of_slot(self._store, context.mode, ids, slot, after, limit)
            if refs:
                on_judged(await self._settle(context, slot, refs, statement))
            if len(refs) < limit:
                return
            after = refs[-1]

    async def _settle(
        self, context: BusinessContext, slot: int, refs: Sequence[str], statement: Statement, until: str = ""
    ) -> Judged:
        command = Settle(
            Origin.timer(context),
            slot,
            refs,
            self._rules,
            self._settings.grace_days,
            channel=statement.channel,
            replaces_id=statement.replaces_id,
            covered_until=until,
        )
        return await run_patiently(self._store, command)

    async def _settle_missing(self, context: BusinessContext, statement: Statement, on_judged: OnJudged) -> None:
        """Orders that should have been on a statement by now, and of which none has said anything."""
        until = covered_until(statement.business_date, self._settings.grace_days)
        limit = self._settings.lines_per_command
        for shard in self._store.shards(context.mode):
            after = ("", "")
            while True:
                page = await queries.unsettled_orders(
                    self._store, context.mode, shard, statement.channel, until, after, limit
                )
                for slot, refs in by_slot(id_ for _, id_ in page).items():
                    on_judged(await self._settle(context, slot, refs, statement, until))
                if len(page) < limit:
                    break
                after = page[-1]

    async def recheck(self, statement: Statement, now_ms: int) -> None:
        """Judges anew what lines of the channel name and was not here: it may have been recorded since."""
        context = business.unpack(statement.context)
        limit = self._settings.lines_per_command
        is_left = False
        for shard in self._store.shards(context.mode):
            after = ""
            while True:
                page = await queries.missing_here(self._store, context.mode, shard, statement.channel, after, limit)
                is_left = is_left or bool(page)
                named = (row.channel_order_id for row in page if row.channel_order_id.startswith(ORDER_PREFIX))
                for slot, refs in by_slot(named).items():
                    await self._settle(context, slot, refs, statement)
                if len(page) < limit:
                    break
                after = page[-1].id
        age_ms = now_ms - (statement.finished_at_ms or now_ms)
        again = is_left and age_ms < self._settings.recheck_days * _DAY_MS
        due_at_ms = now_ms + int(self._settings.recheck_s * 1000) if again else None
        await run_patiently(self._store, Recheck(Origin.timer(context), statement, due_at_ms))


def by_slot(ids: Iterable[str]) -> dict[int, list[str]]:
    """Ids by the slot they carry, each once."""
    found: dict[int, dict[str, None]] = {}
    for id_ in ids:
        found.setdefault(slot_in(id_), {})[id_] = None
    return {slot: list(some) for slot, some in found.items()}
