"""A denoiser small enough for property tests, with random weights, and random inputs that fit it.

No weight is left at a neutral value, so that nothing a test looks at is hidden by a zero or a one.

Letters: B batch, A speakers, F latents, S tokens per latent, C width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from live_avatar.config import MOTION_LATENTS, DiTConfig
from live_avatar.model.attention_patterns import Geometry, block_causal_attention
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.dit import CausalDiT, NoisyInput, SinkInput, TextKV, TransformerLayer
from live_avatar.model.kv_cache import KVWindow, rolling_reference_position

CONFIG = DiTConfig(
    dim=24,
    ffn_dim=40,
    num_heads=2,
    num_layers=3,
    audio_layers=(0, 2),
    audio_dim=8,
    audio_states=3,
    text_dim=8,
    text_len=6,
    latent_channels=4,
    freq_dim=16,
)
NO_MOTION = replace(CONFIG, use_motion=False)
ONE_LAYER = replace(CONFIG, num_layers=1, audio_layers=(0,))
TOLERANCE = 2e-5
"""Float32 rounding of two orders of summation, some ten times over."""


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draws every weight of ``module``, matrices scaled so that activations keep their size; ready for use."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        is_gain = parameter.dim() == 1 and name.endswith("weight")
        inputs = parameter[0].numel() if parameter.dim() > 1 else 16
        parameter.data = float(is_gain) + torch.randn(parameter.shape, generator=generator) / inputs**0.5
    return module.requires_grad_(False).eval()


def random_dit(config: DiTConfig = CONFIG, seed: int = 0) -> CausalDiT:
    """A denoiser with random weights."""
    model = CausalDiT(config)
    randomise(model, seed)
    return model


def near(actual: Tensor, expected: Tensor) -> None:
    """Asserts equality up to the order of summation."""
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def transformer_layer(model: CausalDiT, index: int) -> TransformerLayer:
    """A layer, with its type."""
    layer = model.layers[index]
    assert isinstance(layer, TransformerLayer)
    return layer


def random_audio(config: DiTConfig, latents: int, seed: int, speakers: int = 1) -> AudioTokens:
    """Audio tokens of ``latents`` latents; no mask."""
    generator = torch.Generator().manual_seed(seed)
    local = torch.randn(1, speakers, latents, config.audio_tokens + 1, config.dim, generator=generator)
    return AudioTokens(local, torch.randn(1, speakers, latents, config.dim, generator=generator))


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Random inputs of ``blocks`` blocks, the rules by which they attend, and where the session stands."""

    config: DiTConfig = CONFIG
    height: int = 8
    width: int = 10
    latents_per_block: int = 2
    window_blocks: int = 2
    blocks: int = 4
    first_block: int = 0
    seed: int = 0
    same_level: bool = True

    @property
    def geometry(self) -> Geometry:
        """Size of the latents."""
        return Geometry(config=self.config, height=self.height, width=self.width)

    @property
    def latents(self) -> int:
        """Latents of the clip."""
        return self.blocks * self.latents_per_block

    def latent(self) -> Tensor:
        """[1, channels, F, h, w] noise."""
        return self._random(0, 1, self.config.latent_channels, self.latents, self.height, self.width)

    def audio(self) -> AudioTokens:
        """Tokens of the whole clip."""
        return random_audio(self.config, self.latents, self.seed + 1)

    def timesteps(self) -> Tensor:
        """[blocks] noise level of every block."""
        spread = self._random(2, self.blocks).abs().clamp(max=0.9)
        return 1000 * (spread[:1].expand(self.blocks) if self.same_level else spread)

    def distances(self) -> tuple[int, ...]:
        """How far ahead of each block the reference stands."""
        generator = torch.Generator().manual_seed(self.seed + 3)
        return tuple(torch.randint(4, 31, (self.blocks,), generator=generator).tolist())

    def sink(self, model: CausalDiT) -> SinkInput:
        """Reference, and motion where the model uses it."""
        reference = self._random(4, 1, self.config.latent_channels, 1, self.height, self.width)
        motion = self._random(5, 1, self.config.latent_channels, MOTION_LATENTS, self.height, self.width)
        return model.sink_input(reference, motion if self.config.use_motion else None)

    def text_states(self) -> Tensor:
        """[1, L, text_dim] of a prompt shorter than the model takes."""
        return self._random(6, 1, self.config.text_len - 2, self.config.text_dim)

    def text(self, model: CausalDiT) -> TextKV:
        """The prompt's keys and values."""
        return model.embed_text(self.text_states())

    def window(self) -> KVWindow:
        """An empty window for one noise level."""
        return KVWindow(self.geometry, latents_per_block=self.latents_per_block, window_blocks=self.window_blocks)

    def noisy(self, model: CausalDiT, latent: Tensor, block: int | None = None) -> NoisyInput:
        """The part of ``block`` of the clip ``latent``, or the whole clip with a noise level per block."""
        levels, audio = self.timesteps()[None], self.audio()
        if block is None:
            return NoisyInput(latent=latent, time=model.embed_time(levels), audio=audio)
        part = slice(block * self.latents_per_block, (block + 1) * self.latents_per_block)
        received = AudioTokens(audio.local[:, :, part], audio.glob[:, :, part])
        return NoisyInput(
            latent=latent[:, :, part], time=model.embed_time(levels[:, block : block + 1]), audio=received
        )

    def with_sink(self, model: CausalDiT, window: KVWindow) -> KVWindow:
        """``window`` after the prefill of the clip's sink, standing at the clip's first block."""
        prefill = window.prefill()
        model(None, self.sink(model), self.text(model), prefill)
        window.set_sink(prefill.states())
        window.block = self.first_block
        return window

    def stream_block(self, model: CausalDiT, window: KVWindow, latent: Tensor, block: int) -> Tensor:
        """Velocity of one block through ``window``, which moves on."""
        noisy = self.noisy(model, latent, block)
        velocity: Tensor = model(noisy, None, self.text(model), window.begin(self.distances()[block]))
        window.commit()
        return velocity

    def streamed(self, model: CausalDiT, latent: Tensor, window: KVWindow | None = None) -> Tensor:
        """Velocity of the whole clip, block after block."""
        ready = self.with_sink(model, window or self.window())
        return torch.cat([self.stream_block(model, ready, latent, block) for block in range(self.blocks)], dim=2)

    def masked(self, model: CausalDiT, latent: Tensor) -> Tensor:
        """Velocity of the whole clip in one forward under the block-causal mask."""
        frames = [(self.first_block + block) * self.latents_per_block for block in range(self.blocks)]
        positions = tuple(
            rolling_reference_position(frame, distance, self.config.reference_position)
            for frame, distance in zip(frames, self.distances(), strict=True)
        )
        pattern = block_causal_attention(
            self.geometry,
            first_frame=frames[0],
            latents_per_block=self.latents_per_block,
            window_blocks=self.window_blocks,
            reference_positions=positions,
            device=torch.device("cpu"),
        )
        velocity: Tensor = model(self.noisy(model, latent), self.sink(model), self.text(model), pattern)
        return velocity

    def _random(self, purpose: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(10 * self.seed + purpose))
