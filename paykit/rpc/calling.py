"""What stands around every call to another service: context, deadline, the transaction guard, error mapping.

A channel of our own rather than client interceptors: those run each call in a task of its own, and an error that is
not gRPC's does not pass through them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from paykit.clock import Clock, SystemClock
from paykit.context import BusinessContext, current_or_none, to_metadata
from paykit.errors import DeadlineExceeded, Unavailable
from paykit.rpc.errors import from_rpc_error
from paykit.store.guard import assert_outside_transaction

DEFAULT_TIMEOUT_S = 5.0
DEFAULT_STREAM_TIMEOUT_S = 300.0
# What is left to answer our own caller with; the share also outweighs gRPC, which sends an earlier timeout of the
# connection again where that is up to 3 % longer, and rounds: else a deadline would not shrink from hop to hop.
DEADLINE_MARGIN_S = 0.05
DEADLINE_SHARE = 0.95

Metadata = Sequence[tuple[str, str]]


def timeout_for(
    context: BusinessContext | None, timeout_s: float | None, clock: Clock, default_s: float = DEFAULT_TIMEOUT_S
) -> float:
    """Seconds a call may take: what is asked for, or the default, but never beyond the context's deadline.

    ``clock`` is the one the deadline was set by. DeadlineExceeded where nothing is left.
    """
    wanted_s = default_s if timeout_s is None else timeout_s
    if context is None or context.deadline_ms is None:
        return wanted_s
    remaining_s = (context.deadline_ms - clock.now_ms()) / 1000 * DEADLINE_SHARE - DEADLINE_MARGIN_S
    if remaining_s <= 0:
        raise DeadlineExceeded("the caller's deadline leaves no time for a call to another service")
    return min(wanted_s, remaining_s)


class MeshChannel(grpc.aio.Channel):
    """A channel for generated stubs. Unary calls, streams of responses, and streams both ways:

    - carry the current business context as metadata, and its deadline less a margin;
    - refuse to start inside a transaction (AssertionError);
    - raise MeshError, never AioRpcError.

    A stub's call gives an awaitable (or an async iterator), not a ``grpc.aio.Call``. ``raw`` is the channel inside.
    """

    def __init__(self, raw: grpc.aio.Channel, clock: Clock | None = None) -> None:
        self.raw = raw
        self.clock = clock or SystemClock()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable ``(request, *, timeout=None, metadata=()) -> response``."""
        make_call: Callable[..., Any] = self.raw.unary_unary(method, *args, **kwargs)

        async def invoke(request: Any, *, timeout: float | None = None, metadata: Metadata = ()) -> Any:
            assert_outside_transaction()
            context = current_or_none()
            timeout_s = timeout_for(context, timeout, self.clock)
            call = make_call(request, timeout=timeout_s, metadata=_metadata(context, metadata))
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error
            except asyncio.CancelledError:
                raise_if_channel_closed(call, method)
                raise

        return invoke

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable ``(request, *, timeout=None, metadata=()) -> async iterator of responses``."""
        make_call: Callable[..., Any] = self.raw.unary_stream(method, *args, **kwargs)

        def invoke(request: Any, *, timeout: float | None = None, metadata: Metadata = ()) -> AsyncIterator[Any]:
            assert_outside_transaction()
            context = current_or_none()
            timeout_s = timeout_for(context, timeout, self.clock, DEFAULT_STREAM_TIMEOUT_S)
            return _responses(make_call(request, timeout=timeout_s, metadata=_metadata(context, metadata)), method)

        return invoke

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """As the channel inside: no service has streams of requests with one answer."""
        return self.raw.stream_unary(method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable ``(requests, *, timeout=None, metadata=()) -> async iterator of responses``."""
        make_call: Callable[..., Any] = self.raw.stream_stream(method, *args, **kwargs)

        def invoke(
            requests: AsyncIterator[Any], *, timeout: float | None = None, metadata: Metadata = ()
        ) -> AsyncIterator[Any]:
            assert_outside_transaction()
            context = current_or_none()
            timeout_s = timeout_for(context, timeout, self.clock, DEFAULT_STREAM_TIMEOUT_S)
            return _responses(make_call(requests, timeout=timeout_s, metadata=_metadata(context, metadata)), method)

        return invoke

    async def close(self, grace: float | None = None) -> None:
        """Closes the channel; calls in flight get ``grace`` seconds."""
        await self.raw.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the connection."""
        return self.raw.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns when the state is another one."""
        await self.raw.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns when the channel is connected."""
        await self.raw.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()


def _metadata(context: BusinessContext | None, more: Metadata) -> Metadata:
    if context is None:
        return tuple(more)
    return (*to_metadata(context), *more)


async def _responses(call: Any, method: str) -> AsyncIterator[Any]:
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    except asyncio.CancelledError:
        raise_if_channel_closed(call, method)
        raise
    finally:
        call.cancel()


def raise_if_channel_closed(call: Any, method: str) -> None:
    """Unavailable where ``call`` was cancelled by its channel's closing and not by cancelling this task.

    gRPC reports both as CancelledError, which would make the caller believe that it is being cancelled.
    """
    task = asyncio.current_task()
    if call.cancelled() and task is not None and not task.cancelling():
        raise Unavailable(f"{method}: the channel was closed during the call") from None
