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


def record(voice: Samples, rng: np.random.Generator) -> Samples:
    """``voice`` [N] as a random microphone records it, in -1..1."""
    tilt = rng.uniform(*TILT)
    signal = voice - tilt * np.concatenate([[0], voice[:-1]])
    if rng.random() >= QUIET_SHARE:
        ratio = 10 ** (rng.uniform(*SIGNAL_TO_NOISE_DB) / 20)
        signal = signal + _noise(voice.size, rng) * (signal.std() / ratio)
    peak = np.abs(signal).max()
    return (signal * (rng.uniform(*PEAK) / peak) if peak else signal).astype(np.float32)


def _noise(length: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Noise of deviation 1 between white and brown."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum /= np.maximum(np.arange(spectrum.size), 20) ** rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, length)
    return np.asarray(noise / noise.std())
