"""Reads the one request of a call after its caller is known, and not before.

gRPC receives the whole request of a unary call before any code of ours runs, however long that takes: strangers could
fill the memory with requests that never end.  As a stream of one message a request stays with its sender until it is
asked for.  Knows callers and calls; nothing of what requests say.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from live_avatar.services.gateway.access.audit import audited_call
from live_avatar.services.gateway.access.caller import current_caller
from live_avatar.services.gateway.access.failure_limit import peer_address
from live_avatar.services.gateway.api.authentication import Continuation
from live_avatar.services.gateway.api.places import Places
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.handlers import Behaviour, Handler
from live_avatar.serving.interceptors import UNARY_DEADLINE_S, within

_READ_S = 60.0
"""For the largest request over a slow line."""
_READ_TOGETHER = 16
"""Requests of one caller that are received at the same time; further ones wait with their sender."""


class LateRequestInterceptor(grpc.aio.ServerInterceptor):
    """Makes unary calls wait for their request in their handler; belongs behind all that reject by metadata.

    A caller is a credential; without one, a network address.

    Args:
        read_s: how long a request may take to arrive.
        together: requests of one caller that are received at the same time.
    """

    def __init__(self, read_s: float = _READ_S, together: int = _READ_TOGETHER) -> None:
        self._read_s = read_s
        self._places = Places(together)
        """Of callers with requests that have not arrived."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Makes a stream of the request of a unary call."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        late: Handler = grpc.stream_unary_rpc_method_handler(
            self._late(handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return late

    def _late(self, behaviour: Behaviour) -> Behaviour:
        async def answer(requests: AsyncIterator[Any], context: Any) -> Any:
            request = await self._read(requests, context)
            audited_call().requested(request)
            limit_s = UNARY_DEADLINE_S if context.time_remaining() is None else None
            async with within(limit_s):
                return await behaviour(request, context)

        return answer

    async def _read(self, requests: AsyncIterator[Any], context: Any) -> Any:
        caller = current_caller()
        name = f"{caller.tenant}/{caller.key_id}" if caller.key_id else peer_address(context.peer())
        async with within(self._read_s), self._places.one(name):
            request = await anext(aiter(requests), None)
        if request is None:
            raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED", "the call has no request")
        return request
