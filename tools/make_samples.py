"""Makes the portrait and the speech that live_avatar/samples holds.

The portrait is drawn, the speech is spoken by espeak-ng; both come out the same every time.  Run by hand from the root:
``.venv/bin/python tools/make_samples.py``.  Knows nothing of the model.
"""

import io
import subprocess
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr
from PIL import Image, ImageDraw, ImageFilter

from live_avatar.config import SAMPLE_RATE_HZ

SAMPLES = Path(__file__).parent.parent / "live_avatar" / "samples"
SIDE = 512
SUPERSAMPLING = 4
SENTENCE = "Hello! I am a drawing that has learned to speak. Say something, and watch my face."
VOICE = ("-v", "en-us+f3", "-s", "150", "-p", "55", "-g", "2")
PEAK = 0.8

Box = tuple[float, float, float, float]
Color = tuple[int, int, int]
Points = list[tuple[float, float]]

WALL, GLOW = (96, 158, 178), (186, 220, 222)
SKIN, SHADE, BLUSH = (241, 194, 160), (219, 160, 126), (236, 156, 134)
HAIR, HAIR_LIGHT = (74, 44, 34), (112, 70, 50)
SWEATER, SWEATER_DARK = (206, 84, 68), (168, 60, 52)
WHITE, IRIS, IRIS_DARK, PUPIL = (250, 250, 248), (70, 128, 92), (38, 82, 60), (18, 20, 22)
LIP_UPPER, LIP_LOWER, LIP_LINE = (184, 74, 76), (208, 98, 96), (112, 36, 42)


class Canvas:
    """A picture drawn in the coordinates of its final size."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.draw = ImageDraw.Draw(image)

    def ellipse(self, box: Box, fill: Color) -> None:
        """A filled ellipse in ``box`` (left, top, right, bottom)."""
        self.draw.ellipse(_scaled(box), fill=fill)

    def polygon(self, points: Points, fill: Color) -> None:
        """A filled outline."""
        self.draw.polygon([(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points], fill=fill)

    def arc(self, box: Box, start: float, end: float, fill: Color, width: float) -> None:
        """A stroke along an ellipse, angles in degrees clockwise from the right, with round ends."""
        self.draw.arc(_scaled(box), start, end, fill=fill, width=round(width * SUPERSAMPLING))
        left, top, right, bottom = box
        for angle in (start, end):
            x = (left + right) / 2 + ((right - left - width) / 2) * np.cos(np.radians(angle))
            y = (top + bottom) / 2 + ((bottom - top - width) / 2) * np.sin(np.radians(angle))
            self.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill)


def draw_portrait() -> Image.Image:
    """A friendly face, looking at the viewer with its mouth closed; ``SIDE`` pixels square."""
    canvas = Canvas(_wall())
    _draw_hair_behind(canvas)
    _draw_body(canvas)
    _draw_head(canvas)
    for side in (-1, 1):
        _draw_eye(canvas, 256 + side * 54)
    _draw_nose(canvas)
    _draw_mouth(canvas)
    _draw_fringe(canvas)
    return canvas.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def speak() -> bytes:
    """``SENTENCE`` as a WAV file of 16-bit samples at the model's rate."""
    spoken = subprocess.run(["espeak-ng", *VOICE, "--stdout", SENTENCE], capture_output=True, check=True).stdout
    rate_hz = int.from_bytes(spoken[24:28], "little")
    samples = np.frombuffer(spoken[44:], "<i2").astype(np.float32)
    samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)
    loud = samples * (PEAK * 32_767 / np.abs(samples).max())
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, SAMPLE_RATE_HZ, loud.size, "NONE", ""))
        writer.writeframes(np.round(loud).astype("<i2").tobytes())
    return file.getvalue()


def main() -> None:
    """Writes both files."""
    SAMPLES.mkdir(exist_ok=True)
    draw_portrait().save(SAMPLES / "portrait.png", optimize=True)
    (SAMPLES / "speech.wav").write_bytes(speak())


def _scaled(box: Box) -> Box:
    left, top, right, bottom = (edge * SUPERSAMPLING for edge in box)
    return left, top, right, bottom


def _wall() -> Image.Image:
    """A plain wall with light from the upper left."""
    side = SIDE * SUPERSAMPLING
    rows, columns = np.mgrid[0:side, 0:side] / side
    light = np.exp(-3 * ((columns - 0.3) ** 2 + (rows - 0.25) ** 2))[..., None]
    return Image.fromarray(np.round(np.array(WALL) * (1 - light) + np.array(GLOW) * light).astype(np.uint8))


def _draw_hair_behind(canvas: Canvas) -> None:
    canvas.ellipse((112, 62, 400, 370), HAIR)
    canvas.polygon(
        [(112, 216), (106, 372), (116, 410), (144, 428), (368, 428), (396, 410), (406, 372), (400, 216)], HAIR
    )


def _draw_body(canvas: Canvas) -> None:
    canvas.ellipse((58, 412, 454, 700), SWEATER)
    canvas.polygon([(214, 350), (298, 350), (306, 450), (206, 450)], SHADE)
    canvas.ellipse((190, 408, 322, 470), SWEATER_DARK)
    canvas.ellipse((202, 398, 310, 456), SKIN)
    canvas.polygon([(216, 366), (296, 366), (302, 428), (210, 428)], SHADE)


def _draw_head(canvas: Canvas) -> None:
    for side in (-1, 1):
        canvas.ellipse((256 + side * 124 - 18, 226, 256 + side * 124 + 18, 290), SHADE)
    canvas.ellipse((132, 88, 380, 400), SKIN)
    for side in (-1, 1):
        _blush(canvas, 256 + side * 78, 294)


def _blush(canvas: Canvas, x: float, y: float) -> None:
    """A soft cheek."""
    mask = Image.new("L", canvas.image.size)
    ImageDraw.Draw(mask).ellipse(_scaled((x - 26, y - 17, x + 26, y + 17)), fill=150)
    canvas.image.paste(BLUSH, mask=mask.filter(ImageFilter.GaussianBlur(9 * SUPERSAMPLING)))


def _draw_eye(canvas: Canvas, x: float) -> None:
    canvas.ellipse((x - 33, 204, x + 33, 254), WHITE)
    canvas.ellipse((x - 21, 208, x + 21, 250), IRIS_DARK)
    canvas.ellipse((x - 18, 211, x + 18, 247), IRIS)
    canvas.ellipse((x - 10, 219, x + 10, 239), PUPIL)
    canvas.ellipse((x - 11, 213, x - 1, 223), WHITE)
    canvas.arc((x - 35, 201, x + 35, 259), 190, 350, HAIR, 6)
    canvas.arc((x - 40, 172, x + 40, 224), 205, 335, HAIR, 9)


def _draw_nose(canvas: Canvas) -> None:
    canvas.arc((236, 268, 276, 300), 25, 155, SHADE, 6)


def _draw_mouth(canvas: Canvas) -> None:
    """Closed and smiling: two full lips and the line between them."""
    across = np.linspace(-1, 1, 81)
    fullness = 1 - across**2
    x = 256 + 52 * across
    line = 331 + 13 * fullness
    upper = line - 14 * fullness**0.6 * (1 - 0.3 * np.exp(-((across / 0.2) ** 2)))
    lower = line + 19 * fullness**0.7
    canvas.polygon(_outline(x, upper, line), LIP_UPPER)
    canvas.polygon(_outline(x, line, lower), LIP_LOWER)
    canvas.polygon(_outline(x, line - 0.5 - 2 * fullness, line + 0.5 + 2 * fullness), LIP_LINE)


def _outline(x: npt.NDArray[np.float64], top: npt.NDArray[np.float64], bottom: npt.NDArray[np.float64]) -> Points:
    """The outline of what lies between two curves."""
    return [*zip(x, top, strict=True), *zip(x[::-1], bottom[::-1], strict=True)]


def _draw_fringe(canvas: Canvas) -> None:
    canvas.polygon([(130, 232), (134, 150), (196, 84), (320, 84), (380, 150), (384, 232), (352, 168), (300, 136),
                    (232, 170), (170, 176)], HAIR)  # fmt: skip
    canvas.arc((168, 82, 330, 220), 215, 290, HAIR_LIGHT, 8)


if __name__ == "__main__":
    main()
