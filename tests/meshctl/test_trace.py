"""Timelines as people read them: every record under the one it belongs to, times, states and amounts."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType

from meshctl.timeline import Record, Step, Timeline, commands, step_text
from meshctl.trace import flat, tree
from paymesh.common.v1.money_pb2 import Money
from paymesh.ops.v1.ops_service_pb2 import Change, TimelineEntry
from paymesh.pay.v1 import payment_pb2

START_MS = 1_700_000_000_000


def _entry(after_ms: int, service: str, command: str, *changes: Change) -> TimelineEntry:
    time = Timestamp()
    time.FromMilliseconds(START_MS + after_ms)
    return TimelineEntry(
        time=time, service=service, command=command, trigger="rpc", caller="shop-backend", changes=changes
    )


def _timeline() -> Timeline:
    entries = [
        _entry(
            0,
            "trade_core",
            "CreateTrade",
            Change(id="trd_1", entity="trade", to_state="CREATED"),
            Change(id="att_1", entity="pay_attempt", parent_id="trd_1", to_state="PAYING"),
            Change(id="trd_1", entity="trade", from_state="CREATED", to_state="PAYING"),
        ),
        _entry(
            12,
            "pay_core",
            "Transfer",
            Change(id="pay_1", entity="payment", parent_id="att_1", to_state="PROCESSING", note="TRANSFER"),
            Change(
                id="jnl_1",
                entity="journal",
                parent_id="pay_1",
                note="ann/USER/EUR -1000, internal.7/IN_TRANSIT/EUR +1000",
            ),
        ),
        _entry(
            1530,
            "trade_core",
            "ApplyPaymentResult",
            Change(id="trd_1", entity="trade", from_state="PAYING", to_state="PAID"),
            Change(id="trd_1", entity="trade", from_state="PAID", to_state="PAID", note="refund of 5 begun"),
        ),
        _entry(
            1540, "recon", "TakeFacts", Change(id="brk_1", entity="recon_break", parent_id="pay_x", to_state="OPEN")
        ),
    ]
    return Timeline(["biz_1"], entries, {"trd_1": "PURCHASE 10.00 EUR, ann → shop"}, {})


def _printed(renderable: RenderableType) -> list[str]:
    console = Console(file=StringIO(), width=200)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_each_record_stands_under_the_one_it_belongs_to() -> None:
    lines = _printed(tree(_timeline()))
    assert lines[0].startswith("biz_1  from 2023-11-14 22:13:20.000 UTC")
    indents = {line.split("── ")[1].split("  ")[0]: line.index("── ") for line in lines[1:]}
    assert indents == {
        "trade trd_1": 1,
        "pay attempt att_1": 5,
        "payment pay_1": 9,
        "journal jnl_1": 13,
        "recon break brk_1": 1,  # what it belongs to is not there: it must be seen all the same
    }


def test_a_record_tells_what_it_is_about_its_states_and_when_since_the_start() -> None:
    trade = _printed(tree(_timeline()))[1]
    assert trade.endswith(
        "trade trd_1  PURCHASE 10.00 EUR, ann → shop  "
        "CREATED +0 ms → PAYING → PAID +1.53 s; refund of 5 begun  trade_core"
    )


def test_a_journal_is_shown_in_major_units() -> None:
    journal = _printed(tree(_timeline()))[4]
    assert "ann/USER/EUR -10.00, internal.7/IN_TRANSIT/EUR +10.00 +12 ms" in journal


def test_the_flat_list_has_every_change_in_the_order_of_time() -> None:
    lines = _printed(flat(_timeline()))
    assert lines[0].split() == ["time", "service", "command", "by", "record", "change", "note"]
    times = [line.strip().split("  ")[0] for line in lines[1:]]
    assert times == ["+0 ms"] * 3 + ["+12 ms"] * 2 + ["+1.53 s"] * 2 + ["+1.54 s"]
    assert "CREATED → PAYING" in lines[3]
    assert "rpc shop-backend" in lines[3]


def test_the_records_of_a_timeline_know_their_steps() -> None:
    trade, attempt, *_ = _timeline().records()
    assert trade.steps[:2] == [
        Step(START_MS, "CREATED", "", "CreateTrade"),
        Step(START_MS, "PAYING", "", "CreateTrade"),
    ]
    assert trade.steps[-1] == Step(START_MS + 1530, "", "refund of 5 begun", "ApplyPaymentResult")
    assert attempt == Record(
        "att_1", "pay_attempt", "trade_core", "trd_1", [Step(START_MS, "PAYING", "", "CreateTrade")]
    )


def test_the_commands_that_moved_an_entity_leave_out_what_only_noted_something() -> None:
    assert commands(_timeline().entries, "trade") == [
        ("CreateTrade", "CREATED"),
        ("CreateTrade", "PAYING"),
        ("ApplyPaymentResult", "PAID"),
    ]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ({"action": "RESERVE", "tool": "balance", "owner_id": "ann"}, "1. RESERVE 45.00 EUR, ann"),
        ({"action": "COLLECT", "tool": "channel", "channel": "sandbox_card"}, "1. COLLECT 45.00 EUR, sandbox_card"),
        ({"action": "COLLECT", "tool": "coupon", "owner_id": "ann"}, "1. COLLECT 45.00 EUR, coupon of ann"),
        (
            {"action": "COLLECT", "tool": "points", "owner_id": "ann", "unit_count": 4500},
            "1. COLLECT 45.00 EUR, 4500 points of ann",
        ),
        ({"action": "DISBURSE", "tool": "escrow"}, "1. DISBURSE 45.00 EUR, escrow"),
        ({"action": "DISBURSE", "tool": "coupon_account"}, "1. DISBURSE 45.00 EUR, coupon account"),
        (
            {"action": "COLLECT", "tool": "channel", "channel": "sandbox_wallet", "moved_minor": 5000},
            "1. COLLECT 45.00 EUR, sandbox_wallet (50.00 EUR came)",
        ),
    ],
)
def test_a_step_names_its_tool_and_what_really_moved(step: dict[str, Any], text: str) -> None:
    action = payment_pb2.InstructionAction.Value(f"INSTRUCTION_ACTION_{step.pop('action')}")
    amount = Money(currency_code="EUR", amount_minor=4500)
    assert step_text(payment_pb2.Instruction(seq=1, action=action, amount=amount, **step)) == text
    undone = payment_pb2.Instruction(
        seq=1, action=action, amount=amount, direction=payment_pb2.DIRECTION_REVERSE, **step
    )
    assert step_text(undone).startswith("1. REVERSE ")
