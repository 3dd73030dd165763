"""Portraits as phones store them: HEIC and AVIF, turned in all eight ways, with their colours."""

import io

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from live_avatar.portrait.header import read_header
from live_avatar.portrait.limits import PortraitError, PortraitLimits
from live_avatar.portrait.reading import load_portrait, read_portrait
from tests.test_portrait_colours import ADOBE_FILE, ADOBE_PROFILE, DISPLAY_P3, SKIN, fields, picture, stored

ORIENTATION = 0x0112
KINDS = ("JPEG", "PNG", "WEBP", "HEIC", "AVIF")


def encoded(image: Image.Image, kind: str, exif: Image.Exif | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    if exif is not None:
        options["exif"] = exif.tobytes()
    if kind == "HEIC":
        pillow_heif.from_pillow(image).save(buffer, quality=95, chroma=444, **options)
    else:
        exact: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}, "AVIF": {"subsampling": "4:4:4"}}
        image.save(buffer, kind, quality=95, **exact.get(kind, {}), **options)
    return buffer.getvalue()


def corners() -> Image.Image:
    """A picture whose corners have four colours, 48 x 32."""
    image = Image.new("RGB", (48, 32), (128, 128, 128))
    for place, colour in {(0, 0): "red", (32, 0): "lime", (0, 16): "blue", (32, 16): "yellow"}.items():
        image.paste(colour, (*place, place[0] + 16, place[1] + 16))
    return image


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image.convert("RGB")).astype(np.int64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_way_of_holding_the_camera_is_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    marked = corners()
    marked.info["exif"] = exif.tobytes()
    upright = ImageOps.exif_transpose(marked)
    portrait = read_portrait(encoded(corners(), kind, exif))
    assert portrait.image.size == (portrait.width, portrait.height) == upright.size
    for x in (8, upright.width - 8):
        for y in (8, upright.height - 8):
            assert np.abs(pixels(portrait.image)[y, x] - pixels(upright)[y, x]).max() < 40, (x, y)


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_a_phones_picture_is_read(kind: str) -> None:
    assert np.abs(fields(encoded(picture(SKIN), kind)) - SKIN).max() <= 6


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_its_profile_is_applied(kind: str) -> None:
    found = fields(encoded(ADOBE_FILE.convert("RGB"), kind, icc_profile=ADOBE_PROFILE))
    assert np.abs(found - SKIN).max() <= 6


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_its_codes_of_colour_are_applied(kind: str) -> None:
    data = encoded(picture(stored(SKIN, DISPLAY_P3, None)), kind)
    says_srgb, says_p3 = b"colrnclx\x00\x01\x00\x0d", b"colrnclx\x00\x0c\x00\x0d"
    assert data.count(says_srgb) == 1
    assert np.abs(fields(data.replace(says_srgb, says_p3)) - SKIN).max() <= 6


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_what_is_clear_shows_the_background(kind: str) -> None:
    image = Image.new("RGBA", (64, 64), (200, 10, 10, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    found = pixels(load_portrait(encoded(image, kind)))
    assert found[32, 8].min() > 245
    assert np.abs(found[32, 56] - [200, 10, 10]).max() < 12


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_the_header_reports_the_size_without_a_decoder(kind: str) -> None:
    data = encoded(Image.new("RGB", (640, 384)), kind)
    header = read_header(data)
    assert (header.width, header.height) == (640, 384)
    with pytest.raises(PortraitError, match="640x384") as caught:
        read_header(data, PortraitLimits(max_pixels=640 * 384 - 1))
    assert caught.value.reason == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.8])
def test_truncated_files_are_refused(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(PortraitError) as caught:
        load_portrait(data[: int(len(data) * kept)])
    assert caught.value.reason == "IMAGE_UNREADABLE"


def test_an_animation_is_refused_and_several_views_of_a_phone_are_not() -> None:
    first, second = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    with pytest.raises(PortraitError, match="animated"):
        load_portrait(encoded(first, "AVIF", save_all=True, append_images=[second]))
    several = pillow_heif.from_pillow(first)
    several.add_from_pillow(second)
    buffer = io.BytesIO()
    several.save(buffer, quality=90)
    assert load_portrait(buffer.getvalue()).size == (64, 64)


@pytest.mark.parametrize("brand", [b"isom", b"mp42", b"qt  "])
def test_videos_are_no_pictures(brand: bytes) -> None:
    with pytest.raises(PortraitError, match="HEIC or AVIF") as caught:
        load_portrait(b"\0\0\0\x18ftyp" + brand + bytes(4) + brand + brand + bytes(100))
    assert caught.value.reason == "IMAGE_UNREADABLE"
