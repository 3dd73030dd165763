r"""The carrier of the invisible mark: which frequencies it uses, and how a key and a payload set their phases.

**Carrier.** The unit of length is the shorter side of a frame.  The mark is periodic in this unit in both directions:
a sum of waves with whole numbers of cycles (u, v) per unit,

    m(x, y, t) = s(t) * sum over (u, v) of c(u, v) exp(2 pi i (u y + v x)),   c(-u, -v) = conj c(u, v),

for all (u, v) whose radius is 6 to 28 cycles: 1,172 independent waves ("lines"), all of the same amplitude.  Below,
images have most of their energy and eyes are most sensitive; above, a codec discards first.  Because the unit is the
frame and not the pixel, scaling a frame changes nothing.

**Time.** s(t) is a square wave of +1 and -1 with a period of 0.48 s, one block of the stream: its edges lie on the key
frames that begin blocks, and half-way between.  A portrait that stands still, which would otherwise be the largest
noise by far, has no energy at 1 / 0.48 s = 2.08 Hz and vanishes in detection.  A constant mark was found to be 11 to 40
times weaker on a still portrait (squared scores), one of half the frequency 0.9 to 7 times weaker where the content
moves slowly, and a faster one half as strong on synthetic people after a codec.

**Key.** Each line has a phase from a counter-based generator (Philox, keyed with SHA-256 of the secret), and a role
from a permutation of the same origin.  A fourth of the lines are the *pilot*, whose phases the detector knows from
the key; the others carry coded bits, two or three lines each: bit 1 turns the phase by 180 degrees.

**Shaping.** ``embedding.py`` multiplies m by a slowly varying map, larger where the frame is busy, and normalises the
product so that every frame has the same PSNR.

**Detection** is described in ``detection.py``.

Only the words of the generator are used, not numpy's distributions, whose algorithms may change between versions.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from live_avatar.watermark.convolution import Bits
from live_avatar.watermark.payload import CODED_BITS

LOWEST, HIGHEST = 6, 28
"""Radii of the lines, in cycles per shorter side."""
PERIOD_S = 0.48
"""Of the square wave in time."""
PILOT_SHARE = 4
"""One line of so many belongs to the pilot."""
MIN_KEY_BYTES = 16

Spectrum = npt.NDArray[np.complex128]
"""Of waves with -28..28 cycles per unit, [57, 57], vertical ones first."""
FREQUENCIES = np.arange(-HIGHEST, HIGHEST + 1)


def _half_plane() -> npt.NDArray[np.intp]:
    """Rows and columns [2, lines] of the independent lines within a ``Spectrum``."""
    vertical, horizontal = np.meshgrid(FREQUENCIES, FREQUENCIES, indexing="ij")
    radius = np.hypot(vertical, horizontal)
    upper = (vertical > 0) | ((vertical == 0) & (horizontal > 0))
    return np.array(np.nonzero(upper & (radius >= LOWEST) & (radius <= HIGHEST)))


LINES = _half_plane()
"""[2, lines]; the others of a real image are their conjugates, at the opposite place."""


@dataclass(frozen=True)
class Carrier:
    """The lines of one key."""

    phases: npt.NDArray[np.complex128]
    """Of unit magnitude, [lines]."""
    pilot: npt.NDArray[np.intp]
    """Which lines are the pilot."""
    data: npt.NDArray[np.intp]
    """Which lines carry bits; the n-th of them bit n modulo ``CODED_BITS``."""

    def spectrum(self, coded: Bits) -> Spectrum:
        """The mark that carries the bits [CODED_BITS]."""
        signs = np.ones(len(self.phases))
        signs[self.data] = 1.0 - 2.0 * coded[np.arange(len(self.data)) % CODED_BITS]
        return _hermitian(self.phases * signs)

    def pilot_spectrum(self) -> Spectrum:
        """The pilot alone."""
        known = np.zeros_like(self.phases)
        known[self.pilot] = self.phases[self.pilot]
        return _hermitian(known)


def carrier_of(key: bytes) -> Carrier:
    """The carrier of a secret key.

    Raises:
        ValueError: the key has fewer than ``MIN_KEY_BYTES`` bytes.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"the key of the watermark has {len(key)} bytes, at least {MIN_KEY_BYTES} are needed")
    generator = np.random.Philox(key=int.from_bytes(hashlib.sha256(b"live-avatar mark 1\0" + key).digest()[:16], "big"))
    lines = LINES.shape[1]
    phases = np.exp(2j * np.pi * generator.random_raw(lines) / 2.0**64)
    order = np.argsort(generator.random_raw(lines), kind="stable")
    pilots = lines // PILOT_SHARE
    return Carrier(phases, order[:pilots], order[pilots:])


def render(spectrum: Spectrum, height: int, width: int) -> npt.NDArray[np.float32]:
    """The waves of ``spectrum`` in a frame of ``height`` x ``width`` pixels, with a mean square of 1."""
    unit = min(height, width)
    down, across = waves(height, unit), waves(width, unit)
    pattern = (down.T @ spectrum @ across).real
    normalised: npt.NDArray[np.float32] = (pattern / np.sqrt(np.mean(pattern**2))).astype(np.float32)
    return normalised


def waves(pixels: int, unit: float) -> npt.NDArray[np.complex128]:
    """exp(2 pi i f x) for all ``FREQUENCIES`` at the centres of ``pixels`` pixels, [57, pixels]; ``unit`` in pixels."""
    phases: npt.NDArray[np.complex128] = np.exp(2j * np.pi * np.outer(FREQUENCIES, (np.arange(pixels) + 0.5) / unit))
    return phases


def sign_at(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """The square wave at ``seconds`` of the stream's time, in which block 0 starts at 0: 1 or -1."""
    # A frame exactly at an edge belongs to what follows, however its time is rounded.
    halves = np.floor(2.0 * seconds / PERIOD_S + 1e-6).astype(np.int64)
    return (1 - 2 * (halves % 2)).astype(np.int8)


def _hermitian(lines: npt.NDArray[np.complex128]) -> Spectrum:
    """A spectrum of a real image from its independent lines."""
    spectrum = np.zeros((len(FREQUENCIES), len(FREQUENCIES)), np.complex128)
    spectrum[tuple(LINES)] = lines
    return spectrum + np.conj(spectrum[::-1, ::-1])
