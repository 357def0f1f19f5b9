"""What a payment tool is: one class that carries out instructions of its kind, and declares what it can do.

Everything here happens inside a decision: a tool is pure, and its effects outside are messages of ``Work``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import Message

from pay_core.ledger import Draft
from pay_core.payment import Action, InstructionState, Step
from pay_core.rules.rule_set import RuleSet
from pay_core.tables import Instruction
from paykit.store.command import Rows, Work
from paykit.store.row import Key

_NOTHING: Mapping[str, Any] = {}


class Capabilities(NamedTuple):
    """What a tool can do; the contract suite holds it to that.

    ``captures_max``: how often a reserve may be collected from; None is any number. Where it is 1, what the first
    COLLECT does not take is given up by it, and no RELEASE follows. ``is_immediate``: it answers in the same decision.
    ``amount_may_differ``: a COLLECT may turn out to have brought another amount than asked for. ``unit``: its own
    unit beside money, counted in ``unit_count``; empty where it has none.
    """

    actions: frozenset[Action]
    captures_max: int | None = 1
    is_immediate: bool = True
    amount_may_differ: bool = False
    unit: str = ""


class Intake(NamedTuple):
    """What a tool may know of a payment when it is accepted."""

    payer_id: str
    currency: str
    merchants: frozenset[str]  # the owners of MERCHANT accounts that are paid
    rules: RuleSet
    now_ms: int


class Begun(NamedTuple):
    """What became of an instruction at once: SUCCEEDED (booked in the draft), FAILED (with a reason), or PROCESSING.

    ``changes`` are further columns of the instruction.
    """

    state: InstructionState
    failure_reason: str = ""
    changes: Mapping[str, Any] = _NOTHING


class Outcome(NamedTuple):
    """What became of a PROCESSING instruction. ``failure_reason`` is empty where it is done.

    ``moved``: amount in minor units and currency that it was carried out over, None where nothing was said.
    ``settled_minor``: what was really moved, where that is another amount; else 0. ``channel``: the one that did it, or
    gave it up last; empty where that is the instruction's own.
    """

    failure_reason: str = ""
    channel_order_id: str | None = None
    moved: tuple[int, str] | None = None
    settled_minor: int = 0
    channel: str = ""


class Question(NamedTuple):
    """Whom to ask for the outcome of an instruction, and how to read the answer: None where it is still open."""

    service: str
    method: str
    request: Message
    read: Callable[[Any], Outcome | None]


class PaymentTool(Protocol):
    """Carries out instructions of one kind. An instruction is

    - COLLECT with ``reserve_id``: takes what that RESERVE keeps; COLLECT without: takes money from the tool;
    - DISBURSE with ``reverses_id``: gives money of that COLLECT (of this payment, or of the refunded one) back;
      DISBURSE without: pays into the tool;
    - RESERVE: keeps money; RELEASE with ``reserve_id``: gives up ``amount_minor`` of what is still kept.
    """

    name: str
    capabilities: Capabilities

    def reads(self, slot: int, currency: str, step: Step | Instruction, rows: Rows) -> Iterable[Key]:
        """The rows on the payment's slot that it may look at or change; called again as they are loaded."""
        ...

    def prepare(self, rows: Rows, step: Step, intake: Intake) -> Step:
        """A funding as it will be carried out, checked when the payment is accepted.

        It fills ``unit_count``, and ``bearer_id`` where the shares of a payee bear it. A MeshError refuses the payment.
        """
        ...

    def begin(self, work: Work, instruction: Instruction, draft: Draft) -> Begun:
        """Carries out an INIT instruction, or asks somebody to. It never raises for lack of money."""
        ...

    def book(self, work: Work, instruction: Instruction, draft: Draft) -> None:
        """Books a PROCESSING instruction that has turned out to be done; ``moved_minor`` where that differs."""
        ...

    def take(self, reserve: Instruction, amount_minor: int, taken_minor: int, taken_units: int) -> Step:
        """The COLLECT of ``amount_minor`` from a reserve of which ``taken_…`` was collected before."""
        ...

    def give_back(self, instruction: Instruction, amount_minor: int) -> Step:
        """The DISBURSE that gives back ``amount_minor`` of a COLLECT, of which ``refunded_…`` was given back before."""
        ...

    def query(self, instruction: Instruction) -> Question | None:
        """What to ask for the outcome of a PROCESSING instruction; None where the answer comes without asking."""
        ...


class BaseTool:
    """What most tools do not need to say: everything but ``name``, ``capabilities``, ``reads`` and ``begin``."""

    def prepare(self, rows: Rows, step: Step, intake: Intake) -> Step:
        return step

    def book(self, work: Work, instruction: Instruction, draft: Draft) -> None:
        raise AssertionError(f"{instruction.tool} answers at once: nothing of it is PROCESSING")

    def take(self, reserve: Instruction, amount_minor: int, taken_minor: int, taken_units: int) -> Step:
        return same_place(reserve, Action.COLLECT, amount_minor, reserve_id=reserve.id)

    def give_back(self, instruction: Instruction, amount_minor: int) -> Step:
        return same_place(instruction, Action.DISBURSE, amount_minor, reverses_id=instruction.id)

    def query(self, instruction: Instruction) -> Question | None:
        return None


def same_place(instruction: Instruction, action: Action, amount_minor: int, **changes: Any) -> Step:
    """A step at the same tool, account, channel and token as an instruction, that follows its channel order."""
    return Step(
        action,
        instruction.tool,
        amount_minor,
        owner_id=instruction.owner_id,
        account_kind=instruction.account_kind,
        channel=instruction.channel,
        token=instruction.token,
        instrument=instruction.instrument,
        reference=instruction.reference,
        original_channel_order_id=instruction.channel_order_id,
    )._replace(**changes)
