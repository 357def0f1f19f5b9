"""Violations that SQL plants in the files of a system that is clean."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

PAY, TRADE, CHANNEL, RECON = (
    "pay_core_s0_live.db",
    "trade_core_s0_live.db",
    "channel_gateway_s0_live.db",
    "recon_s0_live.db",
)
BOOK = "book.sqlite"
HOUR_MS = 3_600_000


class Plant(NamedTuple):
    """What is done to which file, and which invariants it breaks: no more than those.

    ``at_work``: planted in the system with a charge that is not answered, which is not settled. ``later_ms``: how much
    later it is looked at.
    """

    name: str
    breaks: set[str]
    steps: tuple[tuple[str, str], ...] = ()
    at_work: bool = False
    later_ms: int = 0

    def into(self, folder: Path) -> None:
        """Does it; every statement must change something."""
        for file, statement in self.steps:
            connection = sqlite3.connect(folder / file)
            try:
                assert connection.execute(statement).rowcount > 0, statement
                connection.commit()
            finally:
                connection.close()
