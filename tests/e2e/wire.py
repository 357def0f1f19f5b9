"""Calls as any program on the network could make them: by path, with whatever bytes and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import func, select

from meshctl.embedded import EmbeddedMesh
from paykit.context import MODES
from paykit.rpc.errors import DETAILS_KEY
from paykit.rpc.methods import Method, method_of
from paykit.store.system import CommandRecord

# Every service of the contract, and where it is served.
SERVED = {
    "paymesh.trade.v1.TradeService": "trade_core",
    "paymesh.pay.v1.PayService": "pay_core",
    "paymesh.pay.v1.LedgerService": "pay_core",
    "paymesh.pay.v1.BenefitService": "pay_core",
    "paymesh.pay.v1.TransitService": "pay_core",
    "paymesh.channel.v1.ChannelService": "channel_gateway",
    "paymesh.recon.v1.ReconService": "recon",
    "paymesh.ops.v1.OpsService": "trade_core",
}

TIMEOUT_S = 10.0


def _methods() -> list[Method]:
    pool = descriptor_pool.Default()
    services = [pool.FindServiceByName(name) for name in SERVED]
    return [method_of(f"/{service.full_name}/{method.name}") for service in services for method in service.methods]


METHODS = _methods()
UNARY = [method for method in METHODS if not method.is_batch]
BATCH = [method for method in METHODS if method.is_batch]


class Refusal(NamedTuple):
    """What a refused call was told. ``fields`` are the wrong ones, by path."""

    code: str
    reason: str
    domain: str
    fields: dict[str, str]
    subjects: list[str]
    message: str


class Wire:
    """A program on the network without any of our code."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._channels = {name: grpc.aio.insecure_channel(address) for name, address in addresses.items()}

    async def close(self) -> None:
        """Hangs up."""
        for channel in self._channels.values():
            await channel.close()

    async def call(
        self, method: Method, body: bytes | Message, metadata: Sequence[tuple[str, str]] = ()
    ) -> Message | Refusal:
        """The answer, the first where it is a stream; or how it was refused."""
        # Without serializers, as the library allows and its stubs do not: bytes go out and bytes come back.
        channel: Any = self._channels[SERVED[method.path.split("/")[1]]]
        data = body if isinstance(body, bytes) else body.SerializeToString()
        options: dict[str, Any] = {"timeout": TIMEOUT_S, "metadata": tuple(metadata)}
        try:
            if method.path.endswith("/WatchTrade"):
                stream = channel.unary_stream(method.path)(data, **options)
                answer = await stream.read()
                stream.cancel()
            else:
                answer = await channel.unary_unary(method.path)(data, **options)
        except grpc.aio.AioRpcError as error:
            return _refusal(error)
        return method.response_type.FromString(answer)

    async def refused(self, method: Method, body: bytes | Message, metadata: Sequence[tuple[str, str]] = ()) -> Refusal:
        """As ``call``, of a call that must be refused."""
        outcome = await self.call(method, body, metadata)
        assert isinstance(outcome, Refusal), f"{method.path} took {body!r} and answered {outcome}"
        assert outcome.domain == "paymesh"
        return outcome


def _refusal(error: grpc.aio.AioRpcError) -> Refusal:
    details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY, b"")
    assert isinstance(details, bytes)
    assert details, f"{error.code()} without details: {error.details()}"
    status = status_pb2.Status.FromString(details)
    assert status.code == error.code().value[0]
    return of_status(status)


def of_status(status: status_pb2.Status) -> Refusal:
    """What a google.rpc.Status tells, of a call or of an item of a batch."""
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    precondition = error_details_pb2.PreconditionFailure()
    for detail in status.details:
        for known in (info, bad_request, precondition):
            if detail.Is(known.DESCRIPTOR):
                detail.Unpack(known)
    return Refusal(
        code=next(code.name for code in grpc.StatusCode if code.value[0] == status.code),
        reason=info.reason,
        domain=info.domain,
        fields={violation.field: violation.description for violation in bad_request.field_violations},
        subjects=[violation.subject for violation in precondition.violations],
        message=status.message,
    )


def text_fields(method: Method) -> list[str]:
    """The names of the fields of a request that are text."""
    return [
        field.name
        for field in method.request_type.DESCRIPTOR.fields
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated
    ]


async def written(mesh: EmbeddedMesh, modes: Sequence[str] = MODES) -> dict[str, int]:
    """How many commands each service has carried out: nothing is written, and no message sent, without a record."""
    counts = {}
    statement = select(func.count()).select_from(CommandRecord.__table__)
    for name, service in mesh.services.items():
        counts[name] = 0
        for mode in modes:
            for shard in service.store.shards(mode):
                async with service.store.executor(mode, shard).engines.reader.connect() as connection:
                    counts[name] += (await connection.execute(statement)).scalar_one()
    return counts
