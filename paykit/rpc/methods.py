"""What the descriptors say about a method, looked up once: exposure, message classes, its Batch form."""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from paymesh.common.v1 import options_pb2


class Method(NamedTuple):
    """One method of a service. ``path`` is what gRPC calls it: "/paymesh.pay.v1.PayService/Transfer"."""

    path: str
    is_edge: bool
    is_batch: bool
    has_request_id: bool
    request_type: type[Message]
    response_type: type[Message]


class BatchForm(NamedTuple):
    """The Batch method that carries many calls of a unary one."""

    path: str
    request_type: type[Message]
    response_type: type[Message]


def method_of(path: str) -> Method:
    """What is known of ``path``; LookupError where no imported stub describes it."""
    descriptor = _descriptor(path)
    # Typed stubs know extensions by message; the lookup itself is the documented one.
    exposure: int = descriptor.GetOptions().Extensions[options_pb2.exposure]
    return Method(
        path=path,
        is_edge=exposure == options_pb2.EXPOSURE_EDGE,
        is_batch=_item_of(descriptor.input_type) is not None,
        has_request_id="request_id" in descriptor.input_type.fields_by_name,
        request_type=message_factory.GetMessageClass(descriptor.input_type),
        response_type=message_factory.GetMessageClass(descriptor.output_type),
    )


def batch_form_of(path: str) -> BatchForm:
    """The Batch method of the same service whose items are requests of ``path``; LookupError where there is none."""
    unary = _descriptor(path)
    for candidate in unary.containing_service.methods:
        item = _item_of(candidate.input_type)
        if item is not None and item.fields_by_name["request"].message_type is unary.input_type:
            result: Any = candidate.output_type.fields_by_name["results"].message_type
            if result.fields_by_name["response"].message_type is not unary.output_type:
                raise LookupError(f"{candidate.full_name} answers with other messages than {path}")
            return BatchForm(
                path=f"/{unary.containing_service.full_name}/{candidate.name}",
                request_type=message_factory.GetMessageClass(candidate.input_type),
                response_type=message_factory.GetMessageClass(candidate.output_type),
            )
    raise LookupError(f"{path} has no Batch form")


def _descriptor(path: str) -> MethodDescriptor:
    service_name, _, name = path.removeprefix("/").partition("/")
    try:
        service: Any = descriptor_pool.Default().FindServiceByName(service_name)
        found: MethodDescriptor = service.methods_by_name[name]
    except KeyError:
        raise LookupError(f"no imported stub describes {path}") from None
    return found


def _item_of(message: Descriptor) -> Descriptor | None:
    """The item message of a Batch request: the repeated ``items`` with a ``context`` and a ``request``."""
    field: FieldDescriptor | None = message.fields_by_name.get("items")
    if field is None or field.message_type is None:
        return None
    item: Descriptor = field.message_type
    names = item.fields_by_name
    return item if "context" in names and "request" in names and names["request"].message_type is not None else None
