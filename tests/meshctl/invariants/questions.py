"""What recon asks when a window passes, without waiting for it."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from paykit import context as business
from paykit.store.command import Origin
from paykit.store.store import Store
from recon import asking, sides
from recon.asking import Silent
from recon.commands import ApplyAnswers
from recon.rules import Rules
from recon.tables import Match
from trade_core import wire
from trade_core.tables import PayAttempt, Trade
from trade_core.wire import TradeView


async def ask_trades(recon: Store, trades: Store, rules: Rules) -> None:
    """Every match that waits is about a payment that no trade has told of: its trade answers."""
    waiting = select(Match.__table__).where(Match.__table__.c.state == "WAITING")
    for match in await recon.fetch_everywhere(Match, waiting, shadow=False):
        held = sides.unpack(match)
        of_it = select(PayAttempt.__table__).where(PayAttempt.__table__.c.id == held.source_id)
        attempts = await trades.fetch_everywhere(PayAttempt, of_it, shadow=False)
        named = select(Trade.__table__).where(Trade.__table__.c.id == attempts[0].trade_id)
        (trade,) = await trades.fetch_everywhere(Trade, named, shadow=False)
        (pair,) = [pair for pair in held.pairs if pair.state == "WAITING"]
        told = [wire.trade(TradeView(trade, attempts=attempts))]
        answer = asking.of_trades(Silent(match.payment_id, held.source_id, pair), told)
        context = msgspec.structs.replace(business.unpack(match.context), caller="timer:window_passed")
        await recon.run(ApplyAnswers(Origin.timer(context), match, {pair.match_key: answer}, rules))
