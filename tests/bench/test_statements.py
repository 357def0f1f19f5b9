"""The statement that is measured differs from its orders exactly where it was planned to, and nowhere else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench import statements
from bench.children import LoadFailed
from tests.conftest import MakeDatabases

COUNT, EACH = 600, 2


def test_every_difference_is_planned_as_often_as_it_was_asked_for() -> None:
    made = list(statements.cases(COUNT, EACH, seed=3))
    assert Counter(case.difference for case in made if case.difference) == dict.fromkeys(statements.DIFFERENCES, EACH)
    assert sum(case.order is not None for case in made) == COUNT - 2 * EACH  # no order for two kinds of difference
    assert sum(len(case.rows) for case in made) == COUNT  # one kind has no line, one has two


@pytest.mark.mariadb
def test_a_small_statement_is_measured(make_databases: MakeDatabases, tmp_path: Path) -> None:
    urls = dict(zip(("s0", "s1"), make_databases(2), strict=True))
    planned = statements.prepare(urls, tmp_path, COUNT, EACH)
    figures = statements.measure(urls, tmp_path, planned)
    assert figures.lines == COUNT
    assert 0 < figures.idle_bytes <= figures.peak_bytes
    assert figures.seconds > 0
    breaks = {**planned.breaks, ("LATE", "another"): 1}
    wrong = statements.Planned(planned.file, planned.lines, planned.orders, breaks)
    with pytest.raises(LoadFailed, match="other differences"):
        statements.check(urls, wrong)
