"""Tools that are accounts of the platform on the payment's slot: they never refuse, and answer at once."""

from __future__ import annotations

from collections.abc import Iterable

from pay_core import ledger
from pay_core.chart import AccountKind
from pay_core.ledger import Draft, Leg
from pay_core.payment import Action, InstructionState, Step
from pay_core.tables import Instruction
from pay_core.tools.base import BaseTool, Begun, Capabilities
from paykit.store.command import Rows, Work
from paykit.store.row import Key


class InternalTool(BaseTool):
    """Pays into and takes from one account of the platform, by its kind."""

    capabilities = Capabilities(frozenset({Action.COLLECT, Action.DISBURSE}))

    def __init__(self, name: str, kind: AccountKind) -> None:
        self.name = name
        self.kind = kind

    def reads(self, slot: int, currency: str, step: Step | Instruction, rows: Rows) -> Iterable[Key]:
        return ledger.account_keys([ledger.internal(slot, self.kind, currency)])

    def begin(self, work: Work, instruction: Instruction, draft: Draft) -> Begun:
        account = ledger.internal(draft.slot, self.kind, draft.currency)
        sign = -1 if instruction.action == Action.COLLECT else 1
        draft.book(instruction.id, instruction.amount_minor, Leg.LOCAL, account, sign * instruction.amount_minor)
        return Begun(InstructionState.SUCCEEDED)
