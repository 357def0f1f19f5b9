"""What stands around every method of a service: parsing, admission, error mapping, metrics and the access log.

Handlers are wrapped once, when a servicer is added, rather than by interceptors on every call. Parsing and
serializing happen inside the wrapper, so that a malformed message is INVALID_ARGUMENT and not the library's UNKNOWN.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from paykit import telemetry
from paykit.clock import Clock
from paykit.context import current_or_none
from paykit.errors import FieldViolation, InvalidArgument, MeshError
from paykit.rpc import errors
from paykit.rpc.admission import ServicerContext, admit
from paykit.rpc.methods import Method, method_of

REQUESTS = telemetry.counter("rpc_requests_total", "Calls served", ("method", "code"))
SECONDS = telemetry.histogram("rpc_seconds", "Time from a call's arrival to its answer", ("method",))
IN_FLIGHT = telemetry.gauge("rpc_in_flight", "Calls being served")

_log = structlog.get_logger(__name__)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Tracker:
    """Counts the calls in flight, so that stopping can wait for them and for nothing else."""

    def __init__(self) -> None:
        self.count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> None:
        """A call has begun."""
        self.count += 1
        self._idle.clear()
        IN_FLIGHT.inc()

    def leave(self) -> None:
        """A call has ended."""
        self.count -= 1
        IN_FLIGHT.dec()
        if self.count == 0:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Returns when no call is in flight."""
        await self._idle.wait()


class Observer:
    """Metrics and access log of one method; the labelled children are looked up once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seconds = SECONDS.labels(path)
        self._by_code: dict[str, Any] = {}

    def record(self, code: str, started_s: float, error: MeshError | None) -> None:
        """Counts and logs a call that ended with ``code``."""
        elapsed_s = time.perf_counter() - started_s
        self._seconds.observe(elapsed_s)
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = REQUESTS.labels(self._path, code)
        counter.inc()
        if error is None:
            _log.debug("rpc_served", method=self._path, code=code, elapsed_ms=round(elapsed_s * 1000, 2))
            return
        # A refusal is the service working as it should; anything else is worth a look.
        log = _log.warning if errors.is_transient(error) else _log.info
        log("rpc_failed", method=self._path, code=code, reason=error.reason, elapsed_ms=round(elapsed_s * 1000, 2))


def wrap(path: str, handler: Handler, clock: Clock, tracker: Tracker, has_tls: bool) -> Handler | None:
    """The handler gRPC gets for ``path``; None where the servicer leaves the generated default in place.

    TypeError where the method is not ``async def``: gRPC would silently run it on a thread.
    """
    behaviour: Any
    if handler.request_streaming:
        behaviour = handler.stream_stream
    else:
        behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary
    if behaviour is None:
        raise TypeError(f"{path}: a stream of requests is answered with a stream")
    if (getattr(behaviour, "__module__", "") or "").endswith("_pb2_grpc"):
        return None
    method = method_of(path)
    if handler.response_streaming:
        if not inspect.isasyncgenfunction(behaviour):
            raise TypeError(f"{path} must be an async generator")
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(_both_streams(method, behaviour, clock, tracker, has_tls))
        return grpc.unary_stream_rpc_method_handler(_stream(method, behaviour, clock, tracker, has_tls))
    if not inspect.iscoroutinefunction(behaviour):
        raise TypeError(f"{path} must be async def")
    return grpc.unary_unary_rpc_method_handler(_unary(method, behaviour, clock, tracker, has_tls))


def _unary(
    method: Method,
    behaviour: Callable[[Any, ServicerContext], Awaitable[Message]],
    clock: Clock,
    tracker: Tracker,
    has_tls: bool,
) -> Any:
    observer = Observer(method.path)

    async def serve(data: bytes, servicer: ServicerContext) -> bytes:
        started_s = time.perf_counter()
        tracker.enter()
        code, failure = "CANCELLED", None
        try:
            request = _parse(method, data)
            admit(method, request, servicer, clock, has_tls)
            answer = (await behaviour(request, servicer)).SerializeToString()
            code = "OK"
            return answer
        except asyncio.CancelledError:
            code = _why_cancelled(clock)
            raise
        except grpc.aio.AbortError:
            code = servicer.code().name
            raise
        except Exception as error:
            failure = errors.as_mesh_error(error, method.path)
            code = failure.code
            await errors.abort(servicer, failure)
        finally:
            observer.record(code, started_s, failure)
            tracker.leave()

    return serve


def _stream(
    method: Method,
    behaviour: Callable[[Any, ServicerContext], AsyncIterator[Message]],
    clock: Clock,
    tracker: Tracker,
    has_tls: bool,
) -> Any:
    def begin(data: bytes, servicer: ServicerContext) -> AsyncIterator[Message]:
        request = _parse(method, data)
        admit(method, request, servicer, clock, has_tls)
        return behaviour(request, servicer)

    return _responses(method, begin, clock, tracker)


def _both_streams(
    method: Method,
    behaviour: Callable[[AsyncIterator[Any], ServicerContext], AsyncIterator[Message]],
    clock: Clock,
    tracker: Tracker,
    has_tls: bool,
) -> Any:
    async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for data in requests:
            yield _parse(method, data)

    def begin(requests: AsyncIterator[bytes], servicer: ServicerContext) -> AsyncIterator[Message]:
        # Who calls, and for what, is told by the metadata alone: no request has been read yet.
        admit(method, method.request_type(), servicer, clock, has_tls)
        return behaviour(parsed(requests), servicer)

    return _responses(method, begin, clock, tracker)


def _responses(
    method: Method, begin: Callable[[Any, ServicerContext], AsyncIterator[Message]], clock: Clock, tracker: Tracker
) -> Any:
    observer = Observer(method.path)

    async def serve(received: Any, servicer: ServicerContext) -> AsyncIterator[bytes]:
        started_s = time.perf_counter()
        tracker.enter()
        code, failure = "CANCELLED", None
        try:
            async with contextlib.aclosing(begin(received, servicer)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    yield response.SerializeToString()
            code = "OK"
        except asyncio.CancelledError:
            code = _why_cancelled(clock)
            raise
        except grpc.aio.AbortError:
            code = servicer.code().name
            raise
        except Exception as error:
            failure = errors.as_mesh_error(error, method.path)
            code = failure.code
            await errors.abort(servicer, failure)
        finally:
            observer.record(code, started_s, failure)
            tracker.leave()

    return serve


def _parse(method: Method, data: bytes) -> Message:
    try:
        return method.request_type.FromString(data)
    except DecodeError:
        raise InvalidArgument(
            [FieldViolation("", f"not a {method.request_type.DESCRIPTOR.full_name}")], reason="MALFORMED_REQUEST"
        ) from None


def _why_cancelled(clock: Clock) -> str:
    context = current_or_none()
    passed = context is not None and context.deadline_ms is not None and clock.now_ms() >= context.deadline_ms
    return "DEADLINE_EXCEEDED" if passed else "CANCELLED"
