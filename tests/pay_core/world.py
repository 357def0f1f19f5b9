"""pay_core without storage or network: its commands over rows in a dictionary, its messages delivered by hand.

Commands are pure, so the whole service can be driven through thousands of histories a second: messages in any order,
twice, and with any outcome from the providers.
"""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.wrappers_pb2 import StringValue

from pay_core import commands, transit
from pay_core.ledger import KIND_OF_NUMBER, AccountKind
from pay_core.orchestration import PaymentView
from pay_core.payment import BALANCE, CHANNEL, Funding, InstructionState, Payee
from pay_core.tables import Account, Entry, Instruction, Journal, Payment
from pay_core.tools.balance import DRAW_TRANSIT, RECEIVE_TRANSIT
from pay_core.tools.channel import SUBMIT_CHANNEL_ORDER
from paykit import context as business_context
from paykit.ids import slot_of
from paykit.store.batch import Batch, LoadedSoFar
from paykit.store.command import Command, Origin, R
from paykit.store.row import Row
from paykit.store.system import CommandRecord, Outbox
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2
from paymesh.pay.v1 import ledger_service_pb2

NOW_MS = 1_700_000_000_000
DUE_MS = 15_000


def origin(owner: str, request_id: str, *, body: str = "") -> Origin:
    """The origin of a request by the test."""
    context = business_context.mint(slot_of(owner), NOW_MS, caller="tester")
    return Origin.rpc(context, "Test", owner, request_id, StringValue(value=body))


class World:
    """All rows of pay_core, the calls it has sent, and what the provider did."""

    def __init__(self) -> None:
        self.rows: dict[type[Row], dict[str, Row]] = {}
        self.calls: list[Outbox] = []
        self.events: list[Outbox] = []
        self.provider_net: dict[tuple[str, str], int] = {}  # (channel, currency): charged less given back and paid out

    def all(self, row_type: type[Any]) -> list[Any]:
        """All rows of a table."""
        return list(self.rows.get(row_type, {}).values())

    def run(self, command: Command[R]) -> R:
        """Carries out one command, alone in its batch; what was done before is answered with None."""
        batch = Batch(NOW_MS, 5_000)
        stored_records = self.rows.get(CommandRecord, {})
        if command.origin.key and command.origin.key in stored_records:
            return cast(R, None)
        while missing := batch.missing(set(command.reads(LoadedSoFar(batch)))):
            for (row_type, column), values in missing.items():
                found = [row for row in self.all(row_type) if getattr(row, column) in values]
                batch.table(row_type).add_loaded(column, values, found)
        result: R = batch.decide(command)
        for row_type, rows in batch.inserts():
            for row in rows:
                assert row.id not in self.rows.setdefault(row_type, {})
                self.rows[row_type][row.id] = row
        for row_type, changes in batch.updates():
            for before, after in changes:
                assert self.rows[row_type][before.id] is before
                self.rows[row_type][after.id] = after
        for message in batch.outbox:
            (self.calls if message.kind == "call" else self.events).append(message)
        return result

    def recharge(self, owner: str, amount_minor: int, request_id: str, token: str = "tok_ok") -> PaymentView:
        """A top-up by card."""
        funding = Funding(amount_minor, "card", token)
        return self.run(commands.recharge(origin(owner, request_id), owner, "EUR", funding, request_id, DUE_MS))

    def withdraw(self, owner: str, amount_minor: int, request_id: str, token: str = "tok_ok") -> PaymentView:
        """A cash-out to a bank."""
        target = Funding(amount_minor, "bank", token)
        return self.run(commands.withdraw(origin(owner, request_id), owner, "EUR", target, request_id, DUE_MS))

    def transfer(
        self, payer: str, fundings: list[Funding], payees: list[tuple[str, AccountKind, int]], request_id: str
    ) -> PaymentView:
        """A payment to payees."""
        to = [Payee(*payee) for payee in payees]
        return self.run(commands.transfer(origin(payer, request_id), payer, "EUR", fundings, to, request_id, DUE_MS))

    def refund(self, payment_id: str, amount_minor: int, request_id: str) -> PaymentView:
        """A refund of a transfer."""
        return self.run(
            commands.Refund(origin(payment_id, request_id), payment_id, "EUR", amount_minor, request_id, DUE_MS)
        )

    def deliver(self, row: Outbox, *, provider_agrees: bool = True) -> None:
        """Makes a durable call, as its callee would carry it out; channel orders get their result at once."""
        context = business_context.unpack(row.context)
        if row.destination == SUBMIT_CHANNEL_ORDER:
            self._answer_channel(row, provider_agrees)
        elif row.destination in (RECEIVE_TRANSIT, DRAW_TRANSIT):
            kind = transit.ReceiveTransit if row.destination == RECEIVE_TRANSIT else transit.DrawTransit
            request = ledger_service_pb2.ReceiveTransitRequest.FromString(row.body)
            called = Origin.rpc(context, kind.__name__, request.owner_id, request.instruction_id, request)
            amount = request.amount
            self.run(
                kind(
                    called,
                    request.instruction_id,
                    request.payment_id,
                    request.owner_id,
                    KIND_OF_NUMBER[request.account_kind],
                    amount.currency_code,
                    amount.amount_minor,
                )
            )
        else:
            answer = ledger_service_pb2.SettleTransitRequest.FromString(row.body)
            called = Origin.rpc(context, "SettleTransit", answer.instruction_id, answer.instruction_id, answer)
            reason = "" if answer.drawn else answer.failure_reason
            self.run(
                commands.SettleInstruction(
                    called,
                    answer.payment_id,
                    answer.instruction_id,
                    tool=BALANCE,
                    failure_reason=reason,
                    result_due_ms=DUE_MS,
                )
            )

    def _answer_channel(self, row: Outbox, agrees: bool) -> None:
        request = channel_service_pb2.SubmitChannelOrderRequest.FromString(row.body)
        context = business_context.unpack(row.context)
        instruction = self.rows[Instruction][request.instruction_id]
        assert isinstance(instruction, Instruction)
        if instruction.state == InstructionState.PROCESSING and agrees:
            charged = request.kind == channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE
            key = (request.channel, request.amount.currency_code)
            change = request.amount.amount_minor if charged else -request.amount.amount_minor
            self.provider_net[key] = self.provider_net.get(key, 0) + change
        if instruction.state != InstructionState.PROCESSING:
            agrees = instruction.state == InstructionState.SUCCEEDED  # the provider does not change its mind
        self.run(
            commands.SettleInstruction(
                Origin.event(context, "channel_results", row.id),
                request.payment_id,
                request.instruction_id,
                tool=CHANNEL,
                failure_reason="" if agrees else "CARD_DECLINED",
                channel_order_id=f"chn_{request.instruction_id[4:]}",
                moved=(request.amount.amount_minor, request.amount.currency_code),
                result_due_ms=DUE_MS,
            )
        )

    def drain(self) -> None:
        """Delivers everything, in order, the provider agreeing."""
        while self.calls:
            self.deliver(self.calls.pop(0))

    def balance(self, owner: str, kind: AccountKind = AccountKind.USER) -> int:
        """What an owner has, in cents."""
        keys = {account.account_key: account.balance_minor for account in self.all(Account)}
        return int(keys.get(f"{owner}/{kind}/EUR", 0))

    def check(self) -> None:
        """What must hold at any moment, and what must hold when nothing is under way."""
        entries: dict[str, int] = {}
        journals: dict[str, int] = {}
        for entry in self.all(Entry):
            entries[entry.account_id] = entries.get(entry.account_id, 0) + entry.amount_minor
            journals[entry.journal_id] = journals.get(entry.journal_id, 0) + entry.amount_minor
        assert not any(journals.values())
        assert set(journals) <= {journal.id for journal in self.all(Journal)}
        totals: dict[str, int] = {}
        for account in self.all(Account):
            assert account.balance_minor == entries.get(account.id, 0)
            assert account.floor_minor is None or account.balance_minor >= account.floor_minor
            totals[account.kind] = totals.get(account.kind, 0) + account.balance_minor
        assert sum(totals.values()) == 0
        for payment in self.all(Payment):
            assert 0 <= payment.refunded_minor + payment.refunding_minor <= payment.amount_minor
        if self.calls:
            return
        assert totals.get(AccountKind.CLEARING, 0) == 0
        assert totals.get(AccountKind.IN_TRANSIT, 0) == 0
        assert -totals.get(AccountKind.EXTERNAL, 0) == sum(self.provider_net.values())
        assert {payment.state for payment in self.all(Payment)} <= {"SUCCEEDED", "FAILED"}
        assert all(payment.refunding_minor == 0 for payment in self.all(Payment))
