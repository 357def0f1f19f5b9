"""The ledger alone: a command that posts one journal, and rows in a dictionary to carry commands out on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from google.protobuf.wrappers_pb2 import StringValue

from pay_core import ledger
from pay_core.chart import CHART
from pay_core.ledger import AccountKind, AccountRef, Draft
from paykit import context as business_context
from paykit.errors import FailedPrecondition
from paykit.ids import slot_of
from paykit.store.command import Command, Origin, R, Rows, Work
from paykit.store.row import Key
from paykit.store.system import Outbox
from tests.paykit.store.memory import MemoryRows

DAY_MS = 86_400_000
NOON_MS = 1_700_006_400_000 // DAY_MS * DAY_MS + DAY_MS // 2  # of 2023-11-15
TODAY, TOMORROW = "2023-11-15", "2023-11-16"

ANN = ledger.owned("ann", AccountKind.USER, "EUR")
OUTSIDE = ledger.internal(ANN.slot, AccountKind.EXTERNAL, "EUR", "card")
FEES = ledger.internal(ANN.slot, AccountKind.FEES, "EUR")


def outside_of(ref: AccountRef) -> AccountRef:
    """What the provider holds, on the slot of an account."""
    return ledger.internal(ref.slot, AccountKind.EXTERNAL, ref.currency, "card")


def origin(slot: int, request_id: str, *, now_ms: int = NOON_MS) -> Origin:
    """The origin of a request by the test; a timer's where ``request_id`` is empty."""
    context = business_context.mint(slot, now_ms, caller="tester")
    if not request_id:
        return Origin.timer(context)
    return Origin.rpc(context, "Test", str(slot), request_id, StringValue())


class Post(Command[str]):
    """Moves money between two accounts of one slot, where it may leave the first; the journal's id."""

    result_type = str

    def __init__(
        self, debit: AccountRef, credit: AccountRef, amount_minor: int, *, request_id: str = "", date: str = ""
    ) -> None:
        super().__init__(debit.slot, origin(debit.slot, request_id))
        self.debit, self.credit, self.amount_minor, self.date = debit, credit, amount_minor, date

    def reads(self, rows: Rows) -> Iterable[Key]:
        return ledger.account_keys([self.debit, self.credit])

    def decide(self, work: Work) -> str:
        draft = Draft(self.slot, self.debit.currency)
        if CHART[self.debit.kind].is_owned:
            reason = ledger.refusal(work, self.debit, self.amount_minor, draft)
            if reason:
                raise FailedPrecondition("refused", reason=reason, subject=self.debit.account_key)
        draft.shift(self.debit, self.credit, self.amount_minor)
        return ledger.post(work, draft, work.new_id("pay"), self.date).id


class Decide(Command[Any]):
    """Any decision over the accounts and books of ``refs``, and over whatever ``keys`` names."""

    def __init__(
        self,
        refs: Sequence[AccountRef],
        decision: Callable[[Work], Any],
        keys: Sequence[Key] = (),
        request_id: str = "",
    ) -> None:
        super().__init__(refs[0].slot, origin(refs[0].slot, request_id))
        self.refs, self.decision, self.keys = list(refs), decision, keys

    def reads(self, rows: Rows) -> Iterable[Key]:
        return [*ledger.account_keys(self.refs), *self.keys]

    def decide(self, work: Work) -> Any:
        return self.decision(work)


class Desk(MemoryRows):
    """Rows in a dictionary; every command is alone in its batch. The time is the test's."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        super().__init__()
        self.now_ms = now_ms
        self.messages: list[Outbox] = []

    def run(self, command: Command[R]) -> R:
        """Carries out one command; what was done before is answered with None."""
        carried = self.carry_out(command, self.now_ms)
        self.messages += carried.outbox
        return cast(R, carried.result)

    def deposit(self, ref: AccountRef, amount_minor: int) -> None:
        """Money from outside into an account."""
        self.run(Post(outside_of(ref), ref, amount_minor))


def owners_on(slot: int, count: int) -> list[str]:
    """Owners whose accounts lie on one slot."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        if slot_of(f"owner{number}") == slot:
            found.append(f"owner{number}")
        number += 1
    return found
