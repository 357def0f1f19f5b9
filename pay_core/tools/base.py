"""What a payment tool is."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pay_core.ledger import AccountRef, Draft
from pay_core.payment import InstructionState, Step
from pay_core.tables import Instruction
from paykit.store.command import Work


class Begun(NamedTuple):
    """What became of an instruction at once: SUCCEEDED (booked in the draft), FAILED (with a reason), or PROCESSING."""

    state: InstructionState
    failure_reason: str = ""


class PaymentTool(Protocol):
    """Carries out instructions of one kind, inside a decision: pure, its outside effects are messages of ``Work``."""

    def accounts(self, slot: int, currency: str, step: Step | Instruction) -> list[AccountRef]:
        """The accounts on the payment's slot that it may look at or post to for an instruction."""
        ...

    def begin(self, work: Work, instruction: Instruction, draft: Draft) -> Begun:
        """Carries out an INIT instruction, or asks somebody to. It must not raise for lack of money."""
        ...

    def book(self, instruction: Instruction, draft: Draft) -> None:
        """Books a PROCESSING instruction that has turned out to be done."""
        ...
