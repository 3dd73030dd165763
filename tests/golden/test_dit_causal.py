"""The streaming forward equals the reference: prefill, window, rolling sink, far positions."""

import pytest
import torch
from torch import Tensor

from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.dit import NoisyInput
from live_avatar.model.kv_cache import KVWindow, rolling_reference_position

from .conftest import Golden
from .reference_models import dit_pair, record_layers, speaker

pytestmark = pytest.mark.golden_kind("dit_causal")


class Stream:
    """A session over the golden's inputs, one step, one window."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        config = golden.meta["config"]
        self.model, self.audio = dit_pair(golden)
        height, width = config["latent_hw"]
        self.geometry = Geometry(config=self.model.config, height=height, width=width)
        self.window = KVWindow(
            self.geometry,
            latents_per_block=config["frames_per_block"],
            window_blocks=config["window_blocks"],
        )
        self.text = self.model.embed_text(golden.tensors["in/context"][None])

    def prefill(self) -> None:
        """Sets the sink from the golden's latents."""
        tensors = self.golden.tensors
        sink = self.model.sink_input(tensors["in/ref_latents"], tensors["in/motion_latents"])
        pattern = self.window.prefill()
        self.model(None, sink, self.text, pattern)
        self.window.set_sink(pattern.states())
        self.sink_states = pattern.states()

    def block(self, prefix: str, reference_offset: int, timestep: Tensor) -> Tensor:
        """Velocity [16, F, h, w] of the block whose inputs are named ``prefix``."""
        tensors = self.golden.tensors
        noisy = NoisyInput(
            latent=tensors[f"{prefix}/x"][None],
            time=self.model.embed_time(timestep),
            audio=self.audio(tensors[f"{prefix}/audio_input"]),
            pose=tensors[f"{prefix}/cond_states"],
        )
        velocity: Tensor = self.model(noisy, None, self.text, self.window.begin(reference_offset))
        self.window.commit()
        return velocity[0]

    def ring(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the golden's layer, without the sink."""
        layer = self.window.layers[self.golden.meta["config"]["kv_layer_dumped"]]
        sink = self.geometry.sink_tokens
        return layer.k[:, sink:], layer.v[:, sink:]


@torch.no_grad()
def test_sink_tokens_and_prefill(golden: Golden) -> None:
    stream = Stream(golden)
    sink = stream.model.sink_input(golden.tensors["in/ref_latents"], golden.tensors["in/motion_latents"])
    tokens = stream.model.sink_tokens(sink)
    assert tokens.shape[1] == golden.meta["config"]["n_cond_tokens"] == stream.geometry.sink_tokens
    assert stream.geometry.latent_tokens == golden.meta["config"]["tokens_per_frame"]
    golden.close(tokens, "sink/tokens_in")
    stream.prefill()
    states = stream.sink_states
    for layer, (k, v) in enumerate(zip(states.keys, states.values, strict=True)):
        golden.close(k, f"sink/cond_k/layer_{layer}")
        golden.close(v, f"sink/cond_v/layer_{layer}")


@torch.no_grad()
def test_blocks_ring_and_far_position(golden: Golden) -> None:
    config = golden.meta["config"]
    stream = Stream(golden)
    outputs = record_layers(stream.model)
    stream.prefill()
    for index in range(config["num_blocks"]):
        outputs.clear()
        _check_block(stream, f"block_{index}", config["relative_dist"][index], golden.tensors["in/timestep"])
        for layer, output in enumerate(outputs):
            name = f"inter/block_{index}/layer_{layer}"
            if name in golden.tensors:
                golden.close(output, name)
    far = golden.meta["far_block"]
    golden.close(stream.ring()[0], "far/kv_k_before")
    stream.window.block = far["block"]
    _check_block(stream, "far", far["relative_dist"], golden.tensors["in/timestep"])


@torch.no_grad()
def test_one_noise_level_per_block_equals_one_per_latent(golden: Golden) -> None:
    """The reference names the level of every latent; naming it once must be the same where they are equal."""
    timestep = golden.tensors["in/timestep"]
    if not torch.equal(timestep, timestep[:, :1].expand_as(timestep)):
        pytest.fail(f"{golden.name}: expected one noise level for the block")
    stream = Stream(golden)
    stream.prefill()
    velocity = stream.block("block_0", golden.meta["config"]["relative_dist"][0], timestep[:, :1])
    golden.close(velocity, "block_0/velocity")


@torch.no_grad()
def test_positions_are_those_of_the_reference(golden: Golden) -> None:
    config = golden.meta["config"]
    for block in [*golden.meta["rope_frame_positions"]["blocks"], golden.meta["far_block"]]:
        first = block["block"] * config["frames_per_block"]
        assert [first + i for i in range(config["frames_per_block"])] == block["current"]
        assert [rolling_reference_position(first, block["relative_dist"], 30)] == block["ref"]
        assert block["block"] % config["window_blocks"] == block["slot"]


def _check_block(stream: Stream, prefix: str, reference_offset: int, timestep: Tensor) -> None:
    golden = stream.golden
    golden.close(stream.block(prefix, reference_offset, timestep), f"{prefix}/velocity")
    k, v = stream.ring()
    golden.close(k, f"{prefix}/kv_k")
    golden.close(v, f"{prefix}/kv_v")
    local, glob = speaker(stream.audio(golden.tensors[f"{prefix}/audio_input"]))
    golden.close(local, f"{prefix}/audio_tokens")
    golden.close(glob, f"{prefix}/audio_global")
