"""The one place where errors meet status codes, and where calls on a server are measured.

Knows every kind of call; knows nothing of what they do.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
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
    without its text; cancellation passes untouched.  A client that leaves counts as CANCELLED, however gRPC says so:
    a handler that writes at that moment gets an error of gRPC's own instead of its cancellation.  Requests that
    cannot be read get MESSAGE_MALFORMED, and larger ones than allowed MESSAGE_TOO_LARGE, before a handler sees them.

    Args:
        observer: receives events of each call.
        unary_deadline_s: of calls with one request and one response whose client set no deadline.
        max_request_bytes: of one message; None: whatever gRPC lets through.
    """

    def __init__(
        self,
        observer: Observer | None = None,
        unary_deadline_s: float = UNARY_DEADLINE_S,
        max_request_bytes: int | None = None,
    ) -> None:
        self._observer = observer or NoObserver()
        self._unary_deadline_s = unary_deadline_s
        self._max_request_bytes = max_request_bytes
        self._running: dict[asyncio.Task[Any], int] = {}
        """Tasks of handlers, and how many of them each runs."""
        self._ending: ServiceError | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def calls(self) -> int:
        """That run now."""
        return sum(self._running.values())

    async def wait_idle(self, timeout_s: float) -> bool:
        """Returns once no handler runs, or with False after ``timeout_s``.

        ``Server.stop`` returns before the handlers that it cancels have ended.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def end_all(self, error: ServiceError) -> None:
        """Ends all calls with ``error``, now: gRPC's own end of a server gives them no reason."""
        self._ending = error
        for task in tuple(self._running):
            task.cancel()

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
                return self._like(handler, make, self._single(behaviour, method, deadline_s))
        many: tuple[tuple[Any, Any], ...] = (
            (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
            (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
        )
        for behaviour, make in many:
            if behaviour is not None:
                return self._like(handler, make, self._many(behaviour, method))
        raise ValueError(f"{method} has no behaviour")

    def _many(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        if not inspect.isasyncgenfunction(behaviour):
            return self._single(behaviour, method, None)

        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._watched(method, context, None):
                _check_readable(request)
                async for response in behaviour(request, context):
                    yield response

        return answer

    def _single(self, behaviour: Callable[..., Any], method: str, deadline_s: float | None) -> Callable[..., Any]:
        async def answer(request: Any, context: Context) -> Any:
            answering = behaviour(request, context) if not isinstance(request, ServiceError) else _refuse(request)
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
        task = self._begin()
        try:
            with _leaving(method):
                async with _answered(context, limit_s), self._ended():
                    yield
        except grpc.aio.AbortError:
            code = code_of(context.code())
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        finally:
            self._end(task)
            self._observer.rpc_finished(method, code.name, time.monotonic() - began)

    @asynccontextmanager
    async def _ended(self) -> AsyncIterator[None]:
        """Raises the error of ``end_all`` where that cancels the body."""
        try:
            yield
        except asyncio.CancelledError:
            if self._ending is None:
                raise
            raise self._ending from None

    def _begin(self) -> "asyncio.Task[Any]":
        task = asyncio.current_task()
        assert task is not None, "handlers run in tasks"
        self._running[task] = self._running.get(task, 0) + 1
        self._idle.clear()
        return task

    def _end(self, task: "asyncio.Task[Any]") -> None:
        self._running[task] -= 1
        if not self._running[task]:
            del self._running[task]
        if not self._running:
            self._idle.set()

    def _like(self, handler: Handler, make: Callable[..., Handler], behaviour: Callable[..., Any]) -> Handler:
        return make(
            behaviour,
            request_deserializer=self._reader(handler),
            response_serializer=handler.response_serializer,
        )

    def _reader(self, handler: Handler) -> Callable[[bytes], Any]:
        """Reads requests; one that cannot be read raises ServiceError in a stream, and is returned as one elsewhere.

        What a deserializer raises reaches a stream's handler, but of a single request gRPC shows it to the client.
        """
        read, most = handler.request_deserializer, self._max_request_bytes

        def check(data: bytes) -> Any:
            try:
                if most is not None and len(data) > most:
                    raise _too_large(len(data), most)
                return data if read is None else read_message(read, data)
            except ServiceError as error:
                if handler.request_streaming:
                    raise
                return error

        return check


@contextmanager
def _leaving(method: str) -> Iterator[None]:
    """Makes a cancellation of the errors in which gRPC says that a call is over while its handler still uses it."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as error:
        structlog.get_logger(__name__).info("the caller is gone", method=method, error=str(error))
        raise asyncio.CancelledError from None


@asynccontextmanager
async def _answered(context: Context, limit_s: float | None) -> AsyncIterator[None]:
    """Makes a status of what the body raises, but for what gRPC raises by itself."""
    try:
        async with within(limit_s):
            yield
    except grpc.aio.BaseError:
        raise
    except Exception as error:
        failure = as_service_error(error)
        _let_go(failure)
        await _abort(context, failure)
        raise


def read_message(read: Callable[[bytes], Any], data: bytes) -> Any:
    """The message in ``data``; raises ServiceError INVALID_ARGUMENT/MESSAGE_MALFORMED where there is none."""
    try:
        return read(data)
    except (DecodeError, ValueError):
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED", f"{len(data)} bytes are no message of this method"
        ) from None


def _too_large(size: int, most: int) -> ServiceError:
    message = f"the message has {size} bytes, at most {most} are taken"
    facts = {"max_message_bytes": str(most)}
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", message, facts)


def _check_readable(request: Any) -> None:
    if isinstance(request, ServiceError):
        raise request


async def _refuse(error: ServiceError) -> NoReturn:
    raise error


@asynccontextmanager
async def within(limit_s: float | None) -> AsyncIterator[None]:
    """Ends the body with ServiceError DEADLINE_EXCEEDED/DEADLINE after ``limit_s``; None: never."""
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
    """Ends the call, by an exception of gRPC's own; trailing metadata that the handler has set are kept."""
    status = rpc_status.to_status(to_status(error))
    own = context.trailing_metadata() or ()
    await context.abort(status.code, status.details, (*own, *status.trailing_metadata))
