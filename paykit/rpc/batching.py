"""Concurrent unary calls gathered into one Batch message (``BatchCaller``), and its other end (``serve_batch``).

Nobody waits for a batch to fill: whatever is waiting when a place in flight is free goes out together. A lone call
pays one round trip, a flood shares its messages.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from paykit import telemetry
from paykit.context import BusinessContext, set_current, to_proto
from paykit.errors import DeadlineExceeded, FieldViolation, InvalidArgument, MeshError, ResourceExhausted, Unavailable
from paykit.rpc.admission import Call, ServicerContext, current_call, item_context
from paykit.rpc.calling import MeshChannel, timeout_for
from paykit.rpc.errors import as_mesh_error, from_rpc_error, from_status, to_status
from paykit.rpc.methods import batch_form_of
from paykit.store.guard import assert_outside_transaction

MAX_ITEMS = 100
MAX_ITEMS_SERVED = 200
IN_FLIGHT = 4
MAX_WAITING = 4096
RETRY_AFTER_MS = 100

BATCH_ITEMS = telemetry.histogram(
    "rpc_batch_items", "Calls gathered into one message", ("method",), telemetry.SIZE_BUCKETS
)

ITEMS_SERVED = telemetry.counter("rpc_items_total", "Items of batches served", ("method", "code"))

ResponseT = TypeVar("ResponseT", bound=Message)


class _Waiting:
    """One call: its request, its context, when it must be answered (loop time), and who awaits the answer."""

    __slots__ = ("answer", "context", "expires_at_s", "request")

    def __init__(
        self,
        request: Message | bytes,
        context: BusinessContext,
        expires_at_s: float,
        answer: asyncio.Future[Message],
    ) -> None:
        self.request = request
        self.context = context
        self.expires_at_s = expires_at_s
        self.answer = answer


class BatchCaller:
    """Calls of one unary method, sent by its Batch form. One per method and channel; use from one event loop.

    At most ``max_items`` a message, ``in_flight`` messages at once and ``max_waiting`` calls waiting; beyond that
    ResourceExhausted. The stubs' modules must be imported: the Batch form is found in their descriptors.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        method: str,
        max_items: int = MAX_ITEMS,
        in_flight: int = IN_FLIGHT,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        form = batch_form_of(method)
        mesh = channel if isinstance(channel, MeshChannel) else MeshChannel(channel)
        self.method = method
        self._request_type: Any = form.request_type
        # The items carry the contexts; the message itself belongs to none of them, so it goes on the bare channel.
        self._call: Any = mesh.raw.unary_unary(
            form.path,
            request_serializer=form.request_type.SerializeToString,
            response_deserializer=form.response_type.FromString,
        )
        self._clock = mesh.clock
        self._max_items = max_items
        self._max_in_flight = in_flight
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._is_pump_due = False
        self._is_closed = False
        self._items = BATCH_ITEMS.labels(method)

    async def __call__(self, request: Message | bytes, context: BusinessContext, timeout_s: float | None = None) -> Any:
        """Makes one call and gives its response message. ``request`` may be serialized already.

        ``timeout_s`` is 5 where left out, never beyond the context's deadline. Raises the item's MeshError;
        Unavailable or DeadlineExceeded where no answer came, which says nothing about what was done.
        """
        assert_outside_transaction()
        timeout_s = timeout_for(context, timeout_s, self._clock)
        if self._is_closed:
            raise Unavailable(f"{self.method}: the channel is closed")
        if len(self._waiting) >= self._max_waiting:
            raise ResourceExhausted(
                f"{self.method}: {len(self._waiting)} calls are waiting", retry_after_ms=RETRY_AFTER_MS
            )
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Message] = loop.create_future()
        self._waiting.append(_Waiting(request, context, loop.time() + timeout_s, answer))
        if not self._is_pump_due and len(self._sending) < self._max_in_flight:
            # At the end of this turn of the loop, so that all calls made in it go together.
            self._is_pump_due = True
            loop.call_soon(self._pump)
        expiry = loop.call_later(timeout_s, _expire, answer, self.method)
        try:
            return await answer
        finally:
            expiry.cancel()

    def _pump(self) -> None:
        self._is_pump_due = False
        while self._waiting and len(self._sending) < self._max_in_flight:
            batch = self._take()
            if not batch:
                return
            # A context of its own: the task serves many callers and must not carry the first one's.
            task = asyncio.get_running_loop().create_task(self._send(batch), context=contextvars.Context())
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _take(self) -> list[_Waiting]:
        """The next calls that somebody still awaits."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._max_items:
            item = self._waiting.popleft()
            if not item.answer.done():
                batch.append(item)
        return batch

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._pump()

    async def _send(self, batch: list[_Waiting]) -> None:
        try:
            message, batch = self._compose(batch)
            if not batch:
                return
            self._items.observe(len(batch))
            timeout_s = max(item.expires_at_s for item in batch) - asyncio.get_running_loop().time()
            response = await self._call(message, timeout=timeout_s)
            _deliver(batch, response.results, self.method)
        except grpc.aio.AioRpcError as error:
            for item in batch:
                _fail(item, from_rpc_error(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            for item in batch:
                _fail(item, error)
        finally:
            for item in batch:  # the channel was closed, or this task cancelled: nobody may be left waiting
                if not item.answer.done():
                    _fail(item, Unavailable(f"{self.method}: the call was given up"))

    def _compose(self, batch: list[_Waiting]) -> tuple[Message, list[_Waiting]]:
        """The Batch message, and the calls that are in it: one that cannot be parsed fails alone."""
        message = self._request_type()
        composed: list[_Waiting] = []
        for waiting in batch:
            item = message.items.add()
            try:
                if isinstance(waiting.request, bytes):
                    item.request.MergeFromString(waiting.request)
                else:
                    item.request.CopyFrom(waiting.request)
                item.context.CopyFrom(to_proto(waiting.context))
            except (DecodeError, TypeError, ValueError) as error:
                del message.items[-1]
                _fail(waiting, InvalidArgument([FieldViolation("", str(error))], reason="MALFORMED_REQUEST"))
            else:
                composed.append(waiting)
        return message, composed

    async def close(self, grace_s: float) -> None:
        """Takes no more calls; those under way get ``grace_s``, then they fail with Unavailable."""
        self._is_closed = True
        with_all_sent = asyncio.get_running_loop().time() + grace_s
        while self._sending and (left_s := with_all_sent - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._sending, timeout=left_s)
        for item in self._waiting:
            _fail(item, Unavailable(f"{self.method}: the channel is closed"))
        self._waiting.clear()
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


def _deliver(batch: list[_Waiting], results: Any, method: str) -> None:
    if len(results) != len(batch):
        raise MeshError(f"{method}: {len(results)} results for {len(batch)} items", reason="BATCH_MISMATCH")
    for item, result in zip(batch, results, strict=True):
        if item.answer.done():
            continue
        if result.status.code == 0:
            item.answer.set_result(result.response)
        else:
            item.answer.set_exception(from_status(result.status))


def _fail(item: _Waiting, error: Exception) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)


def _expire(answer: asyncio.Future[Message], method: str) -> None:
    if not answer.done():
        answer.set_exception(DeadlineExceeded(f"{method}: no answer within the time given"))


async def serve_batch(
    request: Any,
    context: ServicerContext,
    unary: Callable[[Any, ServicerContext], Awaitable[Message]],
    response_type: type[ResponseT],
) -> ResponseT:
    """Carries out every item of ``request`` by ``unary``, the servicer's own method, and gathers the results in order.

    An item that fails fails alone, with the status the single call would have had. InvalidArgument beyond 200 items.
    """
    if len(request.items) > MAX_ITEMS_SERVED:
        raise InvalidArgument([FieldViolation("items", f"at most {MAX_ITEMS_SERVED}, not {len(request.items)}")])
    call = current_call()
    outcomes = await asyncio.gather(*(_serve_item(call, item, context, unary) for item in request.items))
    response: Any = response_type()
    tally: Counter[str] = Counter()
    for outcome in outcomes:
        result = response.results.add()
        if isinstance(outcome, MeshError):
            result.status.CopyFrom(to_status(outcome))
            tally[outcome.code] += 1
        else:
            result.response.CopyFrom(outcome)
            tally["OK"] += 1
    for code, count in tally.items():
        ITEMS_SERVED.labels(call.method.path, code).inc(count)
    answered: ResponseT = response
    return answered


async def _serve_item(
    call: Call, item: Any, context: ServicerContext, unary: Callable[[Any, ServicerContext], Awaitable[Message]]
) -> Message | MeshError:
    """The response, or the error. gather runs each item in a task, so the context set here is the item's alone."""
    try:
        set_current(item_context(call, item))
        return await unary(item.request, context)
    except grpc.aio.AbortError:
        raise  # the handler ended the whole call: its status is sent already
    except Exception as error:
        return as_mesh_error(error, call.method.path)
