"""When a window passes: the silent side is asked, and its answer becomes a command."""

from __future__ import annotations

from paykit.context import current
from paykit.store.command import Origin
from paykit.store.store import Store
from recon.commands import ApplyAnswer
from recon.peers import Peers
from recon.rules import Rules
from recon.tables import Match


class Expiry:
    """Fires for matches whose due time has passed."""

    def __init__(self, store: Store, peers: Peers, rules: Rules) -> None:
        self._store = store
        self._peers = peers
        self._rules = rules

    async def fire(self, match: Match) -> None:
        """Asks, outside any transaction, and applies the answer. Runs under the context that the match stores."""
        context = current()
        answer = await self._peers.ask(match, context)
        await self._store.run(ApplyAnswer(Origin.timer(context), match, answer, self._rules))
