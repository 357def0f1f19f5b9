"""The schema that migrations make is the one that tables.py declares."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from paykit.store.migrate import migrate
from paykit.store.statements import as_rows
from recon.pair import Said
from recon.sides import pack, unpack
from recon.tables import Match, metadata
from tests.conftest import MakeShards
from tests.recon.support import mint

one_match: Any = importlib.import_module("recon.migrations.versions.0006_one_match_a_payment")


def _differences(connection: Connection) -> list[Any]:
    def is_ours(item: Any, name: str | None, type_: str, is_reflected: bool, compared: Any) -> bool:
        return not (type_ == "table" and is_reflected and compared is None)  # paykit's own tables

    context = MigrationContext.configure(connection, opts={"include_object": is_ours, "compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_migrations_make_what_the_tables_declare(make_shards: MakeShards) -> None:
    shards = make_shards(1, modes=("live",))
    await migrate("recon", shards, 1)
    engine = create_async_engine(shards["s0"].live)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(_differences) == []
    finally:
        await engine.dispose()


_OLD_ROW = (
    "INSERT INTO recon_match (id, slot, version, match_key, kind, biz_id, payment_id, source_id, state,"
    " first_amount_minor, first_currency, first_seen_at_ms, second_amount_minor, second_currency, second_seen_at_ms,"
    " conflict, due_at_ms, ask_count, break_id, context) VALUES (:id, 7, 1, :match_key, :kind, 'biz_1', :payment_id,"
    " :source_id, :state, 500, 'EUR', 10, :second_minor, :second_currency, :second_ms, 0, :due_at_ms, :ask_count,"
    " :break_id, x'01')"
)


def old_row(number: int, payment_id: str, kind: str, key: str, state: str, **more: Any) -> dict[str, Any]:
    """A row of one pair, as they were."""
    second = dict.fromkeys(("second_minor", "second_currency", "second_ms"))
    rest: dict[str, Any] = {"source_id": "", "due_at_ms": None, "ask_count": 0, "break_id": None}
    named = {"id": f"mat_{number:026}", "payment_id": payment_id, "kind": kind, "match_key": f"{kind}/{key}"}
    return {**second, **rest, **named, "state": state, **more}


async def test_rows_of_one_pair_each_become_one_of_their_payment(
    make_shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_match, "_PAGE", 2)  # what belongs together lies on two pages
    one, two = mint("pay"), mint("pay")
    matched = {"source_id": "att_1", "second_minor": 500, "second_currency": "EUR", "second_ms": 12}
    old = [
        old_row(0, one, "TRADE_PAY", one, "MATCHED", **matched),
        old_row(1, two, "PAY_LEDGER", "ins_2", "BROKEN", break_id="brk_1", due_at_ms=99, ask_count=3),
        old_row(2, one, "PAY_CHANNEL", "ins_1", "WAITING", due_at_ms=40),
    ]
    shards = make_shards(1, modes=("live",))
    await migrate("recon", shards, 1)
    engine = create_async_engine(shards["s0"].live)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(_OLD_ROW), old)
            await connection.run_sync(one_match.copy)
            rows = as_rows(Match, (await connection.execute(select(Match.__table__))).all())
    finally:
        await engine.dispose()
    first, other = (next(row for row in rows if row.payment_id == payment_id) for payment_id in (one, two))
    assert (first.state, first.due_at_ms) == ("WAITING", 40)
    assert (first.pair_counts, first.waiting_counts) == ("1.1.0.0", "0.1.0.0")
    assert (first.waiting_minor, first.waiting_since_ms, first.context) == (500, 10, b"\x01")
    held = unpack(first)
    assert held.source_id == "att_1"
    assert [(pair.kind, pair.key, pair.state) for pair in held.pairs] == [
        ("PAY_CHANNEL", "ins_1", "WAITING"),
        ("TRADE_PAY", one, "MATCHED"),
    ]
    assert held.pairs[1].second == Said(500, "EUR", 12, 12)
    assert (other.state, other.broken_counts, other.due_at_ms) == ("BROKEN", "0.0.1.0", 99)
    (broken,) = unpack(other).pairs
    assert (broken.break_id, broken.ask_count) == ("brk_1", 3)
    # The same, written by the service, is the same row.
    assert pack(first, held, b"") == first
