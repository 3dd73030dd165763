"""Who speaks: voices of the synthesiser, and in training voices without end that it never had.

Voices of the two splits never meet.  The few dozen voices that come with espeak-ng are soon known by heart; what
makes one voice differ from another there (where its formants lie, how strong and wide they are, how rough, breathy or
dull it sounds) is a short text, so a new voice is drawn by writing such a text.
"""

from typing import Literal

import numpy as np

from live_avatar.trainer.synthetic.synthesis import DRAWN, Voice

Split = Literal["train", "held_out"]

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland")
VARIANTS: dict[Split, tuple[str, ...]] = {
    "train": (
        *("m1", "m2", "m3", "m5", "m6", "m7", "f1", "f2", "f4", "f5", "klatt", "klatt2", "klatt3", "klatt4", "croak"),
        *("Alex", "Andy", "Annie", "Gene", "Hugo", "Jacky", "Lee", "Mario", "Michael", "Mike", "adam", "aunty"),
        *("belinda", "boris", "caleb", "ed", "edward", "grandma", "grandpa", "iven", "john", "linda", "max"),
        *("norbert", "quincy", "rob", "steph", "travis", "victor", "whisper", "whisperf", "zac"),
    ),
    "held_out": ("m4", "m8", "f3"),
}
"""Of those that come with espeak-ng."""
WORDS_PER_MINUTE = (120, 180)
PITCH = (25, 75)
DRAWN_SHARE = 0.7
"""Of the voices of training."""

_FORMANTS = 9
_THROAT = (0.82, 1.25)
"""Of the formants' frequencies: a long throat to a short one."""
_LOWEST_HZ = (60, 210)
"""Of the melody."""


def voices(split: Split) -> tuple[str, ...]:
    """The voices of ``split`` that come with espeak-ng, as it names them."""
    return tuple(f"{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS[split])


def draw_voice(split: Split, rng: np.random.Generator) -> Voice:
    """Someone of ``split``."""
    if split == "train" and rng.random() < DRAWN_SHARE:
        name, variant = f"{rng.choice(ACCENTS)}+{DRAWN}", _draw_variant(rng)
    else:
        name, variant = str(rng.choice(voices(split))), ""
    words_per_minute, pitch = (int(rng.integers(*span)) for span in (WORDS_PER_MINUTE, PITCH))
    return Voice(name=name, variant=variant, words_per_minute=words_per_minute, pitch=pitch)


def _draw_variant(rng: np.random.Generator) -> str:
    """A voice variant as espeak-ng reads it; numbers in per cent unless they are in Hz."""

    def often(share: float, *lines: str) -> list[str]:
        return list(lines) if rng.random() < share else []

    def number(low: float, high: float) -> int:
        return round(rng.uniform(low, high))

    lowest = rng.uniform(*_LOWEST_HZ)
    throat = rng.uniform(*_THROAT)
    strength, width = rng.uniform(70, 110), rng.uniform(70, 170)
    lines = [
        "language variant",
        f"name {DRAWN}",
        f"pitch {lowest:.0f} {lowest * rng.uniform(1.1, 1.6):.0f}",
    ]
    for formant in range(_FORMANTS):
        place = 100 * throat * rng.uniform(0.93, 1.07)
        lines.append(f"formant {formant} {place:.0f} {strength * rng.uniform(0.7, 1.2):.0f} {width:.0f}")
    lines += often(0.25, f"klatt {number(1, 4)}")
    lines += often(0.5, f"roughness {number(0, 6)}")
    lines += often(0.5, f"flutter {number(0, 20)}")
    lines += often(0.3, f"consonants {number(70, 130)} {number(70, 130)}")
    lines += often(0.3, "breath " + " ".join(str(number(0, 30)) for _ in range(6)))
    lines += often(0.1, f"voicing {number(20, 90)}")
    lines += often(0.2, f"echo {number(20, 140)} {number(5, 20)}")
    lines += often(
        0.5, f"tone 100 255 600 {number(20, 255)} 1200 {number(15, 200)} 2000 {number(40, 200)} 3000 {number(10, 150)}"
    )
    return "\n".join(lines) + "\n"
