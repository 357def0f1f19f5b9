"""A stack whose blocking methods run on a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meshctl.stack import Stack

_BUFFER_POOL_MB = 64


class InThread:
    """Runs what blocks on the one thread."""

    def __init__(self, thread: ThreadPoolExecutor, stack: Stack) -> None:
        self._thread = thread
        self.stack = stack

    async def __call__(self, act: Callable[[Stack], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, act, self.stack)


@contextlib.contextmanager
def in_one_thread(directory: Path) -> Iterator[InThread]:
    """A stack in ``directory``, not started. Its processes end with the thread that starts them, which outlives it."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        yield InThread(thread, Stack(directory, tied=True, buffer_pool_mb=_BUFFER_POOL_MB))
