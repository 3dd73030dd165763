r"""Finds the mark in a window of grey frames with the key alone: without the original, the payload or the cut.

1. **Demodulation.** The frames y(t), reduced to 192 pixels on the shorter side, become one complex image

       d = sum over t of w(t) (y(t) - mean of y) exp(-2 pi i t / 0.48 s),   w half a period of a sine.

   Whatever stands still is gone.  Where the window starts only turns the phase of d, and frames need no particular
   rate.  Each pixel is divided by the deviation over time around it: regions that move count less.

2. **Lines.** F(u, v) = sum of d(x, y) exp(-2 pi i scale (u y + v x)): two small matrix products give the lines of a
   mark whose unit is 1 / ``scale`` of the shorter side, for any scale.  F / sqrt|F| keeps few strong lines of the
   content from outweighing all others.

3. **Synchronisation.** A crop moves the mark, which turns the phase of each line by u dy + v dx.  The correlation with
   the pilot p for all shifts at once is an inverse Fourier transform of F conj(p), 128 x 128 shifts:

       z(shift) = |sum of F conj(p) exp(2 pi i (u dy + v dx))| / sqrt(sum of |F|^2 over the pilot's lines).

   Scales from 0.60 to 1.35 in steps of 0.9 % are searched, the whole frame (scale 1) first; so is video that is
   played 1.2 times faster.

4. **Null distribution.** The phases of p are independent of the frames and uniform, whatever the frames are.  Each
   term of the projection on any direction is sub-Gaussian, with variances that add up to at most 1 after the division
   (E exp(s sqrt(2) cos phi) = I0(sqrt(2) s) <= exp(s^2 / 2)).  Without a mark of this key therefore
   P(z > a) <= 2 exp(-a^2 / 2), and over all M tried hypotheses P <= 2 M exp(-a^2 / 2).  ``THRESHOLD`` is the a for
   which this is 1e-6 per window.  A correct CRC of 16 bits is asked for as well, which the bound does not count.

5. **Payload.** The phase of the pilot's correlation is that of all lines.  Turned by it and by the shift, the lines of
   each coded bit are added up; the sums are the soft values of the Viterbi decoder (``convolution.py``).

Letters: N frames, H and W pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from live_avatar.watermark.carrier import FREQUENCIES, LINES, PERIOD_S, Carrier, Spectrum, waves
from live_avatar.watermark.payload import CODED_BITS, Payload, decode

SIDE = 192
"""Pixels of the shorter side that frames are reduced to."""
WINDOW_S = 2.0
FALSE_POSITIVES = 1e-6
"""Bound of the probability per window without a mark."""
SCALES = tuple(math.exp(0.009 * step) for step in range(-56, 34))
SPEEDS = (1.0, 1.2)
SHIFTS = 128
"""Per unit and direction; the finest wave has four of them per cycle."""
_FINE = np.linspace(-0.5, 0.5, 5) / SHIFTS
_SCALE_FACTORS = (1.018, 1 / 1.018, 1.009, 1 / 1.009, 1.003, 1 / 1.003)
"""Of the climb to the best scale."""
HYPOTHESES = (1 + len(SPEEDS) * (1 + len(SCALES))) * SHIFTS**2
"""That can exceed the threshold in one window; what is tried after is near one that did."""
THRESHOLD = math.sqrt(2 * math.log(2 * HYPOTHESES / FALSE_POSITIVES))
_AROUND = 9
"""Pixels, the side of the square over which deviations are averaged."""
_QUIET = 0.5
"""Grey levels that are added to them."""

Planes = npt.NDArray[np.float32]
"""Grey frames [N, H, W] of 0..255, ``SIDE`` pixels on the shorter side."""
Demodulated = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Geometry:
    """How the frames of a video relate to those that were marked."""

    scale: float = 1.0
    """Shorter side in units of the mark; below 1 after a crop."""
    down: float = 0.0
    """Shift in units of the mark, so is the one below."""
    across: float = 0.0
    speed: float = 1.0


@dataclass(frozen=True)
class Detection:
    """What was found in a window."""

    score: float
    """z of the best hypothesis; a mark is there where it exceeds ``THRESHOLD`` and there is a payload."""
    geometry: Geometry
    payload: Payload | None


class Detector:
    """Detects the marks of one key."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._pilot = carrier.pilot_spectrum()

    def detect(self, planes: Planes, seconds: npt.NDArray[np.float64], likely: Geometry | None = None) -> Detection:
        """Searches a window, first where ``likely`` says.

        Args:
            planes: at least two frames; two seconds are needed for what the documents promise.
            seconds: time of each frame [N], ascending, from any origin.
            likely: the geometry of an earlier window of the same video.

        Raises:
            ValueError: fewer than two frames, or not one time per frame.
        """
        if len(planes) < 2 or len(planes) != len(seconds):
            raise ValueError(f"a window of {len(planes)} frames with {len(seconds)} times cannot be searched")
        best = Detection(0.0, Geometry(), None)
        demodulated: dict[float, Demodulated] = {}
        for geometry in _candidates(likely):
            if geometry.speed not in demodulated:
                demodulated[geometry.speed] = demodulate(planes, seconds, geometry.speed)
            found = self._at(demodulated[geometry.speed], geometry)
            if found.score > best.score:
                best = found
            if found.payload is not None:
                break
        return best

    def _at(self, image: Demodulated, geometry: Geometry) -> Detection:
        """The best shift at one scale; what is above the threshold is refined and decoded."""
        score, geometry = self.best_shift(lines_of(image, geometry.scale), geometry)
        if score <= THRESHOLD:
            return Detection(score, geometry, None)
        return self._decoded(image, self._best_scale(image, score, geometry))

    def best_shift(self, lines: Spectrum, geometry: Geometry) -> tuple[float, Geometry]:
        """The largest z over all shifts of a coarse grid, and where it is."""
        product = lines * np.conj(self._pilot)
        padded = np.zeros((SHIFTS, SHIFTS), np.complex128)
        padded[np.ix_(FREQUENCIES % SHIFTS, FREQUENCIES % SHIFTS)] = product
        correlation = np.abs(np.fft.ifft2(padded)) * SHIFTS**2
        down, across = np.unravel_index(int(correlation.argmax()), correlation.shape)
        score = float(correlation[down, across]) / _norm(product)
        return score, replace(geometry, down=int(down) / SHIFTS, across=int(across) / SHIFTS)

    def _best_scale(self, image: Demodulated, score: float, geometry: Geometry) -> Geometry:
        """The best geometry near one that is already above the threshold."""
        for factor in _SCALE_FACTORS:
            found, near = score, geometry
            while found >= score:
                score, geometry = found, near
                near = replace(geometry, scale=geometry.scale * factor)
                found, near = self.best_shift(lines_of(image, near.scale), near)
        return geometry

    def _decoded(self, image: Demodulated, geometry: Geometry) -> Detection:
        """Moves to the best shift between those of the coarse grid, and reads the payload there."""
        lines = lines_of(image, geometry.scale)
        product = lines * np.conj(self._pilot)
        down, across = geometry.down + _FINE, geometry.across + _FINE
        correlation = _turns(down).T @ product @ _turns(across)
        row, column = np.unravel_index(int(np.abs(correlation).argmax()), correlation.shape)
        peak = correlation[row, column]
        geometry = replace(geometry, down=float(down[row]), across=float(across[column]))
        turned = lines * _turns(geometry.down) * _turns(geometry.across).T * (np.conj(peak) / abs(peak))
        return Detection(float(abs(peak)) / _norm(product), geometry, decode(self._soft(turned)))

    def _soft(self, lines: Spectrum) -> npt.NDArray[np.float64]:
        """Soft values [CODED_BITS] of lines whose phases are those of the mark."""
        rows, columns = LINES
        both = lines[rows, columns] * np.conj(self._carrier.phases)
        both += lines[::-1, ::-1][rows, columns] * self._carrier.phases
        data = both.real[self._carrier.data]
        return np.bincount(np.arange(len(data)) % CODED_BITS, weights=data, minlength=CODED_BITS).astype(np.float64)


def _candidates(likely: Geometry | None) -> Iterator[Geometry]:
    """Scales and speeds, the probable ones first."""
    if likely is not None:
        yield likely
    for speed in SPEEDS:
        yield Geometry(speed=speed)
        yield from (Geometry(scale=scale, speed=speed) for scale in SCALES)


def demodulate(planes: Planes, seconds: npt.NDArray[np.float64], speed: float = 1.0) -> Demodulated:
    """The image [H, W] of what alternates with the mark's period, in units of its surroundings' deviation."""
    spacing = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    progress = (seconds - seconds[0] + spacing / 2) / (seconds[-1] - seconds[0] + spacing)
    window = np.sin(np.pi * progress)
    window /= np.sqrt((window**2).sum())
    turning = window * np.exp(-2j * np.pi * seconds * speed / PERIOD_S)
    flat = planes.reshape(len(planes), -1)
    mean = window.astype(np.float32) @ flat / np.float32(window.sum())
    moving = (turning.astype(np.complex64) @ (flat - mean)).reshape(planes.shape[1:])
    image: Demodulated = (moving / (box_mean(flat.std(axis=0).reshape(planes.shape[1:])) + _QUIET)).astype(np.complex64)
    return image


def lines_of(image: Demodulated, scale: float) -> Spectrum:
    """F / sqrt|F| of all lines, at a scale of the mark."""
    unit = min(image.shape) / scale
    down, across = (np.conj(waves(pixels, unit)).astype(np.complex64) for pixels in image.shape)
    lines = (down @ image @ across.T).astype(np.complex128)
    return lines / np.sqrt(np.abs(lines) + 1e-12)


def box_mean(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The mean of the square around each pixel; beyond the border the border goes on."""
    before, after = _AROUND // 2 + 1, _AROUND // 2
    summed = np.pad(image, ((before, after), (before, after)), mode="edge").cumsum(0, np.float64).cumsum(1)
    total = summed[_AROUND:, _AROUND:] - summed[:-_AROUND, _AROUND:] - summed[_AROUND:, :-_AROUND]
    mean: npt.NDArray[np.float64] = (total + summed[:-_AROUND, :-_AROUND]) / _AROUND**2
    return mean


def _turns(shift: float | npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    """Phases [57, shifts] that undo shifts of the mark."""
    turns: npt.NDArray[np.complex128] = np.exp(2j * np.pi * np.outer(FREQUENCIES, shift))
    return turns


def _norm(product: Spectrum) -> float:
    return float(np.sqrt((np.abs(product) ** 2).sum())) + 1e-12
