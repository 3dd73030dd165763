"""The one place where errors meet status codes, and where calls on a server are measured.

Knows every kind of call; knows nothing of what they do.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from grpc_status import rpc_status

from live_avatar.serving.errors import ServiceError, as_service_error, code_of, to_status
from live_avatar.serving.observer import NoObserver, Observer

UNARY_DEADLINE_S = 5.0

# A call's parts have a different type for each method, which only that method's stub knows.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns errors into rich statuses, gives unary calls a deadline, and reports each call's duration.

    ``ServiceError`` becomes its own status; any other exception is logged with its traceback and becomes INTERNAL
    without its text; cancellation passes untouched.

    Args:
        observer: told about each call.
        unary_deadline_s: of calls with one request and one response whose client set no deadline.
    """

    def __init__(self, observer: Observer | None = None, unary_deadline_s: float = UNARY_DEADLINE_S) -> None:
        self._observer = observer or NoObserver()
        self._unary_deadline_s = unary_deadline_s

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        single: tuple[tuple[Any, Any, float | None], ...] = (
            (handler.unary_unary, grpc.unary_unary_rpc_method_handler, self._unary_deadline_s),
            (handler.stream_unary, grpc.stream_unary_rpc_method_handler, None),
        )
        for behaviour, make, deadline_s in single:
            if behaviour is not None:
                return _like(handler, make, self._single(behaviour, method, deadline_s))
        many: tuple[tuple[Any, Any], ...] = (
            (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
            (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
        )
        for behaviour, make in many:
            if behaviour is not None:
                return _like(handler, make, self._many(behaviour, method))
        raise ValueError(f"{method} has no behaviour")

    def _many(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        if not inspect.isasyncgenfunction(behaviour):
            return self._single(behaviour, method, None)

        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._watched(method, context, None):
                async for response in behaviour(request, context):
                    yield response

        return answer

    def _single(self, behaviour: Callable[..., Any], method: str, deadline_s: float | None) -> Callable[..., Any]:
        async def answer(request: Any, context: Context) -> Any:
            answering = behaviour(request, context)
            del request  # see _let_go
            try:
                async with self._watched(method, context, deadline_s):
                    return await answering
            except grpc.aio.AbortError as end:
                raise end.with_traceback(None) from None

        return answer

    @asynccontextmanager
    async def _watched(self, method: str, context: Context, deadline_s: float | None) -> AsyncIterator[None]:
        began = time.monotonic()
        code = grpc.StatusCode.OK
        limit_s = deadline_s if context.time_remaining() is None else None
        try:
            async with _deadline(limit_s):
                yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = code_of(context.code())
            raise
        except Exception as error:
            failure = as_service_error(error)
            code = failure.code
            _let_go(failure)
            await _abort(context, failure)
            raise
        finally:
            self._observer.rpc_finished(method, code.name, time.monotonic() - began)


@asynccontextmanager
async def _deadline(limit_s: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise ServiceError(
            grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE", f"no answer within {limit_s} s, the deadline by default"
        ) from None


def _let_go(error: BaseException) -> None:
    """Drops the frames that an error and its causes hold.

    gRPC keeps the exception that ends a call in a cycle, and with it all these frames: the memory of every refused
    request would wait for the garbage collector.
    """
    rest: BaseException | None = error
    while rest is not None:
        rest.__traceback__ = None
        rest = rest.__cause__ or rest.__context__


async def _abort(context: Context, error: ServiceError) -> None:
    """Ends the call, by an exception of gRPC's own."""
    status = rpc_status.to_status(to_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)


def _like(handler: Handler, make: Callable[..., Handler], behaviour: Callable[..., Any]) -> Handler:
    return make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
