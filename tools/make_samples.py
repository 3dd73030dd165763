"""Makes the portrait and the speech that live_avatar/samples holds.

The portrait is one of the synthetic people, the speech is spoken by espeak-ng; both come out the same every time.
Run by hand from the root: ``.venv/bin/python tools/make_samples.py``.  Knows nothing of the model.
"""

import io
import subprocess
import wave
from pathlib import Path

import numpy as np
import soxr
from PIL import Image

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.trainer.synthetic.clips import person_of
from live_avatar.trainer.synthetic.motion import still
from live_avatar.trainer.synthetic.painter import paint

SAMPLES = Path(__file__).parent.parent / "live_avatar" / "samples"
SIDE = 512
SENTENCE = "Hello! I am a drawing that has learned to speak. Say something, and watch my face."
VOICE = ("-v", "en-us+f3", "-s", "150", "-p", "55", "-g", "2")
PEAK = 0.8

PERSON = 10
"""Number of the portrait's person among the synthetic people that no network has seen."""


def draw_portrait() -> Image.Image:
    """A synthetic person at rest, looking at the viewer with its mouth closed; ``SIDE`` pixels square."""
    return Image.fromarray(paint(person_of(PERSON, "held_out"), still(), SIDE)[0])


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


if __name__ == "__main__":
    main()
