"""TradeService: requests in, commands run, trades out. Fields are checked in ``requests``; nothing is decided here."""

from __future__ import annotations

from trade_core.api.trade import TradeApi

__all__ = ["TradeApi"]
