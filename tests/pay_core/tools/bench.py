"""One tool without storage or orchestration: instructions are carried out over rows in a dictionary, and booked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pay_core import ledger
from pay_core.ledger import AccountKind, Draft
from pay_core.payment import Action, InstructionState, Step
from pay_core.rules import load
from pay_core.tables import Account, Entry, Instruction, Payment
from pay_core.tools.base import Begun, Intake, PaymentTool
from paykit import context as business_context
from paykit.ids import new_id, slot_of
from paykit.store.command import Command, Origin, R, Rows, Work
from paykit.store.row import Key, key
from tests.paykit.store.memory import MemoryRows

NOW_MS = 1_700_000_000_000
OWNER = "ann"
SLOT = slot_of(OWNER)
RULES = load(
    """
version: 1
points:
  rate: {points: 7, amount_minor: 3}
tools:
  - {name: all, when: "true", allow: [coupon, points, balance]}
""",
    "test",
)
INTAKE = Intake(OWNER, "EUR", frozenset(), RULES, NOW_MS)


def origin() -> Origin:
    """A timer's: nothing is recorded, and every command is another one."""
    return Origin.timer(business_context.mint(SLOT, NOW_MS, caller="tester"))


def payment(**changes: Any) -> Payment:
    """A payment of ann's, accepted now."""
    fields: dict[str, Any] = {
        "id": new_id("pay", SLOT, NOW_MS),
        "slot": SLOT,
        "biz_id": new_id("biz", SLOT, NOW_MS),
        "operation": "TRANSFER",
        "state": "PROCESSING",
        "payer_id": OWNER,
        "currency": "EUR",
        "amount_minor": 1000,
        "source_id": "",
        "original_payment_id": None,
        "refunding_minor": 0,
        "refunded_minor": 0,
        "failure_reason": "",
        "caller": "tester",
        "context": b"",
        "ask_count": 0,
        "due_at_ms": None,
        "created_at_ms": NOW_MS,
        "finished_at_ms": None,
    }
    return Payment(**(fields | changes))


def instruction(of: Payment, step: Step, **changes: Any) -> Instruction:
    """A step of a payment, to be begun."""
    fields: dict[str, Any] = {
        "id": new_id("ins", SLOT, NOW_MS),
        "slot": SLOT,
        "payment_id": of.id,
        "seq": 1,
        "direction": "FORWARD",
        "action": step.action.value,
        "tool": step.tool,
        "state": "INIT",
        "currency": of.currency,
        "amount_minor": step.amount_minor,
        "owner_id": step.owner_id,
        "account_kind": step.account_kind,
        "channel": step.channel,
        "token": step.token,
        "channel_order_id": None,
        "original_channel_order_id": None,
        "reverses_id": step.reverses_id,
        "refunded_minor": 0,
        "failure_reason": "",
        "reserve_id": step.reserve_id,
        "unit_count": step.unit_count,
    }
    return Instruction(**(fields | changes))


class Carry(Command[list[Begun]]):
    """Begins instructions of one payment with one tool, in one journal."""

    def __init__(self, tool: PaymentTool, of: Payment, instructions: Sequence[Instruction]) -> None:
        super().__init__(SLOT, origin())
        self.tool, self.payment, self.instructions = tool, of, instructions

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Payment, self.payment.id)
        yield from ledger.account_keys([ledger.internal(SLOT, AccountKind.CLEARING, self.payment.currency)])
        for each in self.instructions:
            yield from self.tool.reads(SLOT, self.payment.currency, each, rows)

    def decide(self, work: Work) -> list[Begun]:
        if work.get(Payment, self.payment.id) is None:
            work.insert(self.payment)
        draft = Draft(SLOT, self.payment.currency)
        begun = [self.tool.begin(work, each, draft) for each in self.instructions]
        if draft.postings:
            ledger.post(work, draft, self.payment.id)
        return begun


class Prepare(Command[Step]):
    """A funding as it will be carried out."""

    def __init__(self, tool: PaymentTool, asked: Step, intake: Intake) -> None:
        super().__init__(SLOT, origin())
        self.tool, self.asked, self.intake = tool, asked, intake

    def reads(self, rows: Rows) -> Iterable[Key]:
        return self.tool.reads(SLOT, self.intake.currency, self.asked, rows)

    def decide(self, work: Work) -> Step:
        return self.tool.prepare(work, self.asked, self.intake)


class Book(Carry):
    """Books instructions that turned out to be done, in one journal where they move anything."""

    def decide(self, work: Work) -> list[Begun]:
        draft = Draft(SLOT, self.payment.currency)
        for each in self.instructions:
            self.tool.book(work, each, draft)
        if draft.postings:
            ledger.post(work, draft, self.payment.id)
        return [Begun(InstructionState.SUCCEEDED)] * len(self.instructions)


class Bench(MemoryRows):
    """All rows, and what a tool made of them."""

    def __init__(self, tool: PaymentTool) -> None:
        super().__init__()
        self.tool = tool

    def run(self, *commands: Command[R]) -> list[R]:
        """Carries out commands in one batch."""
        batch = self.load(NOW_MS, *commands)
        results = [batch.decide(command) for command in commands]
        self.keep(batch)
        return results

    def prepare(self, asked: Step, intake: Intake = INTAKE) -> Step:
        """A funding as it will be carried out."""
        (prepared,) = self.run(Prepare(self.tool, asked, intake))
        return prepared

    def carry(self, of: Payment, *steps: Step, reason: str = "") -> list[Instruction]:
        """Carries out steps of a payment, which must all succeed, or fail for ``reason``; the instructions.

        Whoever is asked for what is not done at once does it.
        """
        made = [instruction(of, step) for step in steps]
        (begun,) = self.run(Carry(self.tool, of, made))
        asked = [ins for ins, each in zip(made, begun, strict=True) if each.state == InstructionState.PROCESSING]
        if asked:
            assert not self.tool.capabilities.is_immediate
            self.run(Book(self.tool, of, asked))
        state = InstructionState.FAILED if reason else InstructionState.SUCCEEDED
        for ins, each in zip(made, begun, strict=True):
            assert ins in asked or (each.state, each.failure_reason) == (state, reason)
        return [msgspec.structs.replace(ins, state=state.value) for ins in made]

    def balance(self, kind: AccountKind, unit: str = "EUR") -> int:
        """What the accounts of a kind have."""
        return sum(row.balance_minor for row in self.all(Account) if (row.kind, row.currency) == (kind, unit))

    def check(self) -> None:
        """Every journal sums to zero per unit, and every balance is that of its entries."""
        sums: dict[tuple[str, str], int] = {}
        for entry in self.all(Entry):
            for place in ((entry.journal_id, entry.currency), (entry.account_id, "")):
                sums[place] = sums.get(place, 0) + entry.amount_minor
        accounts = {account.id: account for account in self.all(Account)}
        for (place_id, unit), total in sums.items():
            assert total == (0 if unit else accounts[place_id].balance_minor)


def step(action: Action, tool: PaymentTool, amount_minor: int, **changes: Any) -> Step:
    """A step of ann's at a tool."""
    return Step(action, tool.name, amount_minor, owner_id=OWNER)._replace(**changes)
