"""Callers with whatever metadata a test wants, on gateways that authenticate them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from live_avatar.proxies import DIRECT
from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.serving.errors import ServiceError, from_rpc_error
from live_avatar.v1 import admin_service_pb2, avatar_service_pb2, usage_service_pb2
from tests.services.gateway.clients import Gateway, gateway
from tests.services.gateway.fake_pipeline import FakePipeline, fake_pipeline

_FILES = (avatar_service_pb2, admin_service_pb2, usage_service_pb2)
RPCS: Mapping[str, MethodDescriptor] = {
    method.name: method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every RPC of the public API by its name."""
BOOTSTRAP = ApiKey.generate()
AUTH = {"mode": "keys", "bootstrap_key": BOOTSTRAP.text, "max_failures_per_minute": 1_000_000}
Metadata = Sequence[tuple[str, str | bytes]]


def bearer(credential: str) -> Metadata:
    return (("authorization", f"Bearer {credential}"),)


@dataclass(frozen=True)
class Caller:
    """Calls a gateway, always with the same metadata."""

    channel: grpc.aio.Channel
    metadata: Metadata = ()

    def using(self, credential: str) -> "Caller":
        return replace(self, metadata=bearer(credential))

    def saying(self, metadata: Metadata) -> "Caller":
        return replace(self, metadata=metadata)

    async def call(self, request: Message) -> Any:
        """The answer to ``request``, whose name says which call it is of."""
        method = RPCS[type(request).__name__.removesuffix("Request")]
        assert not method.client_streaming, "a stream has more than one request"
        invoke = self.channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return await invoke(request, metadata=self.metadata, timeout=30)

    async def open(self, token: str) -> Any:
        """The first answer of a stream that ``token`` opens; the stream is cancelled then."""
        request = avatar_service_pb2.StreamAvatarRequest
        call: Any = self.channel.stream_stream(
            "/live_avatar.v1.AvatarService/StreamAvatar",
            request_serializer=request.SerializeToString,
            response_deserializer=avatar_service_pb2.StreamAvatarResponse.FromString,
        )(iter([request(open=request.Open(session_token=token))]), metadata=self.metadata, timeout=30)
        try:
            async for response in call:
                return response
            raise AssertionError(f"the stream ended: {await call.code()}")
        finally:
            call.cancel()


async def refused(call: Any) -> ServiceError:
    """The error with which a call ends."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"the call went well: {answer}")


@asynccontextmanager
async def guarded_gateway(pipeline: FakePipeline, **settings: Any) -> AsyncIterator[tuple[Gateway, Caller]]:
    """A gateway that wants keys and knows the operator's, and a caller without any."""
    chosen = {**settings, "auth": AUTH | settings.get("auth", {})}
    async with gateway(pipeline, settings=chosen, wait=False) as running:
        async with asyncio.timeout(30):
            while not running.service.ready():  # noqa: ASYNC110 - the life cycle looks so too
                await asyncio.sleep(0.02)
        async with grpc.aio.insecure_channel(running.target, options=DIRECT) as channel:
            yield running, Caller(channel)


@asynccontextmanager
async def guarded_system(capacity: int = 4, **settings: Any) -> AsyncIterator[Caller]:
    """A caller of a gateway that wants keys, with a pipeline behind it."""
    async with fake_pipeline(capacity) as pipeline, guarded_gateway(pipeline, **settings) as (_, caller):
        yield caller
