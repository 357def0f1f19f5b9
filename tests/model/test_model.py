"""Any history of both cores, on each backend: a short run of what ``python -m tests.model`` does at length."""

from __future__ import annotations

import time
from pathlib import Path

from tests.conftest import MakeShards
from tests.model.running import opened, run


def test_any_history_leaves_everybody_with_what_the_model_says(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = {name: make_shards(2, ("live",)) for name in ("trade_core", "pay_core")}
    with opened(shards, tmp_path) as cores:
        began_s = time.monotonic()
        done = run(cores, examples=12, steps=60)
        assert done.steps > 12
        assert time.monotonic() - began_s < 100
