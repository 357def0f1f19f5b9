"""Load generators as processes of their own: the load must not share an interpreter with what measures it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 180  # what a load may take beyond its measured time: starting, and waiting until all it began has ended

T = TypeVar("T")


class LoadFailed(Exception):
    """A load generator gave no result; the message carries what it said."""


def start(module: str, load: msgspec.Struct) -> subprocess.Popen[bytes]:
    """Starts ``python -m module`` with ``load`` as JSON for its argument."""
    return subprocess.Popen(
        [sys.executable, "-m", module, msgspec.json.encode(load).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def result(child: subprocess.Popen[bytes], kind: type[T], seconds: float) -> T:
    """What a load of ``seconds`` printed last, once it has ended; LoadFailed where it failed or did not end in time."""
    try:
        output, errors = child.communicate(timeout=seconds + GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        output, errors = child.communicate()
        raise LoadFailed(f"no result within {seconds + GRACE_S:g} s:\n{errors.decode(errors='replace')}") from None
    if child.returncode != 0:
        raise LoadFailed(errors.decode(errors="replace"))
    return msgspec.json.decode(output.splitlines()[-1], type=kind)


def argument(kind: type[T]) -> T:
    """The load this process was started with."""
    return msgspec.json.decode(sys.argv[1], type=kind)


def answer(outcome: object) -> None:
    """Hands the result to the process that started this one."""
    print(msgspec.json.encode(outcome).decode(), flush=True)


def checked(result: Any) -> Any:
    """The response in the result of one item of a Batch call; LoadFailed where it has none."""
    if result.status.code:
        raise LoadFailed(f"refused: {result.status}")
    return result.response


def cpu_s() -> float:
    """The CPU time this process has used, seconds."""
    return time.process_time()
