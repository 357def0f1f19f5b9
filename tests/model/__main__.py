"""``python -m tests.model``: the histories at length, on each backend, and what happened in them.

--steps in all (200,000), --backend sqlite, mariadb or both, --seed; exit code 1 where a law is broken, with the
shortest history that breaks it.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from meshctl.servers import MariaDbServer, create_database
from paykit.settings import ShardSettings
from tests.model.audit import audit
from tests.model.running import Done, opened, run

STEPS_PER_HISTORY = 60
HISTORIES_PER_RUN = 100  # each with a seed of its own, one more than the one before
_CORES = ("trade_core", "pay_core")
_SHM = Path("/dev/shm")
# These runs are about decisions, not about disks: where memory can be had as a folder, every commit is cheaper there.
_MEMORY = str(_SHM) if _SHM.is_dir() and shutil.disk_usage(_SHM).free > 4 * 1024**3 else None
Url = Callable[[str], str]


def main() -> int:
    """0 where all held, 1 where not."""
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--steps", type=int, default=200_000, help="in all, over the backends")
    parser.add_argument("--backend", choices=["sqlite", "mariadb", "both"], default="both")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--no-shrink", action="store_true", help="show the first history that breaks a law as it is")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    backends = ["sqlite", "mariadb"] if asked.backend == "both" else [asked.backend]
    print(f"{asked.steps:,} steps on {' and '.join(backends)}, seed {asked.seed}", flush=True)
    return max([_run(backend, asked.steps // len(backends), asked.seed, not asked.no_shrink) for backend in backends])


def _run(backend: str, steps: int, seed: int, shrinks: bool) -> int:
    began_s, total = time.monotonic(), Done.none()
    with contextlib.ExitStack() as stack:
        made = tempfile.TemporaryDirectory(prefix="paymesh-model-", dir=_MEMORY, ignore_cleanup_errors=True)
        directory = Path(stack.enter_context(made))
        url = stack.enter_context(_urls(backend, directory))
        shards = _shards(url)
        cores = stack.enter_context(opened(shards, directory))
        try:
            while total.steps < steps:
                left = max(1, (steps - total.steps) // STEPS_PER_HISTORY)
                histories = min(left, HISTORIES_PER_RUN)
                total = total.plus(run(cores, examples=histories, steps=STEPS_PER_HISTORY, seed=seed, shrinks=shrinks))
                seed += 1
                print(f"{backend}: {total.steps:,} steps after {time.monotonic() - began_s:.0f} s", flush=True)
            violations = cores.do(audit(shards, cores.clock.now_ms()))
        except Exception:
            traceback.print_exc()
            print(f"{backend}: a law is broken; seed {seed}", flush=True)
            return 1
    took_s = time.monotonic() - began_s
    for violation in violations:
        print(f"{backend}: {violation}")
    for name, count in sorted(total.counts.items()):
        print(f"{count:>9,}  {name}")
    rate = f"{total.steps:,} steps in {took_s:.0f} s, {total.steps / took_s:.0f} a second"
    print(f"{backend}: {rate}: {f'{len(violations)} violations' if violations else 'all laws hold'}", flush=True)
    return 1 if violations else 0


@contextlib.contextmanager
def _urls(backend: str, directory: Path) -> Iterator[Url]:
    """Makes an empty database of a name; its URL."""
    if backend == "sqlite":
        yield lambda name: f"sqlite+aiosqlite:///{directory}/{name}.db"
        return
    server = MariaDbServer(directory / "mariadb")
    server.start()
    try:
        yield lambda name: create_database(server.url(), name)
    finally:
        server.kill()


def _shards(url: Url) -> dict[str, dict[str, ShardSettings]]:
    return {core: {f"s{i}": ShardSettings(live=url(f"{core}_{i}")) for i in range(2)} for core in _CORES}


if __name__ == "__main__":
    sys.exit(main())
