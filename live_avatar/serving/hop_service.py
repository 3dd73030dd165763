"""A hop as a service of its own: what the life cycle of ``server.py`` needs to know of it.

Knows settings, hop and link; knows nothing of the work.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager

import grpc

from live_avatar.pipeline.v1 import blocks_pb2
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.pipeline.v1.blocks_pb2_grpc import add_PipelineServiceServicer_to_server
from live_avatar.serving.hop import HopServer
from live_avatar.serving.link import Link
from live_avatar.serving.observer import Observer
from live_avatar.serving.pipeline_settings import PipelineSettings
from live_avatar.serving.server import Service
from live_avatar.serving.timing import HopTiming
from live_avatar.serving.tls import ClientTls
from live_avatar.serving.work import Work

_PIPELINE_SERVICE = blocks_pb2.DESCRIPTOR.services_by_name["PipelineService"].full_name

Register = Callable[[grpc.aio.Server], None]


def hop_timing(settings: PipelineSettings) -> HopTiming:
    """The waits of a hop under ``settings``."""
    return HopTiming(service_deadline_s=settings.service_deadline_seconds)


@asynccontextmanager
async def running_hop(
    info: ServiceInfo,
    work: Work,
    device: Executor,
    *,
    settings: PipelineSettings,
    target: str | None,
    observer: Observer,
    tls: ClientTls | None = None,
) -> AsyncIterator[HopServer]:
    """A hop that runs until the context ends; all its sessions are freed then.

    Args:
        info: who the service is.
        work: what it does.
        device: executor with one thread, where it does it.
        settings: how it treats its neighbours.
        target: address of the next service; None at the end of the chain.
        observer: receives events of room, sessions and blocks.
        tls: of the link to the next service; None: plain text.
    """
    timing = hop_timing(settings)
    link = None
    if target is not None:
        link = Link(
            target, peer=info.name, expected_model_digest=info.model_digest, timing=timing, observer=observer, tls=tls
        )
    hop = HopServer(info, work, link, device, block_credits=settings.block_credits, timing=timing, observer=observer)
    observer.capacity(info.name, info.session_capacity)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(hop.run())
        try:
            yield hop
        finally:
            running.cancel()


def as_service(
    hop: HopServer, loaded: Mapping[str, object], *more: Register, grpc_names: Sequence[str] = ()
) -> Service:
    """``hop`` for the life cycle; ``more`` add further servicers, whose full names are ``grpc_names``."""

    def register(server: grpc.aio.Server) -> None:
        add_PipelineServiceServicer_to_server(hop, server)
        for add in more:
            add(server)

    return Service(
        register=register,
        grpc_names=(_PIPELINE_SERVICE, *grpc_names),
        loaded=loaded,
        ready=lambda: hop.ready,
        alive=lambda: hop.alive,
        drain=hop.drain,
    )
