"""How a voice reaches the microphone: level, tone of the room, noise."""

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

PEAK = (0.2, 0.95)
TILT = (-0.5, 0.5)
"""Share of the last sample that is taken off (a brighter voice) or added (a duller one)."""
SIGNAL_TO_NOISE_DB = (12.0, 45.0)
QUIET_SHARE = 0.4
"""Of the recordings without noise."""


def record(voice: Samples, draws: np.random.Generator) -> Samples:
    """``voice`` [N] as a random microphone hears it, in -1..1."""
    tilt = draws.uniform(*TILT)
    heard = voice - tilt * np.concatenate([[0], voice[:-1]])
    if draws.random() >= QUIET_SHARE:
        ratio = 10 ** (draws.uniform(*SIGNAL_TO_NOISE_DB) / 20)
        heard = heard + _noise(voice.size, draws) * (heard.std() / ratio)
    peak = np.abs(heard).max()
    return (heard * (draws.uniform(*PEAK) / peak) if peak else heard).astype(np.float32)


def _noise(length: int, draws: np.random.Generator) -> npt.NDArray[np.float64]:
    """Noise of deviation 1 between white and brown."""
    spectrum = np.fft.rfft(draws.standard_normal(length))
    spectrum /= np.maximum(np.arange(spectrum.size), 20) ** draws.uniform(0, 1)
    noise = np.fft.irfft(spectrum, length)
    return np.asarray(noise / noise.std())
