"""Through a real decoder come the pictures of the library's loop, and the model's own first latent."""

import asyncio
import io

from PIL import Image

from live_avatar import wire
from live_avatar.pipeline.v1.blocks_pb2 import Sink as SinkMessage
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import EncodePortraitRequest
from live_avatar.v1.avatar_service_pb2 import FIT_COVER

from .harness.gateway import linked, new_session, video_end
from .harness.playing import Playing
from .harness.processes import DECODER, ENCODER, Processes
from .harness.reference import SMALL, Script, latents, pictures, prepare, system

SCRIPT = Script(width=128)


def portrait_request(script: Script) -> EncodePortraitRequest:
    """The script's picture as a file."""
    file = io.BytesIO()
    Image.fromarray(script.pixels()).save(file, "PNG")
    return EncodePortraitRequest(image=file.getvalue(), width=script.width, height=script.height, fit=FIT_COVER)


async def run(pipeline: Processes) -> tuple[list[tuple[int, bytes]], SinkMessage, SinkMessage]:
    """Pictures, the portrait's sink and the model's own."""
    small = system(SMALL.name)
    name, target = new_session(), pipeline.address(ENCODER)
    async with (
        video_end(pipeline.address(DECODER)) as video,
        linked(target, small.networks.digest) as head,
    ):
        portrait = SinkMessage.FromString(await video.encode_portrait(portrait_request(SCRIPT)))
        playing = Playing(head, video, small, name, SCRIPT)
        await playing.open(portrait)
        await playing.admit_all()
        await playing.end()
        return video.frames(name), portrait, await video.own_sink(name)


def test_pictures_and_sinks_are_those_of_the_loop(pipeline: Processes) -> None:
    prepare(SMALL.name, SCRIPT)
    made, portrait, own = asyncio.run(run(pipeline))
    expected = pictures(SMALL.name, SCRIPT)
    frames = SCRIPT.blocks * SMALL.frames_per_block - SMALL.stream.dropped_frames
    assert [number for number, _ in made] == [number for number, _ in expected] == list(range(frames))
    assert made == expected
    assert portrait == wire.sink_to_message(*system(SMALL.name).sink(SCRIPT))
    assert own.version == 1
    assert own.reference == wire.tensor_to_message(latents(SMALL.name, SCRIPT)[0][:, :1])
    assert not own.HasField("motion")
