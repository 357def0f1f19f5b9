"""The rows of one batch in memory: what was loaded, what its commands made of it, and how to undo one command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from google.protobuf.message import Message

from paykit import context as business_context
from paykit.context import BusinessContext
from paykit.ids import RisingBits, new_id
from paykit.store.command import FOLD, Change, Command, Previewed
from paykit.store.row import Key, Row, RowT
from paykit.store.system import CommandRecord, Outbox

_encode_result = msgspec.msgpack.Encoder().encode
_encode_changes = msgspec.json.Encoder().encode


class NotLoaded(Exception):
    """A decision needs a row that its ``reads`` did not name, as far as the rows then led."""


_UNKNOWN: Any = object()
_Link = tuple[dict[str, Any], str, Any]  # ids by unique value, the value, and what stood there


class TableRows:
    """The rows of one table: current, as loaded, and by what they were looked up."""

    __slots__ = ("current", "loaded", "references", "row_type", "uniques")

    def __init__(self, row_type: type[Row]) -> None:
        self.row_type = row_type
        self.current: dict[str, Row] = {}
        self.loaded: dict[str, Row] = {}
        self.uniques: dict[str, dict[str, str | None]] = {"id": {}}
        self.references: dict[str, dict[str, list[str]]] = {}

    def missing(self, column: str, values: set[str]) -> list[str]:
        """Those of ``values`` that were not looked up yet, in order."""
        known: Any = self.uniques if column in self.row_type.__unique__ else self.references
        seen = known.get(column)
        return sorted(values if seen is None else values - seen.keys())

    def add_loaded(self, column: str, values: list[str], rows: Sequence[Row]) -> None:
        """Takes what a look-up found; values without a row are known to have none."""
        is_unique = column in self.row_type.__unique__
        if is_unique:
            unique = self.uniques.setdefault(column, {})
            unique.update(dict.fromkeys(values))
        else:
            reference = self.references.setdefault(column, {})
            for value in values:
                reference[value] = []
        for row in rows:
            if row.id not in self.current:
                self.current[row.id] = self.loaded[row.id] = row
                self.uniques["id"][row.id] = row.id
            if is_unique:
                self.uniques[column][getattr(row, column)] = row.id
            else:
                self.references[column][getattr(row, column)].append(row.id)

    def insert(self, row: Row) -> list[_Link]:
        """Adds a row, findable by all it can be looked up by; what ``remove`` needs to undo it."""
        self.current[row.id] = row
        links: list[_Link] = []
        for column in self.row_type.__unique__:
            found, value = self.uniques.setdefault(column, {}), getattr(row, column)
            links.append((found, value, found.get(value, _UNKNOWN)))
            found[value] = row.id
        for column, reference in self.references.items():
            ids = reference.get(getattr(row, column))
            if ids is not None:
                ids.append(row.id)
        return links

    def remove(self, row: Row, links: list[_Link]) -> None:
        """Undoes ``insert``: what was known to be absent is so again, what was not known neither."""
        del self.current[row.id]
        for found, value, before in links:
            if before is _UNKNOWN:
                del found[value]
            else:
                found[value] = before
        for column, reference in self.references.items():
            ids = reference.get(getattr(row, column))
            if ids is not None:
                ids.remove(row.id)


def _is_reference(row_type: type[Row], column: str) -> bool:
    return column not in row_type.__unique__


class LoadedSoFar:
    """The rows as ``Command.reads`` sees them between rounds: what is not loaded yet looks as if it were not there."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def get(self, row_type: type[RowT], value: str, column: str = "id") -> RowT | None:
        try:
            return self._batch.get(row_type, value, column)
        except NotLoaded:
            return None

    def many(self, row_type: type[RowT], column: str, value: str) -> list[RowT]:
        try:
            return self._batch.many(row_type, column, value)
        except NotLoaded:
            return []


class _Write(NamedTuple):
    """What a command did to one row, so that it can be undone."""

    table: TableRows
    row: Row
    before: Row | None  # None where it was inserted
    links: list[_Link]


class Batch:
    """All tables of one batch, and the Work of the command being decided."""

    def __init__(self, now_ms: int, outbox_grace_ms: int) -> None:
        self.now_ms = now_ms
        self.commit_id = new_id("cmt", 0, now_ms)
        self._outbox_grace_ms = outbox_grace_ms
        self._bits = RisingBits()  # what comes of one batch is listed as it came about
        self.tables: dict[type[Row], TableRows] = {}
        self.outbox: list[Outbox] = []
        self.is_changed = False
        self._command: Command[Any]
        self._context: BusinessContext
        self._writes: list[_Write] = []
        self._changes: list[Change] = []
        self._messages: list[Outbox] = []

    # Loading

    def table(self, row_type: type[Row]) -> TableRows:
        """The rows of one table, empty at first."""
        found = self.tables.get(row_type)
        if found is None:
            found = self.tables[row_type] = TableRows(row_type)
        return found

    def missing(self, keys: set[Key]) -> dict[tuple[type[Row], str], list[str]]:
        """What of ``keys`` must be loaded, in one fixed order over tables and values so that locks are taken in it."""
        wanted: dict[tuple[type[Row], str], set[str]] = {}
        for row_type, column, value in keys:
            wanted.setdefault((row_type, column), set()).add(value)
        result = {}
        # By id and unique key first: a row that others refer to is locked before those that refer to it are read.
        for row_type, column in sorted(wanted, key=lambda pair: (_is_reference(*pair), pair[0].__entity__, pair[1])):
            values = self.table(row_type).missing(column, wanted[row_type, column])
            if values:
                result[row_type, column] = values
        return result

    # Rows (see paykit.store.command.Rows)

    def get(self, row_type: type[RowT], value: str, column: str = "id") -> RowT | None:
        table = self.tables.get(row_type)
        try:
            found = table.uniques[column][value]  # type: ignore[union-attr]
        except (KeyError, AttributeError):
            raise NotLoaded(f"{row_type.__name__} by {column}") from None
        return None if found is None else table.current[found]  # type: ignore[union-attr, return-value]

    def many(self, row_type: type[RowT], column: str, value: str) -> list[RowT]:
        table = self.tables.get(row_type)
        try:
            ids = table.references[column][value]  # type: ignore[union-attr]
        except (KeyError, AttributeError):
            raise NotLoaded(f"{row_type.__name__} by {column}") from None
        return [table.current[id_] for id_ in sorted(ids)]  # type: ignore[union-attr, misc]

    # Work (see paykit.store.command.Work)

    @property
    def context(self) -> BusinessContext:
        return self._context

    def adopt(self, biz_id: str) -> None:
        if biz_id != self._context.biz_id:
            self._context = msgspec.structs.replace(self._context, biz_id=biz_id)

    def new_id(self, prefix: str, slot: int | None = None) -> str:
        return new_id(prefix, self._command.slot if slot is None else slot, self.now_ms, self._bits)

    def insert(self, row: RowT, *, parent_id: str = "", note: str = "", audit: bool = True) -> RowT:
        table = self.table(type(row))
        assert row.version == 1, f"{row.id} inserted at version {row.version}"
        assert row.id not in table.current, f"{row.id} inserted twice"
        self._writes.append(_Write(table, row, None, table.insert(row)))
        if audit:
            state = getattr(row, "state", "")
            self._changes.append(Change(row.id, row.__entity__, parent_id, "", state, note))
        return row

    def update(self, row: RowT, *, parent_id: str = "", note: str = "", audit: bool = True) -> RowT:
        table = self.table(type(row))
        before = table.current[row.id]
        assert row.version == before.version, f"{row.id} was decided on an old version"
        after = msgspec.structs.replace(row, version=row.version + 1)
        table.current[row.id] = after
        self._writes.append(_Write(table, row, before, []))
        if audit:
            from_state, to_state = getattr(before, "state", ""), getattr(after, "state", "")
            if from_state != to_state or note:
                name = row.__entity__
                self._changes.append(Change(row.id, name, parent_id, from_state, to_state, note))
        return after

    def publish(self, subject: str, message: Message) -> None:
        self._send("event", subject, message)

    def call(self, method: str, request: Message) -> None:
        self._send("call", method, request)

    def _send(self, kind: str, destination: str, message: Message) -> None:
        context = self.context
        self._messages.append(
            Outbox(
                id=self.new_id("msg"),
                slot=self._command.slot,
                kind=kind,
                destination=destination,
                biz_id=context.biz_id,
                context=business_context.pack(context),
                body=message.SerializeToString(),
                created_at_ms=self.now_ms,
                due_at_ms=self.now_ms + self._outbox_grace_ms,
                attempt_count=0,
                acked_at_ms=None,
            )
        )

    # One command

    def decide(self, command: Command[Any]) -> Any:
        """Runs one decision. Whatever it raises, its own changes are gone and nothing else's."""
        self._begin(command)
        try:
            result = command.decide(self)
            self._record(command, result)
        except BaseException:
            self._undo()
            raise
        self.outbox += self._messages
        self.is_changed = self.is_changed or bool(self._writes)
        return result

    def preview(self, command: Command[Any]) -> Previewed[Any]:
        """Runs one decision, and undoes it: the batch is as it was."""
        self._begin(command)
        try:
            result = command.decide(self)
            written = dict.fromkeys([(write.table, write.row.id) for write in self._writes])
            return Previewed(result, [table.current[id_] for table, id_ in written])
        finally:
            self._undo()

    def _begin(self, command: Command[Any]) -> None:
        self._command, self._context = command, command.origin.context
        self._writes, self._changes, self._messages = [], [], []

    def _undo(self) -> None:
        for table, row, before, links in reversed(self._writes):
            if before is None:
                table.remove(row, links)
            else:
                table.current[row.id] = before

    def _record(self, command: Command[Any], result: Any) -> None:
        origin = command.origin
        if not origin.key and not self._writes and not self._messages:
            return  # a timer that found nothing to do
        if origin.trigger == FOLD and not self._changes:
            return  # nothing that is audited; what it did to rows it would do again
        record = CommandRecord(
            id=origin.key or new_id("cmd", command.slot, self.now_ms),
            slot=command.slot,
            name=command.name,
            trigger=origin.trigger,
            caller=self._context.caller,
            request_id=origin.request_id,
            biz_id=self._context.biz_id,
            input_hash=origin.input_hash,
            result=None if command.result_type is None else _encode_result(result),
            changes=_encode_changes(self._changes).decode(),
            commit_id=self.commit_id,
            created_at_ms=self.now_ms,
        )
        self.insert(record, audit=False)

    # Writing

    def inserts(self) -> list[tuple[type[Row], list[Row]]]:
        """The rows to insert, per table."""
        result = []
        for row_type, table in self.tables.items():
            rows = [row for id_, row in table.current.items() if id_ not in table.loaded]
            if rows:
                result.append((row_type, rows))
        if self.outbox:
            result.append((Outbox, list(self.outbox)))
        return result

    def updates(self) -> list[tuple[type[Row], list[tuple[Row, Row]]]]:
        """The rows to change, per table, as (loaded, new)."""
        result = []
        for row_type, table in self.tables.items():
            pairs = [(row, table.current[id_]) for id_, row in table.loaded.items() if table.current[id_] is not row]
            if pairs:
                result.append((row_type, pairs))
        return result
