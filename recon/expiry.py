"""When windows pass: the silent sides are asked, and what they answer becomes one command."""

from __future__ import annotations

import asyncio

from paykit.context import current
from paykit.store.command import Origin
from paykit.store.store import Store
from recon import sides
from recon.asking import Silent
from recon.commands import ApplyAnswers
from recon.peers import Peers
from recon.rules import Rules
from recon.tables import Match

_ASKED_MAX = 16  # pairs of one payment at once


class Expiry:
    """Fires for matches whose due time has passed."""

    def __init__(self, store: Store, peers: Peers, rules: Rules) -> None:
        self._store = store
        self._peers = peers
        self._rules = rules

    async def fire(self, match: Match) -> None:
        """Asks, outside any transaction, and applies the answer. Runs under the context that the match stores."""
        context, now_ms = current(), self._store.clock.now_ms()
        held = sides.unpack(match)
        due = [pair for pair in held.pairs if pair.due_at_ms is not None and pair.due_at_ms <= now_ms]
        due = due[:_ASKED_MAX]  # what is left is still due
        silent = [Silent(match.payment_id, held.source_id, pair) for pair in due]
        answers = await asyncio.gather(*(self._peers.ask(one, context) for one in silent))
        by_key = {pair.match_key: answer for pair, answer in zip(due, answers, strict=True)}
        await self._store.run(ApplyAnswers(Origin.timer(context), match, by_key, self._rules))
