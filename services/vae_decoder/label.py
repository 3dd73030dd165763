"""Draws a visible label into the first frames of a session, and again after breaks, before they are marked and encoded.

Knows pictures and text; nothing of messages or encoders.
"""

from functools import lru_cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from live_avatar.services.vae_decoder.settings import LabelSettings

_FONT_SHARE, _MIN_FONT = 1 / 14, 6
"""Height of the letters, of the shorter side; in pixels, below which nobody reads them."""
_MOST_WIDTH, _MARGIN_SHARE, _PADDING = 0.9, 1 / 40, 0.35
_OPACITY = 0.6
"""Of the plate behind the letters."""


class SessionLabel:
    """The label of one session.

    Args:
        settings: of the deployment; the text is not empty.
        fps: frames per second.
        first_frame: with which this decoder begins; the label is shown from there on.
    """

    def __init__(self, settings: LabelSettings, fps: int, first_frame: int) -> None:
        self._settings = settings
        self._frames = round(settings.seconds * fps)
        self._break_frames = round(settings.break_seconds * fps)
        self._until = first_frame + self._frames
        self._idle_since: int | None = None

    def note_block(self, first_frame: int, *, idle: bool) -> None:
        """A block begins with ``first_frame``; speech after a long pause shows the label again."""
        if idle:
            self._idle_since = first_frame if self._idle_since is None else self._idle_since
            return
        if self._idle_since is not None and first_frame - self._idle_since >= self._break_frames:
            self._until = first_frame + self._frames
        self._idle_since = None

    def draw(self, pixels: Tensor, first_frame: int) -> Tensor:
        """Frames ``pixels`` [T, H, W, 3] uint8 from number ``first_frame`` on, with the label where it is due."""
        count = min(len(pixels), self._until - first_frame)
        if count <= 0:
            return pixels
        height, width = pixels.shape[1:3]
        plate, opacity, (top, left) = _plate(self._settings.text, self._settings.corner, width, height)
        plate, opacity = plate.to(pixels.device), opacity.to(pixels.device)
        drawn = pixels.clone()
        part = drawn[:count, top : top + plate.shape[0], left : left + plate.shape[1]]
        part.copy_((part * (1 - opacity) + plate * opacity).round().to(torch.uint8))
        return drawn


@lru_cache(maxsize=32)
def _plate(text: str, corner: str, width: int, height: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Colours [h, w, 3] and opacity [h, w, 1] of the label, and where its upper left corner lies."""
    size = max(_MIN_FONT, round(min(width, height) * _FONT_SHARE))
    while size > _MIN_FONT and _text_size(text, size)[0] > _MOST_WIDTH * width:
        size -= 1
    wide, high = _text_size(text, size)
    padding, margin = round(size * _PADDING), round(min(width, height) * _MARGIN_SHARE)
    box = (min(wide + 2 * padding, width - 2 * margin), min(high + 2 * padding, height - 2 * margin))
    image = Image.new("L", box, 0)
    ImageDraw.Draw(image).text((padding, padding), text, 255, ImageFont.load_default(size), anchor="lt")
    letters = torch.tensor(list(image.tobytes()), dtype=torch.float32).reshape(box[1], box[0], 1) / 255
    top = margin if corner.startswith("top") else height - margin - box[1]
    left = margin if corner.endswith("left") else width - margin - box[0]
    return letters.expand(-1, -1, 3) * 255, _OPACITY + (1 - _OPACITY) * letters, (top, left)


def _text_size(text: str, size: int) -> tuple[int, int]:
    left, top, right, bottom = ImageFont.load_default(size).getbbox(text, anchor="lt")
    return round(right - left), round(bottom - top)
