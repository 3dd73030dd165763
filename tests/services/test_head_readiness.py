"""The head of a pipeline takes no sessions while services share a device without leave."""

import asyncio
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.services.audio_encoder.readiness import HeadReadiness

from .gateway.fake_pipeline import fake_pipeline


@dataclass
class Hop:
    """What a hop says of itself and of those behind it."""

    devices: list[str]
    ready: bool = True
    chain: list[ServiceInfo] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chain = [ServiceInfo(name=f"s{index}", device=device) for index, device in enumerate(self.devices)]


@pytest.mark.parametrize("allowed", [False, True])
def test_two_on_one_card_are_refused_without_leave(allowed: bool) -> None:
    ready = HeadReadiness(Hop(["cpu:a", "GPU-1", "GPU-2", "GPU-1"]), allow_shared_devices=allowed)
    with capture_logs() as logs:
        assert [ready(), ready()] == [allowed, allowed]
    assert [line["reason"] for line in logs] == (
        [] if allowed else ["device GPU-1 is shared by s1, s3; allow_shared_devices permits that"]
    )


def test_it_is_ready_no_sooner_than_the_hop() -> None:
    hop = Hop(["cpu:a", "GPU-1", "GPU-2"], ready=False)
    ready = HeadReadiness(hop, allow_shared_devices=False)
    assert not ready()
    hop.ready = True
    assert ready()


def test_a_hop_knows_the_whole_chain() -> None:
    async def run() -> list[str]:
        async with asyncio.timeout(10), fake_pipeline() as pipeline:
            while not pipeline.hops[0].ready:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.02)
            return [service.name for service in pipeline.hops[0].chain]

    assert asyncio.run(run()) == ["audio-encoder", "denoise-stage-0", "vae-decoder"]
