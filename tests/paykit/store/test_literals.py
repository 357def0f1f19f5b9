"""Literals: whatever a value holds, it comes back as it was and ends nothing early."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from sqlalchemy import Dialect, Integer, LargeBinary
from sqlalchemy.dialects import mysql, sqlite

from paykit.settings import ExecutorSettings
from paykit.store.engines import ShardEngines
from paykit.store.literals import literal_of
from paykit.store.statements import insert_rows, load, update_rows
from paykit.store.system import DeadLetter
from tests.paykit.store.conftest import Shards

HOSTILE = [
    "plain",
    "it's",
    '"; DROP TABLE dead_letter; --',
    "\\' OR 1=1 -- ",
    "back\\slash at the end\\",
    "percent %s %% %(name)s",
    "marks @@ :name ? $1 {x}",
    "nul \0 inside",
    "line\nfeed\rand\ttab \x1a",
    "snow ☃ and emoji 😀",
    "'" * 100,
    "",
]


async def test_brings_every_text_and_blob_back_as_it_was(shards: Shards) -> None:
    rows = [
        DeadLetter(
            id=f"ded{i}",
            slot=-i,
            consumer="c",
            destination="d",
            message_id=f"m{i}",
            biz_id="b",
            context=bytes(range(256)),
            body=text.encode(),
            state="OPEN",
            error=text,
            created_at_ms=2**53 + i,
        )
        for i, text in enumerate(HOSTILE)
    ]
    changed = [replace(row, version=2, error=row.error[::-1], body=row.body * 2) for row in rows]
    engines = ShardEngines(shards["s0"].live, ExecutorSettings())
    async with engines.writer.connect() as connection:
        await connection.run_sync(insert_rows, DeadLetter, rows)
        assert await connection.run_sync(load, DeadLetter, "id", [row.id for row in rows], True) == sorted(
            rows, key=lambda row: row.id
        )
        await connection.run_sync(update_rows, DeadLetter, list(zip(rows, changed, strict=True)))
        found = await connection.run_sync(load, DeadLetter, "id", [row.id for row in rows], True)
        assert found == sorted(changed, key=lambda row: row.id)
        # As the value a row is looked up by, too.
        assert await connection.run_sync(load, DeadLetter, "id", HOSTILE, True) == []
        await connection.rollback()
    await engines.dispose()


async def test_splits_a_statement_that_grows_too_long(shards: Shards) -> None:
    rows = [
        DeadLetter(
            id=f"ded{i:03}",
            slot=0,
            consumer="c",
            destination="d",
            message_id="m",
            biz_id="b",
            context=b"",
            body=bytes(100_000),
            state="OPEN",
            error="",
            created_at_ms=0,
        )
        for i in range(9)
    ]
    engines = ShardEngines(shards["s0"].live, ExecutorSettings())
    async with engines.writer.connect() as connection:
        await connection.run_sync(insert_rows, DeadLetter, rows)
        assert await connection.run_sync(load, DeadLetter, "id", [row.id for row in rows], False) == rows
        await connection.rollback()
    await engines.dispose()


@pytest.mark.parametrize("dialect", [mysql.dialect(), sqlite.dialect()])
def test_refuses_a_value_that_is_not_of_its_columns_type(dialect: Dialect) -> None:
    for nullable in (False, True):
        with pytest.raises(TypeError):
            literal_of(Integer(), dialect, nullable=nullable)("1; DROP TABLE purse")
        with pytest.raises(AttributeError):
            literal_of(LargeBinary(), dialect, nullable=nullable)("text")
