"""A mark is read from any two seconds, cropped and scaled too; with another key, or without a mark, nothing is."""

from functools import cache

import numpy as np
import pytest

from live_avatar.watermark.carrier import carrier_of
from live_avatar.watermark.detection import (
    FALSE_POSITIVES,
    HYPOTHESES,
    THRESHOLD,
    Detection,
    Detector,
    Geometry,
    demodulate,
    lines_of,
)
from live_avatar.watermark.embedding import MAX_PSNR_DB, MIN_PSNR_DB, psnr_db
from live_avatar.watermark.payload import Payload, session_number
from tests.watermark.marking import DEPLOYMENT, KEY, SESSION_ID, Pixels, marked, portrait

SIZE = 192
"""Side of the frames: as the detector wants them, so that no test needs a scaler."""
EXPECTED = Payload(DEPLOYMENT, session_number(SESSION_ID), 0)


@cache
def clip() -> Pixels:
    return portrait(SIZE, 320, 62)


@cache
def marked_clip() -> Pixels:
    return marked(clip())


def detect(pixels: Pixels, key: bytes = KEY, fps: float = 25.0, likely: Geometry | None = None) -> Detection:
    planes = pixels[..., 0].astype(np.float32)
    return Detector(carrier_of(key)).detect(planes, np.arange(len(planes)) / fps, likely)


@pytest.mark.parametrize("first", [0, 5, 12])
def test_any_two_seconds_have_the_payload(first: int) -> None:
    found = detect(marked_clip()[first : first + 50])
    assert found.payload == EXPECTED
    assert found.score > THRESHOLD
    assert found.geometry.speed == 1.0


def test_a_crop_is_found_with_its_scale_and_the_next_window_needs_no_search() -> None:
    cropped = marked_clip()[:, 8:181, 20:308]
    found = detect(cropped[:50])
    assert found.payload == EXPECTED
    assert found.geometry.scale == pytest.approx(173 / SIZE, rel=0.01)
    again = detect(cropped[12:62], likely=found.geometry)
    assert again.payload == EXPECTED
    assert again.geometry.scale == pytest.approx(found.geometry.scale, rel=0.01)


def test_frames_shown_twice_and_played_faster_are_read() -> None:
    thirty = marked_clip()[[number * 25 // 30 for number in range(60)]]
    assert detect(thirty, fps=30.0).payload == EXPECTED
    assert detect(marked_clip()[:60], fps=30.0).payload == EXPECTED


def test_a_later_block_has_a_later_slot() -> None:
    first = 64 * 12 * 3 - 3
    found = detect(marked(clip()[:50], first))
    assert found.payload == Payload(DEPLOYMENT, session_number(SESSION_ID), 3)


@pytest.mark.parametrize("number", [0, 7])
def test_neither_another_key_nor_unmarked_frames_have_a_mark(number: int) -> None:
    other = detect(marked_clip()[:50], b"another secret of this length %d" % number)
    none = detect(clip()[number : number + 50])
    assert other.payload is none.payload is None
    assert max(other.score, none.score) < THRESHOLD


def test_the_threshold_is_that_of_the_bound() -> None:
    assert 2 * HYPOTHESES * np.exp(-(THRESHOLD**2) / 2) == pytest.approx(FALSE_POSITIVES)


def test_scores_of_many_keys_stay_below_the_bound() -> None:
    """The mean square of z at one place is 1, whatever the frames are: the phases of the key alone are random."""
    planes = clip()[:50, ..., 0].astype(np.float32)
    lines = lines_of(demodulate(planes, np.arange(len(planes)) / 25), 1.0)
    products = [lines * np.conj(carrier_of(b"key number %08d" % number).pilot_spectrum()) for number in range(300)]
    scores = np.array([abs(one.sum()) / np.sqrt((np.abs(one) ** 2).sum()) for one in products])
    assert np.mean(scores**2) == pytest.approx(1.0, abs=0.25)
    assert np.mean(scores > 2.0) <= 2 * np.exp(-2.0)


def test_every_frame_has_the_promised_psnr() -> None:
    for size in ((64, 64), (SIZE, 320), (384, 704)):
        before = portrait(*size, 8)
        errors = ((before.astype(float) - marked(before)) ** 2).mean(axis=(1, 2, 3))
        assert (10 * np.log10(255**2 / errors) > psnr_db(*size) - 0.6).all()
    assert (psnr_db(64, 64), psnr_db(704, 384)) == (MIN_PSNR_DB, MAX_PSNR_DB)
    assert MIN_PSNR_DB - 0.6 > 42


@pytest.mark.parametrize("frames, times", [(1, 1), (50, 49)])
def test_windows_that_are_none_are_refused(frames: int, times: int) -> None:
    with pytest.raises(ValueError, match="cannot be searched"):
        Detector(carrier_of(KEY)).detect(np.zeros((frames, SIZE, SIZE), np.float32), np.arange(times) / 25)


def test_a_black_video_has_no_mark() -> None:
    found = detect(np.zeros((50, SIZE, SIZE, 3), np.uint8))
    assert found.payload is None
    assert found.score < THRESHOLD


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        carrier_of(b"short")


def test_a_carrier_is_the_same_in_every_version() -> None:
    """Marks of years ago are to be read: phases and roles must never change."""
    carrier = carrier_of(KEY)
    assert carrier.phases[:2].round(6).tolist() == PHASES
    assert (carrier.pilot[:5].tolist(), carrier.data[:5].tolist()) == (PILOT, DATA)


PHASES = [(0.664751 - 0.747065j), (-0.876807 + 0.480843j)]
PILOT = [845, 32, 43, 540, 314]
DATA = [181, 241, 461, 267, 798]
