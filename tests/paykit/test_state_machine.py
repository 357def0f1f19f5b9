"""State machines: a state changes along its table or not at all."""

from __future__ import annotations

from enum import StrEnum

import msgspec
import pytest

from paykit.errors import FailedPrecondition
from paykit.state_machine import StateMachine


class Light(StrEnum):
    """The states of a traffic light that ends broken."""

    RED = "RED"
    GREEN = "GREEN"
    BROKEN = "BROKEN"


MACHINE = StateMachine(
    "light",
    Light,
    Light.RED,
    {
        Light.RED: frozenset({Light.GREEN, Light.BROKEN}),
        Light.GREEN: frozenset({Light.RED}),
        Light.BROKEN: frozenset(),
    },
)


class Lamp(msgspec.Struct, frozen=True):
    """A light."""

    id: str
    state: str
    note: str = ""


def test_moves_along_its_table_and_changes_other_fields_with_it() -> None:
    assert MACHINE.move(Lamp("l1", "RED"), Light.GREEN, note="go") == Lamp("l1", "GREEN", "go")


def test_refuses_any_other_move_and_says_from_where() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        MACHINE.move(Lamp("l1", "BROKEN"), Light.RED)
    assert (caught.value.reason, caught.value.subject) == ("ILLEGAL_STATE", "l1")
    assert caught.value.metadata["state"] == "BROKEN"


def test_knows_what_is_terminal() -> None:
    assert MACHINE.terminal == {Light.BROKEN}
    assert MACHINE.is_terminal("BROKEN")
    assert not MACHINE.is_terminal("RED")


def test_needs_a_row_for_every_state() -> None:
    with pytest.raises(AssertionError, match="every state"):
        StateMachine("light", Light, Light.RED, {Light.RED: frozenset()})
