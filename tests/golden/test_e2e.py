"""A picture, a waveform and token ids become the reference's video frames, through the whole local pipeline."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from PIL import Image

from live_avatar.config import StreamConfig
from live_avatar.model.portrait import prepare_portrait
from live_avatar.portrait.fitting import fit_portrait
from live_avatar.portrait.sizing import target_size
from live_avatar.streaming.audio_grid import whole_file_features
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.local import Generated, generate, warmup_latents
from live_avatar.streaming.rng import RecordedRng
from live_avatar.streaming.schedule import inference_schedule
from tests.streaming.partitions import split_steps

from .conftest import Golden
from .reference_models import dit_from, e2e_preset, speech_from, text_from, vae_from

pytestmark = pytest.mark.golden_kind("e2e")


@lru_cache(maxsize=1)
def _video(golden: Golden) -> tuple[Generated, ...]:
    return tuple(_generate(golden))


@torch.inference_mode()
def _generate(golden: Golden) -> list[Generated]:
    config, tensors = golden.meta["config"], golden.tensors
    denoiser, audio_encoder = dit_from(golden, config["dit"], config["weights"], config["motion_frames"])
    vae = vae_from(golden, config["vae"], config["vae_weights"])
    _, speech = speech_from(golden, config["wav2vec2_weights"])
    _, text = text_from(golden, config["t5_weights"])
    preset = e2e_preset(golden)
    rules = preset.stream
    features = whole_file_features(speech, tensors["in/waveform"], preset, batch_frames=config["infer_frames"])
    blocks = features.split(preset.frames_per_block, dim=-1)[: config["num_blocks"]]
    rows = int(tensors["in/mask"].sum())
    context = text(input_ids=tensors["in/ids"], attention_mask=tensors["in/mask"]).last_hidden_state[0, :rows]
    rng = RecordedRng(tensors["in/noise"], tensors["in/relative_dist"])
    schedule = inference_schedule(config["steps"])
    stages = [
        Denoiser(denoiser, rules, schedule, steps, rng) for steps in split_steps(config["steps"], config["steps"])
    ]
    decoder = FrameDecoder(vae, rules, use_motion=True)
    sink = decoder.encode_portrait(tensors["in/pixels"][0, :, 0])
    return list(
        generate(
            stages,
            decoder,
            sink=sink,
            warmup=warmup_latents(sink, decoder),
            text=context,
            audio=(audio_encoder(block) for block in blocks),
            seed=0,
        )
    )


def test_every_frame(golden: Golden) -> None:
    pieces = [frames for block in _video(golden) for frames in block.frames]
    expected_first = 0
    for frames in pieces:
        assert frames.first == expected_first
        expected_first += len(frames.pixels)
    video = torch.cat([frames.pixels for frames in pieces])
    assert len(video) == golden.meta["config"]["num_frames"]
    reference = golden.tensors["out/frames_uint8"].permute(1, 2, 3, 0)
    assert video.shape == reference.shape
    worst = (video.int() - reference.int()).abs().max().item()
    assert worst <= golden.meta["tolerance"]["uint8"]


@torch.inference_mode()
def test_selected_frames_in_floating_point(golden: Golden) -> None:
    config = golden.meta["config"]
    vae = vae_from(golden, config["vae"], config["vae_weights"])
    pixels = golden.tensors["in/pixels"]
    still = pixels.expand(-1, -1, config["motion_frames"][0], -1, -1)
    warmup = vae.encode(still)[:, :, : StreamConfig().warmup_latents]
    latents = torch.cat([warmup, *(block.latent[None] for block in _video(golden))], dim=2)
    frames = vae.decode(latents).clamp(-1, 1)[0][:, -config["num_frames"] :]
    golden.close(frames[:, golden.tensors["out/frame_index"]], "out/frames_selected")


def test_picture(golden: Golden) -> None:
    config = golden.meta["config"]
    path = golden.media(config["image"])
    if path is None:
        pytest.skip(f"{config['image']} is not beside the goldens")
    image = Image.open(path)
    height, width = target_size(image.height, image.width, config["max_area"])
    assert [height, width] == config["frame_hw"]
    ours = torch.from_numpy(np.array(fit_portrait(image, height, width, "reference")))
    assert (ours.int() - golden.tensors["in/image_uint8"].int()).abs().max() <= 1
    pixels = prepare_portrait(image, height, width, "reference")
    torch.testing.assert_close(pixels, golden.tensors["in/pixels"][0, :, 0], rtol=0, atol=1.01 / 127.5)
