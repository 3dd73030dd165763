"""Lets in only clients whose certificate has one of the names that may call.

Knows what gRPC says of a peer's certificate; nothing of methods.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any, TypeAlias

import grpc

from live_avatar.serving.errors import ServiceError
from live_avatar.serving.handlers import Handler, with_behaviour

Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


class PeerNames(grpc.aio.ServerInterceptor):
    """Refuses clients of other names with PERMISSION_DENIED; belongs behind ``ErrorInterceptor``.

    Args:
        allowed: subject alternative names, or common names of certificates that have none of the former.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(allowed)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        return None if handler is None else with_behaviour(handler, self._checked)

    def _checked(self, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(request: Any, context: Any) -> Any:
            self._check(context)
            return await behaviour(request, context)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            self._check(context)
            async for response in behaviour(request, context):
                yield response

        return answers if inspect.isasyncgenfunction(behaviour) else answer

    def _check(self, context: Any) -> None:
        if not self._allowed & _names(context.auth_context()):
            raise ServiceError(
                grpc.StatusCode.PERMISSION_DENIED,
                "PEER_NAME_FORBIDDEN",
                "the client's certificate has none of the names that may call",
            )


def _names(facts: Mapping[str, Any]) -> frozenset[str]:
    """The names in a peer's certificate."""
    names = facts.get("x509_subject_alternative_name") or facts.get("x509_common_name") or ()
    return frozenset(name.decode(errors="replace") for name in names)
