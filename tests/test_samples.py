"""The portrait and the speech that come with the package."""

import wave

import numpy as np
from PIL import Image

from live_avatar.cli.inputs import PORTRAIT, SPEECH
from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.portrait.reading import load_portrait
from tools.make_samples import PEAK, SIDE, draw_portrait

MAX_BYTES = 400_000
ROUNDING = 2
"""Levels by which another version of Pillow may differ."""


def test_the_portrait_is_what_the_tool_draws() -> None:
    portrait = load_portrait(PORTRAIT.read_bytes())
    assert portrait.size == (SIDE, SIDE)
    with Image.open(PORTRAIT) as file:
        drawn, kept = np.asarray(draw_portrait(), np.int16), np.asarray(file, np.int16)
    assert np.abs(drawn - kept).max() <= ROUNDING


def test_the_speech_is_loud_enough_and_at_the_models_rate() -> None:
    with wave.open(str(SPEECH)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (SAMPLE_RATE_HZ, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert 5 < len(samples) / SAMPLE_RATE_HZ < 8
    assert np.abs(samples).max() == round(PEAK * 32_767)


def test_both_are_small() -> None:
    assert PORTRAIT.stat().st_size + SPEECH.stat().st_size < MAX_BYTES
