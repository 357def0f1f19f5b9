"""Samples are read and attributed as py-spy wrote them."""

from __future__ import annotations

from pathlib import Path

from bench.flow import Outcome
from bench.measure import Sample
from bench.profile import SAMPLED, Used, parts_rows, read

STACKS = """\
run (uvloop/__init__.py:92);Runner.run (asyncio/runners.py:118);Lane._run (paykit/store/executor.py:1) 3
run (uvloop/__init__.py:92);Runner.run (asyncio/runners.py:118);Lane._run (paykit/store/executor.py:2) 2
Thread.run (threading.py:982);BaseServer.serve_forever (socketserver.py:233);select (selectors.py:415) 50
 5
"""


def test_stacks_are_counted_by_function_and_waiting_threads_left_out(tmp_path: Path) -> None:
    recording = tmp_path / "x.raw"
    recording.write_text(STACKS)
    samples = read(recording)
    assert samples.total() == 10
    assert max(samples.values()) == 5, "lines of one function count together"


def test_a_package_costs_its_share_of_the_cpu_time_of_its_process(tmp_path: Path) -> None:
    recording = tmp_path / "x.raw"
    recording.write_text(STACKS)
    used = Used(Outcome(Sample(1, 1, 1), count=100, cpu_s=1.0), dict.fromkeys(SAMPLED, 0.4), {})
    rows = {row[0]: row[1:] for row in parts_rows(used, dict.fromkeys(SAMPLED, read(recording)))}
    assert rows["paykit/store"][1] == "2.00", "half of the 4 ms that a purchase costs each process"
    assert rows["paykit/store"][0] == f"{2 * len(SAMPLED):.2f}"
