"""What the portraits of a training are like, measured once and kept beside the weights.

The clips are those that ``prepare`` takes; of each, the portrait that training would show is measured in the
autoencoder that serves.  Some clips are held out: they set the limit of what still counts as their kind.
"""

import logging
from dataclasses import dataclass, field
from typing import cast
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from live_avatar.config import preset as preset_named
from live_avatar.model import checkpoint, components, novelty
from live_avatar.model.device import open_device
from live_avatar.model.novelty import TrainingPortraits, Traits
from live_avatar.model.vae import VAE
from live_avatar.model.weight_files import Manifest
from live_avatar.trainer.annotations import ClipError
from live_avatar.trainer.clip import Clip
from live_avatar.trainer.prepare import Source, open_source
from live_avatar.trainer.presets import PortraitsConfig, PrepareConfig

log = logging.getLogger(__name__)

_BLOCKS = 2
"""Of a clip that is made; its portrait may be any frame of it."""
_LOG_EVERY = 500


@dataclass
class Report:
    """What came of a call."""

    portraits: TrainingPortraits
    manifest: Manifest
    measured: int
    skipped: int


@dataclass
class _Measured:
    """Traits of the portraits so far."""

    known: list[Traits] = field(default_factory=list)
    held_out: list[Traits] = field(default_factory=list)
    skipped: int = 0


def measure_portraits(config: PortraitsConfig) -> Report:
    """Adds the file set ``portraits`` to ``config.weights``.

    Raises:
        ValueError: no clips, or too few of them can be used.
        WeightsError: no autoencoder is there, or such a file set is there already.
    """
    preset, device = preset_named(config.preset), open_device(config.device, torch.get_num_threads())
    autoencoder = components.open_converted(preset, "vae", config.weights).manifest
    assert autoencoder is not None
    vae = cast(VAE, components.load(preset, "vae", config.weights, dtype=torch.float32, device=device))
    measured = _Measured()
    for size in config.sizes:
        _measure(open_source(_clips(config, size), preset), vae, config.held_out, measured)
    portraits = novelty.describe(measured.known, measured.held_out, config.trained_on)
    manifest = checkpoint.write_weights(
        config.weights / components.PORTRAITS,
        portraits.tensors().items(),
        preset=preset.weights_name,
        component=components.PORTRAITS,
        config={components.VAE_DIGEST: autoencoder.digest, components.TRAINED_ON: config.trained_on},
    )
    return Report(portraits, manifest, len(measured.known) + len(measured.held_out), measured.skipped)


def _clips(config: PortraitsConfig, size: str) -> PrepareConfig:
    return PrepareConfig(
        preset=config.preset,
        input=config.input,
        source=config.source,
        clips=config.clips,
        first_clip=config.first_clip,
        size=size,
        blocks=_BLOCKS,
        min_blocks=_BLOCKS,
    )


def portrait_of(source: Source, clip: Clip) -> npt.NDArray[np.uint8]:
    """The portrait [H, W, 3] that training would show of ``clip``: its own, else one of its frames."""
    portrait = source.annotations(clip).portrait
    return clip.frames[crc32(clip.name.encode()) % len(clip.frames)] if portrait is None else portrait


def as_input(portrait: npt.NDArray[np.uint8]) -> Tensor:
    """A portrait [H, W, 3] as the autoencoder takes it: [3, H, W] in [-1, 1]."""
    return rearrange(torch.from_numpy(portrait), "h w c -> c h w").float() / 127.5 - 1


def _measure(source: Source, vae: VAE, held_out: int, measured: _Measured) -> None:
    for index in range(len(source)):
        try:
            portrait = portrait_of(source, source.read(index))
        except ClipError as error:
            measured.skipped += 1
            log.warning("%s skipped: %s", source.name(index), error)
            continue
        into = measured.held_out if index % held_out == held_out - 1 else measured.known
        into.append(novelty.traits_of(vae, as_input(portrait)))
        if (index + 1) % _LOG_EVERY == 0:
            log.info("%d of %d clips", index + 1, len(source))
