"""Training runs as data: frozen configurations, and functions that return one per run.

The numbers of the large runs are those of the paper, or of its published relatives where the paper is silent (spec
10.2, 10.3).  A variant calls the function it varies and changes what differs.  Nothing here imports torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from live_avatar import config


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What every training run has."""

    preset: str
    """System to train: a name or a .json file, as ``live_avatar.config.preset`` takes it."""
    data: Path = Path("data")
    """Folder that ``prepare`` wrote, or a folder of such folders, one for every size of picture."""
    output: Path = Path("out/training")
    """Checkpoints, metrics and TensorBoard events."""
    weights: Path | None = None
    """Folder of converted weights to start from; None: start from nothing."""
    adapter: Path | None = None
    """Folder of an exported adapter to start from; only where an adapter is trained."""
    seed: int = 0

    steps: int
    batch: int
    """Clips per step over all processes."""
    blocks: int
    """Blocks of a clip."""
    learning_rate: float
    warmup_steps: int = 0
    final_rate: float = 1.0
    """Share of the learning rate left at the last step; it falls by a cosine."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip_norm: float = 10.0
    ema: float = 0.99
    """Decay of the average of the weights."""
    ema_from: int = 200
    """First step that enters the average."""
    train_adapter: bool = True
    """Train a low-rank adapter on frozen weights; False: train every weight."""
    precision: config.DataType = "bfloat16"
    """Of the matrix products; sums, norms and optimizer states are float32."""
    gradient_checkpointing: bool = True

    save_every: int = 500
    log_every: int = 10
    keep: int = 2
    """Checkpoints kept."""
    device: str = "cuda"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "blocks", "save_every", "log_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.adapter is not None and not self.train_adapter:
            raise ValueError(f"adapter={self.adapter}: a run with train_adapter=False trains no adapter")

    @property
    def system(self) -> config.Preset:
        """The system to train."""
        return config.preset(self.preset)


@dataclass(frozen=True, kw_only=True)
class FlowMatchingConfig(TrainingConfig):
    """Flow matching on real clips: bidirectional (``base``) or block-causal (``diffusion_forcing``)."""

    causal_share: float
    """Share of steps under the block-causal mask; the others see the whole clip at one noise level."""
    levels: Literal["shifted_uniform", "logit_normal"] = "shifted_uniform"
    level_shift: float = 5.0
    """Time shift of ``shifted_uniform`` (spec 10.2)."""
    level_mean: float = 0.4
    """Of ``logit_normal``."""
    level_spread: float = 1.2
    inference_levels: float = 0.0
    """Share of blocks at one of the noise levels that serving uses."""
    shared_level: float = 0.0
    """Share of causal steps whose blocks all have one level, as in serving; the others draw one per block."""
    drop_audio: float = 0.15
    drop_text: float = 0.1
    own_reference: float = 0.5
    """Share of clips whose reference is their own first latent, as after the change of the sink."""
    at_start: float = 0.3
    """Share of steps at the start of a session; the others lie up to ``furthest_frame`` later."""
    furthest_frame: int = 1500
    """Latents; 1500 are four minutes (spec 10.2)."""
    emphasis: float = 1.0
    """Weight of what a data set marks as important, such as mouths, over the rest."""


@dataclass(frozen=True, kw_only=True)
class SelfForcingConfig(TrainingConfig):
    """Distribution matching on the student's own roll-outs (spec 10.3)."""

    fake_learning_rate: float
    generator_every: int = 5
    """The student moves every so many steps, the fake score in every one."""
    guidance: float = 3.0
    """The teacher's ``cond + guidance * (cond - uncond)``."""
    score_shift: float = 5.0
    score_range: tuple[float, float] = (0.02, 0.98)
    """Noise levels at which scores are compared."""
    clean_history: bool = False
    """Baseline without History Corrupt: each block is passed through the network again, clean, to be remembered."""
    fake_warmup: int = 0
    """Steps in which the fake score alone learns, before the student moves."""


def base() -> FlowMatchingConfig:
    """The bidirectional base model, every weight (what Wan-S2V is to the paper)."""
    return FlowMatchingConfig(
        preset="S2V_14B", steps=100_000, batch=128, blocks=7, learning_rate=1e-5, warmup_steps=500,
        train_adapter=False, causal_share=0.0, own_reference=0.0, at_start=1.0, clip_norm=1.0,
    )  # fmt: skip


def diffusion_forcing() -> FlowMatchingConfig:
    """Stage 1 of the paper: noise per block, block-causal mask, local window, adapter 128/64."""
    return FlowMatchingConfig(
        preset="S2V_14B", steps=25_000, batch=128, blocks=7, learning_rate=5e-5, warmup_steps=500, causal_share=1.0
    )  # fmt: skip


def self_forcing() -> SelfForcingConfig:
    """Stage 2 of the paper: DMD on the student's own roll-outs, with History Corrupt."""
    return SelfForcingConfig(
        preset="S2V_14B", steps=12_500, batch=64, blocks=7, learning_rate=1e-5, fake_learning_rate=2e-6,
        betas=(0.0, 0.999),
    )  # fmt: skip


def tiny() -> FlowMatchingConfig:
    """Every weight of TINY from nothing, on one CPU thread: causal, with a share of bidirectional steps.

    The bidirectional share makes the same weights a teacher for ``tiny_self_forcing``.
    """
    return replace(
        diffusion_forcing(), preset="TINY", steps=1500, batch=16, blocks=5, learning_rate=1.5e-3, warmup_steps=50,
        final_rate=0.05, betas=(0.9, 0.98), clip_norm=1.0, ema=0.995, ema_from=100, train_adapter=False,
        precision="float32", gradient_checkpointing=False, device="cpu", causal_share=0.85, levels="logit_normal",
        inference_levels=0.3, shared_level=0.5, emphasis=3.0, drop_audio=0.1, save_every=100,
    )  # fmt: skip


def tiny_self_forcing() -> SelfForcingConfig:
    """The adapter of TINY, on what ``tiny`` trained."""
    return replace(
        self_forcing(), preset="TINY", steps=160, batch=4, blocks=5, learning_rate=3e-4, fake_learning_rate=3e-4,
        betas=(0.0, 0.99), clip_norm=1.0, ema=0.95, ema_from=20, precision="float32", gradient_checkpointing=False,
        device="cpu", guidance=0.5, score_shift=1.0, generator_every=3, fake_warmup=20, final_rate=0.1, save_every=40,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Clips to shards of precomputed samples."""

    preset: str = "S2V_14B"
    input: Path | None = None
    """Folder of videos with sound; their prompts lie beside them as .txt."""
    source: str = ""
    """Instead of ``input``: a set of clips that is made, by name."""
    clips: int = 1000
    """How many clips ``source`` makes."""
    first_clip: int = 0
    output: Path = Path("data")
    weights: Path = Path("weights")
    """Folder of converted weights with autoencoder, speech and text encoder."""
    size: str = ""
    """WIDTHxHEIGHT of the pictures; the preset's largest if empty."""
    prompt: str = ""
    """Of videos that have none beside them."""
    negative_prompt: str = ""
    """What a dropped prompt is replaced by."""
    index: int | None = None
    """Of this worker, from 0; None: JOB_COMPLETION_INDEX of the environment, or 0."""
    count: int = 1
    """Workers that share the work."""
    clips_per_shard: int = 64
    blocks: int = 20
    """Blocks of a sample; a longer video yields several."""
    min_blocks: int = 5
    """Shorter clips are skipped."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class PortraitsConfig:
    """What the training portraits are like, measured with the autoencoder that serves."""

    preset: str = "TINY"
    input: Path | None = None
    """Folder of videos, as for ``prepare``."""
    source: str = ""
    """Instead of ``input``: a set of clips that is made, by name."""
    clips: int = 900
    """How many clips ``source`` makes."""
    first_clip: int = 1_000_000
    """Of ``source``: people whom no training run has seen, so that the limit is that of new faces."""
    sizes: tuple[str, ...] = ("64x64",)
    """WIDTHxHEIGHT of the pictures; every clip is measured in each."""
    held_out: int = 3
    """One clip of so many sets the limit; the others say what portraits are like."""
    trained_on: str = ""
    """What the portraits are, in words for the warning about others."""
    weights: Path = Path("weights")
    """Folder of converted weights with the autoencoder; the result is added to it."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.held_out < 2 or not self.sizes:
            raise ValueError(f"held_out={self.held_out} must be at least 2, and sizes={self.sizes} must name one")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A checkpoint to weights that serve."""

    checkpoint: Path = Path("out/training")
    """Folder of a training run, or one checkpoint in it."""
    output: Path = Path("weights")
    """Folder of converted weights to add to."""
    average: bool = True
    """The average of the weights instead of the last ones."""
    dtype: Literal["", "float32", "bfloat16"] = ""
    """What the numbers are stored as; as they were trained if empty."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """A frozen text encoder with random weights, for a small preset."""

    preset: str = "TINY"
    output: Path = Path("weights")
    """Folder of converted weights to add to."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """How much memory the large runs take on each GPU, by calculation."""

    preset: str = "S2V_14B"
    gpus: int = 8
    gpu_gb: int = 80
    size: str = ""
    """WIDTHxHEIGHT; the preset's largest if empty."""
    blocks: int = 7


PHASES: dict[str, Callable[[], TrainingConfig]] = {
    preset.__name__: preset for preset in (base, diffusion_forcing, self_forcing, tiny, tiny_self_forcing)
}
