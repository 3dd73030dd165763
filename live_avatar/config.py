"""Every number of the system, as data.

Frozen dataclasses describe one network or one rule each; ``PRESETS`` names the complete systems.
This file imports nothing of ours and no torch: any process may read it for free.  Sizes that follow from others are
properties, so that a second resolution or a second model costs no code.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

SAMPLE_RATE_HZ = 16_000
"""Rate at which the speech encoder listens (spec 4.1)."""

MAX_STEPS = 50
"""Most denoising steps of a block."""

DataType = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class MotionGroup:
    """Latents of the recent past that share one embedding (framepack, spec 1.9)."""

    name: str
    """Module name in the public checkpoint."""
    newest: int
    """Age of its newest latent; age 1 is the latent right before block 0."""
    latents: int
    kernel: tuple[int, int, int]
    """Latents, rows and columns that one token covers."""


MOTION_GROUPS = (
    MotionGroup(name="proj", newest=1, latents=1, kernel=(1, 2, 2)),
    MotionGroup(name="proj_2x", newest=2, latents=2, kernel=(2, 4, 4)),
    MotionGroup(name="proj_4x", newest=4, latents=16, kernel=(4, 8, 8)),
)
MOTION_LATENTS = sum(group.latents for group in MOTION_GROUPS)
"""Latents of history the sink can hold; 1 + 4 * 18 = 73 still frames encode to them."""
UNROUNDED_ENDS = 1
"""Layers at either end of the denoiser that 8-bit floats leave alone."""


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The speech-to-video diffusion transformer (spec 1.1)."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    audio_layers: tuple[int, ...]
    """Layers after which audio is injected."""
    audio_dim: int
    """Width of one speech hidden state."""
    audio_states: int = 25
    """Speech hidden states mixed into one: encoder layers + 1."""
    audio_tokens: int = 4
    """Local audio tokens per latent; one learned padding token comes on top."""
    text_dim: int
    text_len: int = 512
    latent_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    eps: float = 1e-6
    audio_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    audio_history_frames: int = 73
    """Copies of a block's first audio frame that precede it; they yield ``audio_history_latents`` unused tokens."""
    audio_history_latents: int = 19
    use_motion: bool = True
    """False: the sink is the reference alone (the paper); True: plus framepack motion tokens (the public weights)."""
    reference_position: int = 30
    """RoPE frame position of the reference in the prefill (spec 1.8)."""

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim={self.dim} must split into num_heads={self.num_heads} heads of even width")
        if self.dim % 4:
            raise ValueError(f"dim={self.dim} must be a multiple of 4: the audio tokens are made in quarters of it")
        if self.audio_tokens < 1:
            raise ValueError(f"audio_tokens={self.audio_tokens} must be at least 1")
        if any(not 0 <= layer < self.num_layers for layer in self.audio_layers):
            raise ValueError(f"audio_layers={self.audio_layers} must lie in 0..{self.num_layers - 1}")

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.num_heads

    def tokens_per_latent(self, height: int, width: int) -> int:
        """Tokens of one latent of ``height`` x ``width`` latent pixels (S of the spec)."""
        _, patch_h, patch_w = self.patch
        return (height // patch_h) * (width // patch_w)

    def sink_tokens(self, height: int, width: int) -> int:
        """Tokens of the sink: reference, and with motion tokens the 1x, 2x and 4x groups (spec 1.3)."""
        tokens = self.tokens_per_latent(height, width)
        if not self.use_motion:
            return tokens
        for group in MOTION_GROUPS:
            kernel_t, kernel_h, kernel_w = group.kernel
            tokens += (group.latents // kernel_t) * (height // kernel_h) * (width // kernel_w)
        return tokens


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The causal 3-D video autoencoder (spec 3.1)."""

    dim: int = 96
    latent_channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    residual_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    mean: tuple[float, ...] = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )  # fmt: skip
    std: tuple[float, ...] = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if len(self.temporal_downsample) != len(self.multipliers) - 1:
            raise ValueError("temporal_downsample needs one entry between every two levels of multipliers")
        if len(self.mean) != self.latent_channels or len(self.std) != self.latent_channels:
            raise ValueError(f"mean and std need latent_channels={self.latent_channels} values")

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent pixel along one side."""
        return int(2 ** len(self.temporal_downsample))

    @property
    def temporal_factor(self) -> int:
        """Frames per latent, after the first."""
        return int(2 ** sum(self.temporal_downsample))


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """The wav2vec2 speech encoder (spec 4.1), in the terms of ``transformers.Wav2Vec2Config``."""

    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_kernel: int = 128
    position_groups: int = 16

    @property
    def states(self) -> int:
        """Hidden states one forward yields: the input of the first layer and the output of each."""
        return self.num_layers + 1


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The umT5 text encoder (spec 5)."""

    vocab_size: int
    dim: int
    attention_dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    buckets: int = 32
    max_distance: int = 128
    tokenizer: Literal["umt5", "bytes"] = "umt5"
    """``umt5``: the SentencePiece files beside the weights; ``bytes``: UTF-8 bytes, no file needed."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """The rules of the pipeline (spec 2)."""

    fps: int = 25
    latents_per_block: int = 3
    window_blocks: int = 4
    """Blocks of K/V a block attends to, itself included."""
    steps: int = 4
    whole_file_grid: Literal["reference", "exact"] = "reference"
    """Which hidden states the frames of a whole recording get: as the reference does it, stretched, so that the last
    frames use the audio of one frame later (spec 4.1), or those of their own time, as in a stream (spec 4.3)."""
    reference_distance: tuple[int, int] = (4, 30)
    """Inclusive range of how far ahead of a block the Rolling RoPE places the reference (spec 1.8)."""
    sink_switch_block: int = 4
    """First block that attends to sink version 1 (AAS, spec 2.7)."""
    reference_frames: int = 5
    """Still frames encoded for the reference, of which the last latent is kept: 5, or 1 (spec 2.7)."""
    warmup_latents: int = 7
    """Motion latents decoded and thrown away before block 0 (spec 2.11)."""
    dropped_frames: int = 3
    """Frames of block 0 that are never shown (spec 2.11)."""
    left_context_s: float = 5.0
    """Past audio in the streaming speech encoder's window of each block (spec 4.3)."""
    lookahead_s: float = 0.1
    """Future audio the streaming speech encoder waits for (spec 4.3)."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps={self.steps} must lie in 1..{MAX_STEPS}")
        if self.sink_switch_block < 1:
            raise ValueError(f"sink_switch_block={self.sink_switch_block} must be at least 1: block 0 makes the sink")


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """The low-rank adapter that makes the base model causal and fast (spec 6)."""

    rank: int = 128
    alpha: float = 64.0
    targets: tuple[str, ...] = ("q", "k", "v", "o", "ffn.0", "ffn.2")
    """Public module-name suffixes that carry an adapter."""

    @property
    def scale(self) -> float:
        """Weight of ``B @ A``."""
        return self.alpha / self.rank


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One complete system: its networks, its rules, and how it runs."""

    name: str
    weights: str = ""
    """Preset whose weights it takes, where the two differ in the size of their pictures alone; its own if empty."""
    dit: DiTConfig
    vae: VAEConfig
    speech: SpeechConfig
    text: TextConfig
    stream: StreamConfig
    lora: LoRAConfig
    max_area: int
    """Output pixels per frame at most; the portrait's aspect ratio decides the shape (spec 8.1)."""
    dtype: DataType
    vae_dtype: DataType

    def __post_init__(self) -> None:
        if self.dit.audio_states != self.speech.states or self.dit.audio_dim != self.speech.hidden_size:
            raise ValueError(f"preset {self.name}: the DiT's audio input does not fit the speech encoder")
        if self.dit.text_dim != self.text.dim:
            raise ValueError(
                f"preset {self.name}: text_dim={self.dit.text_dim} but the text encoder has {self.text.dim}"
            )

    @property
    def weights_name(self) -> str:
        """What its weights are called in their manifests."""
        return self.weights or self.name

    @property
    def frames_per_block(self) -> int:
        """Video frames of one block."""
        return self.stream.latents_per_block * self.vae.temporal_factor

    @property
    def samples_per_block(self) -> int:
        """Audio samples of one block at ``SAMPLE_RATE_HZ``."""
        return self.frames_per_block * SAMPLE_RATE_HZ // self.stream.fps


S2V_14B = Preset(
    name="S2V_14B",
    dit=DiTConfig(
        dim=5120,
        ffn_dim=13824,
        num_heads=40,
        num_layers=40,
        audio_layers=(0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39),
        audio_dim=1024,
        text_dim=4096,
    ),
    vae=VAEConfig(),
    speech=SpeechConfig(hidden_size=1024, num_layers=24, num_heads=16, ffn_dim=4096),
    text=TextConfig(vocab_size=256_384, dim=4096, attention_dim=4096, ffn_dim=10_240, num_heads=64, num_layers=24),
    stream=StreamConfig(),
    lora=LoRAConfig(),
    max_area=720 * 400,
    dtype="bfloat16",
    vae_dtype="bfloat16",
)

_TINY_MEAN = (
    1.0273, 1.1333, -0.0969, -0.472, 0.9391, -0.6944, 0.0349, 0.2356,
    -0.6832, 0.1544, 1.0363, 0.4511, 1.2904, -0.2423, -0.4071, 1.2111,
)  # fmt: skip
_TINY_STD = (
    2.0747, 3.6907, 1.7939, 1.7856, 1.9811, 3.1878, 1.6315, 1.7891,
    1.8741, 1.5394, 1.2232, 4.3402, 2.6724, 2.4594, 1.485, 4.095,
)  # fmt: skip
"""Of the latents of the trained autoencoder (docs/guides/train.md)."""

TINY = Preset(
    name="TINY",
    dit=DiTConfig(
        dim=192,
        ffn_dim=768,
        num_heads=6,
        num_layers=6,
        audio_layers=(0, 1, 2, 3, 4, 5),
        audio_dim=128,
        audio_states=5,
        text_dim=64,
        text_len=64,
    ),
    vae=VAEConfig(dim=8, multipliers=(1, 2, 4, 8), mean=_TINY_MEAN, std=_TINY_STD),
    speech=SpeechConfig(
        hidden_size=128, num_layers=4, num_heads=4, ffn_dim=512, conv_dim=(32, 32, 32, 64, 96, 128, 128)
    ),
    text=TextConfig(
        vocab_size=384, dim=64, attention_dim=64, ffn_dim=128, num_heads=4, num_layers=2, tokenizer="bytes"
    ),
    stream=StreamConfig(left_context_s=2.0, whole_file_grid="exact"),
    lora=LoRAConfig(rank=16, alpha=8.0),
    max_area=64 * 64,
    dtype="float32",
    vae_dtype="float32",
)

TINY_128 = replace(TINY, name="TINY_128", weights=TINY.name, max_area=128 * 128)
"""The same networks with the same weights, in pictures of twice the side."""

PRESETS = {preset.name: preset for preset in (S2V_14B, TINY, TINY_128)}


def preset(name: str) -> Preset:
    """The preset called ``name``, or described by the JSON file ``name`` (one that ``preset_json`` wrote).

    Raises:
        ValueError: no such preset, or no such file, or one that does not describe a preset.
    """
    if name.endswith(".json"):
        return _preset_from_file(Path(name))
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}, or give a .json file")
    return PRESETS[name]


def preset_json(preset: Preset) -> str:
    """``preset`` as JSON: to change a number without changing code."""
    return json.dumps(asdict(preset), indent=1)


def _preset_from_file(path: Path) -> Preset:
    parts = {"dit": DiTConfig, "vae": VAEConfig, "speech": SpeechConfig, "text": TextConfig,
             "stream": StreamConfig, "lora": LoRAConfig}  # fmt: skip
    try:
        described = json.loads(path.read_text())
        networks = {key: config(**_with_tuples(described.pop(key))) for key, config in parts.items()}
        return Preset(**networks, **described)
    except OSError as error:
        raise ValueError(f"preset {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"preset {path}: does not describe a preset: {error!r}") from error


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists alone; the frozen configurations hold tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def dit_config_from_public(public: dict[str, Any], **overrides: Any) -> DiTConfig:
    """Reads the public checkpoint's ``config.json`` (spec 1.1); ``overrides`` win over it.

    Raises:
        ValueError: a setting this implementation does not serve, named with its value.
    """
    served = {"enable_adain": True, "adain_mode": "attn_norm", "zero_timestep": True, "enable_motioner": False,
              "enable_tsm": False, "enable_framepack": True, "framepack_drop_mode": "padd"}  # fmt: skip
    for key, wanted in served.items():
        if public.get(key, wanted) != wanted:
            raise ValueError(f"config.json: {key}={public[key]!r} is not served, only {wanted!r}")
    names = {"num_audio_token": "audio_tokens", "audio_inject_layers": "audio_layers", "in_dim": "latent_channels"}
    same = ("dim", "ffn_dim", "num_heads", "num_layers", "audio_dim", "text_dim", "text_len", "freq_dim", "eps")
    fields: dict[str, Any] = {key: public[key] for key in same if key in public}
    fields |= {ours: public[theirs] for theirs, ours in names.items() if theirs in public}
    if "audio_layers" not in fields and "audio_layers" not in overrides:
        raise ValueError("config.json: audio_inject_layers is missing")
    fields = _with_tuples(fields)
    return DiTConfig(**(fields | overrides))
