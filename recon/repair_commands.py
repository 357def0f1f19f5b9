"""The commands of repairs: proposed, decided, sent, and ended by what the service that carries them out says."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from paykit.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound, PermissionDenied
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from recon import repairing, siblings
from recon.breaks import Subject, add_evidence, close_break, open_break, others_keys, others_of
from recon.matching import BreakState, BreakType
from recon.repair import (
    BY_RULE,
    REPAIR,
    Outcome,
    RepairKind,
    RepairState,
    amount_of,
    closed_by,
    is_wrong_after_all,
    obstacle,
    remedy_of,
)
from recon.repair_views import requested
from recon.rules import Rules
from recon.tables import Break, Repair

REQUESTED = "recon.compensation_requested"

_DETAIL_MAX = 255  # characters of the column


class ProposeRepair(Command[Repair]):
    """A person proposes the repair that belongs to a break."""

    result_type = Repair

    def __init__(self, origin: Origin, break_id: str, reason: str, amount_minor: int, rules: Rules) -> None:
        """``amount_minor``: of an ADJUST, with its sign; 0 where the break says it."""
        super().__init__(slot_in(break_id), origin)
        self.break_id, self.reason, self.amount_minor, self.rules = break_id, reason, amount_minor, rules

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Break, self.break_id)
        yield key(Repair, self.break_id, "break_id")
        broken = rows.get(Break, self.break_id)
        if broken is not None:
            yield from _sibling_keys(rows, broken)

    def decide(self, work: Work) -> Repair:
        broken = work.get(Break, self.break_id)
        if broken is None:
            raise NotFound(f"there is no break {self.break_id}", metadata={"break_id": self.break_id})
        if broken.state != BreakState.OPEN:
            raise _closed(broken)
        for known in work.many(Repair, "break_id", broken.id):
            if not REPAIR.is_terminal(known.state):
                raise repairing.under_way(known)
        kind = remedy_of(broken.type, broken.kind).kind
        if self.amount_minor and kind is not RepairKind.ADJUST:
            raise InvalidArgument([FieldViolation("amount_minor", f"is for an ADJUST: this break needs a {kind}")])
        amount_minor = self.amount_minor or amount_of(broken, kind)
        missing = obstacle(broken, kind, amount_minor)
        if missing:
            raise FailedPrecondition(f"{broken.id}: {missing}", reason="NOT_REPAIRABLE", subject=broken.id)
        standing = _sent_elsewhere(work, broken) if siblings.moves_money(kind) else None
        if standing is not None:
            raise repairing.under_way(standing)
        work.adopt(broken.biz_id)
        due_at_ms = work.now_ms + self.rules.repairs.look_ms
        return repairing.propose(work, broken, amount_minor, work.context.caller, self.reason, due_at_ms=due_at_ms)


class _Decide(Command[Repair]):
    """What the commands of a checker read: the repair, and its break."""

    result_type = Repair

    def __init__(self, origin: Origin, repair_id: str, reason: str) -> None:
        super().__init__(slot_in(repair_id), origin)
        self.repair_id, self.reason = repair_id, reason

    def reads(self, rows: Rows) -> Iterable[Key]:
        return _repair_keys(rows, self.repair_id)

    def load(self, work: Work) -> tuple[Repair, Break]:
        """The repair and its break. NotFound."""
        repair, broken = _loaded(work, self.repair_id)
        work.adopt(repair.biz_id)
        return repair, broken

    def decided(self, work: Work, repair: Repair, after: RepairState, *, due_at_ms: int | None) -> Repair:
        """The repair after the caller has decided on it."""
        moved = REPAIR.move(
            repair,
            after,
            decided_by=work.context.caller,
            decision=self.reason,
            decided_at_ms=work.now_ms,
            due_at_ms=due_at_ms,
        )
        return work.update(moved, parent_id=repair.break_id, note=f"by {work.context.caller}: {self.reason}"[:255])


class ApproveRepair(_Decide):
    """Another person agrees: the repair goes out. What was proposed never changes, so it is what was looked at."""

    def decide(self, work: Work) -> Repair:
        repair, broken = self.load(work)
        if repair.is_automatic:
            raise FailedPrecondition(f"repair {repair.id} runs by itself", reason="AUTOMATIC", subject=repair.id)
        if repair.proposed_by.casefold() == work.context.caller.casefold():
            raise PermissionDenied(f"repair {repair.id} was proposed by the same person", reason="SAME_PERSON")
        if broken.state != BreakState.OPEN:
            raise _closed(broken)
        return self.decided(work, repair, RepairState.APPROVED, due_at_ms=work.now_ms)


class RejectRepair(_Decide):
    """A person declines a repair, also one that would run by itself: its break stays open."""

    def decide(self, work: Work) -> Repair:
        repair, _ = self.load(work)
        return self.decided(work, repair, RepairState.REJECTED, due_at_ms=None)


class AdvanceRepair(Command[Repair]):
    """A repair's due time has passed: it is approved by rule, sent, asked about again later, or withdrawn."""

    result_type = Repair

    def __init__(self, origin: Origin, repair_id: str, rules: Rules) -> None:
        super().__init__(slot_in(repair_id), origin)
        self.repair_id, self.rules = repair_id, rules

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from _repair_keys(rows, self.repair_id)
        repair = rows.get(Repair, self.repair_id)
        broken = None if repair is None else rows.get(Break, repair.break_id)
        if broken is not None:
            yield from _sibling_keys(rows, broken)

    def decide(self, work: Work) -> Repair:
        repair, broken = _loaded(work, self.repair_id)
        if repair.due_at_ms is None or repair.due_at_ms > work.now_ms:
            return repair
        rules = self.rules.repairs
        if repair.state == RepairState.SENT:
            asked = replace(
                repair, ask_count=repair.ask_count + 1, due_at_ms=work.now_ms + rules.next_ask_ms(repair.ask_count + 1)
            )
            return work.update(asked, audit=False)
        if broken.state != BreakState.OPEN:
            return repairing.withdraw(work, repair, broken.close_reason)
        is_next = repair.state == RepairState.APPROVED or repair.is_automatic
        if is_next and siblings.moves_money(repair.kind) and _sent_elsewhere(work, broken) is not None:
            # What it comes to closes this break too, or lets this repair go on.
            return work.update(replace(repair, due_at_ms=work.now_ms + rules.look_ms), audit=False)
        if repair.state == RepairState.APPROVED:
            return self._send(work, repair)
        if repair.is_automatic:
            approved = REPAIR.move(
                repair, RepairState.APPROVED, decided_by=BY_RULE, decided_at_ms=work.now_ms, due_at_ms=work.now_ms
            )
            return self._send(work, work.update(approved, parent_id=broken.id, note="by rule"))
        return work.update(replace(repair, due_at_ms=work.now_ms + rules.look_ms), audit=False)

    def _send(self, work: Work, repair: Repair) -> Repair:
        due_at_ms = work.now_ms + self.rules.repairs.next_ask_ms(0)
        moved = REPAIR.move(repair, RepairState.SENT, sent_at_ms=work.now_ms, due_at_ms=due_at_ms)
        sent = work.update(moved, parent_id=repair.break_id, note=f"to {repair.service}")
        work.publish(REQUESTED, requested(sent))
        return sent


class TakeOutcome(Command[None]):
    """What became of a repair, by event or asked for. DONE closes its break; else the break stays, with the reason."""

    def __init__(
        self, origin: Origin, repair_id: str, service: str, outcome: Outcome, detail: str, effect_id: str, rules: Rules
    ) -> None:
        super().__init__(slot_in(repair_id), origin)
        self.repair_id, self.service, self.rules = repair_id, service, rules
        self.outcome, self.detail, self.effect_id = outcome, detail[:_DETAIL_MAX], effect_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from _repair_keys(rows, self.repair_id)
        repair = rows.get(Repair, self.repair_id)
        if repair is not None:
            yield from others_keys(rows, repair.channel_order_id)

    def decide(self, work: Work) -> None:
        repair, broken = _loaded(work, self.repair_id)
        if repair.state in (RepairState.DONE, RepairState.FAILED):
            return  # told before
        if repair.service != self.service:
            raise FailedPrecondition(
                f"repair {repair.id} is carried out by {repair.service}, not by {self.service}",
                reason="WRONG_SERVICE",
                subject=repair.id,
            )
        is_done = self.outcome is Outcome.DONE
        moved = REPAIR.move(
            repair,
            RepairState.DONE if is_done else RepairState.FAILED,
            outcome=self.outcome.value,
            detail=self.detail,
            effect_id=self.effect_id,
            finished_at_ms=work.now_ms,
            due_at_ms=None,
        )
        ended = work.update(moved, parent_id=broken.id, note=f"{self.outcome} {self.detail}"[:_DETAIL_MAX])
        if broken.state == BreakState.OPEN:
            if is_done:
                close_break(work, broken, closed_by(ended.id), ended.id)
                self._close_sibling(work, ended, broken)
            else:
                add_evidence(work, broken, f"{ended.id} {ended.kind} {self.outcome}: {self.detail}")
        elif is_done and is_wrong_after_all(ended):
            self._reopen(work, ended, broken)

    def _close_sibling(self, work: Work, repair: Repair, broken: Break) -> None:
        """What the channel says and what its statement says of one difference is made good by one repair."""
        if siblings.moves_money(repair.kind):
            sibling = siblings.made_good_with(broken, others_of(work, broken.channel_order_id))
            if sibling is not None:
                close_break(work, sibling, closed_by(repair.id), repair.id)

    def _reopen(self, work: Work, repair: Repair, broken: Break) -> None:
        """The difference had gone before the repair was carried out: now the repair makes one, the other way round."""
        difference_minor = -repair.amount_minor if repair.kind == RepairKind.ADJUST else 0
        subject = Subject(
            broken.slot,
            broken.biz_id,
            broken.kind,
            broken.match_key,
            payment_id=broken.payment_id,
            channel=broken.channel,
            channel_order_id=broken.channel_order_id,
            difference_minor=difference_minor,
        )
        evidence = (
            f"{repair.id} ({repair.detail}) was carried out after {broken.id} had been closed: {broken.close_reason}"
        )
        risk = (abs(repair.amount_minor), repair.currency)
        open_break(work, subject, BreakType.UNEXPLAINED, risk, evidence, self.rules)


def _repair_keys(rows: Rows, repair_id: str) -> Iterable[Key]:
    yield key(Repair, repair_id)
    repair = rows.get(Repair, repair_id)
    if repair is not None:
        yield key(Break, repair.break_id)


def _sibling_keys(rows: Rows, broken: Break) -> Iterable[Key]:
    """The other breaks of the channel order, and the repairs of those that are about the same difference."""
    yield from others_keys(rows, broken.channel_order_id)
    for other in others_of(rows, broken.channel_order_id):
        if siblings.is_same_difference(broken, other):
            yield key(Repair, other.id, "break_id")


def _sent_elsewhere(work: Work, broken: Break) -> Repair | None:
    """A repair that is being carried out, and would make the difference of ``broken`` good as well."""
    for other in others_of(work, broken.channel_order_id):
        if siblings.is_same_difference(broken, other):
            for repair in work.many(Repair, "break_id", other.id):
                if repair.state == RepairState.SENT and siblings.moves_money(repair.kind):
                    return repair
    return None


def _loaded(work: Work, repair_id: str) -> tuple[Repair, Break]:
    repair = work.get(Repair, repair_id)
    if repair is None:
        raise NotFound(f"there is no repair {repair_id}", metadata={"repair_id": repair_id})
    broken = work.get(Break, repair.break_id)
    assert broken is not None, "breaks are never removed"
    return repair, broken


def _closed(broken: Break) -> FailedPrecondition:
    return FailedPrecondition(
        f"break {broken.id} is closed: {broken.close_reason}", reason="BREAK_CLOSED", subject=broken.id
    )
