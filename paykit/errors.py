"""Errors with a name. A service raises them anywhere; ``paykit.rpc`` translates them to google.rpc.Status once.

``reason`` is the constant in ErrorInfo; ``message`` is for people and carries no SQL and no provider text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class FieldViolation(NamedTuple):
    """One field that is wrong: its path in the request and why."""

    field: str
    description: str


class MeshError(Exception):
    """The base of every error a caller is told about."""

    code = "INTERNAL"  # name of a grpc.StatusCode
    default_reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.retry_after_ms = retry_after_ms


class InvalidArgument(MeshError):
    """One or more fields of the request are wrong, whatever the state of the system."""

    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_FIELD"

    def __init__(self, violations: list[FieldViolation], *, reason: str = "") -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations), reason=reason)
        self.violations = violations


class NotFound(MeshError):
    """What an id names does not exist."""

    code = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class AlreadyExists(MeshError):
    """What should be made exists already, and differs."""

    code = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(MeshError):
    """The state of the system does not allow the request; repeating it unchanged will not help."""

    code = "FAILED_PRECONDITION"
    default_reason = "ILLEGAL_STATE"

    def __init__(
        self, message: str, *, reason: str = "", subject: str = "", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.subject = subject  # the id of what is in the wrong state


class PermissionDenied(MeshError):
    """The authenticated caller may not do this."""

    code = "PERMISSION_DENIED"
    default_reason = "PERMISSION_DENIED"


class ResourceExhausted(MeshError):
    """A bound on waiting work is reached; nothing was begun."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = "OVERLOADED"


class Aborted(MeshError):
    """Lost races on the same rows too often; nothing was done."""

    code = "ABORTED"
    default_reason = "CONTENTION"


class Unavailable(MeshError):
    """A part the request needs cannot be reached now; the same request_id may be sent again."""

    code = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"


class DeadlineExceeded(MeshError):
    """The caller's deadline passed before the work began; nothing was done."""

    code = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_EXCEEDED"


# A callee that answers with one of these has refused for good; any other error leaves open whether it was done.
DEFINITE_CODES = frozenset(
    {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "PERMISSION_DENIED", "OUT_OF_RANGE"}
)


class ConfigurationError(Exception):
    """The configuration is wrong or names something that cannot be reached; the message says which key or address."""
