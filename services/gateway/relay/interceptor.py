"""Answers calls about sessions that another gateway holds: by passing them on, or in place of one that is lost.

Knows which calls are about a session; nothing of what they do.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Protocol

import grpc
import structlog

from live_avatar.services.gateway.access.audit import audited_call
from live_avatar.services.gateway.api.authentication import Continuation
from live_avatar.services.gateway.relay.failures import HolderLostError, SessionMovedError
from live_avatar.services.gateway.relay.holders import Holders
from live_avatar.services.gateway.relay.messages import Messages, as_bytes
from live_avatar.services.gateway.relay.metadata import passed_on
from live_avatar.services.gateway.relay.passage import PassedCall
from live_avatar.services.gateway.sessions.lookup import HeldElsewhereError, gateway_lost
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.serving.handlers import Behaviour, Handler
from live_avatar.serving.interceptors import UNARY_DEADLINE_S
from live_avatar.serving.logs import session_name
from live_avatar.v1 import avatar_service_pb2

_SERVICE = avatar_service_pb2.DESCRIPTOR.services_by_name["AvatarService"].full_name
_TRIES = 6
_PAUSE_S = 0.1
"""Before the store is asked again for a session that has moved."""


class OnLoss(Enum):
    """What a call does about a session whose gateway is lost."""

    TAKE_OVER = "take over"
    CLOSE = "close"
    REFUSE = "refuse"


PASSED_ON: Mapping[str, OnLoss] = {
    f"/{_SERVICE}/StreamAvatar": OnLoss.TAKE_OVER,
    f"/{_SERVICE}/CloseSession": OnLoss.CLOSE,
    f"/{_SERVICE}/UpdateSession": OnLoss.REFUSE,
    f"/{_SERVICE}/InterruptSession": OnLoss.REFUSE,
}
"""Calls that concern the gateway which holds a session; all others are answered from the store."""


class Successor(Protocol):
    """Goes on in place of a gateway that is lost."""

    async def take_over(self, record: SessionRecord) -> None:
        """The session is held here afterwards; raises ServiceError where that cannot be."""
        ...

    async def close_lost(self, record: SessionRecord) -> None:
        """The session is over afterwards, as its owner asked; raises ServiceError where that cannot be stored."""
        ...


class ElsewhereInterceptor(grpc.aio.ServerInterceptor):
    """Belongs behind all other interceptors.

    Args:
        holders: other gateways.
        successor: of a gateway that is lost.
        own_address: at which other gateways reach this one.
    """

    def __init__(self, holders: Holders, successor: Successor, own_address: str) -> None:
        self._holders = holders
        self._successor = successor
        self._own_address = own_address
        self._log = structlog.get_logger(__name__)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of a call about one session."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method not in PASSED_ON:
            return handler
        return self._stream(handler, method) if handler.request_streaming else self._single(handler, method)

    def _single(self, handler: Handler, method: str) -> Handler:
        behaviour: Behaviour = handler.unary_unary  # type: ignore[assignment]  # a call with one request has one

        async def answer(request: Any, context: Any) -> Any:
            async def pass_on(address: str) -> bytes:
                answers: list[bytes] = []

                async def keep(response: bytes) -> None:
                    answers.append(response)

                left_s = context.time_remaining() or UNARY_DEADLINE_S
                call = _passed(method, request.SerializeToString(), context, keep, left_s)
                await self._holders.pass_on(address, call)
                return answers[0]

            return await self._answer(method, lambda: behaviour(request, context), pass_on)

        single: Handler = grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=as_bytes(handler.response_serializer),  # type: ignore[arg-type]  # as protobuf's is
        )
        return single

    def _stream(self, handler: Handler, method: str) -> Handler:
        behaviour: Behaviour = handler.stream_stream  # type: ignore[assignment]  # the only streams there are
        read: Any = handler.request_deserializer

        async def answer(requests: AsyncIterator[bytes], context: Any) -> None:
            messages = Messages(requests, read)

            async def pass_on(address: str) -> None:
                first = await messages.again().take()
                call = _passed(method, first, context, context.write, context.time_remaining())
                stream = replace(call, rest=messages.rest, is_resumable=read(first).open.resumable)
                await self._holders.pass_on(address, stream)

            await self._answer(method, lambda: behaviour(messages.again(), context), pass_on)

        stream: Handler = grpc.stream_stream_rpc_method_handler(
            answer,
            response_serializer=as_bytes(handler.response_serializer),  # type: ignore[arg-type]  # as protobuf's is
        )
        return stream

    async def _answer(
        self,
        method: str,
        serve: Callable[[], Awaitable[Any]],
        pass_on: Callable[[str], Awaitable[Any]],
    ) -> Any:
        """Whatever ``serve`` or ``pass_on`` answer; looks again where the session moves meanwhile."""
        moved_from: tuple[int, str] | None = None
        for _ in range(_TRIES):
            try:
                return await serve()
            except HeldElsewhereError as error:
                held = error
            try:
                return await pass_on(self._address(held, moved_from))
            except SessionMovedError:
                moved_from = held.place
                await asyncio.sleep(_PAUSE_S)
            except HolderLostError as error:
                await self._succeed(method, held, error)
        raise gateway_lost()

    def _address(self, held: HeldElsewhereError, moved_from: tuple[int, str] | None) -> str:
        """Where to pass a call on; raises HolderLostError where the holder is known to be lost."""
        if not held.record.relay:
            if held.holder:
                raise gateway_lost()  # it may live, but cannot be called
            raise HolderLostError("its lease has ended")
        if held.place == moved_from or held.record.relay == self._own_address:
            raise HolderLostError("another process has its address")
        return held.record.relay

    async def _succeed(self, method: str, held: HeldElsewhereError, error: HolderLostError) -> None:
        session = session_name(held.record.session_id)
        self._log.warning("the holder of a session is lost", session=session, reason=str(error))
        audited_call().keep()
        match PASSED_ON[method]:
            case OnLoss.TAKE_OVER:
                await self._successor.take_over(held.record)
            case OnLoss.CLOSE:
                await self._successor.close_lost(held.record)
            case OnLoss.REFUSE:
                raise gateway_lost() from error


def _passed(
    method: str,
    first: bytes,
    context: Any,
    write: Callable[[bytes], Awaitable[None]],
    left_s: float | None,
) -> PassedCall:
    return PassedCall(
        method=method,
        metadata=passed_on(context.invocation_metadata(), context.peer()),
        first=first,
        rest=None,
        context=context,
        write=write,
        accepted=audited_call().pass_on,
        left_s=left_s,
    )
