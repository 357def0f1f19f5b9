"""The command that takes a repair: what posts a journal is done with it, what has to ask first is left to the timer."""

from __future__ import annotations

from collections.abc import Iterable

from pay_core import adjustment, ledger
from pay_core.adjustment import ADJUST, REVERSE, Refusal, id_in
from pay_core.ledger import Draft
from pay_core.tables import Account, Adjustment, Compensation, Entry, Instruction, Journal, Payment
from paykit import compensation
from paykit.compensation import Desk, Outcome, kind_name
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key

DESK = Desk("pay_core", Compensation, "pay.compensation_done")
COMPLETE = "COMPLETE"


class TakeCompensation(Command[Compensation]):
    """Takes a repair. The same one again changes nothing, and is answered as it is by now."""

    result_type = Compensation

    def __init__(self, origin: Origin, request: compensation.Compensation) -> None:
        super().__init__(slot_in(request.repair_id), origin)
        self.request = request
        self.kind = kind_name(request)
        # What lies elsewhere is not this repair's to read.
        self.payment_id = self._here(id_in(request.payment_id, "pay"))
        self.instruction_id = self._here(id_in(request.instruction_id, "ins"))

    def _here(self, id_: str) -> str:
        return id_ if id_ and slot_in(id_) == self.slot else ""

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Compensation, self.request.repair_id, "repair_id")
        if self.kind == ADJUST:
            yield from ledger.account_keys(adjustment.adjustment_refs(self.slot, self.request))
        elif self.kind == REVERSE and self.payment_id and self.instruction_id:
            yield from self._reads_of_reversal(rows)

    def _reads_of_reversal(self, rows: Rows) -> Iterable[Key]:
        yield key(Payment, self.payment_id)
        yield key(Instruction, self.payment_id, "payment_id")
        yield key(Journal, self.payment_id, "payment_id")
        for journal in rows.many(Journal, "payment_id", self.payment_id):
            yield key(Entry, journal.id, "journal_id")
            yield key(Adjustment, journal.id, "reversed_journal_id")
            for entry in rows.many(Entry, "journal_id", journal.id):
                yield key(Account, entry.account_id)
                account = rows.get(Account, entry.account_id)
                if account is not None:
                    yield from ledger.account_keys([adjustment.ref_of(account)])

    def decide(self, work: Work) -> Compensation:
        known = work.get(Compensation, self.request.repair_id, "repair_id")
        if known is not None:
            return known
        row = compensation.accept(work, DESK, self.request)
        if self.kind == ADJUST:
            row = self._adjust(work, row)
        elif self.kind == REVERSE:
            row = self._reverse(work, row)
        elif self.kind != COMPLETE:
            row = compensation.end(work, DESK, row, Outcome.REFUSED, f"pay_core does no {self.kind}")
        assert isinstance(row, Compensation)
        return row

    def _adjust(self, work: Work, row: compensation.CompensationRow) -> compensation.CompensationRow:
        refusal = adjustment.refuse_adjustment(self.request)
        if refusal:
            return compensation.end(work, DESK, row, Outcome.REFUSED, refusal)
        draft = adjustment.adjustment(self.slot, self.request)
        return self._post(work, row, draft, self.request.amount.amount_minor)

    def _reverse(self, work: Work, row: compensation.CompensationRow) -> compensation.CompensationRow:
        found = self._to_reverse(work)
        if isinstance(found, Refusal):
            outcome = Outcome.NOTHING_TO_DO if found.is_null else Outcome.REFUSED
            return compensation.end(work, DESK, row, outcome, found.detail)
        postings = []
        for entry in work.many(Entry, "journal_id", found.id):
            account = work.get(Account, entry.account_id)
            assert account is not None, "entries have an account"
            postings.append((adjustment.ref_of(account), entry))
        draft = adjustment.opposite(found, postings)
        lacking = _lacking(work, draft)
        if lacking:
            return compensation.end(work, DESK, row, Outcome.REFUSED, lacking)
        booked = [b for b in adjustment.bookings_of(found) if b.instruction_id == self.instruction_id]
        return self._post(work, row, draft, booked[0].amount_minor, found)

    def _to_reverse(self, work: Work) -> Journal | Refusal:
        if not self.payment_id or not self.instruction_id:
            return Refusal("it names no instruction of a payment here")
        chain = work.many(Instruction, "payment_id", self.payment_id)
        instruction = next((ins for ins in chain if ins.id == self.instruction_id), None)
        journals = adjustment.booking_journals(work.many(Journal, "payment_id", self.payment_id), self.instruction_id)
        standing = [row for row in journals if not work.many(Adjustment, "reversed_journal_id", row.id)]
        return adjustment.to_reverse(instruction, standing, chain)

    def _post(
        self,
        work: Work,
        row: compensation.CompensationRow,
        draft: Draft,
        amount_minor: int,
        reversed_journal: Journal | None = None,
    ) -> compensation.CompensationRow:
        """Posts into the date that is open now: what is closed stays as it was closed."""
        request = self.request
        journal = ledger.post(work, draft, self.payment_id)
        made = work.insert(
            Adjustment(
                id=work.new_id("adj"),
                slot=self.slot,
                biz_id=work.context.biz_id,
                repair_id=request.repair_id,
                break_id=request.break_id,
                kind=self.kind,
                journal_id=journal.id,
                reversed_journal_id="" if reversed_journal is None else reversed_journal.id,
                payment_id=self.payment_id,
                instruction_id=self.instruction_id,
                channel=request.channel if self.kind == ADJUST else "",
                currency=draft.currency,
                amount_minor=amount_minor,
                proposed_by=request.proposed_by,
                approved_by=request.approved_by,
                created_at_ms=work.now_ms,
            ),
            parent_id=request.repair_id,
            note=journal.id,
        )
        what = ledger.describe(draft.all_postings())
        return compensation.end(work, DESK, row, Outcome.DONE, f"posted {journal.id}: {what}", made.id)


def _lacking(work: Work, draft: Draft) -> str:
    """Why an opposite journal cannot be posted: what was credited by mistake may have been spent since."""
    changes: dict[ledger.AccountRef, int] = {}
    for ref, minor in draft.postings:
        changes[ref] = changes.get(ref, 0) + minor
    for ref, minor in changes.items():
        account = work.get(Account, ref.account_key, "account_key")
        if minor >= 0 or account is None or account.floor_minor is None:
            continue
        refusal = ledger.refusal(work, ref, -minor, Draft(draft.slot, draft.currency))
        if refusal:
            return f"{refusal}: {ref.account_key} cannot give back {-minor}"
    return ""
