"""Which part of a portrait is shown where a face is found in it."""

import io
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from live_avatar.cli.inputs import PORTRAIT
from live_avatar.portrait import face as faces
from live_avatar.portrait import jobs
from live_avatar.portrait.face import SEARCHED_SIDE, Box, cascade_file, face_finder
from live_avatar.portrait.fitting import ENOUGH_SHARE, FACE_SHARE, SMALL_SIDE, FitRule, fit_portrait, part_about
from live_avatar.portrait.limits import DEFAULT_LIMITS
from live_avatar.services.vae_decoder import service
from live_avatar.trainer.synthetic.clips import person_of
from live_avatar.trainer.synthetic.motion import still
from live_avatar.trainer.synthetic.painter import paint

BACKGROUND = (90, 110, 100)
SIZES = ((64, 64), (128, 128), (64, 128), (256, 512), (512, 256))


@pytest.fixture
def fresh_finder() -> Iterator[None]:
    face_finder.cache_clear()
    yield
    face_finder.cache_clear()


@cache
def head(side: int) -> Image.Image:
    """A drawn person who fills the picture."""
    return Image.fromarray(paint(person_of(0, "held_out"), still(), side)[0])


def scene(size: tuple[int, int], at: tuple[int, int], side: int) -> Image.Image:
    """A picture of ``size`` with a head of ``side`` pixels at ``at``."""
    image = Image.new("RGB", size, BACKGROUND)
    image.paste(head(side), at)
    return image


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def drawn(image: Image.Image, height: int, width: int, fit: FitRule = "cover") -> npt.NDArray[np.uint8]:
    """What the decoding process shows of a picture."""
    _, data = jobs.draw(png(image), limits=asdict(DEFAULT_LIMITS), height=height, width=width, fit=fit)
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def find(image: Image.Image) -> Box:
    found = face_finder()(image)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("size", "at", "side"),
    [
        ((256, 256), (0, 0), 256),
        ((900, 400), (620, 60), 260),
        ((400, 900), (90, 30), 220),
        ((300, 1200), (20, 900), 250),
    ],
)
def test_the_face_is_found_where_it_is(size: tuple[int, int], at: tuple[int, int], side: int) -> None:
    box = find(scene(size, at, side))
    assert abs(box.left + box.width / 2 - at[0] - side / 2) < 0.1 * side
    assert abs(box.top + box.height / 2 - at[1] - side / 2) < 0.1 * side
    assert 0.5 * side < box.width < 0.9 * side


def test_the_largest_of_several_is_found() -> None:
    image = scene((900, 500), (40, 60), 180)
    image.paste(head(360), (480, 70))
    assert find(image).left > 450


@pytest.mark.parametrize("size", [(480, 60), (60, 480), (16, 16), (16, 128), (700, 500)])
def test_where_there_is_no_face_none_is_found(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    for image in (Image.new("RGB", size, BACKGROUND), noise):
        assert face_finder()(image) is None


@pytest.mark.parametrize("at", [(0, 40), (620, 40)])
def test_a_head_beside_the_middle_fills_a_small_picture(at: tuple[int, int]) -> None:
    """Without a face found, the middle of this picture is its background."""
    image = scene((900, 400), at, 280)
    shown = Image.fromarray(drawn(image, 64, 64))
    box = find(shown)
    assert 0.6 * 64 < box.width < 0.95 * 64
    assert 20 < box.left + box.width / 2 < 44
    assert face_finder()(fit_portrait(image, 64, 64, "cover")) is None


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("size", "at", "side"), [((900, 300), (20, 20), 180), ((400, 900), (20, 600), 220), ((400, 900), (20, 20), 220)]
)
def test_a_cut_keeps_the_face_whole(
    height: int, width: int, size: tuple[int, int], at: tuple[int, int], side: int
) -> None:
    face = find(scene(size, at, side))
    part = part_about(face, size, height, width)
    assert part is not None
    left, top, right, bottom = part
    assert left <= face.left and face.left + face.width <= right
    assert top <= face.top and face.top + face.height <= bottom


@given(
    size=st.tuples(st.integers(16, 4000), st.integers(16, 4000)),
    target=st.tuples(st.sampled_from([64, 128, 192, 384, 704]), st.sampled_from([64, 128, 256, 384])),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    share=st.floats(0.05, 1.0),
)
def test_the_part_lies_in_the_portrait_and_has_the_shape_of_the_picture(
    size: tuple[int, int], target: tuple[int, int], place: tuple[float, float], share: float
) -> None:
    side = share * min(size)
    face = Box((size[0] - side) * place[0], (size[1] - side) * place[1], side, side)
    part = part_about(face, size, *target)
    assume(part is not None)
    assert part is not None
    left, top, right, bottom = part
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert (right - left) * target[0] == pytest.approx((bottom - top) * target[1], rel=1e-6)
    for first, last, begin, extent in ((left, right, face.left, face.width), (top, bottom, face.top, face.height)):
        if last - first >= extent:
            assert first <= begin + 1e-6 and begin + extent <= last + 1e-6
    image = Image.new("RGB", (min(size[0], 300), min(size[1], 300)))
    assert fit_portrait(image, *target, "cover", face=Box(0, 0, 20, 20)).size == (target[1], target[0])


def test_only_small_pictures_are_drawn_nearer() -> None:
    face, size = Box(400, 100, 100, 100), (1000, 1000)
    assert part_about(face, size, SMALL_SIDE + 64, SMALL_SIDE + 64) is None
    part = part_about(face, size, 64, 64)
    assert part is not None
    assert part[2] - part[0] == pytest.approx(100 / FACE_SHARE)
    enough = 1000 * ENOUGH_SHARE
    assert part_about(Box(200, 200, enough, enough), size, 64, 64) is None, "the face is near enough"
    assert part_about(Box(200, 200, enough - 1, enough - 1), size, 64, 64) is not None


def test_nothing_is_enlarged_to_show_a_face_nearer() -> None:
    part = part_about(Box(400, 100, 12, 12), (1000, 1000), 128, 128)
    assert part is not None
    assert part[2] - part[0] == pytest.approx(128)


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("kind", ["sample", "drawn"])
def test_a_face_that_fills_its_picture_is_not_cut(kind: str, side: int) -> None:
    image = Image.open(PORTRAIT).convert("RGB") if kind == "sample" else head(256)
    assert np.array_equal(drawn(image, side, side), np.asarray(fit_portrait(image, side, side, "cover")))


def test_the_reference_rule_knows_no_faces() -> None:
    image = scene((900, 400), (620, 40), 280)
    expected = np.asarray(fit_portrait(image, 64, 64, "reference"))
    assert np.array_equal(drawn(image, 64, 64, "reference"), expected)
    assert np.array_equal(np.asarray(fit_portrait(image, 64, 64, "reference", face=Box(620, 40, 200, 200))), expected)


def test_a_large_picture_keeps_the_pixels_of_a_small_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decoded at a fraction of its size, but not at less than a face near by needs."""
    image = Image.new("RGB", (3000, 2000))
    image.paste((255, 255, 255), (2400, 800, 2610, 1010))

    def find_white(decoded: Image.Image) -> Box:
        scale = decoded.width / image.width
        assert max(decoded.size) >= SEARCHED_SIDE
        return Box(2400 * scale, 800 * scale, 210 * scale, 210 * scale)

    monkeypatch.setattr(jobs, "_find_face", find_white)
    across = drawn(image, 64, 64)[32, :, 0].mean() / 255
    assert across == pytest.approx(FACE_SHARE, abs=0.03)


def test_without_a_detector_the_middle_is_shown(monkeypatch: pytest.MonkeyPatch, fresh_finder: None) -> None:
    monkeypatch.setattr(faces, "cascade_file", lambda: None)
    assert face_finder()(head(256)) is None
    monkeypatch.setattr(jobs, "_find_face", face_finder())
    image = scene((900, 400), (620, 40), 280)
    assert np.array_equal(drawn(image, 64, 64), np.asarray(fit_portrait(image, 64, 64, "cover")))


@pytest.mark.parametrize("missing", ["package", "cascade"])
def test_an_absent_detector_is_known_without_loading_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Spec:
        origin = str(tmp_path / "__init__.py")

    assert cascade_file() is not None and service._cut() == "about the face"
    monkeypatch.setattr(faces, "find_spec", lambda name: None if missing == "package" else Spec())
    assert cascade_file() is None
    assert "live-avatar[face]" in service._cut()


def test_a_search_that_fails_finds_none() -> None:
    class Broken:
        def detectMultiScale(self, *arguments: Any, **more: Any) -> Any:
            raise ArithmeticError

    assert faces._find(Broken(), ArithmeticError, head(64)) is None


def test_faces_are_searched_at_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []

    class Seen:
        def detectMultiScale(self, grey: npt.NDArray[np.uint8], **more: Any) -> Any:
            sizes.append(grey.shape)
            return ()

    for size in ((4000, 3000), (64, 64), (100, 800)):
        assert faces._find(Seen(), ArithmeticError, Image.new("RGB", size)) is None
    assert sizes == [(360, SEARCHED_SIDE), (SEARCHED_SIDE, SEARCHED_SIDE), (SEARCHED_SIDE, 60)]
