"""Streams of health and reflection: as many as an installation needs, and no more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from live_avatar.serving.errors import from_rpc_error
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.stream_limit import HELPER_STREAMS, StreamLimit

MOST = 3
Request = health_pb2.HealthCheckRequest


def health_stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


def reflection_stub(channel: Any) -> Any:
    return reflection_pb2_grpc.ServerReflectionStub(channel)


@asynccontextmanager
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """To a server whose helper streams are bounded by ``MOST``."""
    limit = StreamLimit(dict.fromkeys(HELPER_STREAMS, MOST))
    server = grpc.aio.server(interceptors=[ErrorInterceptor(), limit], options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    reflection.enable_server_reflection((health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as open_channel:
            yield open_channel
    finally:
        await server.stop(None)


def test_no_more_watches_than_may_stay_open() -> None:
    async def scenario() -> None:
        async with channel() as open_channel:
            stub = health_stub(open_channel)
            watches = [stub.Watch(Request()) for _ in range(MOST)]
            for watch in watches:
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Watch(Request()).read()
            error = from_rpc_error(caught.value)
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
            assert (await stub.Check(Request())).status == health_pb2.HealthCheckResponse.SERVING
            watches[0].cancel()
            await until_served(stub)

    asyncio.run(scenario())


async def until_served(stub: Any) -> None:
    """A place becomes free as soon as the server has noticed who left."""
    async with asyncio.timeout(5):
        while True:
            try:
                await stub.Watch(Request()).read()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
            else:
                return


def test_no_more_reflections_than_may_stay_open() -> None:
    async def scenario() -> None:
        async with channel() as open_channel:
            stub = reflection_stub(open_channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            calls = [stub.ServerReflectionInfo() for _ in range(MOST)]
            for call in calls:
                await call.write(asked)
                assert (await call.read()).list_services_response.service
            one_too_many = stub.ServerReflectionInfo()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await one_too_many.read()
            assert from_rpc_error(caught.value).reason == "TOO_MANY_STREAMS"
            await calls[0].done_writing()
            assert await calls[0].read() is grpc.aio.EOF
            again = stub.ServerReflectionInfo()
            await again.write(asked)
            assert (await again.read()).list_services_response.service

    asyncio.run(scenario())
