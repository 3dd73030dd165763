"""Bounds how many streams of a kind one server carries, where nothing else does: those of health and reflection.

Knows methods by their names; nothing of what they do.
"""

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

from live_avatar.serving.errors import ServiceError

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"

HELPER_STREAMS: Mapping[str, int] = {
    "/grpc.health.v1.Health/Watch": 64,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": 16,
}
"""Streams that may stay open for ever, at the same time."""


class StreamLimit(grpc.aio.ServerInterceptor):
    """Refuses streams beyond ``most`` of their method with RESOURCE_EXHAUSTED; belongs behind ``ErrorInterceptor``."""

    def __init__(self, most: Mapping[str, int] = HELPER_STREAMS) -> None:
        self._most = most
        self._open = Counter[str]()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of a bounded method."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method not in self._most:
            return handler
        unary = handler.unary_stream is not None
        behaviour: Any = handler.unary_stream if unary else handler.stream_stream
        make: Any = grpc.unary_stream_rpc_method_handler if unary else grpc.stream_stream_rpc_method_handler
        bounded: Handler = make(
            self._bounded(behaviour, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return bounded

    def _bounded(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def answer(request: Any, context: Any) -> None:
            with self._place(method):
                await behaviour(request, context)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._place(method):
                async for response in behaviour(request, context):
                    yield response

        return answers if inspect.isasyncgenfunction(behaviour) else answer

    @contextmanager
    def _place(self, method: str) -> Iterator[None]:
        if self._open[method] >= self._most[method]:
            message = f"{self._most[method]} streams of this kind are open"
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message, retry_after_s=5.0)
        self._open[method] += 1
        try:
            yield
        finally:
            self._open[method] -= 1
