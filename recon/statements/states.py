"""Where an imported file is."""

from __future__ import annotations

from enum import StrEnum

from paykit.state_machine import StateMachine


class StatementState(StrEnum):
    """The names are those of the proto."""

    RECEIVING = "RECEIVING"
    MATCHING = "MATCHING"
    DONE = "DONE"
    REPLACED = "REPLACED"
    ABANDONED = "ABANDONED"


_S = StatementState
STATEMENT = StateMachine(
    "statement",
    StatementState,
    _S.RECEIVING,
    {
        _S.RECEIVING: frozenset({_S.MATCHING, _S.ABANDONED}),
        _S.MATCHING: frozenset({_S.DONE}),
        _S.DONE: frozenset({_S.REPLACED}),
        _S.REPLACED: frozenset(),
        _S.ABANDONED: frozenset(),
    },
)
