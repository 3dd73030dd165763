"""Paints a synthetic person: signed distances of shapes over a grid of pixels, soft at the edge, back to front.

Several frames at once.  Knows nothing of speech, clips or files.

Letters: T frames, H and W pixels.  Lengths are in halves of the picture's side, x to the right, y down, 0 in the
middle; a shape's alpha [T, H, W] or [H, W] is how much of each pixel it covers, 0 to 1.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from live_avatar.trainer.synthetic.identity import Colour, Identity
from live_avatar.trainer.synthetic.motion import Motion

AT_ONCE = 1 << 17
"""Pixels painted together: few enough to stay in the processor's cache."""
NECK = 0.95
"""Height about which the head turns."""
FACE_HEIGHT = -0.03
"""Height of the centre of the face."""
EYE_HALF = (0.175, 0.130)
MOUTH_DARK: Colour = (0.16, 0.02, 0.04)
TEETH: Colour = (0.97, 0.96, 0.93)
TONGUE: Colour = (0.80, 0.33, 0.36)
EYE_WHITE: Colour = (0.97, 0.97, 0.97)
BLACK: Colour = (0.05, 0.04, 0.05)
MOUTH_BOX_HALF = (0.38, 0.30)
"""Width and height of half the mouth box: the lips of the widest and the most open mouth."""
EYE_BOX_HALF = (0.50, 0.22)

Boxes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Grid:
    """Where every pixel's middle lies on the head, which sways and turns."""

    x: Tensor
    """[T, H, W]."""
    y: Tensor
    """[T, H, W]."""
    pixels: float
    """Pixels per unit of length."""

    def part(self, rows: slice, columns: slice) -> "Grid":
        """The same for a part of the picture."""
        return Grid(self.x[:, rows, columns], self.y[:, rows, columns], self.pixels)

    def cover(self, distance: Tensor) -> Tensor:
        """Alpha of the shape to whose edge ``distance`` is the signed distance, negative inside."""
        return (0.5 - distance * self.pixels).clamp_(0, 1)

    def ellipse(self, x: float, y: Tensor | float, half_width: Tensor | float, half_height: Tensor | float) -> Tensor:
        """Alpha of an ellipse about (x, y)."""
        return self.cover(_ellipse_distance(self.x - x, self.y - y, half_width, half_height))


def _ellipse_distance(x: Tensor, y: Tensor, half_width: Tensor | float, half_height: Tensor | float) -> Tensor:
    """About the signed distance to an ellipse: exact at its edge to first order."""
    across, down = x / half_width, y / half_height
    level = _length(across, down)
    slope = _length(across / half_width, down / half_height)
    return level * (level - 1) / slope.clamp_(min=1e-6)


def _length(x: Tensor, y: Tensor) -> Tensor:
    # Not torch.hypot, which guards against overflow and is several times slower.
    return (x * x + y * y).sqrt_()


class Canvas:
    """T pictures under way."""

    def __init__(self, planes: Tensor) -> None:
        self._planes = planes
        """[3, T, H, W] in 0..1."""

    def part(self, rows: slice, columns: slice) -> "Canvas":
        """A part of the pictures; what is painted there is painted on the whole."""
        return Canvas(self._planes[:, :, rows, columns])

    def paint(self, alpha: Tensor, colour: Colour) -> None:
        """Covers the pixels with ``colour`` as far as ``alpha`` says."""
        for plane, level in zip(self._planes, colour, strict=True):
            plane.add_(alpha * (level - plane))

    def frames(self) -> npt.NDArray[np.uint8]:
        """The pictures, uint8 [T, H, W, 3]."""
        levels = (self._planes * 255).round_().to(torch.uint8)
        return levels.permute(1, 2, 3, 0).contiguous().numpy()


def paint(person: Identity, motion: Motion, size: int) -> npt.NDArray[np.uint8]:
    """The frames [T, size, size, 3] of ``person`` moving as ``motion`` says."""
    together = max(1, AT_ONCE // size**2)
    starts = range(0, motion.frames, together)
    return np.concatenate([_paint_some(person, motion.cut(start, together), size) for start in starts])


def _paint_some(person: Identity, motion: Motion, size: int) -> npt.NDArray[np.uint8]:
    canvas = Canvas(torch.zeros(3, motion.frames, size, size))
    body, head = _grid(None, size), _grid(motion, size)
    tracks = {name: torch.from_numpy(track)[:, None, None] for name, track in motion.tracks().items()}
    _paint_background(canvas, body, person)
    _paint_back_of_head(canvas, head, body, person)
    _paint_face(canvas, head, person, tracks)
    for side, columns in ((-1.0, slice(0, size // 2 + size // 8)), (1.0, slice(size // 2 - size // 8, size))):
        window = (slice(size // 8, size * 5 // 8), columns)
        _paint_eye(canvas.part(*window), head.part(*window), person, tracks, side)
    window = (slice(size // 2, size), slice(size // 8, size * 7 // 8))
    _paint_mouth(canvas.part(*window), head.part(*window), person, tracks)
    return canvas.frames()


def _grid(motion: Motion | None, size: int) -> Grid:
    """The pixels in the head's own system, or without a motion in the picture's."""
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    x, y = axis[None, None, :].expand(1, size, size), axis[None, :, None].expand(1, size, size)
    if motion is not None:
        shift_x, shift_y, turn = (
            torch.from_numpy(track)[:, None, None] for track in (motion.sway_x, motion.sway_y, motion.turn)
        )
        x, y = x - shift_x, y - shift_y - NECK
        x, y = x * torch.cos(turn) + y * torch.sin(turn), y * torch.cos(turn) - x * torch.sin(turn) + NECK
    return Grid(x, y - FACE_HEIGHT, size / 2)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(1.0, level * factor) for level in colour)
    return red, green, blue


def _paint_background(canvas: Canvas, body: Grid, person: Identity) -> None:
    canvas.paint(torch.ones_like(body.x), person.background)
    canvas.paint((body.y + 1) / 2, _shade(person.background, 0.75))


def _paint_back_of_head(canvas: Canvas, head: Grid, body: Grid, person: Identity) -> None:
    if person.hair_length:
        middle = (person.hair_length - 0.60) / 2
        height = (person.hair_length + 0.95) / 2
        canvas.paint(head.ellipse(0, middle, person.face_width + 0.20, height + 0.1), _shade(person.hair, 0.8))
    canvas.paint(head.ellipse(0, 0.72, 0.26, 0.45), _shade(person.skin, 0.82))
    canvas.paint(body.ellipse(0, 1.30, 0.95, 0.46), person.shirt)
    for side in (-1, 1):
        canvas.paint(head.ellipse(side * person.face_width, 0.0, 0.10, 0.16), _shade(person.skin, 0.9))


def _paint_face(canvas: Canvas, head: Grid, person: Identity, tracks: dict[str, Tensor]) -> None:
    jaw = person.face_height * person.jaw + 0.06 * tracks["openness"]
    height = torch.where(head.y > 0, jaw, torch.tensor(person.face_height))
    canvas.paint(head.ellipse(0, 0.0, person.face_width, height), person.skin)
    cheeks = 0.18 + 0.25 * tracks["smile"]
    for side in (-1, 1):
        canvas.paint(head.ellipse(side * 0.36, 0.19, 0.13, 0.09) * cheeks, (0.93, 0.40, 0.36))
    top = head.ellipse(0, -0.10, person.face_width + 0.07, person.face_height + 0.04)
    hairline = head.y + person.fringe - person.part * head.x - 0.30 * head.x**2
    canvas.paint(top * head.cover(hairline), person.hair)
    canvas.paint(head.ellipse(0, 0.13, 0.075 * person.nose_size, 0.085), _shade(person.skin, 0.78))
    canvas.paint(head.ellipse(-0.015, 0.10, 0.040 * person.nose_size, 0.075), _shade(person.skin, 1.06))


def _paint_eye(canvas: Canvas, head: Grid, person: Identity, tracks: dict[str, Tensor], side: float) -> None:
    half_width, half_height = (half * person.eye_size for half in EYE_HALF)
    x, y = side * person.eye_distance, -person.eye_height
    eye = head.ellipse(x, y, half_width, half_height)
    canvas.paint(head.ellipse(x, y, half_width + 0.03, half_height + 0.03), _shade(person.skin, 0.80))
    lid = y - half_height + 2 * half_height * tracks["lid"]
    open_part = eye * head.cover(lid - head.y)
    canvas.paint(open_part, EYE_WHITE)
    gaze = 0.035 * tracks["gaze"]
    for radius, colour in ((0.105, person.iris), (0.056, BLACK)):
        disc = head.cover(_length(head.x - x - gaze, head.y - y) - radius * person.eye_size)
        canvas.paint(torch.minimum(disc, open_part), colour)
    lash = torch.minimum(lid, torch.tensor(y + 0.5 * half_height))
    edge = head.ellipse(x, y, half_width + 0.015, half_height + 0.015) * head.cover((head.y - lash).abs() - 0.022)
    canvas.paint(edge, BLACK)
    brow = y - person.brow_height - 0.05 * tracks["brow"] + 0.35 * (head.x - x) ** 2 / half_width * 0.5
    canvas.paint(head.ellipse(x, brow, half_width + 0.01, person.brow_thickness), _shade(person.hair, 0.7))


def _paint_mouth(canvas: Canvas, head: Grid, person: Identity, tracks: dict[str, Tensor]) -> None:
    half_width = person.mouth_width * (1 + 0.28 * tracks["width"] - 0.42 * tracks["roundness"] + 0.12 * tracks["smile"])
    half_height = 0.012 + 0.19 * tracks["openness"]
    # A smile lifts the corners: the mouth's own height axis bends.
    y = head.y - person.mouth_height - 0.10 * tracks["openness"] + 0.09 * tracks["smile"] * (head.x / half_width) ** 2
    lips = 0.048 + 0.022 * tracks["roundness"]
    canvas.paint(head.cover(_ellipse_distance(head.x, y, half_width + 0.045, half_height + lips)), person.lips)
    hole = head.cover(_ellipse_distance(head.x, y, half_width, half_height))
    canvas.paint(hole, MOUTH_DARK)
    tongue = head.cover(_ellipse_distance(head.x, y - half_height * 0.75, half_width * 0.62, half_height * 0.55))
    canvas.paint(torch.minimum(hole, tongue), TONGUE)
    row = head.cover(y + half_height - 0.075 - 0.03 * tracks["teeth"])
    canvas.paint(torch.minimum(hole, row) * (2.5 * tracks["teeth"]).clamp(0, 1), TEETH)


def mouth_boxes(person: Identity, motion: Motion, size: int) -> Boxes:
    """Top, left, bottom and right pixel of the mouth in each frame, int32 [T, 4]; all boxes are of one size."""
    drop = person.mouth_height + 0.10 * motion.openness
    return _boxes(motion, drop, MOUTH_BOX_HALF, size)


def eye_boxes(person: Identity, motion: Motion, size: int) -> Boxes:
    """The same of both eyes together."""
    return _boxes(motion, np.full(motion.frames, -person.eye_height, np.float32), EYE_BOX_HALF, size)


def _boxes(motion: Motion, height: npt.NDArray[np.float32], half: tuple[float, float], size: int) -> Boxes:
    """Boxes about the point at (0, ``height``) of the head, shifted into the picture where they would leave it."""
    below = height + FACE_HEIGHT - NECK
    x = motion.sway_x - below * np.sin(motion.turn)
    y = motion.sway_y + below * np.cos(motion.turn) + NECK
    width, tall = (round(2 * side * size / 2) for side in half)
    left = np.clip(np.round((x + 1) * size / 2 - width / 2), 0, size - width)
    top = np.clip(np.round((y + 1) * size / 2 - tall / 2), 0, size - tall)
    return np.stack([top, left, top + tall, left + width], axis=1).astype(np.int32)
