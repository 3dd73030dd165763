"""How much memory a large run takes on every GPU, by calculation: nothing measured, no weights needed.

A GB is 10^9 bytes.  What a layer keeps for its backward pass is counted per token and channel; a test compares the
count with the layer itself.
"""

from dataclasses import dataclass

from live_avatar import memory
from live_avatar.config import DiTConfig, Preset
from live_avatar.config import preset as preset_named
from live_avatar.trainer.presets import MemoryConfig

GB = 10**9
RESERVE = 3 * GB
"""CUDA context, communication buffers and fragmentation: an estimate."""
LAYER_BYTES = 125
"""Kept by one layer for its backward pass per token and channel, in bfloat16 with its float32 islands."""
TRAINED_BYTES = 20
"""Of a trained parameter: weight, gradient, two moments and the average, float32."""
_BF16 = 2
_GATHERED_LAYERS = 2
"""The layer at work and the one fetched ahead."""


@dataclass(frozen=True)
class Moment:
    """One part of a step, and the bytes that are there then."""

    phase: str
    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values()) + RESERVE


def moments(config: MemoryConfig) -> list[Moment]:
    """The moments of a step that take most, for every phase."""
    preset = preset_named(config.preset)
    width, height = map(int, config.size.split("x")) if config.size else reversed(memory.largest_size(preset))
    clip = _clip_tokens(preset, height, width, config.blocks)
    block = _clip_tokens(preset, height, width, 1)
    frozen = _weights(preset.dit, config.gpus, trained=False)
    whole = _weights(preset.dit, config.gpus, trained=True)
    adapter, both = (_adapters(preset, config.gpus, roles) for roles in (1, 2))
    learning = _graph(preset.dit, clip)
    window = memory.session_memory(preset, height, width).total
    steps = preset.stream.steps
    return [
        Moment("base", "backward", whole | learning),
        Moment(
            "diffusion_forcing", "backward", frozen | adapter | learning | {"mask": _mask(preset, clip, config.blocks)}
        ),
        Moment(
            "self_forcing",
            "roll-out, last pass",
            frozen | both | {"windows": steps * window} | _forward(preset.dit, block),
        ),
        Moment("self_forcing", "one block again", frozen | both | {"windows": window} | _graph(preset.dit, block)),
        Moment("self_forcing", "fake score, backward", frozen | both | learning),
    ]


def memory_table(config: MemoryConfig) -> list[str]:
    """``moments`` as lines."""
    lines = [
        f"{config.preset} on {config.gpus} GPUs of {config.gpu_gb} GB, one clip of {config.blocks} blocks each",
        "computed; GB of 10^9 bytes on every GPU",
        f"{'phase':20}{'moment':24}{'total':>7}  fits  of it",
    ]
    for moment in moments(config):
        fits = "yes" if moment.total <= config.gpu_gb * GB else "NO"
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in moment.parts.items())
        lines.append(f"{moment.phase:20}{moment.name:24}{moment.total / GB:7.1f}  {fits:4}  {parts}")
    lines.append(f"Each total includes {RESERVE / GB:.0f} GB kept free (an estimate). Gradient checkpointing is on.")
    return lines


def adapter_parameters(preset: Preset) -> int:
    """Parameters of one adapter: on every layer, attention to itself, to text and to audio, and the feed-forward."""
    config, rank = preset.dit, preset.lora.rank
    attention = 4 * 2 * config.dim * rank
    feed_forward = 2 * (config.dim + config.ffn_dim) * rank
    return config.num_layers * (2 * attention + feed_forward) + len(config.audio_layers) * attention


def _weights(config: DiTConfig, gpus: int, *, trained: bool) -> dict[str, int]:
    """A share of the weights, and what is gathered of them at a time."""
    parameters = memory.dit_parameters(config)
    each = TRAINED_BYTES if trained else _BF16
    attention = 8 + 6 * len(config.audio_layers) / config.num_layers
    layer = int(attention * config.dim**2) + 2 * config.dim * config.ffn_dim
    top = parameters - config.num_layers * layer
    return {"weights": parameters * each // gpus, "gathered": _BF16 * (_GATHERED_LAYERS * layer + top)}


def _adapters(preset: Preset, gpus: int, roles: int) -> dict[str, int]:
    return {"adapters": roles * adapter_parameters(preset) * TRAINED_BYTES // gpus}


def _clip_tokens(preset: Preset, height: int, width: int, blocks: int) -> int:
    """Tokens of a clip and its sink."""
    factor = preset.vae.spatial_factor
    size = (height // factor, width // factor)
    noisy = blocks * preset.stream.latents_per_block * preset.dit.tokens_per_latent(*size)
    return noisy + preset.dit.sink_tokens(*size)


def _graph(config: DiTConfig, tokens: int) -> dict[str, int]:
    """Inputs of all layers, and everything of the one whose backward pass is at work."""
    inputs = config.num_layers * tokens * config.dim * _BF16
    return {"layer inputs": inputs, "one layer": tokens * config.dim * LAYER_BYTES}


def _forward(config: DiTConfig, tokens: int) -> dict[str, int]:
    return {"one layer": tokens * config.dim * LAYER_BYTES // 2}


def _mask(preset: Preset, tokens: int, blocks: int) -> int:
    """The block-causal mask, as booleans and as what attention adds: a copy of the sink's keys for every block."""
    return tokens * tokens * (1 + _BF16) + blocks * tokens * _BF16
