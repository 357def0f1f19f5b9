"""Imports whose process went away: taken away again, or carried on, by whichever process finds them due."""

from __future__ import annotations

import asyncio

from paykit.clock import Clock
from paykit.context import current
from paykit.store.command import Origin
from paykit.store.store import Store
from recon.rules import Rules
from recon.statements.abandoning import abandon
from recon.statements.commands import Claim
from recon.statements.matching import Matcher
from recon.statements.running import run_patiently
from recon.statements.settings import StatementsSettings
from recon.statements.states import StatementState
from recon.tables import Statement

_WORK_S = 20.0  # of one firing, which is given up after 30


class Recovery:
    """Fires for statements whose due time has passed."""

    def __init__(self, store: Store, settings: StatementsSettings, rules: Rules, clock: Clock) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self._matcher = Matcher(store, settings, rules)

    async def fire(self, statement: Statement) -> None:
        """Goes on with a statement as its state asks for. Runs under the context that it stores."""
        state = StatementState(statement.state)
        if state is StatementState.DONE:
            await self._matcher.recheck(statement, self._clock.now_ms())
            return
        lease_ms = int(self._settings.lease_s * 1000)
        claimed = await run_patiently(self._store, Claim(Origin.timer(current()), statement, state, lease_ms))
        if state is StatementState.RECEIVING:
            await abandon(self._store, claimed)
        else:
            until_s = asyncio.get_running_loop().time() + _WORK_S
            await self._matcher.match(claimed, lambda judged: None, until_s)
