"""Sorts rows by their range of slots, so that one range at a time fits into memory however large the whole is."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Self

import msgspec

from meshctl.invariants.world import DERIVED, TABLES, Scope, Slice, bucket_of
from paykit.context import MODES

ROWS_PER_RANGE = 100_000
RANGES_MAX = 256  # each is a file
MEMORY_BYTES = 128 * 1024 * 1024  # of all ranges together, before they go to disk

_HEADER = struct.Struct("<BHHI")  # mode, kind, shard, length of the row
_KINDS = [("", kind) for kind in DERIVED] + [(service, kind) for service, kinds in TABLES.items() for kind in kinds]
_NUMBER = {kind: number for number, kind in enumerate(_KINDS)}
_DECODERS = [msgspec.msgpack.Decoder(kind) for _, kind in _KINDS]
_encode = msgspec.msgpack.Encoder().encode


class Partition:
    """Rows go in one by one and come out as slices, range by range. A context manager: what it kept is gone after."""

    def __init__(self, row_count: int) -> None:
        self.range_count = min(RANGES_MAX, 1 + row_count // ROWS_PER_RANGE)
        self._stack = ExitStack()
        self._shards: list[str] = [""]
        self._files: list[IO[bytes]] = []
        for _ in range(self.range_count):
            file = tempfile.SpooledTemporaryFile(MEMORY_BYTES // self.range_count)  # noqa: SIM115
            self._files.append(self._stack.enter_context(file))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, mode: str, slot: int, row: msgspec.Struct, service: str = "", shard: str = "") -> None:
        """Keeps a row for the range of ``slot``. ``service`` and ``shard`` are empty for what was derived."""
        if shard not in self._shards:
            self._shards.append(shard)
        data = _encode(row)
        file = self._files[bucket_of(slot, self.range_count)]
        file.write(
            _HEADER.pack(MODES.index(mode), _NUMBER[service, type(row)], self._shards.index(shard), len(data)) + data
        )

    def slices(self, scope: Scope) -> Iterator[list[Slice]]:
        """The slices of each range, one for each mode."""
        for number, file in enumerate(self._files):
            by_mode = [Slice(mode, number, scope) for mode in MODES]
            by_mode[0].other, by_mode[1].other = by_mode[1], by_mode[0]
            file.seek(0)
            while header := file.read(_HEADER.size):
                mode, kind, shard, length = _HEADER.unpack(header)
                row = _DECODERS[kind].decode(file.read(length))
                by_mode[mode].add(_KINDS[kind][0], self._shards[shard], row)
            yield by_mode
