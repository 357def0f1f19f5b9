"""The commands of the sweep: who goes on with it, how far it has come, and what it found that facts do not explain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from paykit.context import pack
from paykit.ids import new_id
from paykit.records import RecordKind
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from recon import matching, sides
from recon.breaks import Subject, add_evidence, open_break
from recon.matching import BreakState, BreakType, MatchKind
from recon.rules import Rules, SweepRules
from recon.tables import Break, Match, Sweep

SLOT = 0  # where the positions lie
_COLUMN = {kind: f"{kind.lower()}_ms" for kind in RecordKind}


def sweep_id(level: int) -> str:
    """The id of the position of a level: the same in every process."""
    return new_id("swp", SLOT, 0, lambda bits: level)


def reached(sweep: Sweep) -> dict[RecordKind, int]:
    """How far each kind has come, Unix milliseconds."""
    return {kind: getattr(sweep, column) for kind, column in _COLUMN.items()}


class BeginSweeps(Command[None]):
    """Makes the positions that are not there yet."""

    def __init__(self, origin: Origin, rules: SweepRules) -> None:
        super().__init__(SLOT, origin)
        self.rules = rules

    def reads(self, rows: Rows) -> Iterable[Key]:
        for level in range(len(self.rules.ages_ms)):
            yield key(Sweep, sweep_id(level))

    def decide(self, work: Work) -> None:
        for level, age_ms in enumerate(self.rules.ages_ms):
            if work.get(Sweep, sweep_id(level)) is not None:
                continue
            # What is compared again later begins with what is compared now.
            begin_ms = work.now_ms - (self.rules.begin_back_ms if level == 0 else age_ms)
            position = dict.fromkeys(_COLUMN.values(), begin_ms)
            sweep = Sweep(
                id=sweep_id(level),
                slot=SLOT,
                level=level,
                due_at_ms=work.now_ms,
                context=pack(work.context),
                **position,
            )
            work.insert(sweep, audit=False)


class ClaimSweep(Command[Sweep | None]):
    """Takes a step of a level for one process; None where another has it, or it is not due."""

    def __init__(self, origin: Origin, sweep: Sweep, lease_ms: int) -> None:
        super().__init__(SLOT, origin)
        self.sweep_id, self.lease_ms = sweep.id, lease_ms

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Sweep, self.sweep_id)

    def decide(self, work: Work) -> Sweep | None:
        sweep = work.get(Sweep, self.sweep_id)
        if sweep is None or sweep.due_at_ms > work.now_ms:
            return None
        return work.update(replace(sweep, due_at_ms=work.now_ms + self.lease_ms), audit=False)


class AdvanceSweep(Command[None]):
    """Writes down how far a step has come. Where another process has taken over meanwhile, that one's word counts."""

    def __init__(self, origin: Origin, claimed: Sweep, come: Mapping[RecordKind, int], due_at_ms: int) -> None:
        super().__init__(SLOT, origin)
        self.claimed, self.come, self.due_at_ms = claimed, come, due_at_ms

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Sweep, self.claimed.id)

    def decide(self, work: Work) -> None:
        sweep = work.get(Sweep, self.claimed.id)
        if sweep is None or sweep.version != self.claimed.version:
            return
        position = {_COLUMN[kind]: at_ms for kind, at_ms in self.come.items()}
        work.update(replace(sweep, due_at_ms=self.due_at_ms, **position), audit=False)


class TakeDifference(Command[None]):
    """A record is not with its service as it was heard of: one break, however often it is seen."""

    def __init__(
        self,
        origin: Origin,
        payment_id: str,
        slot: int,
        record_id: str,
        wrong: BreakType,
        risk: tuple[int, str],
        evidence: str,
        rules: Rules,
    ) -> None:
        """``slot`` is the payment's, whose id is empty where it is none; ``risk`` is in minor units of a currency."""
        super().__init__(slot, origin)
        self.payment_id, self.wrong, self.risk, self.evidence, self.rules = payment_id, wrong, risk, evidence, rules
        self.match_key = matching.match_key(MatchKind.RECORD, record_id)

    def reads(self, rows: Rows) -> Iterable[Key]:
        if self.payment_id:
            yield key(Match, sides.match_id(self.payment_id))  # its lock keeps a second break from being opened
        yield key(Break, self.match_key, "match_key")

    def decide(self, work: Work) -> None:
        for known in work.many(Break, "match_key", self.match_key):
            if known.state == BreakState.OPEN:
                add_evidence(work, known, self.evidence)
                return
            if known.type == self.wrong and self.evidence in known.evidence:
                return  # explained: it is still as it was then
        match = work.get(Match, sides.match_id(self.payment_id)) if self.payment_id else None
        biz_id = work.context.biz_id if match is None else match.biz_id
        amount_minor, currency = self.risk
        risk = (amount_minor, currency or ("" if match is None else match.currency))
        about = Subject(self.slot, biz_id, MatchKind.RECORD.value, self.match_key, self.payment_id)
        open_break(work, about, self.wrong, risk, self.evidence, self.rules)
