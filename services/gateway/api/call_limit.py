"""Bounds the calls of one caller that are in progress at the same time.

Knows callers and methods; streams are bounded by their sessions.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from live_avatar.services.gateway.access.caller import current_caller
from live_avatar.services.gateway.access.failure_limit import peer_address
from live_avatar.services.gateway.api.authentication import Continuation
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.handlers import Behaviour, Handler, with_behaviour

_RETRY_AFTER_S = 1.0


class CallLimitInterceptor(grpc.aio.ServerInterceptor):
    """Rejects unary calls beyond ``most`` of their caller; belongs behind the interceptor that authenticates them.

    A caller is a credential; without one, a network address.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running = Counter[str]()
        """Has an entry only for callers with calls in progress."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of a call with one response."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.response_streaming:
            return handler
        return with_behaviour(handler, self._bounded)

    def _bounded(self, behaviour: Behaviour) -> Behaviour:
        async def answer(request: Any, context: Any) -> Any:
            caller = current_caller()
            with self._place(f"{caller.tenant}/{caller.key_id}" if caller.key_id else peer_address(context.peer())):
                return await behaviour(request, context)

        return answer

    @contextmanager
    def _place(self, caller: str) -> Iterator[None]:
        if self._running[caller] >= self._most:
            message = f"{self._most} calls of this caller are in progress"
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise ServiceError(code, "TOO_MANY_CALLS", message, retry_after_s=_RETRY_AFTER_S)
        self._running[caller] += 1
        try:
            yield
        finally:
            self._running[caller] -= 1
            if not self._running[caller]:
                del self._running[caller]
