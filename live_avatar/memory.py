"""How much memory the parts of a pipeline take, computed from a preset: no torch, no device, nothing measured.

Sizes are bytes; a GB is 10^9 bytes.  One picture size holds for one session; heights and widths are pixels of the
video.  Derived from spec 2.4 (K/V), 3.4 (decoder), 7 (fp8) and checked against its spec C.
"""

from dataclasses import dataclass
from typing import Literal

from live_avatar.config import MOTION_GROUPS, UNROUNDED_ENDS, DiTConfig, Preset, VAEConfig

GB = 10**9
MB = 10**6
GPU_SIZES_GB = (24, 40, 48, 80, 141)
LAYOUTS = ((4, 1), (2, 2), (1, 4))
"""Stages x denoising steps per stage."""
RESERVE_BYTES = 2 * GB
"""Kept free on every GPU for activations, the CUDA context and fragmentation: an estimate, not a measurement."""

WeightType = Literal["bf16", "fp8"]
_KV_BYTES = 2
_CACHED_FRAMES = 2
_SIDE_MULTIPLE = 64


@dataclass(frozen=True, kw_only=True)
class SessionMemory:
    """K/V of one session on one stage."""

    window: int
    """Ring of the newest blocks."""
    sink: int
    """Keys as they are attended to, and values."""
    reference: int
    """Un-rotated keys of the reference, which every block rotates anew."""
    text: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.window + self.sink + self.reference + self.text


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How many sessions one GPU of a layout holds."""

    stages: int
    steps_per_stage: int
    gpu_gb: int
    weights: int
    per_session: int

    @property
    def sessions(self) -> int:
        """Whole sessions beside weights and reserve."""
        return max(0, (self.gpu_gb * GB - RESERVE_BYTES - self.weights) // self.per_session)


def session_memory(preset: Preset, height: int, width: int, steps: int = 1) -> SessionMemory:
    """K/V of one session on a stage that performs ``steps`` denoising steps, stored as bf16.

    Every step keeps a window of its own, at its own noise level, with the sink in it; the text is shared by all.
    """
    config, (latent_height, latent_width) = preset.dit, _latent_size(preset, height, width)
    per_token = 2 * config.num_layers * config.dim * _KV_BYTES
    latent_tokens = config.tokens_per_latent(latent_height, latent_width)
    window_latents = preset.stream.window_blocks * preset.stream.latents_per_block
    return SessionMemory(
        window=steps * window_latents * latent_tokens * per_token,
        sink=steps * config.sink_tokens(latent_height, latent_width) * per_token,
        reference=steps * latent_tokens * per_token // 2,
        text=config.text_len * per_token,
    )


def decoder_bytes(preset: Preset, height: int, width: int) -> int:
    """Convolution caches of one session on the decoder, as bf16 (spec 3.4)."""
    latent_height, latent_width = _latent_size(preset, height, width)
    return decoder_values_per_latent_pixel(preset.vae) * latent_height * latent_width * _KV_BYTES


def decoder_values_per_latent_pixel(config: VAEConfig) -> int:
    """Cached values per latent pixel: two frames of input of every causal convolution, finer levels counting more."""
    widths = [config.dim * factor for factor in reversed(config.multipliers)]
    values = config.latent_channels + 4 * widths[0]
    incoming, area = widths[0], 1
    for level, width in enumerate(widths):
        convolutions = 2 * (config.residual_blocks + 1)
        values += area * (incoming + (convolutions - 1) * width)
        if level < len(config.temporal_downsample):
            values += area * width if config.temporal_downsample[-1 - level] else 0
            incoming, area = width // 2, 4 * area
    return _CACHED_FRAMES * (values + area * widths[-1])


def stage_weight_bytes(config: DiTConfig, dtype: WeightType) -> int:
    """Weights of one stage: the whole denoiser without the audio token encoder, which lives elsewhere.

    With fp8 what ``live_avatar.model.fp8`` rounds takes one byte an element and a float32 scale an output; everything
    else stays bf16.
    """
    return 2 * dit_parameters(config) - (rounding_saves(config) if dtype == "fp8" else 0)


def rounding_saves(config: DiTConfig) -> int:
    """Bytes by which 8-bit linear layers are smaller: q, k, v, o, q and o of the text attention, and the feed-forward.

    Of all layers but those at the ends; none where there are no others.
    """
    layers = max(0, config.num_layers - 2 * UNROUNDED_ENDS)
    weights = 6 * config.dim**2 + 2 * config.dim * config.ffn_dim
    outputs = 7 * config.dim + config.ffn_dim
    return layers * (weights - 4 * outputs)


def dit_parameters(config: DiTConfig) -> int:
    """Parameters of the denoiser, without the audio token encoder (spec 1.2)."""
    dim, patch_volume = config.dim, config.patch[0] * config.patch[1] * config.patch[2]
    attention_extras = 4 * dim + 2 * dim
    layer_extras = 2 * attention_extras + 2 * dim + config.ffn_dim + dim + 6 * dim
    injector_extras = attention_extras + 2 * dim
    embeddings = (
        2 * _linear(config.latent_channels * patch_volume, dim)
        + _linear(config.text_dim, dim)
        + _linear(dim, dim)
        + _linear(config.freq_dim, dim)
        + _linear(dim, dim)
        + _linear(dim, 6 * dim)
        + 3 * dim
    )
    motion = sum(_linear(config.latent_channels * k[0] * k[1] * k[2], dim) for k in (g.kernel for g in MOTION_GROUPS))
    head = 2 * dim + _linear(dim, config.latent_channels * patch_volume)
    layers = config.num_layers * layer_extras + len(config.audio_layers) * injector_extras
    return linear_parameters(config) + layers + embeddings + motion + head


def linear_parameters(config: DiTConfig) -> int:
    """Weight elements of the 460 linear layers of spec 7: q, k, v, o and ffn of the layers, and the injectors."""
    per_layer = 8 * config.dim**2 + 2 * config.dim * config.ffn_dim
    per_injector = 4 * config.dim**2 + 2 * config.dim**2
    return config.num_layers * per_layer + len(config.audio_layers) * per_injector


def fits(preset: Preset, height: int, width: int, dtype: WeightType, companions: int) -> list[Fit]:
    """Every layout on every GPU size.

    Where one stage does all steps, its GPU also encodes audio and decodes: there the ``companions``, bytes of weights
    of those networks, and the decoder's caches count too.
    """
    rows = []
    for stages, steps in LAYOUTS:
        weights = stage_weight_bytes(preset.dit, dtype)
        per_session = session_memory(preset, height, width, steps).total
        if stages == 1:
            weights += companions
            per_session += decoder_bytes(preset, height, width)
        rows += [
            Fit(stages=stages, steps_per_stage=steps, gpu_gb=size, weights=weights, per_session=per_session)
            for size in GPU_SIZES_GB
        ]
    return rows


def largest_size(preset: Preset) -> tuple[int, int]:
    """Height and width of the largest picture of a preset: what admission must have room for.

    Sides are whole multiples of the portrait rule's 64 pixels (spec 8.1); of equal areas the squarest counts.
    """
    side = _SIDE_MULTIPLE
    cells = preset.max_area // side**2
    pairs = [(rows, columns) for rows in range(1, cells + 1) for columns in range(rows, cells // rows + 1)]
    if not pairs:
        raise ValueError(f"preset {preset.name}: max_area={preset.max_area} holds no picture of {side}x{side}")
    rows, columns = max(pairs, key=lambda pair: (pair[0] * pair[1], pair[0]))
    return rows * side, columns * side


def _latent_size(preset: Preset, height: int, width: int) -> tuple[int, int]:
    factor = preset.vae.spatial_factor
    if height <= 0 or width <= 0 or height % factor or width % factor:
        raise ValueError(f"size {width}x{height} is not a whole number of latent pixels, {factor} each way")
    return height // factor, width // factor


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
