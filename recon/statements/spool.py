"""Where a file lies while it is imported: its bytes as they came, and its lines in the order in which they are stored.

Both are files in a folder that is gone when the import ends. The lines are an SQLite file, which sorts and groups more
than fits into memory. All of this blocks and belongs on a thread, one call at a time.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from paykit.ids import slot_in
from recon.statements import identity
from recon.statements.model import PROBLEMS_MAX, Line, Problem

_PAGE = 2_000  # lines written or read at a time
_CACHE_KIB = 16_384

_TABLE = """
CREATE TABLE line (
    line_no INTEGER NOT NULL, key BLOB NOT NULL, has_id INTEGER NOT NULL, slot INTEGER, match_ref TEXT NOT NULL,
    provider_reference TEXT NOT NULL, body BLOB NOT NULL
)
"""
_ADD = "INSERT INTO line VALUES (?, ?, ?, ?, ?, ?, ?)"
_DOUBLED = (
    "SELECT rowid, key, line_no, body FROM line WHERE has_id = 1 AND key IN"
    " (SELECT key FROM line WHERE has_id = 1 GROUP BY key HAVING COUNT(*) > 1) ORDER BY key, line_no"
)
_TO_REMOVE = "CREATE TABLE doubled (line INTEGER PRIMARY KEY)"
_NOTE_DOUBLED = "INSERT INTO doubled VALUES (?)"
_REMOVE = "DELETE FROM line WHERE rowid IN (SELECT line FROM doubled)"
_NAMELESS = (
    "SELECT rowid, key, ROW_NUMBER() OVER (PARTITION BY key ORDER BY line_no) FROM line WHERE has_id = 0 ORDER BY rowid"
)
_TO_RENAME = "CREATE TABLE renamed (line INTEGER PRIMARY KEY, key BLOB NOT NULL)"
_NOTE_RENAMED = "INSERT INTO renamed VALUES (?, ?)"
_RENAME = "UPDATE line SET key = renamed.key FROM renamed WHERE renamed.line = line.rowid"
_UNPLACED = (
    "SELECT rowid, key, provider_reference, body FROM line WHERE slot IS NULL AND rowid > ? ORDER BY rowid LIMIT ?"
)
_PLACE = "UPDATE line SET slot = ?, match_ref = ? WHERE rowid = ?"
_IN_ORDER = "SELECT slot, match_ref, key, body FROM line ORDER BY slot, match_ref, line_no"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Line).decode


class Unplaced(NamedTuple):
    """A line that names no order of ours, but perhaps by the provider's reference of it."""

    row: int
    key: bytes
    provider_reference: str
    line: Line


class Placed(NamedTuple):
    """A line on its slot. ``match_ref`` is the order it names; empty where it names none."""

    slot: int
    match_ref: str
    key: bytes
    line: Line


class Upload:
    """The bytes of a file, with their number and digest."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "file"
        self._file = self._path.open("wb")
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def add(self, chunk: bytes) -> None:
        """The next bytes."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    def finish(self) -> str:
        """The SHA-256 of all of it, in hexadecimal."""
        self._file.close()
        return self._digest.hexdigest()

    def open(self) -> BinaryIO:
        """To read it from the start."""
        return self._path.open("rb")

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


class LineSpool:
    """The lines of a file."""

    def __init__(self, folder: Path, channel: str) -> None:
        self._channel = channel
        self._connection = sqlite3.connect(folder / "lines", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", f"cache_size=-{_CACHE_KIB}"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(_TABLE)
        self._connection.execute("BEGIN")
        self.has_nameless = False
        self.has_unplaced = False

    def add(self, lines: Iterable[Line]) -> Iterator[int]:
        """Takes lines in; gives now and then how many came since."""
        source = iter(lines)
        while page := [self._row(line) for line in islice(source, _PAGE)]:
            self._connection.executemany(_ADD, page)
            yield len(page)

    def _row(self, line: Line) -> tuple[object, ...]:
        key = identity.key_of(self._channel, line)
        has_id = bool(line.line_id)
        self.has_nameless = self.has_nameless or not has_id
        slot: int | None = None
        match_ref = ""
        if identity.names_order(line.reference):
            slot, match_ref = slot_in(line.reference), line.reference
        else:
            self.has_unplaced = True
        return line.line_no, key, has_id, slot, match_ref, line.provider_reference, _encode(line)

    def settle(self) -> tuple[int, list[Problem]]:
        """Once all lines are in: drops those that are told twice under the provider's own id, and numbers those that
        have none. How many were dropped, and the problem of each that is told twice and differently."""
        problems: list[Problem] = []
        self._connection.execute(_TO_REMOVE)
        self._connection.executemany(_NOTE_DOUBLED, self._doubled(problems))
        dropped = self._connection.execute(_REMOVE).rowcount
        if self.has_nameless:
            self._connection.execute(_TO_RENAME)
            self._connection.executemany(_NOTE_RENAMED, self._renamed())
            self._connection.execute(_RENAME)
        return dropped, problems

    def _doubled(self, problems: list[Problem]) -> Iterator[tuple[int]]:
        first_key, first = b"", b""
        for row, key, line_no, body in self._connection.execute(_DOUBLED):
            if key != first_key:
                first_key, first = key, body
            elif _said(body) == _said(first):
                yield (row,)
            elif len(problems) < PROBLEMS_MAX:
                problems.append(Problem(line_no, f"has the id of line {_decode(first).line_no}, and says otherwise"))

    def _renamed(self) -> Iterator[tuple[int, bytes]]:
        for row, key, occurrence in self._connection.execute(_NAMELESS):
            if occurrence > 1:
                yield row, identity.occurrence_key(key, occurrence)

    def unplaced(self, after: int, limit: int) -> list[Unplaced]:
        """The next lines without a place, from row ``after`` on; none left where it is empty."""
        found = self._connection.execute(_UNPLACED, (after, limit))
        return [Unplaced(row, key, reference, _decode(body)) for row, key, reference, body in found]

    def place(self, places: Sequence[tuple[int, str, int]]) -> None:
        """Puts lines on their slots: (slot, the order they name or empty, row)."""
        self._connection.executemany(_PLACE, places)

    def in_order(self) -> Iterator[Placed]:
        """All lines by slot: most lines to a command."""
        for slot, match_ref, key, body in self._connection.execute(_IN_ORDER):
            yield Placed(slot, match_ref, key, _decode(body))

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()


def _said(body: bytes) -> Line:
    return msgspec.structs.replace(_decode(body), line_no=0)
