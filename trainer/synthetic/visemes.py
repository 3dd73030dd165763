"""What the mouth does for every phoneme, and for a whole utterance.

A phoneme is one shape, a diphthong two; shapes follow each other at ``SAMPLE_HZ`` and are then smoothed, because a
mouth is on its way to the next sound before the present one has ended.

Letters: T frames.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from live_avatar.trainer.clip import FPS
from live_avatar.trainer.synthetic.motion import Mouth
from live_avatar.trainer.synthetic.synthesis import Phoneme

Shape = tuple[float, float, float, float]
"""Openness, width, roundness, teeth."""

SAMPLE_HZ = 200
SPREAD_S = 0.03
"""Deviation of the smoothing."""

REST: Shape = (0.0, 0.0, 0.0, 0.0)
_CLOSED: Shape = (0.0, 0.1, 0.0, 0.0)
_LIP_TEETH: Shape = (0.12, 0.2, 0.0, 0.8)
_HISS: Shape = (0.18, 0.6, 0.0, 0.9)
_FLAT: Shape = (0.25, 0.4, 0.0, 0.6)
_PUSHED: Shape = (0.25, 0.0, 0.6, 0.6)
_BACK: Shape = (0.35, 0.1, 0.0, 0.2)
_A: Shape = (1.0, 0.2, 0.0, 0.3)
_E: Shape = (0.62, 0.6, 0.0, 0.5)
_I: Shape = (0.32, 1.0, 0.0, 0.7)
_O: Shape = (0.58, 0.0, 0.75, 0.0)
_OPEN_O: Shape = (0.78, 0.0, 0.5, 0.1)
_U: Shape = (0.24, 0.0, 1.0, 0.0)
_NEUTRAL: Shape = (0.52, 0.2, 0.1, 0.3)

SHAPES: dict[str, Shape] = {
    **dict.fromkeys(("p", "b", "m"), _CLOSED),
    **dict.fromkeys(("f", "v"), _LIP_TEETH),
    **dict.fromkeys(("s", "z", "T", "D"), _HISS),
    **dict.fromkeys(("t", "d", "n", "l", "*", "r", "j"), _FLAT),
    **dict.fromkeys(("S", "Z", "tS", "dZ"), _PUSHED),
    **dict.fromkeys(("k", "g", "N", "h", "?"), _BACK),
    **dict.fromkeys(("a", "A", "aa", "0"), _A),
    **dict.fromkeys(("E", "e", "e@"), _E),
    **dict.fromkeys(("i", "I"), _I),
    **dict.fromkeys(("o",), _O),
    **dict.fromkeys(("O",), _OPEN_O),
    **dict.fromkeys(("u", "U", "w"), _U),
    **dict.fromkeys(("@", "V", "3"), _NEUTRAL),
}
_PAUSE = "_"


def shapes_of(mnemonic: str) -> tuple[Shape, ...]:
    """The shapes of one phoneme, in order; an unknown one is that of a neutral vowel.

    Length, stress and variant marks do not matter; of a sound of several letters each letter counts.
    """
    if mnemonic.startswith(_PAUSE):
        return (REST,)
    plain = re.sub(r"[^A-Za-z@*?0]|(?<=.)0", "", mnemonic) or "@"
    plain = "3" if mnemonic.startswith("3") else plain
    if plain in SHAPES:
        return (SHAPES[plain],)
    return tuple(SHAPES.get(letter, _NEUTRAL) for letter in plain[:2])


def mouth_of(phonemes: Sequence[Phoneme], frames: int, delay_s: float = 0.0) -> Mouth:
    """The mouth of the first ``frames`` frames of an utterance that begins ``delay_s`` late."""
    length = frames * SAMPLE_HZ // FPS
    curve = np.tile(np.array(REST), (length, 1))
    starts = [phoneme.start_s + delay_s for phoneme in phonemes]
    for phoneme, start, end in zip(phonemes, starts, [*starts[1:], starts[-1] if starts else 0.0], strict=True):
        _hold(curve, shapes_of(phoneme.mnemonic), start, end)
    tracks = _smooth(curve).reshape(frames, -1, 4).mean(axis=1).T.astype(np.float32)
    openness, width, roundness, teeth = tracks
    return Mouth(openness=openness, width=width, roundness=roundness, teeth=teeth)


def _hold(curve: npt.NDArray[np.float64], shapes: tuple[Shape, ...], start_s: float, end_s: float) -> None:
    """Writes ``shapes``, each for an equal share of the time, into ``curve``."""
    for index, edges in enumerate(np.linspace(start_s, end_s, len(shapes) + 1)[:-1]):
        following = start_s + (end_s - start_s) * (index + 1) / len(shapes)
        curve[round(edges * SAMPLE_HZ) : max(0, round(following * SAMPLE_HZ))] = shapes[index]


def _smooth(curve: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``curve`` [n, 4] under a Gaussian window, its ends held."""
    reach = round(3 * SPREAD_S * SAMPLE_HZ)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (SPREAD_S * SAMPLE_HZ)) ** 2)
    padded = np.pad(curve, ((reach, reach), (0, 0)), mode="edge")
    smooth = [np.convolve(column, window / window.sum(), mode="valid") for column in padded.T]
    return np.stack(smooth, axis=1)
