"""Openness read from pictures, and how a mouth is compared with the truth."""

import numpy as np
import pytest

from evaluation.mouth_metric import Track, correlation, fit, held_out_correlation, sync
from live_avatar.trainer.synthetic.clips import synthetic_clip


@pytest.mark.slow
def test_openness_is_read_from_people_never_met() -> None:
    reader = fit(people=120, steps=300)
    assert held_out_correlation(reader, people=15) > 0.9
    clip = synthetic_clip(0, frames=50, size=64, split="held_out")
    found = sync(reader.read(clip.frames), clip.openness)
    assert found.correlation > 0.85 and found.lag == 0
    assert 0.7 < found.amplitude < 1.4
    large = synthetic_clip(0, frames=50, size=128, split="held_out")
    assert correlation(reader.read(large.frames), reader.read(clip.frames)) > 0.9


def test_a_late_mouth_is_found_late() -> None:
    truth = np.random.default_rng(0).random(60).astype(np.float32)
    late: Track = np.concatenate([np.zeros(3, np.float32), truth[:-3]])
    found = sync(late * np.float32(0.5), truth)
    assert found.lag == 3
    assert found.correlation == pytest.approx(1)
    assert sync(truth[3:], truth[:-3]).lag == -3
    assert found.amplitude == pytest.approx(0.5, abs=0.05)


def test_a_mouth_that_does_not_move_follows_nothing() -> None:
    truth = np.random.default_rng(0).random(60).astype(np.float32)
    assert sync(np.full(60, 0.3, np.float32), truth).correlation == 0


def test_tracks_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="tracks of 5 and 6 frames"):
        sync(np.zeros(5, np.float32), np.zeros(6, np.float32))
