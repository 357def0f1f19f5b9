"""Who calls, and for what: the caller from the certificate, the business context from metadata or a batch item.

An edge method mints a context where the call brings none; an internal one refuses the call. A shadow flag is never
lost on the way: where the call or the item says shadow, the context says shadow.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import grpc
import msgspec
from google.protobuf.message import Message

from paykit import context as contexts
from paykit.clock import Clock
from paykit.context import BusinessContext
from paykit.errors import FailedPrecondition, FieldViolation, InvalidArgument, PermissionDenied
from paykit.ids import slot_of
from paykit.rpc.methods import Method
from paymesh.common.v1 import context_pb2

INSECURE = "insecure"  # the caller of a connection without TLS

_NAME = re.compile(r"[\x21-\x7e]{1,64}")
_COMMON_NAME = "x509_common_name"
_ALTERNATIVE_NAME = "x509_subject_alternative_name"

ServicerContext = grpc.aio.ServicerContext[Any, Any]


class Call(msgspec.Struct, frozen=True):
    """The call being served, as its batch items need it. ``context`` is None for a batch call that brought none."""

    method: Method
    clock: Clock
    caller: str
    deadline_ms: int | None
    metadata: Mapping[str, str]
    context: BusinessContext | None


_call: ContextVar[Call | None] = ContextVar("rpc_call", default=None)


def current_call() -> Call:
    """The call being served; LookupError outside one."""
    call = _call.get()
    if call is None:
        raise LookupError("no call is being served: batch items are served inside a Server")
    return call


def admit(method: Method, request: Message, servicer: ServicerContext, clock: Clock, has_tls: bool) -> Call:
    """Establishes the caller and the business context, and makes both current for the rest of the task."""
    caller = caller_of(servicer.auth_context()) if has_tls else INSECURE
    remaining_s: float | None = servicer.time_remaining()
    deadline_ms = None if remaining_s is None else clock.now_ms() + int(remaining_s * 1000)
    metadata: dict[str, Any] = dict(servicer.invocation_metadata() or ())
    _check_shadow(metadata)
    context = contexts.from_metadata(metadata, caller=caller, deadline_ms=deadline_ms)
    # Items of a batch each have a context of their own, or mint one: the call needs none.
    if context is None and not method.is_batch:
        if not method.is_edge:
            raise _context_missing(method)
        request_id = getattr(request, "request_id", "") if method.has_request_id else ""
        context = _mint(request_id, metadata, caller, deadline_ms, clock)
    call = Call(method, clock, caller, deadline_ms, metadata, context)
    _call.set(call)
    if context is not None:
        contexts.set_current(context)
    return call


def item_context(call: Call, item: Any) -> BusinessContext:
    """The context of one batch item: its own, else the call's, else a new one where the method is an edge one."""
    own: context_pb2.BusinessContext = item.context
    if own.biz_id:
        return _own_context(call, own)
    if call.context is not None:
        return msgspec.structs.replace(call.context, shadow=True) if own.shadow else call.context
    if not call.method.is_edge:
        raise _context_missing(call.method)
    minted = _mint(getattr(item.request, "request_id", ""), call.metadata, call.caller, call.deadline_ms, call.clock)
    return msgspec.structs.replace(minted, shadow=True) if own.shadow else minted


def _own_context(call: Call, own: context_pb2.BusinessContext) -> BusinessContext:
    context = contexts.from_proto(own, caller=call.caller, deadline_ms=call.deadline_ms)
    if context is None:
        raise InvalidArgument([FieldViolation("context.biz_id", "not a business id")])
    # They go on as metadata, which carries nothing else; from metadata they come checked by gRPC.
    texts = {"biz_code": own.biz_code, "request_id": own.request_id, "traceparent": own.traceparent}
    wrong = [field for field, text in texts.items() if not (text.isascii() and text.isprintable())]
    if wrong:
        raise InvalidArgument([FieldViolation(f"context.{field}", "must be printable ASCII") for field in wrong])
    if call.metadata.get(contexts.SHADOW) == "1" and not context.shadow:
        return msgspec.structs.replace(context, shadow=True)
    return context


def _mint(
    request_id: str, metadata: Mapping[str, str], caller: str, deadline_ms: int | None, clock: Clock
) -> BusinessContext:
    """A new context that keeps what else the metadata says. Its slot is provisional: the order has none yet."""
    if not _NAME.fullmatch(request_id):
        request_id = metadata.get(contexts.REQUEST_ID, "")[:64]
    now_ms = clock.now_ms()
    seed = contexts.mint(slot_of(request_id or secrets.token_hex(8)), now_ms)
    # from_metadata is the one reader of the other keys; the minted id makes it find a context.
    found = contexts.from_metadata({**metadata, contexts.BIZ_ID: seed.biz_id}, caller=caller, deadline_ms=deadline_ms)
    assert found is not None  # the id was just minted
    return msgspec.structs.replace(found, request_id=request_id, traceparent=found.traceparent or seed.traceparent)


def _check_shadow(metadata: Mapping[str, str]) -> None:
    """A flag that is there but not understood must not send a load test into the live databases."""
    if metadata.get(contexts.SHADOW, "0") not in ("0", "1"):
        raise InvalidArgument([FieldViolation(contexts.SHADOW, "must be 0 or 1")])


def _context_missing(method: Method) -> FailedPrecondition:
    return FailedPrecondition(
        f"{method.path} is called by services only and needs a business context ({contexts.BIZ_ID})",
        reason="CONTEXT_MISSING",
        subject=method.path,
    )


def caller_of(auth_context: Mapping[str, Any]) -> str:
    """The caller a verified client certificate names: its common name, else its first alternative name."""
    for key in (_COMMON_NAME, _ALTERNATIVE_NAME):
        for value in auth_context.get(key, ()):
            name: str = value.decode("utf-8", "replace")
            if _NAME.fullmatch(name):
                return name
    raise PermissionDenied(
        "the client certificate has no common or alternative name of 1 to 64 visible ASCII characters",
        reason="CALLER_UNKNOWN",
    )
