"""With a key the decoder marks what it sends: the library's frames, marked by the library's mark, in any encoding."""

import asyncio

import numpy as np
import pytest
import torch
from pydantic import SecretStr, ValidationError

from live_avatar import wire
from live_avatar.config import TINY
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest
from live_avatar.services.vae_decoder.encoder_thread import EncoderThread
from live_avatar.services.vae_decoder.settings import LabelSettings, WatermarkSettings
from live_avatar.services.vae_decoder.subscribers import SubscriberRegistry, VideoStream
from live_avatar.services.vae_decoder.work import NO_LABEL, VaeDecoderWork
from live_avatar.serving.parts import conditioning_parts
from live_avatar.streaming.local import warmup_latents
from live_avatar.v1.avatar_service_pb2 import BlockTiming
from live_avatar.watermark.carrier import carrier_of
from live_avatar.watermark.embedding import Clock, Marker
from live_avatar.watermark.payload import session_number

from . import tiny
from .tiny import key, open_request

SETTINGS = WatermarkSettings(key=SecretStr("a secret of enough bytes"), deployment=77)
BLOCKS = 2


def latent(block: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(block)
    return torch.randn(16, TINY.stream.latents_per_block, 8, 8, generator=generator)


def expected() -> list[bytes]:
    """The library's frames, marked."""
    decoder = tiny.frame_decoder()
    session = decoder.open()
    sink = decoder.encode_portrait(tiny.portrait_pixels())
    decoder.warm(session, warmup_latents(sink, decoder))
    clock = Clock(fps=25, frames_per_block=12, dropped_frames=3)
    assert SETTINGS.key is not None
    carrier = carrier_of(SETTINGS.key.get_secret_value().encode())
    number = session_number(key().session_id)
    marker = Marker(carrier, clock, deployment=77, session=number, device=torch.device("cpu"))
    return [
        frame.numpy().tobytes()
        for block in range(BLOCKS)
        for frames in decoder.decode(session, block, latent(block))
        for frame in marker.mark(frames.pixels, frames.first)
    ]


async def sent(settings: WatermarkSettings, label: LabelSettings = NO_LABEL) -> list[bytes]:
    """What the decoder sends with raw encoding."""
    with EncoderThread() as encoder:
        subscribers, stream = SubscriberRegistry(), VideoStream()
        work = VaeDecoderWork(
            TINY,
            tiny.frame_decoder(),
            memory_budget=tiny.MEMORY_BUDGET,
            encoder=encoder,
            subscribers=subscribers,
            watermark=settings,
            label=label,
        )
        work.open(open_request())
        subscribers.subscribe(key(), stream)
        decoder = tiny.frame_decoder()
        sink = decoder.encode_portrait(tiny.portrait_pixels())
        body = ConditioningBody(sink=wire.sink_to_message(sink, warmup_latents(sink, decoder))).SerializeToString()
        for request in conditioning_parts(key(), 0, body):
            assert not list(work.condition(request.conditioning_part))
        for index in range(BLOCKS):
            block = StreamBlocksRequest.Block(key=key(), index=index)
            block.latent.CopyFrom(wire.tensor_to_message(latent(index)))
            deliver = await asyncio.to_thread(work.block, block)
            await deliver(BlockTiming(service="vae-decoder"))
        frames: list[bytes] = []
        while (response := await stream.next(0.05)) is not None:
            frames += response.video.frames
        return frames


def test_frames_are_marked_with_the_key_and_only_then() -> None:
    marked, plain = asyncio.run(sent(SETTINGS)), asyncio.run(sent(WatermarkSettings()))
    assert marked == expected()
    assert marked != plain
    difference = np.frombuffer(b"".join(marked), np.uint8).astype(int) - np.frombuffer(b"".join(plain), np.uint8)
    assert 0.5 < np.sqrt((difference**2).mean()) < 255 / 10 ** (42 / 20)


@pytest.mark.parametrize("fault", [{"key": "short"}, {"deployment": 1 << 24}, {"deployment": -1}])
def test_settings_that_no_mark_can_have_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WatermarkSettings.model_validate(fault)
