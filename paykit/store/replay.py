"""What a command that was carried out before answers."""

from __future__ import annotations

from typing import Any

import msgspec

from paykit.errors import AlreadyExists
from paykit.store.command import Command
from paykit.store.system import CommandRecord


def first_result(command: Command[Any], record: CommandRecord) -> Any:
    """The first result again; AlreadyExists (REQUEST_ID_REUSED) where the request_id came with another input."""
    if record.input_hash != command.origin.input_hash:
        raise AlreadyExists(
            f"request_id {record.request_id} was used before with another request",
            reason="REQUEST_ID_REUSED",
            metadata={"request_id": record.request_id},
        )
    if command.result_type is None or record.result is None:
        return None
    return msgspec.msgpack.decode(record.result, type=command.result_type)
