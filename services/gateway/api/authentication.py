"""Authenticates every call before its handler runs, and names the caller to whatever the handler calls.

Knows gRPC; what credentials are worth is up to the authenticator.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from live_avatar.services.gateway.access.authenticator import Authenticator
from live_avatar.services.gateway.access.caller import set_caller
from live_avatar.services.gateway.access.methods import Rule, rule_of
from live_avatar.services.gateway.access.refusals import method_denied
from live_avatar.serving.handlers import Behaviour, Handler, with_behaviour

Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


class AuthenticationInterceptor(grpc.aio.ServerInterceptor):
    """Lets callers with the right credential through; belongs behind ``ErrorInterceptor``.

    Args:
        authenticator: makes callers of credentials.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of one call, but for those that are open to everybody."""
        handler = await continuation(handler_call_details)
        if handler is None or rule_of(handler_call_details.method) is Rule.OPEN:
            return handler
        return with_behaviour(handler, lambda behaviour: self._guarded(behaviour, handler_call_details))

    def _guarded(self, behaviour: Behaviour, call: grpc.HandlerCallDetails) -> Behaviour:
        async def answer(request: Any, context: Any) -> Any:
            await self._authenticate(call, context)
            return await behaviour(request, context)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._authenticate(call, context)
            async for response in behaviour(request, context):
                yield response

        return answers if inspect.isasyncgenfunction(behaviour) else answer

    async def _authenticate(self, call: grpc.HandlerCallDetails, context: Any) -> None:
        """Names the caller to the task; raises ServiceError where it may not make this call."""
        rule = rule_of(call.method)
        if rule is None:
            raise method_denied(call.method)
        set_caller(await self._authenticator.authenticate(call.invocation_metadata or (), context.peer(), rule))
