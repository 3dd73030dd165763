"""Source of synthetic clips for ``prepare``, rendered instead of recorded."""

from dataclasses import dataclass

import numpy as np

from live_avatar.config import Preset
from live_avatar.trainer.annotations import ClipAnnotations
from live_avatar.trainer.clip import Clip
from live_avatar.trainer.presets import PrepareConfig
from live_avatar.trainer.synthetic.clips import SyntheticClip, reference, synthetic_clip

NAMES = ("synthetic", "puppet")
"""Names that ``--source`` accepts for the set; the second is an older one."""


@dataclass(frozen=True)
class SyntheticSource:
    """The training split of the synthetic set, of ``min_blocks`` to ``blocks`` blocks each."""

    first: int
    count: int
    size: int
    frames_per_block: int
    blocks: tuple[int, int]
    """Fewest and most of a clip, inclusive."""

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """See ``prepare.Source``."""
        return f"synthetic {self.first + index}"

    def read(self, index: int) -> Clip:
        """See ``prepare.Source``."""
        number = self.first + index
        blocks = int(np.random.default_rng(number).integers(*self.blocks, endpoint=True))
        return synthetic_clip(number, frames=blocks * self.frames_per_block, size=self.size, split="train")

    def annotations(self, clip: Clip) -> ClipAnnotations:
        """Box of every position of the mouth; portraits alternate between one at rest and a frame of the clip."""
        assert isinstance(clip, SyntheticClip)
        top, left = clip.mouth_boxes[:, :2].min(axis=0)
        bottom, right = clip.mouth_boxes[:, 2:].max(axis=0)
        portrait = reference(clip) if clip.identity % 2 else None
        return ClipAnnotations(portrait=portrait, important=(int(top), int(left), int(bottom), int(right)))


def made_source(config: PrepareConfig, preset: Preset, size: tuple[int, int]) -> SyntheticSource:
    """The set that ``config.source`` names, in pictures of ``size``.

    Raises:
        ValueError: no such set, or pictures that are not square.
    """
    if config.source not in NAMES:
        raise ValueError(f"source={config.source!r}: the only one is {NAMES[0]}")
    if size[0] != size[1]:
        raise ValueError(f"size={config.size}: synthetic clips are square")
    blocks = (config.min_blocks, config.blocks)
    return SyntheticSource(config.first_clip, config.clips, size[0], preset.frames_per_block, blocks)
