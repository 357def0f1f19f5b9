"""A purchase that was refused is not taken for one under way."""

from __future__ import annotations

import pytest

from bench.purchases import accepted
from paymesh.trade.v1 import trade_pb2


def test_a_refused_purchase_is_not_taken_for_an_accepted_one() -> None:
    paying = trade_pb2.Trade(trade_id="trd_x", state=trade_pb2.TRADE_STATE_PAYING)
    assert accepted(paying) == "trd_x"
    with pytest.raises(AssertionError):
        accepted(trade_pb2.Trade(trade_id="trd_x", state=trade_pb2.TRADE_STATE_FAILED))
