"""Rows by their unique keys: those that are asked for at once are read by one statement."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from sqlalchemy import select

from paykit.store.queries import Query, among
from paykit.store.row import Row, RowT
from paykit.store.statements import as_rows

_VALUES_MAX = 200  # in one statement


class _Place(NamedTuple):
    mode: str
    shard: str
    row_type: type[Row]
    column: str


class ReadQuery(Protocol):
    """Reads a query on one shard."""

    async def __call__(
        self, query: Query, *values: Sequence[str], mode: str, shard: str
    ) -> Sequence[Sequence[Any]]: ...


class Finder:
    """Gathers what is asked for in one turn of the event loop. Nobody waits for more to come."""

    def __init__(self, read: ReadQuery) -> None:
        self._read = read
        self._wanted: dict[_Place, dict[str, list[asyncio.Future[Any]]]] = {}
        self._reading: set[asyncio.Task[None]] = set()

    async def find(self, row_type: type[RowT], column: str, value: str, mode: str, shard: str) -> RowT | None:
        """The row of ``row_type`` on a shard whose unique ``column`` is ``value``; the error of the statement."""
        assert column in row_type.__unique__, f"{row_type.__entity__}.{column} may be in many rows"
        found: asyncio.Future[RowT | None] = asyncio.get_running_loop().create_future()
        if not self._wanted:
            asyncio.get_running_loop().call_soon(self._start)
        self._wanted.setdefault(_Place(mode, shard, row_type, column), {}).setdefault(value, []).append(found)
        return await found

    def _start(self) -> None:
        wanted, self._wanted = self._wanted, {}
        for place, waiting in wanted.items():
            values = list(waiting)
            for start in range(0, len(values), _VALUES_MAX):
                part = {value: waiting[value] for value in values[start : start + _VALUES_MAX]}
                # A context of its own: it reads for many callers and must not carry the first one's.
                task = asyncio.get_running_loop().create_task(self._answer(place, part), context=contextvars.Context())
                self._reading.add(task)
                task.add_done_callback(self._reading.discard)

    async def _answer(self, place: _Place, waiting: dict[str, list[asyncio.Future[Any]]]) -> None:
        try:
            query = _by(place.row_type, place.column)
            records = await self._read(query, list(waiting), mode=place.mode, shard=place.shard)
            rows = {getattr(row, place.column): row for row in as_rows(place.row_type, records)}
        except asyncio.CancelledError:
            for answer in _awaited(waiting.values()):
                answer.cancel()
            raise
        except Exception as error:
            for answer in _awaited(waiting.values()):
                answer.set_exception(error)
        else:
            for value, answers in waiting.items():
                for answer in _awaited([answers]):
                    answer.set_result(rows.get(value))


def _awaited(answers: Iterable[list[asyncio.Future[Any]]]) -> list[asyncio.Future[Any]]:
    return [answer for some in answers for answer in some if not answer.done()]


@lru_cache(maxsize=256)
def _by(row_type: type[Row], column: str) -> Query:
    key = row_type.__table__.c[column]
    return Query(select(row_type.__table__).where(among(key)), key)
