"""What a training of the small autoencoder is made of: its stages, its weights, and the runs that have a name."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from live_avatar.config import DataType
from live_avatar.trainer.overrides import override, pairs_of

LONGEST_RAMP = 20
"""Steps over which the learning rate rises at the start of a stage."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training with clips of one length."""

    frames: int
    batch: int
    """Clips of a step; of larger pictures than the run's first size fewer, so that they have as many pixels."""
    steps: int
    learning_rate: float
    final_rate: float
    """Share of the learning rate left at the last step; it falls by a cosine."""

    def rate(self, step: int) -> float:
        """The learning rate of ``step`` of this stage."""
        fall = (1 + math.cos(math.pi * step / self.steps)) / 2
        ramp = min(1.0, (step + 1) / LONGEST_RAMP)
        return self.learning_rate * ramp * (self.final_rate + (1 - self.final_rate) * fall)

    def clips(self, size: int, first: int) -> int:
        """Of a step in pictures of ``size``, where the run's first size is ``first``."""
        return max(1, round(self.batch * (first / size) ** 2))


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """One run."""

    preset: str = "TINY"
    output: Path = Path("out/autoencoder")
    weights: Path | None = None
    """Folder of weights of the preset to start from; None: start from nothing."""
    device: str = "cpu"
    decoder_alone: bool = False
    """The encoder stays as it is, and with it all that was trained on its latents."""
    speaking: bool = False
    """Videos of people whose mouths say something; else their mouths move at random."""
    precision: DataType = "float32"
    """Of the convolutions; the loss is float32."""
    seed: int = 0
    sizes: tuple[int, ...] = (64,)
    """Sides of the pictures; steps take them in turn."""
    stages: tuple[Stage, ...] = (
        Stage(frames=1, batch=8, steps=1300, learning_rate=2e-3, final_rate=0.25),
        Stage(frames=5, batch=4, steps=200, learning_rate=6e-4, final_rate=0.9),
        Stage(frames=5, batch=4, steps=300, learning_rate=1e-3, final_rate=0.6),
        Stage(frames=9, batch=2, steps=240, learning_rate=6e-4, final_rate=0.04),
        Stage(frames=9, batch=2, steps=200, learning_rate=6e-4, final_rate=0.03),
    )
    people: int = 400
    poses: int = 12
    """Of each of the people, for the stage of single pictures."""
    clips: int = 200
    """For the stages of videos."""
    clip_frames: int = 50
    mouth_weight: float = 5.0
    """Of a pixel in the box of the mouth against another."""
    eye_weight: float = 3.0
    gradient_weight: float = 0.5
    change_weight: float = 0.5
    """Of the difference between neighbouring frames."""
    square_weight: float = 2.0
    divergence_weight: float = 1e-5
    clip_norm: float = 1.0
    ema: float = 0.99
    save_every: int = 100
    log_every: int = 20
    evaluate_every: int = 100

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def size(self, step: int) -> int:
        """Side of the pictures of ``step``."""
        return self.sizes[step % len(self.sizes)]


def further() -> AutoencoderConfig:
    """What a GPU adds in three minutes to weights from a CPU: many videos at once, long enough for four latents."""
    return AutoencoderConfig(
        device="cuda",
        seed=1,
        stages=(Stage(frames=13, batch=48, steps=565, learning_rate=1.6e-3, final_rate=0.02),),
        clips=2500,
        mouth_weight=6.0,
    )


def larger() -> AutoencoderConfig:
    """What a GPU adds in four minutes, so that the same weights serve pictures of 64 and of 128 pixels."""
    return AutoencoderConfig(
        device="cuda",
        precision="bfloat16",
        speaking=True,
        seed=11,
        sizes=(64, 128),
        stages=(Stage(frames=13, batch=48, steps=811, learning_rate=1.5e-3, final_rate=0.02),),
        clips=1400,
        clip_frames=37,
        mouth_weight=8.0,
    )


def decoder() -> AutoencoderConfig:
    """What the decoder alone can still learn on a CPU: mouths as fast as speech, seen from near."""
    return AutoencoderConfig(
        decoder_alone=True,
        speaking=True,
        seed=3,
        stages=(Stage(frames=13, batch=2, steps=900, learning_rate=6e-4, final_rate=0.02),),
        clips=240,
        clip_frames=73,
        mouth_weight=10.0,
    )


CONFIGS: Mapping[str, Callable[[], AutoencoderConfig]] = {
    "start": AutoencoderConfig,
    "further": further,
    "decoder": decoder,
    "larger": larger,
}


def config_of(arguments: Sequence[str]) -> AutoencoderConfig:
    """One of ``CONFIGS``, by its name or the first, with what ``--key value`` says.

    Raises:
        ValueError: an unknown name or key.
    """
    named = bool(arguments) and not arguments[0].startswith("--")
    name = arguments[0] if named else next(iter(CONFIGS))
    if name not in CONFIGS:
        raise ValueError(f"there is no {name!r}; there are {', '.join(CONFIGS)}")
    return override(CONFIGS[name](), pairs_of(list(arguments[named:])))
