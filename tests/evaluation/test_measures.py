"""Measures of pictures and mouths, on cases whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evaluation import frame_metrics
from evaluation.dataset import Segment, Subject, subject
from evaluation.frame_metrics import Frames
from evaluation.identity import nearest
from evaluation.recordings import loudness
from evaluation.services import reduced
from live_avatar.config import SAMPLE_RATE_HZ, TINY
from tests.evaluation.parts import SIDE, SPAN, evaluator

LATE = 2


@pytest.fixture(scope="module")
def someone() -> Subject:
    return subject(0, SPAN, TINY, SIDE)


def blurred(frames: Frames) -> Frames:
    return np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(1))) for frame in frames])


def test_blurred_frames_are_less_sharp(someone: Subject) -> None:
    sharp = frame_metrics.sharpness(someone.clip.frames)
    assert frame_metrics.sharpness(blurred(someone.clip.frames)) < 0.5 * sharp
    assert frame_metrics.sharpness(np.full((2, 8, 8, 3), 90, np.uint8)) == pytest.approx(0, abs=1e-9)


def test_the_sharpness_of_one_bright_pixel_is_known() -> None:
    spot = np.zeros((1, 12, 12, 3), np.uint8)
    spot[0, 5, 5] = 100
    # The Laplacian of a spot is -400 there and 100 on its four sides, over 10 x 10 pixels.
    assert frame_metrics.sharpness(spot) == pytest.approx((400**2 + 4 * 100**2) / 100, rel=1e-6)


def test_tinted_frames_drift(someone: Subject) -> None:
    frames, portrait = someone.clip.frames, someone.portrait
    tinted = np.clip(frames * np.array([1.0, 0.8, 1.0]), 0, 255).astype(np.uint8)
    assert frame_metrics.colour_drift(np.stack([portrait] * 3), portrait) == pytest.approx(0, abs=1e-9)
    assert frame_metrics.colour_drift(tinted, portrait) > 3 * frame_metrics.colour_drift(frames, portrait)


def test_black_and_white_are_100_apart() -> None:
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert frame_metrics.colour_drift(black, white) == pytest.approx(100, abs=0.1)


def test_psnr_of_a_known_error() -> None:
    dark = np.full((2, 4, 4, 3), 100, np.uint8)
    assert frame_metrics.psnr(dark, dark + np.uint8(10)) == pytest.approx(28.13, abs=0.01)
    boxes = np.array([[1, 0, 3, 2], [0, 1, 2, 3]], np.int32)
    marked = dark.copy()
    marked[0, 1:3, 0:2] = 7
    assert (frame_metrics.inside(marked, boxes)[0] == 7).all()
    assert frame_metrics.inside(marked, boxes).shape == (2, 2, 2, 3)


@pytest.mark.slow
def test_a_true_video_is_judged_true_and_a_late_one_late(someone: Subject) -> None:
    frames = someone.clip.frames
    true = evaluator().numbers(someone, Segment(SPAN, frames, 0))
    assert true["sync"] > 0.85 and true["lag"] == 0
    assert abs(true["other"]) < 0.35 < true["sync"]
    assert true["amplitude"] == pytest.approx(1, abs=0.25)
    assert true["sharpness"] == 1
    assert true["identity"] == 1
    late = np.concatenate([frames[:1].repeat(LATE, axis=0), frames[:-LATE]])
    found = evaluator().numbers(someone, Segment(SPAN, late, 0))
    assert found["lag"] == LATE
    assert found["sync"] < true["sync"]


@pytest.mark.slow
def test_hidden_frames_do_not_shift_the_truth(someone: Subject) -> None:
    found = evaluator().numbers(someone, Segment(SPAN, someone.clip.frames[3:], 3))
    assert found["lag"] == 0 and found["sync"] > 0.85


@pytest.mark.slow
def test_swapped_people_are_found(someone: Subject) -> None:
    other = subject(1, SPAN, TINY, SIDE)
    swapped = evaluator().numbers(replace(someone, clip=someone.clip), Segment(SPAN, other.clip.frames, 0))
    assert swapped["identity"] == 0
    own = evaluator().numbers(someone, Segment(SPAN, blurred(someone.clip.frames), 0))
    assert own["likeness"] > swapped["likeness"]
    faces, references = evaluator().faces, evaluator().references
    right = [nearest(faces.read(subject(number, SPAN, TINY, SIDE).clip.frames), references) for number in range(8)]
    assert sum(found == number for number, found in enumerate(right)) >= 7


def test_loudness_follows_the_sound() -> None:
    quiet, loud = np.zeros(SAMPLE_RATE_HZ, np.float32), np.full(SAMPLE_RATE_HZ, 0.5, np.float32)
    track = loudness(np.concatenate([quiet, loud]))
    assert track.shape == (50,)
    assert track[:24] == pytest.approx(0) and track[26:49] == pytest.approx(1)


@pytest.mark.parametrize("times", [1, 3, 4])
def test_an_enlarged_video_is_measured_at_the_size_of_generation(someone: Subject, times: int) -> None:
    frames = someone.clip.frames[:4]
    size = (SIDE * times, SIDE * times)
    enlarged = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])
    back = reduced(enlarged, SIDE)
    assert back.shape == frames.shape
    assert frame_metrics.psnr(back, frames) > 35
    assert frame_metrics.sharpness(back) / frame_metrics.sharpness(frames) > 0.8
