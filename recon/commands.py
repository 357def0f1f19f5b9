"""recon's commands. One event, answer or request is one command, on the slot of the payment it is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from paykit.context import pack
from paykit.errors import NotFound
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from recon import matching, repairing
from recon.answers import Answer, Verdict
from recon.breaks import EVIDENCE_MAX, Subject, add_evidence, close_break, open_break
from recon.matching import BreakState, BreakType, CloseReason, Fact, MatchKind, MatchState
from recon.rules import Rules
from recon.tables import Break, Match, Repair
from recon.views import describe


class TakeFacts(Command[None]):
    """Adds what an event says to the matches it concerns; opens and closes breaks as their state calls for."""

    def __init__(self, origin: Origin, facts: Sequence[Fact], rules: Rules) -> None:
        """ValueError where an id is none, or a key does not lie on the slot of its payment."""
        assert facts
        super().__init__(slot_in(facts[0].payment_id), origin)
        self.facts: dict[str, list[Fact]] = {}
        for fact in facts:
            if slot_in(fact.key) != self.slot:
                raise ValueError(f"{fact.key} is not on the slot of {facts[0].payment_id}")
            self.facts.setdefault(matching.match_key(fact.kind, fact.key), []).append(fact)
        self.rules = rules

    def reads(self, rows: Rows) -> Iterable[Key]:
        for match_key in self.facts:
            yield from _match_reads(rows, match_key)

    def decide(self, work: Work) -> None:
        for match_key, facts in self.facts.items():
            _take(work, match_key, facts, self.rules, self.slot)


class TakeMismatch(TakeFacts):
    """A provider contradicts what was sent or settled: a break at once, beside whatever the order itself says."""

    def __init__(
        self, origin: Origin, facts: Sequence[Fact], rules: Rules, risk: tuple[int, str], evidence: str
    ) -> None:
        """``risk`` is the amount of the order (minor units, currency)."""
        super().__init__(origin, facts, rules)
        (self.match_key,) = self.facts
        self.risk = risk
        self.evidence = evidence[:EVIDENCE_MAX]

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from super().reads(rows)
        match = rows.get(Match, self.match_key, "match_key")
        if match is not None and match.mismatch_break_id is not None:
            yield key(Break, match.mismatch_break_id)

    def decide(self, work: Work) -> None:
        super().decide(work)
        match = work.get(Match, self.match_key, "match_key")
        assert match is not None
        known = None if match.mismatch_break_id is None else work.get(Break, match.mismatch_break_id)
        if known is not None and known.state == BreakState.OPEN:
            add_evidence(work, known, self.evidence)
            return
        opened = open_break(work, _about(match), BreakType.NOTIFICATION_MISMATCH, self.risk, self.evidence, self.rules)
        work.update(replace(match, mismatch_break_id=opened.id), audit=False)


class TakeOrphan(Command[None]):
    """A provider speaks of an order that does not exist: a break of its own, for there is no match it could be of."""

    def __init__(self, origin: Origin, channel_order_id: str, rules: Rules, evidence: str) -> None:
        """ValueError where ``channel_order_id`` is no id."""
        super().__init__(slot_in(channel_order_id), origin)
        self.match_key = matching.match_key(MatchKind.PAY_CHANNEL, channel_order_id)
        self.rules = rules
        self.evidence = evidence[:EVIDENCE_MAX]

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Break, self.match_key, "match_key")

    def decide(self, work: Work) -> None:
        # Without a parent row to lock, two processes may open one each: two are better than none.
        for known in work.many(Break, "match_key", self.match_key):
            if known.state == BreakState.OPEN:
                add_evidence(work, known, self.evidence)
                return
        about = Subject(self.slot, work.context.biz_id, MatchKind.PAY_CHANNEL, self.match_key)
        open_break(work, about, BreakType.NOTIFICATION_MISMATCH, (0, ""), self.evidence, self.rules)


class ApplyAnswer(Command[None]):
    """What the silent side of a match answered after the window passed: facts, or a break, or another question."""

    def __init__(self, origin: Origin, match: Match, answer: Answer, rules: Rules) -> None:
        super().__init__(match.slot, origin)
        self.match_key = match.match_key
        self.answer = answer
        self.rules = rules
        self.facts: dict[str, list[Fact]] = {}
        for fact in answer.facts:
            if slot_in(fact.key) == self.slot:  # what lies on another slot is not this match's to repair
                self.facts.setdefault(matching.match_key(fact.kind, fact.key), []).append(fact)

    def reads(self, rows: Rows) -> Iterable[Key]:
        for match_key in {self.match_key, *self.facts}:
            yield from _match_reads(rows, match_key)

    def decide(self, work: Work) -> None:
        asked = work.get(Match, self.match_key, "match_key")
        assert asked is not None
        before = matching.problem(asked)
        for match_key, facts in self.facts.items():
            _take(work, match_key, facts, self.rules, self.slot)
        match = work.get(Match, self.match_key, "match_key")
        assert match is not None
        if match.due_at_ms is None or match.due_at_ms > work.now_ms or matching.problem(match) is not before:
            return  # settled, by the answer or by an event that came meanwhile, or already asked again
        self._unsettled(work, match)

    def _unsettled(self, work: Work, match: Match) -> None:
        rules, now_ms = self.rules, work.now_ms
        age_ms = matching.age_ms(match, now_ms)
        next_ms = now_ms + rules.next_ask_ms(match.ask_count + 1)
        if match.state == MatchState.BROKEN:
            work.update(matching.postpone(match, next_ms if age_ms < rules.ask_age_ms else None), audit=False)
        elif self.answer.verdict is Verdict.NO or age_ms >= rules.no_answer_age_ms:
            broken = matching.give_up(match, next_ms if age_ms < rules.ask_age_ms else None)
            evidence = f"{describe(match)}; asked {broken.ask_count} times, last: {self.answer.evidence}"
            _store(work, match, match, broken, evidence, rules)
        else:
            work.update(matching.postpone(match, next_ms), audit=False)


class CloseBreak(Command[Break]):
    """A person closes a break, with a reason. A repair of it that has not gone out is withdrawn; one that has must end
    first."""

    result_type = Break

    def __init__(self, origin: Origin, break_id: str, reason: str) -> None:
        super().__init__(slot_in(break_id), origin)
        self.break_id = break_id
        self.reason = reason

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Break, self.break_id)
        yield key(Repair, self.break_id, "break_id")

    def decide(self, work: Work) -> Break:
        found = work.get(Break, self.break_id)
        if found is None:
            raise NotFound(f"there is no break {self.break_id}", metadata={"break_id": self.break_id})
        repairing.withdraw_all(work, found, self.reason)
        return close_break(work, found, self.reason)


def _match_reads(rows: Rows, match_key: str) -> Iterable[Key]:
    """A match, and the break it stands for while it is broken."""
    yield key(Match, match_key, "match_key")
    match = rows.get(Match, match_key, "match_key")
    if match is not None and match.break_id is not None and match.state == MatchState.BROKEN:
        yield key(Break, match.break_id)


def _take(work: Work, match_key: str, facts: Sequence[Fact], rules: Rules, slot: int) -> None:
    found = work.get(Match, match_key, "match_key")
    if found is None:
        context = work.context
        before = matching.blank(work.new_id("mat"), slot, context.biz_id, facts[0], pack(context))
    else:
        before = found
    now_ms = work.now_ms
    match = matching.fold(before, [(fact, now_ms) for fact in facts], rules.window_ms)
    if found is None or match is not found:
        _store(work, found, before, match, describe(match) if match.state == MatchState.BROKEN else "", rules)


def _store(work: Work, found: Match | None, before: Match, match: Match, evidence: str, rules: Rules) -> None:
    """Writes a match, and closes and opens the breaks that its change calls for. ``found`` is None for a new one."""
    if MatchState.BROKEN in (before.state, match.state):
        match = _follow(work, before, match, evidence, rules)
    # A match is no business record: its changes are read from the break, not from the timeline.
    if found is None:
        work.insert(match, audit=False)
    else:
        work.update(match, audit=False)


def _follow(work: Work, before: Match, match: Match, evidence: str, rules: Rules) -> Match:
    wrong = matching.problem(match) if match.state == MatchState.BROKEN else None
    if before.state == MatchState.BROKEN and before.break_id is not None:
        standing = work.get(Break, before.break_id)
        assert standing is not None
        if standing.type == wrong:
            return match
        if standing.state == BreakState.OPEN:
            close_break(work, standing, _CLOSE_REASON[MatchState(match.state)].value)
    if wrong is None:
        return match
    opened = open_break(work, _about(match), wrong, matching.at_risk(match), evidence, rules)
    return replace(match, break_id=opened.id)


_CLOSE_REASON = {
    MatchState.MATCHED: CloseReason.LATE_MATCH,
    MatchState.BROKEN: CloseReason.SUPERSEDED,
    MatchState.WAITING: CloseReason.RESULT_KNOWN,
}


def _about(match: Match) -> Subject:
    return Subject(match.slot, match.biz_id, match.kind, match.match_key, match.payment_id)
