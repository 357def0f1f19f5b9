"""Takes away what an import stored that broke off."""

from __future__ import annotations

import structlog
from sqlalchemy import delete

from paykit import context as business
from paykit.store.command import Origin
from paykit.store.store import Store
from recon.statements import queries
from recon.statements.commands import Abandon
from recon.statements.running import run_patiently
from recon.tables import Statement, StatementLine

_AT_ONCE = 1_000  # lines of one statement

log = structlog.get_logger(__name__)


async def abandon(store: Store, statement: Statement) -> None:
    """Deletes its lines, and gives the file free. The import must not be under way any more."""
    context = business.unpack(statement.context)
    table = StatementLine.__table__
    for shard in store.shards(context.mode):
        while ids := await queries.line_ids(store, context.mode, shard, statement.id, _AT_ONCE):
            await store.housekeep(context.mode, shard, delete(table).where(table.c.id.in_(ids)))
    await run_patiently(store, Abandon(Origin.timer(context), statement))


async def abandon_quietly(store: Store, statement: Statement) -> None:
    """As ``abandon``; what fails is left to the timer, which comes once the lease has ended."""
    try:
        await abandon(store, statement)
    except Exception as error:
        log.warning("statement_not_abandoned", statement_id=statement.id, error_type=type(error).__name__)
