"""The sweep: what each service finished is compared with what was heard of it, by digests first.

A quiet range costs a scan that finds nothing on each side. Only slots whose digests differ are read by row, both
ways: what was not heard of becomes facts, as if its event had come; what the service does not have as it was heard of
is a break.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec
import structlog
from google.protobuf.message import DecodeError

from paykit import context as business
from paykit import telemetry
from paykit.context import BusinessContext, current, use
from paykit.errors import MeshError
from paykit.ids import is_id, slot_in
from paykit.records import Digest, RecordKind
from paykit.store.command import Origin
from paykit.store.store import Store
from recon import heard, sweep_reads
from recon.commands import TakeFacts
from recon.matching import BreakType
from recon.rules import Rules, SweepRules
from recon.sweep_commands import SLOT, AdvanceSweep, BeginSweeps, ClaimSweep, TakeDifference, reached
from recon.sweep_peers import RecordPeers, Shown
from recon.sweep_reads import Named
from recon.tables import Sweep

_SLOTS_MAX = 64  # of one question
_IDS_MAX = 100
_RETRY_MS = 5_000  # after a service could not be asked
_LEASE_MORE_MS = 10_000  # beyond the time that a step may take
_MIN_SPAN_MS = 1_000
_DAY_MS = 86_400_000

_FOUND = telemetry.counter("recon_sweep_found", "Records that no event had told of", ("mode", "kind"))
_log = structlog.get_logger(__name__)


class Part(NamedTuple):
    """Records of one kind that ended in a range of time."""

    kind: RecordKind
    start_ms: int
    end_ms: int


class Sweeper:
    """Goes on with the sweep of every age, on both sides; any number of processes may have one."""

    def __init__(self, store: Store, peers: RecordPeers, rules: Rules, sweep_rules: SweepRules) -> None:
        self._store = store
        self._peers = peers
        self._rules = rules
        self._sweep = sweep_rules

    async def start(self) -> None:
        """Makes the positions that are not there yet."""
        for mode in self._store.modes():
            context = business.mint(SLOT, self._store.clock.now_ms(), shadow=mode == "shadow", caller="recon")
            await self._store.run(BeginSweeps(Origin.fold(context), self._sweep))

    async def stop(self) -> None:
        """Nothing runs that a timer does not stop."""

    async def fire(self, sweep: Sweep) -> None:
        """One step of one age: all kinds that have come equally far are read at once.

        Positions leave no record: a step that is made twice finds the same, and a quiet year should leave nothing.
        """
        context, is_named = current(), sweep.level < len(self._sweep.ages_ms)
        lease_ms = int(self._sweep.timeout_s * 1000) + _LEASE_MORE_MS if is_named else _DAY_MS
        claimed = await self._store.run(ClaimSweep(Origin.fold(context), sweep, lease_ms))
        if claimed is None or not is_named:  # another process has it, or the settings name the age no more
            return
        target_ms = self._store.clock.now_ms() - self._sweep.ages_ms[sweep.level]
        come, is_held_up = await self._step(reached(claimed), target_ms)
        now_ms = self._store.clock.now_ms()
        if is_held_up:
            due_at_ms = now_ms + _RETRY_MS
        elif min(come.values()) < target_ms:
            due_at_ms = now_ms
        else:
            due_at_ms = now_ms + self._sweep.pause_ms(sweep.level)
        await self._store.run(AdvanceSweep(Origin.fold(context), claimed, come, due_at_ms))

    async def _step(self, position: dict[RecordKind, int], target_ms: int) -> tuple[dict[RecordKind, int], bool]:
        """How far the kinds have come after the step, and whether a service could not be asked."""
        by_start: dict[int, list[RecordKind]] = {}
        for kind, start_ms in position.items():
            by_start.setdefault(start_ms, []).append(kind)
        come, is_held_up = dict(position), False
        for start_ms, kinds in sorted(by_start.items()):
            end_ms = min(target_ms, start_ms + self._sweep.span_max_ms)
            if end_ms <= start_ms:
                continue
            done = await self.compare(kinds, start_ms, end_ms)
            come.update(dict.fromkeys(done, end_ms))
            is_held_up = is_held_up or len(done) < len(kinds)
        return come, is_held_up

    async def compare(self, kinds: Collection[RecordKind], start_ms: int, end_ms: int) -> list[RecordKind]:
        """Compares what ended in a range; the kinds for which that could be done."""
        mode = current().mode
        known = await sweep_reads.digests(self._store, mode, {kind.value for kind in kinds}, start_ms, end_ms)
        parts = [Part(kind, start_ms, end_ms) for kind in kinds]
        done = await asyncio.gather(*(self._compared(part, known[part.kind.value]) for part in parts))
        return [kind for kind, is_done in zip(kinds, done, strict=True) if is_done]

    async def _compared(self, part: Part, ours: dict[int, Digest]) -> bool:
        try:
            async with asyncio.timeout(self._sweep.timeout_s):
                await self._look(part, ours)
        except (MeshError, TimeoutError) as error:
            _log.warning("sweep_held_up", kind=part.kind.value, error_type=type(error).__name__)
            return False
        return True

    async def _look(self, part: Part, ours: dict[int, Digest]) -> None:
        """Reads by row where the digests differ; where that is much, half the time first and then the other."""
        theirs = await self._peers.digests(part.kind, part.start_ms, part.end_ms)
        slots = [slot for slot in sorted(theirs.keys() | ours.keys()) if theirs.get(slot) != ours.get(slot)]
        if not slots:
            return
        count = sum(side[slot].record_count for side in (theirs, ours) for slot in slots if slot in side)
        if count > self._sweep.rows_max and part.end_ms - part.start_ms > _MIN_SPAN_MS:
            middle_ms = (part.start_ms + part.end_ms) // 2
            for half in (part._replace(end_ms=middle_ms), part._replace(start_ms=middle_ms)):
                mode, kind = current().mode, half.kind.value
                known = await sweep_reads.digests(self._store, mode, {kind}, half.start_ms, half.end_ms)
                await self._look(half, known[kind])
            return
        for first in range(0, len(slots), _SLOTS_MAX):
            await self._examine(part, slots[first : first + _SLOTS_MAX])

    async def _examine(self, part: Part, slots: list[int]) -> None:
        mode = current().mode
        ours = await sweep_reads.listed(self._store, mode, part.kind.value, set(slots), part.start_ms, part.end_ms)
        theirs = await self._peers.records(part.kind, part.start_ms, part.end_ms, slots)
        odd = [
            shown for shown in theirs.values() if shown.id not in ours or ours[shown.id].record.hash64 != shown.hash64
        ]
        await self._hear(part.kind, odd)
        await self._miss(part.kind, [named for id_, named in ours.items() if id_ not in theirs])

    async def _hear(self, kind: RecordKind, shown: Iterable[Shown]) -> None:
        """Takes what was not heard of as facts; what was heard of otherwise is a break besides."""
        by_id = {record.id: record for record in shown}
        payment_ids = {record.payment_id for record in by_id.values()}
        known = await sweep_reads.named(self._store, current().mode, kind.value, payment_ids)
        new = [id_ for id_, record in by_id.items() if id_ not in known or known[id_].hash64 != record.hash64]
        for first in range(0, len(new), _IDS_MAX):
            found = await self._peers.named(kind, new[first : first + _IDS_MAX])
            await asyncio.gather(*(self._take(kind, record, record.id in known) for record in found))

    async def _take(self, kind: RecordKind, shown: Shown, is_known: bool) -> None:
        context = _context_of(shown)
        with use(context):
            try:
                said = heard.of_found(shown.subject, shown.body, context)
                command = TakeFacts(Origin.fold(context), said, self._rules) if said else None
            except (ValueError, DecodeError) as error:
                evidence = f"{kind} {shown.id}, which was not heard of, cannot be taken: {error}"
                await self._break(shown.payment_id, shown.id, BreakType.UNEXPLAINED, shown.risk, evidence)
                return
            if command is not None:
                await self._store.run(command)
            if is_known:
                evidence = f"{kind} {shown.id} was heard of otherwise than its service has it: {shown.describe()}"
                await self._break(shown.payment_id, shown.id, BreakType.STATUS_MISMATCH, shown.risk, evidence)
        _FOUND.labels(context.mode, kind.value).inc()

    async def _miss(self, kind: RecordKind, missing: list[Named]) -> None:
        """What the service did not list is asked for by id: it may have ended at another time, otherwise, or not."""
        for first in range(0, len(missing), _IDS_MAX):
            some = {named.record.id: named for named in missing[first : first + _IDS_MAX]}
            found = {shown.id: shown for shown in await self._peers.named(kind, list(some))}
            for id_, named in some.items():
                shown = found.get(id_)
                if shown is not None and shown.hash64 == named.record.hash64:
                    continue
                wrong = BreakType.UNEXPLAINED if shown is None else BreakType.STATUS_MISMATCH
                what = "is not there" if shown is None else f"is {shown.describe()}"
                evidence = f"{kind} {id_} was heard of with {named.record.amount_minor} minor, and {what}"
                risk = (named.record.amount_minor, "" if shown is None else shown.currency)
                await self._break(named.payment_id, id_, wrong, risk, evidence)

    async def _break(
        self, payment_id: str, record_id: str, wrong: BreakType, risk: tuple[int, str], evidence: str
    ) -> None:
        about = payment_id if is_id(payment_id, "pay") else ""
        origin, slot = Origin.fold(current()), slot_in(about or record_id)
        await self._store.run(TakeDifference(origin, about, slot, record_id, wrong, risk, evidence, self._rules))


def _context_of(shown: Shown) -> BusinessContext:
    """What the event would have carried, as far as the record tells."""
    context = current()
    return msgspec.structs.replace(context, biz_id=shown.biz_id or context.biz_id, deadline_ms=None)
