"""Appearance of a synthetic person: colours and proportions, drawn once per person.

Lengths are in halves of the picture's side; colours are RGB in 0..1.  Features are large and their colours far apart,
because a picture of 64 pixels that went through an autoencoder must still be readable, in every skin tone.
"""

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

SKINS_AND_LIPS: tuple[tuple[Colour, Colour], ...] = (
    ((0.98, 0.84, 0.73), (0.78, 0.24, 0.28)),
    ((0.91, 0.73, 0.58), (0.72, 0.20, 0.24)),
    ((0.79, 0.58, 0.42), (0.62, 0.14, 0.19)),
    ((0.58, 0.39, 0.27), (0.90, 0.50, 0.49)),
    ((0.42, 0.27, 0.19), (0.88, 0.46, 0.45)),
)
"""Skin tones, each with a colour of the lips that stands out against it and against the dark of the mouth."""
HAIRS: tuple[Colour, ...] = (
    (0.08, 0.07, 0.08), (0.24, 0.14, 0.09), (0.42, 0.26, 0.13), (0.72, 0.51, 0.22),
    (0.89, 0.77, 0.45), (0.62, 0.24, 0.12), (0.70, 0.70, 0.72),
)  # fmt: skip
IRISES: tuple[Colour, ...] = ((0.24, 0.14, 0.08), (0.20, 0.38, 0.66), (0.22, 0.46, 0.26), (0.36, 0.36, 0.38))
SHIRTS: tuple[Colour, ...] = (
    (0.75, 0.16, 0.18), (0.14, 0.32, 0.68), (0.12, 0.50, 0.36), (0.93, 0.90, 0.84),
    (0.20, 0.20, 0.24), (0.86, 0.62, 0.14), (0.50, 0.26, 0.58),
)  # fmt: skip
BACKGROUNDS: tuple[Colour, ...] = (
    (0.62, 0.76, 0.86), (0.80, 0.83, 0.74), (0.86, 0.76, 0.70), (0.55, 0.64, 0.70),
    (0.74, 0.70, 0.82), (0.40, 0.48, 0.56), (0.70, 0.82, 0.78),
)  # fmt: skip
HAIR_LENGTHS = (0.0, 0.45, 0.85)
"""How far the hair behind the head hangs below its centre."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One person."""

    skin: Colour
    lips: Colour
    hair: Colour
    iris: Colour
    shirt: Colour
    background: Colour
    hair_length: float
    face_width: float
    face_height: float
    jaw: float
    """Height of the lower half of the face against the upper."""
    fringe: float
    """Height of the hairline above the centre of the face."""
    part: float
    """Slant of the hairline."""
    eye_distance: float
    eye_height: float
    eye_size: float
    brow_height: float
    brow_thickness: float
    nose_size: float
    mouth_height: float
    mouth_width: float


def draw_identity(rng: np.random.Generator) -> Identity:
    """A random person."""
    skin, lips = SKINS_AND_LIPS[rng.integers(len(SKINS_AND_LIPS))]
    return Identity(
        skin=_varied(skin, rng, 0.03),
        lips=_varied(lips, rng, 0.02),
        hair=_varied(HAIRS[rng.integers(len(HAIRS))], rng, 0.03),
        iris=IRISES[rng.integers(len(IRISES))],
        shirt=_varied(SHIRTS[rng.integers(len(SHIRTS))], rng, 0.05),
        background=_varied(BACKGROUNDS[rng.integers(len(BACKGROUNDS))], rng, 0.06),
        hair_length=HAIR_LENGTHS[rng.integers(len(HAIR_LENGTHS))],
        face_width=rng.uniform(0.57, 0.66),
        face_height=rng.uniform(0.64, 0.71),
        jaw=rng.uniform(0.98, 1.10),
        fringe=rng.uniform(0.36, 0.46),
        part=rng.uniform(-0.25, 0.25),
        eye_distance=rng.uniform(0.255, 0.30),
        eye_height=rng.uniform(0.07, 0.11),
        eye_size=rng.uniform(0.92, 1.10),
        brow_height=rng.uniform(0.20, 0.23),
        brow_thickness=rng.uniform(0.030, 0.042),
        nose_size=rng.uniform(0.8, 1.2),
        mouth_height=rng.uniform(0.36, 0.40),
        mouth_width=rng.uniform(0.24, 0.30),
    )


def _varied(colour: Colour, rng: np.random.Generator, spread: float) -> Colour:
    red, green, blue = np.clip(np.asarray(colour) + rng.uniform(-spread, spread, 3), 0, 1)
    return float(red), float(green), float(blue)
