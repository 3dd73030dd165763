"""A pipeline whose pictures follow the audio by construction: a frame is white where its own samples are loud.

Knows the order of samples and frames and nothing else of what services compute.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from live_avatar.config import SAMPLE_RATE_HZ, TINY
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from tests.services.gateway.fake_pipeline import CountingDecoder, FakePipeline, PassingWork, fake_pipeline

LOUD = 0.3
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // TINY.stream.fps
Name = tuple[str, int]


class LoudnessWork(PassingWork):
    """An audio encoder that says of every frame of a block whether its samples are loud."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._received: dict[Name, bytearray] = {}

    def audio(self, request: StreamBlocksRequest.Audio) -> Iterable[StreamBlocksRequest]:
        """Keeps the samples until their block comes."""
        self._received.setdefault(_name(request.key), bytearray()).extend(request.samples)
        return ()

    def block(self, block: StreamBlocksRequest.Block) -> Iterable[StreamBlocksRequest]:
        """Puts a byte per frame where audio tokens travel."""
        received = self._received[_name(block.key)]
        samples: NDArray[np.float32] = np.zeros(TINY.samples_per_block, np.float32)
        own = np.frombuffer(bytes(received[: samples.nbytes]), "<f4")
        samples[: own.size] = own
        del received[: samples.nbytes]
        loud = np.abs(samples.reshape(TINY.frames_per_block, SAMPLES_PER_FRAME)).max(1) > LOUD
        block.latent.data = loud.astype(np.uint8).tobytes()
        return [StreamBlocksRequest(block=block)]

    def close(self, key: SessionKey) -> int:
        """Forgets what was heard."""
        self._received.pop(_name(key), None)
        return super().close(key)


class LoudnessDecoder(CountingDecoder):
    """Paints frames white or black as it is told."""

    def levels(self, block: StreamBlocksRequest.Block) -> NDArray[np.uint8]:
        """Grey levels of the frames of a block that are shown."""
        loud = np.frombuffer(block.latent.data, np.uint8)
        return 255 * loud[TINY.stream.dropped_frames if block.index == 0 else 0 :]


@asynccontextmanager
async def click_pipeline() -> AsyncIterator[FakePipeline]:
    """A running pipeline of that kind."""
    async with fake_pipeline(encoder=LoudnessWork(4), decoder=LoudnessDecoder(4)) as pipeline:
        yield pipeline


def _name(key: SessionKey) -> Name:
    return key.session_id, key.epoch
