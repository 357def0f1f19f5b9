"""States as data: one table of legal transitions per kind of record, and one function that changes a state."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from paykit.errors import FailedPrecondition


class HasState(Protocol):
    """A record with an id and a state."""

    @property
    def id(self) -> str: ...
    @property
    def state(self) -> str: ...


_NOTHING: frozenset[Any] = frozenset()

S = TypeVar("S", bound=StrEnum)
R = TypeVar("R", bound=HasState)


class StateMachine(Generic[S]):
    """The legal transitions of one kind of record. A state with none is terminal."""

    def __init__(self, entity: str, states: type[S], initial: S, transitions: Mapping[S, frozenset[S]]) -> None:
        assert set(transitions) == set(states), f"{entity}: every state needs a row in its transition table"
        self.entity = entity
        self.states = states
        self.initial = initial
        self.transitions: Mapping[Any, frozenset[S]] = dict(transitions)  # a StrEnum is found by its plain string
        self.terminal = frozenset(state for state, after in transitions.items() if not after)

    def is_terminal(self, state: str) -> bool:
        """Whether nothing may follow ``state``."""
        return state in self.terminal

    def allows(self, before: str, after: S) -> bool:
        """Whether ``after`` may follow ``before``."""
        return after in self.transitions.get(before, _NOTHING)

    def move(self, record: R, after: S, **changes: Any) -> R:
        """The record in state ``after``, other fields changed too; FailedPrecondition where that is illegal."""
        if not self.allows(record.state, after):
            raise FailedPrecondition(
                f"{self.entity} {record.id} is {record.state} and cannot become {after.value}",
                reason="ILLEGAL_STATE",
                subject=record.id,
                metadata={"state": str(record.state), "entity": self.entity},
            )
        replaced: R = msgspec.structs.replace(record, state=after.value, **changes)  # type: ignore[type-var]
        return replaced
