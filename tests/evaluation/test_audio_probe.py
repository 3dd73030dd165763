"""The reader that says how much a speech encoder hears."""

import numpy as np

from evaluation.audio_probe import correlations, fit, read, spoken


def test_what_is_linear_in_the_features_is_read_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 6)).astype(np.float32)
    mouths = (features @ rng.normal(size=(6, 4)) + 0.3).astype(np.float32)
    mouths[:, 3] = rng.normal(size=4000)
    reader = fit(features[:2000], mouths[:2000])
    received = correlations(read(reader, features[2000:]), mouths[2000:])
    assert min(received[:3]) > 0.999
    assert abs(received[3]) < 0.1


def test_a_named_voice_says_the_same_words() -> None:
    anyone, named = spoken(1, "held_out", 0), spoken(1, "held_out", 0, "en+m8")
    assert anyone.samples.shape == named.samples.shape
    assert not np.array_equal(anyone.samples, named.samples)
