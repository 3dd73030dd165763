"""Sets of clips that are made instead of recorded, by name, as ``prepare`` takes them."""

from dataclasses import dataclass

import numpy as np

from live_avatar.config import Preset
from live_avatar.trainer.clip import Clip
from live_avatar.trainer.marks import Marks
from live_avatar.trainer.presets import PrepareConfig
from live_avatar.trainer.puppet.clips import PuppetClip, puppet_clip, reference


@dataclass(frozen=True)
class Puppets:
    """The training split of the puppet set, of ``min_blocks`` to ``blocks`` blocks each."""

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
        return f"puppet {self.first + index}"

    def read(self, index: int) -> Clip:
        """See ``prepare.Source``."""
        number = self.first + index
        blocks = int(np.random.default_rng(number).integers(*self.blocks, endpoint=True))
        return puppet_clip(number, frames=blocks * self.frames_per_block, size=self.size, split="train")

    def marks(self, clip: Clip) -> Marks:
        """The mouth wherever it goes; portraits are by turns one at rest and a frame of the clip."""
        assert isinstance(clip, PuppetClip)
        top, left = clip.mouth_boxes[:, :2].min(axis=0)
        bottom, right = clip.mouth_boxes[:, 2:].max(axis=0)
        portrait = reference(clip) if clip.identity % 2 else None
        return Marks(portrait=portrait, important=(int(top), int(left), int(bottom), int(right)))


def made_source(config: PrepareConfig, preset: Preset, size: tuple[int, int]) -> Puppets:
    """The set that ``config.source`` names, in pictures of ``size``.

    Raises:
        ValueError: no such set, or pictures that are not square.
    """
    if config.source != "puppet":
        raise ValueError(f"source={config.source!r}: there is puppet")
    if size[0] != size[1]:
        raise ValueError(f"size={config.size}: puppets are square")
    blocks = (config.min_blocks, config.blocks)
    return Puppets(config.first_clip, config.clips, size[0], preset.frames_per_block, blocks)
