"""Any history of both cores, on each backend: a short run of what ``python -m tests.model`` does at length."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.conftest import MakeShards
from tests.model import asking
from tests.model.audit import audit
from tests.model.history import History
from tests.model.running import opened, run

EXAMPLES, STEPS = 10, 60
SEED = 20  # what fails here is made short by: python -m tests.model --seed 20 --steps 600 --backend sqlite


def test_any_history_leaves_everybody_with_what_the_model_says(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = {name: make_shards(2, ("live",)) for name in ("trade_core", "pay_core")}
    with opened(shards, tmp_path) as cores:
        done = run(cores, examples=EXAMPLES, steps=STEPS, seed=SEED, shrinks=False)
        assert done.steps > EXAMPLES * STEPS // 2
        assert cores.do(audit(shards, cores.clock.now_ms())) == []


def test_an_order_paid_in_parts_after_an_attempt_that_failed_is_clean(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = {name: make_shards(2, ("live",)) for name in ("trade_core", "pay_core")}
    with opened(shards, tmp_path) as cores:
        history = History(cores, Counter())
        buyer, merchant = history.people.buyers[0], history.people.merchants[0]
        request = asking.create(asking.PURCHASE, history.fresh(), buyer, 300, payee_id=merchant)
        request.pay_methods.append(asking.method("balance", 300))  # there is none
        trade_id = history.ask(asking.TRADE, "CreateTrade", request, buyer).trade.trade_id
        history.deliver_all(0)
        part = pb.PayTradeRequest(request_id=history.fresh(), trade_id=trade_id, is_partial=True)
        part.pay_methods.append(asking.method("card", 300))
        history.ask(asking.TRADE, "PayTrade", part, buyer)
        history.end()
        (paid,) = history.trades(kinds=(asking.PURCHASE,))
        assert (paid.state, paid.attempt_count, paid.part_paid_count) == ("PAID", 1, 1)
        assert cores.do(audit(shards, cores.clock.now_ms())) == []
