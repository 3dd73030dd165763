"""The bidirectional forward over a whole clip equals the reference, layer by layer."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from live_avatar.config import MOTION_GROUPS
from live_avatar.model.attention_patterns import Geometry, joint_attention
from live_avatar.model.dit import CausalDiT, NoisyInput, SinkInput
from live_avatar.model.rope import join

from .conftest import Golden
from .reference_models import dit_pair, record_layers, speaker

pytestmark = pytest.mark.golden_kind("dit_bidirectional")


class Clip:
    """The golden's inputs as ours."""

    def __init__(self, golden: Golden) -> None:
        tensors = golden.tensors
        self.model, audio = dit_pair(golden)
        self.text = self.model.embed_text(tensors["in/context"][None])
        self.audio = audio(tensors["in/audio_input"])
        self.latent = tensors["in/x"][None]
        self.noisy = NoisyInput(
            latent=self.latent,
            time=self.model.embed_time(tensors["in/t"][:, None]),
            audio=self.audio,
            pose=tensors["in/cond_states"],
        )
        self.sink = self.model.sink_input(tensors["in/ref_latents"], tensors["in/motion_latents"])

    def velocity(self, sink: SinkInput) -> Tensor:
        """Velocity [16, F, h, w] with ``sink``."""
        self.model.config = replace(self.model.config, use_motion=sink.motion is not None)
        geometry = Geometry(config=self.model.config, height=self.latent.shape[3], width=self.latent.shape[4])
        pattern = joint_attention(geometry, self.latent.shape[2], torch.device("cpu"))
        out: Tensor = self.model(self.noisy, sink, self.text, pattern)
        return out[0]


@torch.no_grad()
def test_inputs_of_the_first_layer(golden: Golden) -> None:
    clip = Clip(golden)
    model: CausalDiT = clip.model
    golden.close(torch.cat([model.noisy_tokens(clip.noisy), model.sink_tokens(clip.sink)], dim=1), "inter/tokens_in")
    rows = torch.cat([clip.noisy.time.layers, clip.sink.time.layers], dim=1)
    golden.close(rows.transpose(1, 2), "inter/e0")
    local, glob = speaker(clip.audio)
    golden.close(local, "inter/audio_tokens")
    golden.close(glob, "inter/audio_global")


@torch.no_grad()
def test_rotation(golden: Golden) -> None:
    clip = Clip(golden)
    geometry = Geometry(config=clip.model.config, height=clip.latent.shape[3], width=clip.latent.shape[4])
    positions = golden.meta["rope_frame_positions"]
    noisy = geometry.noisy_rotation(torch.tensor(positions["noisy"][0]), len(positions["noisy"]))
    both = join(noisy, geometry.sink_rotation(positions["ref"][0], torch.device("cpu")))
    ours = torch.stack([both.cos, both.sin], dim=-1)[None, :, None]
    heads = golden.tensors["inter/rope_cos_sin"].shape[2]
    golden.close(ours.expand(-1, -1, heads, -1, -1), "inter/rope_cos_sin")


@torch.no_grad()
def test_every_layer_and_the_velocity(golden: Golden) -> None:
    clip = Clip(golden)
    outputs = record_layers(clip.model)
    golden.close(clip.velocity(clip.sink), "out/velocity")
    for layer, output in enumerate(outputs):
        golden.close(output, f"inter/layer_{layer}")


@torch.no_grad()
def test_text_context(golden: Golden) -> None:
    clip = Clip(golden)
    states = golden.tensors["in/context"]
    padded = torch.zeros(1, clip.model.config.text_len, states.shape[1])
    padded[0, : len(states)] = states
    golden.close(clip.model.text_embedding(padded), "inter/context")


@torch.no_grad()
def test_without_motion(golden: Golden) -> None:
    clip = Clip(golden)
    golden.close(clip.velocity(replace(clip.sink, motion=None)), "out/velocity_drop_motion")


@torch.no_grad()
def test_newest_motion_zeroed(golden: Golden) -> None:
    clip = Clip(golden)
    assert clip.sink.motion is not None
    motion = clip.sink.motion.clone()
    motion[:, :, -MOTION_GROUPS[0].latents :] = 0
    golden.close(clip.velocity(replace(clip.sink, motion=motion)), "out/velocity_add_last_motion_1")
