"""recon's commands. What is heard of a payment, answered or asked for is one command, on the payment's slot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Self

from msgspec.structs import replace

from paykit import context as business
from paykit.errors import NotFound
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from recon import matching, repairing, sides
from recon import pair as pairing
from recon.answers import Answer, Verdict
from recon.breaks import EVIDENCE_MAX, Subject, add_evidence, close_break, open_break
from recon.heard import Heard, slot_of_id
from recon.matching import BreakState, BreakType, CloseReason, Fact, MatchKind, MatchState, Side
from recon.pair import Pair
from recon.rules import Rules
from recon.sides import Sides
from recon.tables import Break, Match, Repair
from recon.views import describe

_FIRST, _SECOND, _BOTH = 1, 2, 3
_SIDES = {Side.FIRST: _FIRST, Side.SECOND: _SECOND}


class _Taking(Command[None]):
    """Adds what is heard of a payment to its match; opens and closes breaks as the state of the pairs calls for."""

    def __init__(self, origin: Origin, heard: Heard, rules: Rules) -> None:
        """ValueError where an id is none, or a key does not lie on the slot of its payment."""
        super().__init__(slot_of_id(heard.payment_id), origin)
        self.heard = heard
        self.rules = rules
        for fact in heard.facts:
            if slot_of_id(fact.key) != self.slot:
                raise ValueError(f"{fact.key} is not on the slot of {heard.payment_id}")
        for order in heard.orders:
            if order.slot != self.slot:
                raise ValueError(f"{order.id} is not on the slot of {heard.payment_id}")

    @cached_property
    def facts(self) -> dict[str, list[Fact]]:
        """By match key. Most commands are merged into another before anybody asks."""
        return by_pair(self.heard.facts)

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from match_reads(rows, sides.match_id(self.heard.payment_id), self.facts)

    def decide(self, work: Work) -> None:
        take(work, self.heard, self.facts, self.rules)


class TakeFacts(_Taking):
    """What an event, or the sweep, says. Any number may be merged, carried out again, and in any order."""

    @property
    def merge_key(self) -> str:
        """The payment."""
        return self.heard.payment_id

    @property
    def is_whole(self) -> bool:
        """Whether the payment is over, and both sides of all that was heard of it have spoken."""
        return self.heard.is_end and all(_spoken(facts) == _BOTH for facts in self.facts.values())

    def merged(self, other: Self) -> TakeFacts:
        """Both, as one; each was looked through when it was made."""
        both = TakeFacts.__new__(TakeFacts)
        both.slot, both.origin, both.rules = self.slot, self.origin, self.rules
        both.heard = self.heard.plus(other.heard)
        return both


class TakeMismatch(_Taking):
    """A provider contradicts what was sent or settled: a break at once, beside whatever the order itself says."""

    def __init__(self, origin: Origin, heard: Heard, rules: Rules, risk: tuple[int, str], evidence: str) -> None:
        """``risk`` is the amount of the order (minor units, currency)."""
        super().__init__(origin, heard, rules)
        (self.match_key,) = self.facts
        self.risk = risk
        self.evidence = evidence[:EVIDENCE_MAX]

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from super().reads(rows)
        pair = self._pair(rows)
        if pair is not None and pair.mismatch_break_id is not None:
            yield key(Break, pair.mismatch_break_id)

    def _pair(self, rows: Rows) -> Pair | None:
        match = rows.get(Match, sides.match_id(self.heard.payment_id))
        return None if match is None else sides.pairs_of(match).get(self.match_key)

    def decide(self, work: Work) -> None:
        super().decide(work)
        match = work.get(Match, sides.match_id(self.heard.payment_id))
        pair = self._pair(work)
        assert match is not None
        assert pair is not None
        known = None if pair.mismatch_break_id is None else work.get(Break, pair.mismatch_break_id)
        if known is not None and known.state == BreakState.OPEN:
            add_evidence(work, known, self.evidence)
            return
        about = _about(match, pair)
        opened = open_break(work, about, BreakType.NOTIFICATION_MISMATCH, self.risk, self.evidence, self.rules)
        _store(work, match, sides.unpack(match), {self.match_key: replace(pair, mismatch_break_id=opened.id)})


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


class ApplyAnswers(Command[None]):
    """What the silent sides of a match answered after their windows passed: facts, or breaks, or other questions."""

    def __init__(self, origin: Origin, match: Match, answers: Mapping[str, Answer], rules: Rules) -> None:
        """``answers``: by match key of the pair that was asked about, as it was in ``match``."""
        super().__init__(match.slot, origin)
        self.payment_id = match.payment_id
        self.answers = answers
        self.rules = rules
        # What lies on another slot is not this match's to repair.
        facts = [fact for answer in answers.values() for fact in answer.facts if slot_in(fact.key) == self.slot]
        self.heard = Heard(match.payment_id, tuple(facts))
        self.facts = by_pair(facts)

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from match_reads(rows, sides.match_id(self.payment_id), {*self.answers, *self.facts})

    def decide(self, work: Work) -> None:
        match = work.get(Match, sides.match_id(self.payment_id))
        assert match is not None
        before = {match_key: pairing.problem(pair) for match_key, pair in sides.pairs_of(match).items()}
        take(work, self.heard, self.facts, self.rules)
        match = work.get(Match, match.id)
        assert match is not None
        pairs, unsettled = sides.pairs_of(match), dict[str, Pair]()
        for match_key, answer in self.answers.items():
            pair = pairs[match_key]
            is_due = pair.due_at_ms is not None and pair.due_at_ms <= work.now_ms
            # Else it was settled, by the answer or by an event that came meanwhile, or already asked again.
            if is_due and pairing.problem(pair) == before[match_key]:
                unsettled[match_key] = self._unsettled(work, match, pair, answer)
        if unsettled:
            _store(work, match, sides.unpack(match), unsettled)

    def _unsettled(self, work: Work, match: Match, pair: Pair, answer: Answer) -> Pair:
        rules, now_ms = self.rules, work.now_ms
        age_ms = pairing.age_ms(pair, now_ms)
        is_expected = _is_expected(pair)
        next_ask_ms = rules.next_expected_ms if is_expected else rules.next_ask_ms
        next_ms = now_ms + next_ask_ms(pair.ask_count + 1)
        if pair.state == MatchState.BROKEN:
            return pairing.postpone(pair, next_ms if age_ms < rules.ask_age_ms else None)
        patience_ms = rules.ask_age_ms if is_expected else rules.no_answer_age_ms
        if answer.verdict is Verdict.NO or age_ms >= patience_ms:
            broken = pairing.give_up(pair, next_ms if age_ms < rules.ask_age_ms else None)
            evidence = f"{describe(pair)}; asked {broken.ask_count} times, last: {answer.evidence}"
            return _follow(work, match, pair, broken, evidence, rules)
        return pairing.postpone(pair, next_ms)


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


def by_pair(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    """Facts by the match key of the pair that they are about."""
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(matching.match_key(fact.kind, fact.key), []).append(fact)
    return found


def match_reads(rows: Rows, match_id: str, match_keys: Iterable[str]) -> Iterable[Key]:
    """A match, and the breaks that those of its pairs stand for which are broken."""
    yield key(Match, match_id)
    match = rows.get(Match, match_id)
    if match is None or match.state != MatchState.BROKEN:
        return
    pairs = sides.pairs_of(match)
    for match_key in match_keys:
        pair = pairs.get(match_key)
        if pair is not None and pair.break_id is not None and pair.state == MatchState.BROKEN:
            yield key(Break, pair.break_id)


def take(work: Work, heard: Heard, facts: Mapping[str, Sequence[Fact]], rules: Rules) -> None:
    """Adds what is heard to the match of its payment, and keeps the channel orders that are new."""
    found = work.get(Match, sides.match_id(heard.payment_id))
    match = found or sides.blank(heard.payment_id, slot_in(heard.payment_id), work.context.biz_id)
    held = sides.unpack(found)
    pairs = {pair.match_key: pair for pair in held.pairs}
    now_ms = work.now_ms
    changed: dict[str, Pair] = {}
    for match_key, said in facts.items():
        known = pairs.get(match_key)
        before = known or Pair(said[0].kind.value, said[0].key)
        after = pairing.fold(before, [(fact, now_ms) for fact in said], rules.windows)
        if MatchState.BROKEN in (before.state, after.state) and after is not before:
            after = _follow(work, match, before, after, describe(after), rules)
        if known is None or after is not known:
            changed[match_key] = after
    for order in heard.orders:
        # That it was heard of is written with its row: where the one is, the other is too.
        if not any(record.id == order.id for record in held.records):
            work.insert(order, audit=False)
    records = sides.with_records(held.records, heard.records)
    for late in sides.late_records(match, held.records, records):
        work.insert(late, audit=False)
    source_id = max([held.source_id, *[fact.source_id for fact in heard.facts]])
    if found is None or changed or records is not held.records or source_id != held.source_id:
        _store(work, match, Sides(source_id, held.pairs, records), changed)


def _store(work: Work, match: Match, held: Sides, changed: Mapping[str, Pair]) -> None:
    """Writes a match with the pairs that changed."""
    pairs = {pair.match_key: pair for pair in held.pairs} | dict(changed)
    after = sides.pack(match, replace(held, pairs=sides.in_order(pairs)), business.pack(work.context))
    # A match is no business record: its changes are read from the break, not from the timeline.
    if match.sides:
        work.update(after, audit=False)
    else:
        work.insert(after, audit=False)


def _follow(work: Work, match: Match, before: Pair, after: Pair, evidence: str, rules: Rules) -> Pair:
    """Closes and opens the breaks that the change of a pair calls for."""
    wrong = pairing.problem(after) if after.state == MatchState.BROKEN else None
    if before.state == MatchState.BROKEN and before.break_id is not None:
        standing = work.get(Break, before.break_id)
        assert standing is not None
        if wrong is not None and standing.type == wrong.type:
            return after
        if standing.state == BreakState.OPEN:
            close_break(work, standing, _CLOSE_REASON[MatchState(after.state)].value)
    if wrong is None:
        return after
    opened = open_break(work, _about(match, after), wrong.type, pairing.at_risk(after), evidence, rules)
    return replace(after, break_id=opened.id)


_CLOSE_REASON = {
    MatchState.MATCHED: CloseReason.LATE_MATCH,
    MatchState.BROKEN: CloseReason.SUPERSEDED,
    MatchState.WAITING: CloseReason.RESULT_KNOWN,
}


def _about(match: Match, pair: Pair) -> Subject:
    return Subject(match.slot, match.biz_id, pair.kind, pair.match_key, match.payment_id)


def _is_expected(pair: Pair) -> bool:
    wrong = pairing.problem(pair)
    return wrong is not None and wrong.side is Side.EXPECTED


def _spoken(facts: Iterable[Fact]) -> int:
    spoken = 0
    for fact in facts:
        spoken |= _SIDES.get(fact.side, 0)
    return spoken
