"""Processes run on uvloop."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from paykit.rpc import loop


async def kind_of_loop() -> type[object]:
    return type(asyncio.get_running_loop())


async def failing() -> None:
    raise ValueError("out")


def test_main_runs_on_uvloop_and_gives_its_result() -> None:
    assert loop.run(kind_of_loop()) is uvloop.Loop


def test_what_main_raises_comes_out() -> None:
    with pytest.raises(ValueError, match="out"):
        loop.run(failing())
