"""What the gateway sends to pipelines, as messages.

Translates; decides nothing.
"""

import numpy as np
import numpy.typing as npt

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest, VideoProfile
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import EncodePortraitRequest
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat

_SAMPLE_BYTES = 4


def open_request(
    key: SessionKey, config: api.SessionConfig, size: tuple[int, int], first_block: int = 0, primed_blocks: int = 0
) -> StreamBlocksRequest.Open:
    """What reserves a session; ``size`` is (width, height), ``primed_blocks`` finished ones come first."""
    raw = config.video.encoding == VideoFormat.ENCODING_RAW_RGB24
    encoding = VideoProfile.ENCODING_RAW_RGB24 if raw else VideoProfile.ENCODING_H264_ANNEXB
    return StreamBlocksRequest.Open(
        key=key,
        seed=config.seed,
        width=size[0],
        height=size[1],
        listening=config.listening,
        first_block=first_block,
        primed_blocks=primed_blocks,
        video=VideoProfile(
            encoding=encoding,
            max_bitrate_kbps=config.video.max_bitrate_kbps,
            enlargement=0 if raw else config.video.enlargement,
        ),
    )


def audio(
    key: SessionKey, samples: npt.NDArray[np.float32], first: int, *, silence: int = 0, last: bool = False
) -> StreamBlocksRequest:
    """``samples`` [n] from position ``first`` on for the audio encoder, and ``silence`` zeros after them."""
    data = samples.astype("<f4").tobytes() + bytes(_SAMPLE_BYTES * silence)
    return StreamBlocksRequest(audio=StreamBlocksRequest.Audio(key=key, samples=data, sample_offset=first, last=last))


def block(key: SessionKey, index: int, traceparent: str, deadline_s: int, *, idle: bool) -> StreamBlocksRequest:
    """The permission to make one block within ``deadline_s``; ``idle``: it holds no speech."""
    request = StreamBlocksRequest.Block(key=key, index=index, traceparent=traceparent, idle=idle)
    request.budget.FromSeconds(deadline_s)
    return StreamBlocksRequest(block=request)


def portrait_request(image: bytes, config: api.SessionConfig) -> EncodePortraitRequest:
    """What asks for sink version 0 of a session with a negotiated config."""
    width, height = generated_size(config.video)
    return EncodePortraitRequest(image=image, width=width, height=height, fit=config.fit)


def generated_size(video: VideoFormat) -> tuple[int, int]:
    """Width and height of the pictures of a negotiated config before they are enlarged."""
    times = video.enlargement or 1  # a session of a gateway that did not enlarge yet has none
    return video.width // times, video.height // times
