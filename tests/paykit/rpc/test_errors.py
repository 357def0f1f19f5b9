"""MeshError and google.rpc.Status say the same, both ways."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from paykit import errors
from paykit.errors import FieldViolation
from paykit.rpc.errors import from_rpc_error, from_status, is_transient, to_status

ALL = [
    errors.InvalidArgument([FieldViolation("amount.currency_code", "unknown"), FieldViolation("payer_id", "required")]),
    errors.NotFound("no payment", metadata={"id": "pay_1"}),
    errors.AlreadyExists("other input", reason="REQUEST_ID_REUSED"),
    errors.FailedPrecondition("it is PAID", reason="ILLEGAL_STATE", subject="trd_1", metadata={"state": "PAID"}),
    errors.PermissionDenied("not you", reason="CALLER_UNKNOWN"),
    errors.ResourceExhausted("queue full", retry_after_ms=250),
    errors.Aborted("lost races", retry_after_ms=20),
    errors.Unavailable("down", retry_after_ms=1500),
    errors.DeadlineExceeded("too late"),
    errors.MeshError("broken", reason="BATCH_MISMATCH"),
]


def detail(status: status_pb2.Status, message: Message) -> bool:
    return any(packed.Is(message.DESCRIPTOR) and packed.Unpack(message) for packed in status.details)


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_every_error_survives_the_way_there_and_back(error: errors.MeshError) -> None:
    back = from_status(status_pb2.Status.FromString(to_status(error).SerializeToString()))
    assert type(back) is type(error)
    assert (back.code, back.reason, back.message, back.metadata) == (
        error.code,
        error.reason,
        error.message,
        error.metadata,
    )
    assert back.retry_after_ms == error.retry_after_ms
    assert getattr(back, "violations", None) == getattr(error, "violations", None)
    assert getattr(back, "subject", None) == getattr(error, "subject", None)
    assert str(back) == str(error)


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_every_status_names_its_reason_and_our_domain(error: errors.MeshError) -> None:
    info = error_details_pb2.ErrorInfo()
    assert detail(to_status(error), info)
    assert (info.reason, info.domain) == (error.reason, "paymesh")


@pytest.mark.parametrize("cls", [errors.ResourceExhausted, errors.Aborted, errors.Unavailable])
def test_errors_worth_a_retry_say_when_even_where_the_raiser_did_not(cls: type[errors.MeshError]) -> None:
    retry = error_details_pb2.RetryInfo()
    assert detail(to_status(cls("x")), retry)
    assert 0 < retry.retry_delay.ToMilliseconds() <= 1000


def test_a_status_stays_below_the_metadata_limit_however_much_it_has_to_say() -> None:
    many = [FieldViolation("field" * 50, "wrong" * 100) for _ in range(500)]
    assert len(to_status(errors.InvalidArgument(many)).SerializeToString()) < 8000
    wide = errors.NotFound("x" * 10_000, metadata={f"key{i}": "v" * 1000 for i in range(100)})
    assert len(to_status(wide).SerializeToString()) < 8000


def rpc_error(code: grpc.StatusCode, details: str, trailing: grpc.aio.Metadata | None = None) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing or grpc.aio.Metadata(), details)


def test_a_lost_connection_keeps_its_address_for_the_operator() -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "failed to connect to 10.0.0.1:1"))
    assert isinstance(error, errors.Unavailable)
    assert "10.0.0.1:1" in error.message


def test_text_of_a_foreign_failure_is_not_passed_on() -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNKNOWN, "SELECT secret FROM t"))
    assert (error.code, error.reason) == ("UNKNOWN", "UNKNOWN")
    assert "SELECT" not in error.message


@pytest.mark.parametrize("value", [b"\xff\xff", status_pb2.Status(code=3, message="other").SerializeToString()])
def test_details_that_are_garbage_or_of_another_code_are_ignored(value: bytes) -> None:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", value))
    assert isinstance(from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, "", trailing)), errors.NotFound)


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_only_a_definite_refusal_is_not_transient(error: errors.MeshError) -> None:
    refusals = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "PERMISSION_DENIED"}
    assert is_transient(error) == (error.code not in refusals)


def test_what_is_no_answer_of_the_callee_is_transient() -> None:
    assert is_transient(rpc_error(grpc.StatusCode.UNAVAILABLE, ""))
    assert not is_transient(rpc_error(grpc.StatusCode.NOT_FOUND, ""))
    assert is_transient(ConnectionResetError())
