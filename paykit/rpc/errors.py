"""The one translation between MeshError and google.rpc.Status, both ways.

Every Status carries ErrorInfo{reason, domain "paymesh", metadata}; BadRequest for fields, PreconditionFailure for
state, RetryInfo where a retry makes sense. Whatever is not a MeshError becomes INTERNAL with an incident id: its
traceback goes to the log and its text to nobody.
"""

from __future__ import annotations

import secrets
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from paykit import errors

DOMAIN = "paymesh"
DETAILS_KEY = "grpc-status-details-bin"

# Trailing metadata is limited to 8 KiB by default: a status must stay well below it.
MAX_MESSAGE_CHARS = 1000
MAX_VIOLATIONS = 24
MAX_DESCRIPTION_CHARS = 120

_CLASSES: dict[str, type[errors.MeshError]] = {
    cls.code: cls
    for cls in (
        errors.NotFound,
        errors.AlreadyExists,
        errors.PermissionDenied,
        errors.ResourceExhausted,
        errors.Aborted,
        errors.Unavailable,
        errors.DeadlineExceeded,
    )
}
_CODE = {code.name: code for code in grpc.StatusCode}
_NUMBER = {name: code.value[0] for name, code in _CODE.items()}
_NAME = {number: name for name, number in _NUMBER.items()}

_RETRY_AFTER_MS = {"RESOURCE_EXHAUSTED": 200, "ABORTED": 50, "UNAVAILABLE": 200}
# Codes whose text the gRPC library writes itself; of other codes a foreign text is not passed on.
_LIBRARY_TEXT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "CANCELLED"})

_log = structlog.get_logger(__name__)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may be sent again: True unless the callee has definitely refused it.

    An INTERNAL or a lost connection is no refusal: the callee may have done it, and only asking again will tell.
    """
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code().name not in errors.DEFINITE_CODES
    return not isinstance(error, errors.MeshError) or error.code not in errors.DEFINITE_CODES


def to_status(error: errors.MeshError) -> status_pb2.Status:
    """The error as a google.rpc.Status; over-long texts and lists are cut."""
    status = status_pb2.Status(code=_NUMBER[error.code], message=error.message[:MAX_MESSAGE_CHARS])
    metadata = {key: value[:MAX_DESCRIPTION_CHARS] for key, value in list(error.metadata.items())[:MAX_VIOLATIONS]}
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if isinstance(error, errors.InvalidArgument):
        _add(status, _bad_request(error))
    if isinstance(error, errors.FailedPrecondition):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=error.subject, description=error.message[:MAX_DESCRIPTION_CHARS]
        )
        _add(status, error_details_pb2.PreconditionFailure(violations=[violation]))
    retry_after_ms = error.retry_after_ms
    if retry_after_ms is None:
        retry_after_ms = _RETRY_AFTER_MS.get(error.code)
    if retry_after_ms is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromMilliseconds(retry_after_ms)
        _add(status, info)
    return status


def _bad_request(error: errors.InvalidArgument) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation
    return error_details_pb2.BadRequest(
        field_violations=[
            violation(field=v.field[:MAX_DESCRIPTION_CHARS], description=v.description[:MAX_DESCRIPTION_CHARS])
            for v in error.violations[:MAX_VIOLATIONS]
        ]
    )


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def from_status(status: status_pb2.Status) -> errors.MeshError:
    """The error a Status stands for: its class by the code, with reason, metadata, violations and retry delay.

    A code without a class of its own gives a plain MeshError with that ``code``.
    """
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    precondition, retry = error_details_pb2.PreconditionFailure(), error_details_pb2.RetryInfo()
    retry_after_ms: int | None = None
    for detail in status.details:
        for known in (info, bad_request, precondition, retry):
            if detail.Is(known.DESCRIPTOR):
                detail.Unpack(known)
                if known is retry:
                    retry_after_ms = retry.retry_delay.ToMilliseconds()
    code = _NAME.get(status.code, "UNKNOWN")
    error: errors.MeshError
    if code == "INVALID_ARGUMENT":
        found = [errors.FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        error = errors.InvalidArgument(found, reason=info.reason)
        error.message, error.args = status.message, (status.message,)
    elif code == "FAILED_PRECONDITION":
        subject = precondition.violations[0].subject if precondition.violations else ""
        error = errors.FailedPrecondition(status.message, reason=info.reason, subject=subject)
    else:
        error = _CLASSES.get(code, errors.MeshError)(status.message, reason=info.reason)
        error.code = code
        if not info.reason and code not in _CLASSES:
            error.reason = code
    error.metadata = dict(info.metadata)
    error.retry_after_ms = retry_after_ms
    return error


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.MeshError:
    """The MeshError behind a failed call: from its Status details, else from its code (transport errors)."""
    code = error.code()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
                if status.code == code.value[0]:
                    return from_status(status)
            except DecodeError:
                break  # not ours: the code has to do
    text = (error.details() or "") if code.name in _LIBRARY_TEXT else ""
    message = f"{code.name}: {text}" if text else f"the call failed with {code.name}"
    return from_status(status_pb2.Status(code=code.value[0], message=message[:MAX_MESSAGE_CHARS]))


def as_mesh_error(error: Exception, method: str) -> errors.MeshError:
    """What the caller of ``method`` is told about ``error``. Logs what nobody foresaw under a new incident id."""
    if isinstance(error, errors.MeshError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc_error(error)
    incident_id = secrets.token_hex(8)
    _log.error("rpc_uncaught_exception", method=method, incident_id=incident_id, exc_info=error)
    return errors.MeshError(
        f"internal error, incident {incident_id}", reason="INTERNAL", metadata={"incident_id": incident_id}
    )


async def abort(servicer: grpc.aio.ServicerContext[Any, Any], error: errors.MeshError) -> NoReturn:
    """Ends the call with the error's status; raises grpc.aio.AbortError."""
    status = to_status(error)
    await servicer.abort(_CODE[error.code], _printable(status.message), ((DETAILS_KEY, status.SerializeToString()),))


def _printable(text: str) -> str:
    """gRPC percent-encodes the message; control characters in it would only confuse whoever reads it."""
    return "".join(char if char.isprintable() else " " for char in text)
