"""The commands of an import: its steps, on the slot of the channel, and storing lines, each on its order's slot."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from paykit.context import pack
from paykit.errors import FailedPrecondition, NotFound, Unavailable
from paykit.ids import slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from recon.statements import identity
from recon.statements.checks import Told
from recon.statements.judging import LineState
from recon.statements.spool import Placed
from recon.statements.states import STATEMENT, StatementState
from recon.tables import Statement, StatementBalance, StatementLine

IMPORT_RUNNING = "IMPORT_RUNNING"
LINE_CHANGED = "LINE_CHANGED"


def slot_of_channel(channel: str) -> int:
    """The slot of all statements of a channel."""
    return slot_of(f"statement/{channel}")


def file_key_of(channel: str, digest: str) -> str:
    """What makes a file the same one."""
    return f"{channel}/{digest}"


class NewStatement(msgspec.Struct, frozen=True):
    """A file that was found good. The id is the importer's: whoever gets it back began the import."""

    id: str
    channel: str
    account: str
    format: str
    business_date: str
    file_name: str
    file_digest: str
    size_bytes: int
    replaces_id: str
    told: list[Told]


class BeginImport(Command[Statement]):
    """Notes a file that was found good; the one there is already where it is the same file.

    FailedPrecondition IMPORT_RUNNING while another file of the channel is under way.
    """

    result_type = Statement

    def __init__(self, origin: Origin, new: NewStatement, lease_ms: int) -> None:
        super().__init__(slot_of_channel(new.channel), origin)
        self.new = new
        self.file_key = file_key_of(new.channel, new.file_digest)
        self.lease_ms = lease_ms

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Statement, self.file_key, "file_key")
        yield key(Statement, self.new.channel, "active_key")
        if self.new.replaces_id:
            yield key(Statement, self.new.replaces_id)

    def decide(self, work: Work) -> Statement:
        new = self.new
        known = work.get(Statement, self.file_key, "file_key")
        if known is not None:
            return known
        active = work.get(Statement, new.channel, "active_key")
        if active is not None:
            raise FailedPrecondition(
                f"{active.id} of {new.channel} is being imported", reason=IMPORT_RUNNING, subject=active.id
            )
        revision = self._replaced(work).revision + 1 if new.replaces_id else 0
        for told in new.told:
            work.insert(self._balance(work, told), audit=False)
        return work.insert(self._statement(work, revision))

    def _replaced(self, work: Work) -> Statement:
        new = self.new
        found = work.get(Statement, new.replaces_id)
        if found is None:
            raise NotFound(f"there is no statement {new.replaces_id}")
        if found.state != StatementState.DONE:
            raise FailedPrecondition(
                f"{found.id} is {found.state} and cannot be replaced", reason="ILLEGAL_STATE", subject=found.id
            )
        same = (found.channel, found.account, found.business_date) == (new.channel, new.account, new.business_date)
        if not same:
            raise FailedPrecondition(
                f"{found.id} is of another channel, account or day", reason="STATEMENT_DIFFERS", subject=found.id
            )
        return found

    def _statement(self, work: Work, revision: int) -> Statement:
        new = self.new
        return Statement(
            id=new.id,
            slot=self.slot,
            biz_id=work.context.biz_id,
            channel=new.channel,
            account=new.account,
            format=new.format,
            business_date=new.business_date,
            state=STATEMENT.initial.value,
            file_name=new.file_name,
            file_digest=new.file_digest,
            file_key=self.file_key,
            active_key=new.channel,
            size_bytes=new.size_bytes,
            line_count=0,
            known_line_count=0,
            replaces_id=new.replaces_id,
            replaced_by_id="",
            revision=revision,
            matched_ref="",
            due_at_ms=work.now_ms + self.lease_ms,
            context=pack(work.context),
            created_at_ms=work.now_ms,
            finished_at_ms=None,
        )

    def _balance(self, work: Work, told: Told) -> StatementBalance:
        return StatementBalance(
            id=work.new_id("stb"),
            slot=self.slot,
            statement_id=self.new.id,
            account_key=f"{self.new.channel}/{told.account}/{told.currency}",
            account=told.account,
            currency=told.currency,
            opening_minor=told.opening_minor,
            closing_minor=told.closing_minor,
            from_date=told.from_date,
            to_date=told.to_date,
        )


class OfStatement(Command[Statement]):
    """A step of an import. It must still be in the state that the step is of: else another process goes on with it."""

    state: StatementState
    replaced_too = False

    def __init__(self, origin: Origin, statement: Statement) -> None:
        super().__init__(statement.slot, origin)
        self.statement = statement

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Statement, self.statement.id)
        if self.replaced_too and self.statement.replaces_id:
            yield key(Statement, self.statement.replaces_id)

    def decide(self, work: Work) -> Statement:
        found = work.get(Statement, self.statement.id)
        assert found is not None
        if found.state != self.state:
            raise Unavailable(f"{found.id} is {found.state}: somebody else goes on with it", reason="IMPORT_TAKEN_OVER")
        return self.step(work, found)

    @abc.abstractmethod
    def step(self, work: Work, found: Statement) -> Statement:
        """The change."""


class Renew(OfStatement):
    """Keeps an import that goes on from being taken for one that broke off."""

    def __init__(
        self, origin: Origin, statement: Statement, state: StatementState, lease_ms: int, matched_ref: str = ""
    ) -> None:
        super().__init__(origin, statement)
        self.state = state
        self.lease_ms = lease_ms
        self.matched_ref = matched_ref

    def step(self, work: Work, found: Statement) -> Statement:
        if found.due_at_ms is None or found.due_at_ms <= work.now_ms:
            raise Unavailable(f"the import of {found.id} was silent for too long", reason="IMPORT_TAKEN_OVER")
        changed = replace(found, due_at_ms=work.now_ms + self.lease_ms, matched_ref=self.matched_ref)
        return work.update(changed, audit=False)


class Claim(Renew):
    """As Renew, for one that was silent: whoever comes first goes on with it."""

    def step(self, work: Work, found: Statement) -> Statement:
        if found.due_at_ms is None or found.due_at_ms > work.now_ms:
            raise Unavailable(f"the import of {found.id} goes on already", reason="IMPORT_TAKEN_OVER")
        return work.update(replace(found, due_at_ms=work.now_ms + self.lease_ms), audit=False)


class MarkStored(OfStatement):
    """All lines are stored: from here on the import will be finished, by whatever process."""

    state = StatementState.RECEIVING

    def __init__(self, origin: Origin, statement: Statement, line_count: int, known: int, lease_ms: int) -> None:
        super().__init__(origin, statement)
        self.line_count, self.known, self.lease_ms = line_count, known, lease_ms

    def step(self, work: Work, found: Statement) -> Statement:
        moved = STATEMENT.move(
            found,
            StatementState.MATCHING,
            line_count=self.line_count,
            known_line_count=self.known,
            due_at_ms=work.now_ms + self.lease_ms,
        )
        return work.update(moved)


class Finish(OfStatement):
    """All lines are matched."""

    state = StatementState.MATCHING
    replaced_too = True

    def __init__(self, origin: Origin, statement: Statement, recheck_ms: int) -> None:
        super().__init__(origin, statement)
        self.recheck_ms = recheck_ms

    def step(self, work: Work, found: Statement) -> Statement:
        if found.replaces_id:
            replaced = work.get(Statement, found.replaces_id)
            assert replaced is not None
            gone = STATEMENT.move(replaced, StatementState.REPLACED, replaced_by_id=found.id, due_at_ms=None)
            work.update(gone)
        done = STATEMENT.move(
            found,
            StatementState.DONE,
            active_key=found.id,
            due_at_ms=work.now_ms + self.recheck_ms,
            finished_at_ms=work.now_ms,
        )
        return work.update(done)


class Abandon(OfStatement):
    """An import that broke off before all its lines were stored, and none of them is left. The file may come again."""

    state = StatementState.RECEIVING

    def step(self, work: Work, found: Statement) -> Statement:
        gone = STATEMENT.move(
            found, StatementState.ABANDONED, file_key=found.id, active_key=found.id, due_at_ms=None,
            finished_at_ms=work.now_ms,
        )  # fmt: skip
        return work.update(gone)


class Recheck(OfStatement):
    """Puts off when a finished import is looked through again for what was missing here; None: never again."""

    state = StatementState.DONE

    def __init__(self, origin: Origin, statement: Statement, due_at_ms: int | None) -> None:
        super().__init__(origin, statement)
        self.due_at_ms = due_at_ms

    def step(self, work: Work, found: Statement) -> Statement:
        return work.update(replace(found, due_at_ms=self.due_at_ms), audit=False)


class Stored(msgspec.Struct, frozen=True):
    """What storing came to: how many lines are new, and how many were known."""

    new: int
    known: int


class StoreLines(Command[Stored]):
    """Stores lines of one slot. One that came before is known, where it says the same; else LINE_CHANGED.

    ``revision_max``: the most corrections that any statement of the channel has. Until ``until_ms`` the import is
    this process's own; afterwards nothing may be stored any more.
    """

    def __init__(
        self,
        origin: Origin,
        slot: int,
        statement: Statement,
        placed: Sequence[Placed],
        revision_max: int,
        until_ms: int,
    ) -> None:
        super().__init__(slot, origin)
        self.statement = statement
        self.until_ms = until_ms
        # A corrected line is another row: a place beyond the last correction is always free.
        last = revision_max + 1 if revision_max or statement.revision else 0
        self.candidates = [(one, self._ids(one, last)) for one in placed]

    def _ids(self, placed: Placed, last: int) -> list[str]:
        slot, match_ref, line_key, line = placed
        return [
            identity.line_id_of(line_key, slot, match_ref, line.business_date, revision) for revision in range(last + 1)
        ]

    def reads(self, rows: Rows) -> Iterable[Key]:
        for _, ids in self.candidates:
            for id_ in ids:
                yield Key(StatementLine, "id", id_)

    def decide(self, work: Work) -> Stored:
        if work.now_ms >= self.until_ms:
            raise Unavailable(f"the import of {self.statement.id} was silent for too long", reason="IMPORT_TAKEN_OVER")
        new = 0
        for placed, ids in self.candidates:
            found = [row for id_ in ids if (row := work.get(StatementLine, id_)) is not None]
            current = next((row for row in found if self._counts(row)), None)
            if current is None:
                taken = {row.id for row in found}
                work.insert(self._row(placed, next(id_ for id_ in ids if id_ not in taken)), audit=False)
                new += 1
            elif not _says_the_same(current, placed):
                raise FailedPrecondition(
                    f"line {placed.line.line_no}: {current.statement_id} said otherwise of it; a corrected file must "
                    "name the statement that it replaces",
                    reason=LINE_CHANGED,
                    subject=current.statement_id,
                    metadata={"line_no": str(placed.line.line_no)},
                )
        return Stored(new, len(self.candidates) - new)

    def _counts(self, row: StatementLine) -> bool:
        return row.state == LineState.CURRENT and row.statement_id != self.statement.replaces_id

    def _row(self, placed: Placed, id_: str) -> StatementLine:
        line = placed.line
        return StatementLine(
            id=id_,
            slot=self.slot,
            statement_id=self.statement.id,
            channel=self.statement.channel,
            account=line.account,
            line_no=line.line_no,
            provider_line_id=line.line_id,
            kind=line.kind.value,
            match_ref=placed.match_ref or id_,
            provider_reference=line.provider_reference,
            amount_minor=line.amount_minor,
            fee_minor=line.fee_minor,
            currency=line.currency,
            business_date=line.business_date,
            is_reversal=int(line.is_reversal),
            state=LineState.CURRENT.value,
            difference="",
            break_id=None,
        )


def _says_the_same(row: StatementLine, placed: Placed) -> bool:
    line = placed.line
    said = (row.kind, row.amount_minor, row.fee_minor, row.currency, row.is_reversal)
    return said == (line.kind.value, line.amount_minor, line.fee_minor, line.currency, int(line.is_reversal))
