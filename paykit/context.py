"""The business context: who and what an operation is for, carried through every service, row, event and log line."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

import msgspec

from paykit.ids import is_id, new_id
from paymesh.common.v1 import context_pb2

BIZ_ID = "x-biz-id"
BIZ_CODE = "x-biz-code"
REQUEST_ID = "x-request-id"
SHADOW = "x-shadow"
CRITICALITY = "x-criticality"
TRACEPARENT = "traceparent"

MODES = ("live", "shadow")


class BusinessContext(msgspec.Struct, frozen=True, array_like=True):
    """What accompanies one business operation. Equal in every hop but for ``caller`` and ``deadline_ms``.

    ``caller`` is the authenticated peer of this hop and is never taken from metadata. ``deadline_ms`` is Unix
    milliseconds, None where the caller set no deadline. ``criticality`` is a context_pb2.Criticality number.
    """

    biz_id: str
    biz_code: str = ""
    request_id: str = ""
    traceparent: str = ""
    shadow: bool = False
    criticality: int = context_pb2.CRITICALITY_NORMAL
    caller: str = ""
    deadline_ms: int | None = None

    @property
    def mode(self) -> str:
        """``live`` or ``shadow``: the prefix of subjects and the side of the shard map."""
        return "shadow" if self.shadow else "live"


_current: ContextVar[BusinessContext | None] = ContextVar("business_context", default=None)


def current() -> BusinessContext:
    """The context of the operation being served; LookupError where there is none."""
    context = _current.get()
    if context is None:
        raise LookupError("no business context: every operation runs inside paykit.context.use")
    return context


def current_or_none() -> BusinessContext | None:
    """The context of the operation being served, or None outside one."""
    return _current.get()


def set_current(context: BusinessContext) -> None:
    """Makes ``context`` the current one for the rest of this task."""
    _current.set(context)


@contextlib.contextmanager
def use(context: BusinessContext) -> Iterator[BusinessContext]:
    """Makes ``context`` the current one inside the block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def mint(slot: int, now_ms: int, *, shadow: bool = False, caller: str = "", request_id: str = "") -> BusinessContext:
    """A new context, at the edge. ``slot`` is the home of the order it is for."""
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    return BusinessContext(
        biz_id=new_id("biz", slot, now_ms),
        request_id=request_id,
        traceparent=traceparent,
        shadow=shadow,
        caller=caller,
    )


def to_metadata(context: BusinessContext) -> list[tuple[str, str]]:
    """As gRPC metadata or message headers; empty values are left out."""
    pairs = [(BIZ_ID, context.biz_id), (CRITICALITY, str(context.criticality))]
    if context.biz_code:
        pairs.append((BIZ_CODE, context.biz_code))
    if context.request_id:
        pairs.append((REQUEST_ID, context.request_id))
    if context.traceparent:
        pairs.append((TRACEPARENT, context.traceparent))
    if context.shadow:
        pairs.append((SHADOW, "1"))
    return pairs


def from_metadata(
    metadata: Mapping[str, str], *, caller: str = "", deadline_ms: int | None = None
) -> BusinessContext | None:
    """The context that metadata or headers carry, or None where they carry no business id of the right form."""
    biz_id = metadata.get(BIZ_ID, "")
    if not is_id(biz_id, "biz"):
        return None
    criticality = metadata.get(CRITICALITY, "")
    return BusinessContext(
        biz_id=biz_id,
        biz_code=metadata.get(BIZ_CODE, "")[:128],
        request_id=metadata.get(REQUEST_ID, "")[:64],
        traceparent=metadata.get(TRACEPARENT, "")[:64],
        shadow=metadata.get(SHADOW, "") == "1",
        criticality=int(criticality) if criticality in ("1", "2", "3") else context_pb2.CRITICALITY_NORMAL,
        caller=caller,
        deadline_ms=deadline_ms,
    )


def to_proto(context: BusinessContext) -> context_pb2.BusinessContext:
    """As the message that batch items carry."""
    return context_pb2.BusinessContext(
        biz_id=context.biz_id,
        biz_code=context.biz_code,
        request_id=context.request_id,
        traceparent=context.traceparent,
        shadow=context.shadow,
        criticality=context_pb2.Criticality.ValueType(context.criticality),
    )


def from_proto(
    message: context_pb2.BusinessContext, *, caller: str = "", deadline_ms: int | None = None
) -> BusinessContext | None:
    """The context a batch item carries, or None where it carries no business id of the right form."""
    if not is_id(message.biz_id, "biz"):
        return None
    return BusinessContext(
        biz_id=message.biz_id,
        biz_code=message.biz_code[:128],
        request_id=message.request_id[:64],
        traceparent=message.traceparent[:64],
        shadow=message.shadow,
        criticality=message.criticality or context_pb2.CRITICALITY_NORMAL,
        caller=caller,
        deadline_ms=deadline_ms,
    )


_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(BusinessContext)


def pack(context: BusinessContext) -> bytes:
    """As the bytes that rows store, so that timers, callbacks and replays can restore it; caller and deadline too."""
    return _packer.encode(context)


def unpack(data: bytes) -> BusinessContext:
    """What ``pack`` stored."""
    return _unpacker.decode(data)
