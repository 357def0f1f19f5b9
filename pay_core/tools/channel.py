"""The channel tool: asks channel_gateway to move money outside; the result comes as an event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pay_core import ledger, routes
from pay_core.ledger import AccountKind, Draft, Leg, internal
from pay_core.payment import CHANNEL, Action, InstructionState, Step, collected_minor
from pay_core.tables import Instruction
from pay_core.tools.base import BaseTool, Begun, Capabilities, Outcome, Question
from paykit.store.command import Rows, Work
from paykit.store.row import Key
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2
from paymesh.common.v1 import money_pb2

SERVICE = "channel_gateway"
SUBMIT_CHANNEL_ORDER = "/paymesh.channel.v1.ChannelService/SubmitChannelOrder"
GET_CHANNEL_ORDER = "/paymesh.channel.v1.ChannelService/GetChannelOrder"

_SENT = Begun(InstructionState.PROCESSING)
_MOVES = (Action.COLLECT, Action.DISBURSE)


class ChannelTool(BaseTool):
    """Collects from and disburses to cards, bank accounts and wallets outside; reserves are authorisations."""

    name = CHANNEL
    capabilities = Capabilities(frozenset(Action), captures_max=1, is_immediate=False, amount_may_differ=True)

    def reads(self, slot: int, currency: str, step: Step | Instruction, rows: Rows) -> Iterable[Key]:
        refs = [internal(slot, AccountKind.EXTERNAL, currency, step.channel)]
        if isinstance(step, Instruction) and step.action == Action.COLLECT:
            refs.append(internal(slot, AccountKind.SUSPENSE, currency))
        return ledger.account_keys(refs)

    def begin(self, work: Work, instruction: Instruction, draft: Draft) -> Begun:
        request = channel_service_pb2.SubmitChannelOrderRequest(
            request_id=instruction.id,
            kind=kind_of(instruction),
            channel=instruction.channel,
            amount=money_pb2.Money(currency_code=instruction.currency, amount_minor=instruction.amount_minor),
            instruction_id=instruction.id,
            payment_id=instruction.payment_id,
            token=instruction.token,
            original_channel_order_id=instruction.original_channel_order_id or "",
            **_candidates(instruction),
        )
        work.call(SUBMIT_CHANNEL_ORDER, request)
        return _SENT

    def book(self, work: Work, instruction: Instruction, draft: Draft) -> None:
        """What came; what is more than was asked for lies in suspense. A reserve books nothing."""
        if instruction.action not in _MOVES:
            return
        external = internal(draft.slot, AccountKind.EXTERNAL, instruction.currency, instruction.channel)
        if instruction.action == Action.DISBURSE:
            draft.book(instruction.id, instruction.amount_minor, Leg.LOCAL, external, instruction.amount_minor)
            return
        came_minor, kept_minor = instruction.moved_minor or instruction.amount_minor, collected_minor(instruction)
        credits = [(external, -came_minor)]
        if came_minor > kept_minor:
            suspense = internal(draft.slot, AccountKind.SUSPENSE, instruction.currency)
            credits.append((suspense, came_minor - kept_minor))
        draft.book_split(instruction.id, kept_minor, Leg.LOCAL, credits)

    def take(self, reserve: Instruction, amount_minor: int, taken_minor: int, taken_units: int) -> Step:
        # The authorisation says from what: a capture or void needs no token.
        return super().take(reserve, amount_minor, taken_minor, taken_units)._replace(token="")

    def give_back(self, instruction: Instruction, amount_minor: int) -> Step:
        return super().give_back(instruction, amount_minor)._replace(token="")

    def query(self, instruction: Instruction) -> Question | None:
        request = channel_service_pb2.GetChannelOrderRequest(instruction_id=instruction.id)
        return Question(SERVICE, GET_CHANNEL_ORDER, request, _read)


def kind_of(instruction: Instruction) -> channel_order_pb2.ChannelOrderKind.ValueType:
    """What the provider is asked to do."""
    if instruction.action == Action.COLLECT:
        if instruction.reserve_id is None:
            return channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE
        return channel_order_pb2.CHANNEL_ORDER_KIND_CAPTURE
    if instruction.action == Action.DISBURSE:
        if instruction.original_channel_order_id:
            return channel_order_pb2.CHANNEL_ORDER_KIND_REFUND
        return channel_order_pb2.CHANNEL_ORDER_KIND_PAYOUT
    if instruction.action == Action.RESERVE:
        return channel_order_pb2.CHANNEL_ORDER_KIND_AUTHORIZE
    return channel_order_pb2.CHANNEL_ORDER_KIND_VOID


def _candidates(instruction: Instruction) -> dict[str, Any]:
    """What follows an earlier order goes by the channel that carried that one: it has no route."""
    route = routes.route_of(instruction.route)
    return {} if route is None else {**routes.asked(route), **routes.switching(route)}


def outcome_of(order: channel_order_pb2.ChannelOrder) -> Outcome | None:
    """What a channel order says of its instruction; None where it is not over."""
    if order.state == channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED:
        failure_reason = ""
    elif order.state == channel_order_pb2.CHANNEL_ORDER_STATE_FAILED:
        failure_reason = order.failure_reason[:32] or "CHANNEL_FAILED"
    else:
        return None
    moved = (order.amount.amount_minor, order.amount.currency_code)
    return Outcome(failure_reason, order.channel_order_id, moved, order.settled_minor, order.channel)


def _read(response: Any) -> Outcome | None:
    return outcome_of(response.channel_order)
