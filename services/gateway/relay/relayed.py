"""Takes calls that another gateway passes on: accepts them at once, for the caller whom that gateway names.

Belongs on the port for other gateways alone, since it believes what they say.
"""

from typing import Any

import grpc

from live_avatar.services.gateway.access.audit import audited_call
from live_avatar.services.gateway.api.authentication import Continuation
from live_avatar.services.gateway.relay.failures import session_moved
from live_avatar.services.gateway.relay.interceptor import PASSED_ON
from live_avatar.services.gateway.relay.metadata import ACCEPTED, RelayedContext
from live_avatar.services.gateway.sessions.lookup import HeldElsewhereError
from live_avatar.serving.handlers import Behaviour, Handler, with_behaviour


class RelayedCallInterceptor(grpc.aio.ServerInterceptor):
    """Belongs before all that asks for the caller; calls that are never passed on do not exist here."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of one call."""
        if handler_call_details.method not in PASSED_ON:
            return None
        handler = await continuation(handler_call_details)
        return None if handler is None else with_behaviour(handler, _accepted)


def _accepted(behaviour: Behaviour) -> Behaviour:
    async def answer(request: Any, context: Any) -> Any:
        await context.send_initial_metadata(((ACCEPTED, "1"),))
        return await behaviour(request, RelayedContext(context))

    return answer


class NotHeldHereInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls about sessions that are not held here with SESSION_MOVED: the gateway that passed one on looks
    again.  Belongs behind all other interceptors.
    """

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        return None if handler is None else with_behaviour(handler, _held)


def _held(behaviour: Behaviour) -> Behaviour:
    async def answer(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except HeldElsewhereError:
            audited_call().pass_on()  # the gateway that was asked first records the call
            raise session_moved() from None

    return answer
