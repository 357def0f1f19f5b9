"""Any history of both cores, on each backend: a short run of what ``python -m tests.model`` does at length."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import MakeShards
from tests.model.audit import audit
from tests.model.running import opened, run

EXAMPLES, STEPS = 12, 60
SEED = 20  # what fails here is made short by: python -m tests.model --seed 20 --steps 720 --backend sqlite


def test_any_history_leaves_everybody_with_what_the_model_says(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = {name: make_shards(2, ("live",)) for name in ("trade_core", "pay_core")}
    with opened(shards, tmp_path) as cores:
        done = run(cores, examples=EXAMPLES, steps=STEPS, seed=SEED, shrinks=False)
        assert done.steps > EXAMPLES * STEPS // 2
        assert cores.do(audit(shards, cores.clock.now_ms())) == []
