"""The denoiser and its audio tokens against the known answers of their fixtures.

The reference rounded two things when these were made: the text norm, in and out, to bfloat16, and the rotary
factors to float16.  The test does the same from outside, so that what remains is our arithmetic.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from live_avatar.config import DiTConfig, dit_config_from_public
from live_avatar.model import audio_tokens, dit, rope
from live_avatar.model.attention_patterns import Geometry, SinkStates
from live_avatar.model.audio_tokens import AudioTokenEncoder
from live_avatar.model.dit import CausalDiT, NoisyInput, TextKV, TransformerLayer
from live_avatar.model.kv_cache import KVWindow
from live_avatar.model.rope import Rotation

from .fixture_weights import generate, generate_input
from .reference_models import load

FIXTURES = Path(__file__).parent / "data" / "fixtures"
META: dict[str, Any] = json.loads((FIXTURES / "fixtures.json").read_text())
DIT_TOLERANCE = 2e-3
TOKEN_TOLERANCE = 1e-4
TEXT_ROWS = 5
FIRST_BLOCK_WITH_NEW_SINK = 4


def _generated(module: nn.Module, names: dict[str, str], prefix: str) -> None:
    shapes = module.state_dict()
    load(module, names, generate(prefix, {public: shapes[ours].shape for public, ours in names.items()}))


class Session:
    """The fixture's stream: one window, two sinks."""

    def __init__(self) -> None:
        meta = META["dit_small"]
        config = dit_config_from_public(meta["config"])
        self.model, self.audio = CausalDiT(config), AudioTokenEncoder(config)
        _generated(self.model, dit.public_names(config), meta["prefix"])
        _generated(self.audio, audio_tokens.public_names(config), meta["prefix"])
        for layer in self.model.layers:
            assert isinstance(layer, TransformerLayer)
            layer.norm_text.register_forward_pre_hook(lambda _, args: (args[0].bfloat16().float(),))
            layer.norm_text.register_forward_hook(lambda _, __, output: output.bfloat16().float())
        height, width = meta["latent_hw"]
        geometry = Geometry(config=config, height=height, width=width)
        self.window = KVWindow(geometry, latents_per_block=3, window_blocks=meta["window_blocks"])
        self.text: TextKV = self.model.embed_text(generate_input("in:text", (1, TEXT_ROWS, config.text_dim)))
        self.shape = (1, config.latent_channels, 3, height, width)

    def prefill(self, reference: str) -> SinkStates:
        """Makes the latent called ``reference`` the sink."""
        batch, channels, _, height, width = self.shape
        sink = self.model.sink_input(
            generate_input(reference, (batch, channels, 1, height, width)),
            generate_input("in:motion", (batch, channels, 19, height, width)),
        )
        pattern = self.window.prefill()
        self.model(None, sink, self.text, pattern)
        self.window.set_sink(pattern.states())
        return pattern.states()

    def block(self, plan: dict[str, Any]) -> Tensor:
        """Velocity of the block that ``plan`` describes."""
        index, config = plan["block"], self.model.config
        noisy = NoisyInput(
            latent=generate_input(f"in:latent{index}", self.shape),
            time=self.model.embed_time(torch.tensor([[plan["t"]]])),
            audio=self.audio(generate_input(f"in:audio{index}", (1, config.audio_states, config.audio_dim, 12))),
        )
        velocity: Tensor = self.model(noisy, None, self.text, self.window.begin(plan["relative_dist"]))
        self.window.commit()
        return velocity[0]


@pytest.fixture
def half_precision_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = rope.grid_rotation

    def rounded(*args: Any) -> Rotation:
        rotation = exact(*args)
        return Rotation(rotation.cos.half().float(), rotation.sin.half().float())

    monkeypatch.setattr(rope, "grid_rotation", rounded)


@pytest.mark.usefixtures("half_precision_rotation")
@torch.inference_mode()
def test_stream_with_a_new_sink() -> None:
    expected = load_file(FIXTURES / "dit_small.safetensors")
    session = Session()
    first = session.prefill("in:ref")
    _close(first.keys[0][0], expected["sink.cond_k.layer0"], DIT_TOLERANCE)
    _close(first.values[3][0], expected["sink.cond_v.layer3"], DIT_TOLERANCE)
    for plan in META["dit_small"]["plan"]:
        if plan["block"] == FIRST_BLOCK_WITH_NEW_SINK:
            second = session.prefill("in:ref2")
            _close(second.keys[3][0], expected["sink2.cond_k.layer3"], DIT_TOLERANCE)
        _close(session.block(plan), expected[f"block{plan['block']}.out"], DIT_TOLERANCE)


@pytest.mark.parametrize("history", [73, 9, 6])
@torch.inference_mode()
def test_audio_tokens(history: int) -> None:
    """Also with shorter histories of the first frame: what no token hears changes nothing."""
    meta = META["audio_tokens_small"]
    config = DiTConfig(
        dim=meta["out_dim"],
        ffn_dim=1,
        num_heads=1,
        num_layers=1,
        audio_layers=(),
        audio_dim=meta["dim"],
        audio_tokens=meta["num_token"],
        text_dim=1,
        audio_history_frames=history,
        audio_history_latents=(history + 3) // 4,
    )
    encoder = AudioTokenEncoder(config)
    names = {key.removeprefix("casual_audio_encoder."): ours for key, ours in audio_tokens.public_names(config).items()}
    _generated(encoder, names, meta["prefix"])
    tokens = encoder(generate_input("in:audio0", (1, config.audio_states, config.audio_dim, 12)))
    if history % 4 == 1:
        expected = load_file(FIXTURES / "audio_tokens_small.safetensors")
        _close(tokens.local[:, 0], expected["local"], TOKEN_TOLERANCE)
        _close(tokens.glob[:, 0, :, None], expected["global"], TOKEN_TOLERANCE)
    assert tokens.local.shape[2] == 3


def _close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
