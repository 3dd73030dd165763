"""The services turn a picture, a waveform and text states into the reference's video frames."""

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from live_avatar import wire
from live_avatar.config import Preset, preset_json
from live_avatar.model.checkpoint import write_weights
from live_avatar.model.components import FILE_SETS
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest
from live_avatar.pipeline.v1.blocks_pb2 import Sink as SinkMessage
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import EncodePortraitRequest
from live_avatar.v1.avatar_service_pb2 import FIT_COVER
from tests.golden.conftest import Golden
from tests.golden.reference_models import e2e_preset, speech_weights, text_from
from tests.streaming.partitions import split_steps

from .harness.gateway import Head, Name, VideoOutput, describe, key_of, linked, open_request, video_end
from .harness.processes import DECODER, ENCODER, Processes, chain_programs, decoder_program, free_port, processes

pytestmark = pytest.mark.golden_kind("e2e")
NAME: Name = ("golden", 1)
PIECE = 16_000
BYTE_TOKENS = 384
TOKEN_EMBEDDING = "token_embedding.weight"


def converted(golden: Golden, folder: Path) -> Preset:
    """Writes the golden's weights as the services read them; returns the system they are of."""
    config = golden.meta["config"]
    preset = e2e_preset(golden)
    # No prompt is sent as text, so the tokenizer's files are not needed; that for bytes asks for a larger vocabulary.
    vocabulary = max(preset.text.vocab_size, BYTE_TOKENS)
    preset = replace(preset, text=replace(preset.text, tokenizer="bytes", vocab_size=vocabulary))
    text = golden.weights(config["t5_weights"])
    unused = vocabulary - len(text[TOKEN_EMBEDDING])
    text[TOKEN_EMBEDDING] = torch.nn.functional.pad(text[TOKEN_EMBEDDING], (0, 0, 0, unused))
    tensors = {
        "dit": golden.weights(config["weights"]),
        "vae": golden.weights(config["vae_weights"]),
        "text": text,
        "speech": speech_weights(golden, config["wav2vec2_weights"]),
    }
    assert set(tensors) == set(FILE_SETS)
    for component, weights in tensors.items():
        write_weights(folder / component, weights.items(), preset=preset.name, component=component)
    return preset


@contextmanager
def started(golden: Golden, preset: Preset, folder: Path) -> Iterator[Processes]:
    """The pipeline with the golden's weights, noise and distances."""
    preset_file, replay = folder / "preset.json", folder / "replay.safetensors"
    preset_file.write_text(preset_json(preset))
    save_file({"noise": golden.tensors["in/noise"], "distance": golden.tensors["in/relative_dist"]}, replay)
    model = ("--preset", str(preset_file), "--weights", str(folder))
    stages, end = split_steps(preset.stream.steps, min(2, preset.stream.steps)), free_port()
    with processes(folder) as running:
        chain = chain_programs(model, stages, end, stage_flags=("--replay", str(replay)))
        running.start({**chain, decoder_program(model): end})
        yield running


def text_states(golden: Golden) -> Tensor:
    """Valid rows [L, C] of the golden's prompt."""
    ids, mask = golden.tensors["in/ids"], golden.tensors["in/mask"]
    _, text = text_from(golden, golden.meta["config"]["t5_weights"])
    with torch.inference_mode():
        rows: Tensor = text(input_ids=ids, attention_mask=mask).last_hidden_state[0, : int(mask.sum())]
    return rows


async def encode_portrait(golden: Golden, video: VideoOutput) -> SinkMessage:
    """Sink version 0 of the golden's picture, sent as a file."""
    file = io.BytesIO()
    Image.fromarray(golden.tensors["in/image_uint8"].numpy()).save(file, "PNG")
    height, width = golden.meta["config"]["frame_hw"]
    request = EncodePortraitRequest(image=file.getvalue(), width=width, height=height, fit=FIT_COVER)
    return SinkMessage.FromString(await video.encode_portrait(request))


async def speak(golden: Golden, head: Head) -> None:
    """Sends the golden's waveform."""
    waveform = golden.tensors["in/waveform"].numpy()
    for offset in range(0, len(waveform), PIECE):
        piece = waveform[offset : offset + PIECE]
        audio = StreamBlocksRequest.Audio(
            key=key_of(NAME), samples=piece.tobytes(), sample_offset=offset, last=offset + PIECE >= len(waveform)
        )
        await head.link.send(StreamBlocksRequest(audio=audio))


async def generated(golden: Golden, preset: Preset, running: Processes, text: Tensor) -> list[tuple[int, bytes]]:
    """Number and bytes of every picture."""
    config, digest = golden.meta["config"], (await describe(running.address(ENCODER))).services[0].model_digest
    height, width = config["frame_hw"]
    async with (
        asyncio.timeout(120),
        video_end(running.address(DECODER)) as video,
        linked(running.address(ENCODER), digest) as head,
    ):
        sink = await encode_portrait(golden, video)
        await head.open(open_request(NAME, seed=0, width=width, height=height))
        await video.subscribe(key_of(NAME))
        await head.condition(NAME, 0, ConditioningBody(sink=sink, text_states=wire.tensor_to_message(text)))
        await speak(golden, head)
        for block in range(config["num_blocks"]):
            if block == preset.stream.sink_switch_block:
                own = await video.own_sink(NAME)
                await head.condition(NAME, block, ConditioningBody(sink=own))
            await head.admit(NAME, block)
        await video.finished(NAME, config["num_blocks"] - 1)
        assert not head.has_failed(NAME)
        return video.frames(NAME)


def test_services_give_the_reference_video(golden: Golden, tmp_path: Path) -> None:
    preset = converted(golden, tmp_path)
    text = text_states(golden)
    with started(golden, preset, tmp_path) as running:
        made = asyncio.run(generated(golden, preset, running, text))
    assert [number for number, _ in made] == list(range(golden.meta["config"]["num_frames"]))
    reference = golden.tensors["out/frames_uint8"].permute(1, 2, 3, 0).numpy()
    video = np.stack([np.frombuffer(rgb, np.uint8).reshape(reference.shape[1:]) for _, rgb in made])
    worst = np.abs(video.astype(int) - reference.astype(int)).max()
    assert worst <= golden.meta["tolerance"]["uint8"]
