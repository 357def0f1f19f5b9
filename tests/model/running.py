"""Runs of the histories: so many examples of so many steps, on given shards."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from paykit.settings import ShardSettings
from tests.model.cores import Cores
from tests.model.machine import AnyHistory
from tests.model.provider import Provider

RULES = Path(__file__).with_name("rules.yaml")


class Done(NamedTuple):
    """What a run came to."""

    steps: int
    counts: Counter[str]

    @classmethod
    def none(cls) -> Done:
        """Nothing yet."""
        return cls(0, Counter())

    def plus(self, more: Done) -> Done:
        """Both together."""
        return Done(self.steps + more.steps, self.counts + more.counts)


@contextlib.contextmanager
def opened(shards: Mapping[str, dict[str, ShardSettings]], directory: Path) -> Iterator[Cores]:
    """Both cores over empty databases."""
    cores = Cores(Provider(), RULES, directory)
    try:
        cores.do(cores.open(shards))
        yield cores
    finally:
        cores.do(cores.close())
        cores.loop.close()


def run(cores: Cores, *, examples: int, steps: int, seed: int | None = None, shrinks: bool = True) -> Done:
    """Histories until one breaks a law, which is raised with the shortest that does."""

    class Machine(AnyHistory):
        pass

    Machine.cores, Machine.counts, Machine.steps = cores, Counter(), 0
    phases = [Phase.generate, Phase.shrink] if shrinks else [Phase.generate]
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    machine = Machine if seed is None else seeded(seed)(Machine)
    run_state_machine_as_test(machine, settings=how)
    return Done(Machine.steps, Machine.counts)
