"""The command that matches orders with the lines that name them: it settles them, and opens and closes breaks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from paykit.ids import slot_in
from paykit.money import format_minor, is_currency
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from recon.breaks import Subject, close_break, open_break, others_keys, others_of
from recon.matching import BreakState, BreakType, CloseReason, MatchKind, match_key
from recon.rules import Rules
from recon.statements import identity, judging
from recon.statements.judging import ORDER_PREFIX, Judgement, LineState, Settlement
from recon.statements.model import LineKind
from recon.tables import Break, RecordedOrder, StatementLine


class Judged(msgspec.Struct, frozen=True):
    """What judging came to: lines looked at, and breaks opened and closed."""

    lines: int = 0
    opened: int = 0
    closed: int = 0


class Settle(Command[Judged]):
    """Judges orders, and lines that name none, anew. What was judged before and has not changed is left as it is.

    ``refs``: channel orders, or lines that name none, all of one slot. ``replaces_id``: a statement whose lines do not
    count any more. ``covered_until``: an order of ``channel`` of that day or before which no line names is missing
    there; empty: none is. ``by_reference``: channels whose lines name orders by the reference of their answers.
    """

    def __init__(
        self,
        origin: Origin,
        slot: int,
        refs: Sequence[str],
        rules: Rules,
        grace_days: int,
        *,
        channel: str,
        replaces_id: str = "",
        covered_until: str = "",
        by_reference: Collection[str] = (),
    ) -> None:
        super().__init__(slot, origin)
        self.refs = refs
        self.rules = rules
        self.grace_days = grace_days
        self.channel = channel
        self.replaces_id = replaces_id
        self.covered_until = covered_until
        self.by_reference = by_reference

    def reads(self, rows: Rows) -> Iterable[Key]:
        for ref in self.refs:
            yield Key(StatementLine, "match_ref", ref)
            if ref.startswith(ORDER_PREFIX):
                yield Key(RecordedOrder, "id", ref)
                yield from others_keys(rows, ref)
                order = rows.get(RecordedOrder, ref)
                if order is not None and order.break_id is not None:
                    yield key(Break, order.break_id)
            for line in rows.many(StatementLine, "match_ref", ref):
                if line.break_id is not None:
                    yield key(Break, line.break_id)

    def decide(self, work: Work) -> Judged:
        lines = opened = closed = 0
        for ref in self.refs:
            done = _Case(self, work, ref).settle()
            lines += done.lines
            opened += done.opened
            closed += done.closed
        return Judged(lines, opened, closed)


class AdoptLine(Command[None]):
    """Stores a line, which named no order that was known, on the slot of the order that it is now known to name."""

    def __init__(self, origin: Origin, line: StatementLine, order_id: str) -> None:
        super().__init__(slot_in(order_id), origin)
        self.line = line
        self.order_id = order_id
        self.id = identity.moved_id(line.id, order_id)

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(StatementLine, self.id)

    def decide(self, work: Work) -> None:
        if work.get(StatementLine, self.id) is None:
            moved = replace(
                self.line, id=self.id, slot=self.slot, version=1, match_ref=self.order_id, difference="", break_id=None
            )
            work.insert(moved, audit=False)


class ReleaseLine(Command[None]):
    """Gives up a line that was adopted elsewhere, and closes its break."""

    def __init__(self, origin: Origin, line_id: str) -> None:
        super().__init__(slot_in(line_id), origin)
        self.line_id = line_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(StatementLine, self.line_id)
        line = rows.get(StatementLine, self.line_id)
        if line is not None and line.break_id is not None:
            yield key(Break, line.break_id)

    def decide(self, work: Work) -> None:
        line = work.get(StatementLine, self.line_id)
        if line is None or line.state != LineState.CURRENT:
            return
        work.update(replace(line, state=LineState.REPLACED.value), audit=False)
        found = work.get(Break, line.break_id) if line.break_id is not None else None
        if found is not None and found.state == BreakState.OPEN:
            close_break(work, found, CloseReason.LATE_MATCH.value)


class _Case:
    """One order, or one line that names none."""

    def __init__(self, command: Settle, work: Work, ref: str) -> None:
        self._command, self._work, self._ref = command, work, ref
        self._order = work.get(RecordedOrder, ref) if ref.startswith(ORDER_PREFIX) else None
        self._opened = self._closed = 0

    def settle(self) -> Judged:
        """Judges it and stores what has changed."""
        replaces_id = self._command.replaces_id
        current: list[StatementLine] = []
        gone: list[StatementLine] = []
        for line in self._work.many(StatementLine, "match_ref", self._ref):
            if line.kind == LineKind.MOVEMENT and line.state == LineState.CURRENT:
                (gone if replaces_id and line.statement_id == replaces_id else current).append(line)
            elif replaces_id and line.statement_id == replaces_id and line.state == LineState.CURRENT:
                self._work.update(replace(line, state=LineState.REPLACED.value), audit=False)
        by_reference = self._order is not None and self._order.channel in self._command.by_reference
        judgement = judging.judge(self._order, current, self._command.grace_days, by_reference)
        if gone:
            current = self._retire(gone, current, judgement)
        self._explain_absence(judgement)
        after = [self._mark(line, judgement.differences[line.id]) for line in current]
        if self._order is not None:
            self._settle_order(self._order, judgement, after)
        return Judged(len(after), self._opened, self._closed)

    def _retire(
        self, gone: Sequence[StatementLine], current: list[StatementLine], judgement: Judgement
    ) -> list[StatementLine]:
        """Lines that a corrected statement brings no more; a break that it calls for as well goes over to its line."""
        takers = {line.id: line for line in current}
        for line in gone:
            self._work.update(replace(line, state=LineState.REPLACED.value), audit=False)
            if not line.difference or line.break_id is None:
                continue
            taker = next((one for one in takers.values() if _takes_over(one, line, judgement)), None)
            if taker is None:
                self._close(line.break_id, CloseReason.CORRECTED)
            else:
                takers[taker.id] = replace(taker, break_id=line.break_id, difference=line.difference)
        return list(takers.values())

    def _mark(self, line: StatementLine, wrong: BreakType | None) -> StatementLine:
        """The line with what is wrong with it now, its breaks closed and opened accordingly."""
        stored = self._work.get(StatementLine, line.id)
        assert stored is not None
        before = line.difference
        if before == (wrong or ""):
            return line if line == stored else self._work.update(line, audit=False)
        if before and line.break_id is not None:
            self._close(line.break_id, self._reason(BreakType(before), wrong))
        if wrong is None:
            return self._work.update(replace(line, difference=""), audit=False)
        break_id = self._open(wrong, line)
        return self._work.update(replace(line, difference=wrong.value, break_id=break_id), audit=False)

    def _reason(self, before: BreakType, wrong: BreakType | None) -> CloseReason:
        if wrong is not None:
            return CloseReason.SUPERSEDED
        return CloseReason.TAKEN_BACK if before is BreakType.DUPLICATE else CloseReason.LATE_MATCH

    def _settle_order(self, order: RecordedOrder, judgement: Judgement, lines: Sequence[StatementLine]) -> None:
        settlement, break_id = judgement.settlement, order.break_id
        settled = next((line for line in lines if line.id == judgement.line_id), None)
        if settled is not None and settled.difference:
            break_id = settled.break_id
        elif settlement is Settlement.OPEN:
            break_id = None
            if self._is_missing(order):
                settlement, break_id = Settlement.BROKEN, self._open(BreakType.MISSING_THERE, None)
        changed = (settlement.value, judgement.line_id, break_id)
        if changed != (order.settlement, order.statement_line_id, order.break_id):
            settlement_value, line_id, break_id = changed
            self._work.update(
                replace(order, settlement=settlement_value, statement_line_id=line_id, break_id=break_id), audit=False
            )

    def _is_missing(self, order: RecordedOrder) -> bool:
        command = self._command
        return order.channel == command.channel and order.business_date <= command.covered_until

    def _explain_absence(self, judgement: Judgement) -> None:
        """Closes the break of an order that was missing there, once a line stands for it."""
        order = self._order
        if order is None or order.break_id is None or order.statement_line_id is not None or not judgement.line_id:
            return
        wrong = judgement.differences[judgement.line_id]
        self._close(order.break_id, CloseReason.LATE_MATCH if wrong is None else CloseReason.SUPERSEDED)

    def _close(self, break_id: str, reason: CloseReason) -> None:
        found = self._work.get(Break, break_id)
        if found is not None and found.state == BreakState.OPEN:
            close_break(self._work, found, reason.value)
            self._closed += 1

    def _open(self, wrong: BreakType, line: StatementLine | None) -> str:
        order, command = self._order, self._command
        subject = Subject(
            slot=command.slot,
            biz_id=self._work.context.biz_id if order is None else order.biz_id,
            kind=MatchKind.STATEMENT.value,
            match_key=match_key(MatchKind.STATEMENT, self._ref),
            payment_id="" if order is None else order.payment_id,
            channel=line.channel if line is not None else command.channel,
            channel_order_id=self._ref if self._ref.startswith(ORDER_PREFIX) else "",
            subject_id="" if line is None else line.id,
            difference_minor=judging.difference_minor(wrong, order, line),
            provider_reference=line.provider_reference if line is not None and wrong is BreakType.DUPLICATE else "",
        )
        risk = judging.at_risk(wrong, order, line)
        self._opened += 1
        others = others_of(self._work, subject.channel_order_id)
        return open_break(self._work, subject, wrong, risk, evidence(order, line), command.rules, others=others).id


def _takes_over(line: StatementLine, gone: StatementLine, judgement: Judgement) -> bool:
    wrong = judgement.differences[line.id]
    said = (line.amount_minor, line.currency, line.channel)
    return wrong == gone.difference and not line.difference and said == (gone.amount_minor, gone.currency, gone.channel)


def evidence(order: RecordedOrder | None, line: StatementLine | None) -> str:
    """What both sides say, for people."""
    if line is None:
        told = "the statement: nothing"
    else:
        amount = _money(line.amount_minor, line.currency)
        taken = ", taking a line back" if line.is_reversal else ""
        told = f"the statement {line.statement_id}, line {line.line_no} of {line.business_date}: {amount}{taken}"
    if order is None:
        return f"{told}; our orders: nothing"
    amount = _money(order.amount_minor, order.currency)
    ours = f"our order of {order.business_date}: {order.kind} {order.state} {amount} on {order.channel}"
    if line is not None and judging.is_another(line, order):
        return f"{told}, named {line.provider_reference}; {ours}, named {order.provider_reference}"
    return f"{told}; {ours}"


def _money(amount_minor: int, currency: str) -> str:
    return format_minor(amount_minor, currency) if is_currency(currency) else f"{amount_minor} minor {currency}"
