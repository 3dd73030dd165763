"""Uploaded bytes: what is accepted, how it is shown upright, and what is refused before it costs anything."""

import io
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from live_avatar.portrait.header import read_header
from live_avatar.portrait.limits import DEFAULT_LIMITS, PortraitError, PortraitLimits
from live_avatar.portrait.reading import load_portrait

FORMATS = ("JPEG", "PNG", "WEBP")
ORIENTATION = 0x0112


def sample(width: int = 40, height: int = 24) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), (250, 10, 10))
    image.paste((10, 10, 250), (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(data: bytes, limits: PortraitLimits = DEFAULT_LIMITS) -> PortraitError:
    with pytest.raises(PortraitError) as caught:
        load_portrait(data, limits)
    return caught.value


def near(pixel: object, expected: tuple[int, int, int]) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= 16 for a, b in zip(pixel, expected, strict=True))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body


def jpeg_claiming(width: int, height: int) -> bytes:
    data = encoded(sample(), "JPEG")
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def webp_claiming(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_without_options_are_read(kind: str) -> None:
    image = load_portrait(encoded(sample(), kind, quality=95))
    assert (image.mode, image.size) == ("RGB", (40, 24))
    assert near(image.getpixel((8, 12)), (250, 10, 10))
    assert near(image.getpixel((32, 12)), (10, 10, 250))


@pytest.mark.parametrize("options", [{"lossless": True}, {"exif": Image.Exif()}])
def test_every_kind_of_webp_header_is_read(options: dict[str, object]) -> None:
    assert load_portrait(encoded(sample(37, 23), "WEBP", **options)).size == (37, 23)


def test_a_progressive_jpeg_behind_comments_is_read() -> None:
    assert load_portrait(encoded(sample(), "JPEG", progressive=True, comment=b"x" * 5000)).size == (40, 24)


@pytest.mark.parametrize("kind", FORMATS)
def test_exif_rotation_is_applied_and_metadata_dropped(kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = load_portrait(encoded(sample(), kind, exif=exif, quality=95))
    assert image.size == (24, 40)
    assert near(image.getpixel((12, 8)), (250, 10, 10))
    assert near(image.getpixel((12, 32)), (10, 10, 250))
    assert not image.info
    assert not image.getexif()


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("L", (16, 16), 77), "PNG", (77, 77, 77)),
        (Image.new("1", (16, 16), 1), "PNG", (255, 255, 255)),
        (Image.fromarray(np.full((16, 16), 128 * 256, np.uint16)), "PNG", (128, 128, 128)),
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
        (Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (16, 16), (0, 0, 0, 51)), "WEBP", (204, 204, 204)),
        (Image.new("LA", (16, 16), (0, 0)), "PNG", (255, 255, 255)),
    ],
    ids=["grey", "one bit", "16 bit", "cmyk", "clear", "half clear", "clear grey"],
)
def test_every_mode_becomes_rgb(image: Image.Image, kind: str, expected: tuple[int, int, int]) -> None:
    loaded = load_portrait(encoded(image, kind))
    assert loaded.mode == "RGB"
    assert near(loaded.getpixel((8, 8)), expected)


def test_a_palette_with_a_transparent_colour_shows_the_background() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([1, 2, 3, 9, 9, 9])
    assert load_portrait(encoded(image, "PNG", transparency=0)).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("claim", [png_claiming, jpeg_claiming, webp_claiming])
def test_an_image_bomb_is_refused_by_its_header(claim: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(claim)
    monkeypatch.setattr(Image, "open", lambda *_args, **_options: pytest.fail("a decoder saw the bomb"))
    data = claim(16_000, 16_000)
    assert len(data) < 2000
    error = refusal(data)
    assert error.reason == "IMAGE_TOO_LARGE"
    assert "16000x16000" in str(error)


def test_a_second_png_header_cannot_smuggle_a_size() -> None:
    honest, bomb = encoded(sample(), "PNG"), png_claiming(13_000, 3_000)
    assert refusal(honest[:33] + bomb[8:33] + honest[33:]).reason == "IMAGE_TOO_LARGE"


def test_too_many_bytes_and_too_many_pixels_are_refused() -> None:
    data = encoded(sample(), "PNG")
    assert refusal(data, PortraitLimits(max_bytes=len(data) - 1)).reason == "IMAGE_TOO_LARGE"
    assert refusal(data, PortraitLimits(max_pixels=40 * 24 - 1)).reason == "IMAGE_TOO_LARGE"
    assert refusal(data, PortraitLimits(max_side=39)).reason == "IMAGE_TOO_LARGE"
    exact = PortraitLimits(max_bytes=len(data), max_pixels=40 * 24, max_side=40, min_side=24)
    assert load_portrait(data, exact).size == (40, 24)


def test_more_passes_than_pictures_have_are_refused_by_the_header() -> None:
    scans = b"\xff\xda" * 33  # markers alone: nothing here could be decoded
    error = refusal(jpeg_claiming(5_000, 5_000) + scans)
    assert error.reason == "IMAGE_TOO_SLOW"
    assert "passes" in str(error)
    assert read_header(encoded(sample(), "JPEG", progressive=True) + scans).passes > 33
    assert load_portrait(encoded(sample(), "JPEG", progressive=True)).size == (40, 24)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 4_000_000,
        b"\xff\xd8" + b"\xff\xe0\0\2" * 1_000_000,
        png_claiming(64, 64)[:33] + png_chunk(b"tEXt", b"") * 330_000,
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x08free" * 500_000,
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
        + b"".join(struct.pack(">I", 4_000_000 - 12 * level) + b"meta\0\0\0\0" for level in range(100_000)),
    ],
    ids=["fill bytes", "segments", "chunks", "boxes", "boxes in boxes"],
)
def test_a_header_without_end_costs_little(data: bytes) -> None:
    began = time.process_time()
    with suppress(PortraitError):
        read_header(data)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("size", [(15, 20), (20, 15), (16 * 8 + 1, 16), (0, 0)])
def test_specks_and_strips_are_refused(size: tuple[int, int]) -> None:
    assert refusal(png_claiming(*size)).reason == "IMAGE_UNREADABLE"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7])
def test_truncated_files_are_refused(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert refusal(data[: int(len(data) * kept)]).reason == "IMAGE_UNREADABLE"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    frames = [sample(), sample().rotate(180)]
    error = refusal(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert error.reason == "IMAGE_UNREADABLE"
    assert "animated" in str(error)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBP",
        b"\x89PNG\r\n\x1a\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%PDF-1.7",
        encoded(sample(), "GIF"),
        encoded(sample(), "BMP"),
        encoded(sample(), "TIFF"),
    ],
    ids=["empty", "jpeg start", "webp start", "png start", "svg", "pdf", "gif", "bmp", "tiff"],
)
def test_anything_else_is_refused(data: bytes) -> None:
    assert refusal(data).reason == "IMAGE_UNREADABLE"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of damaged EXIF data and goes on
@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(FORMATS), place=st.floats(0, 1), junk=st.binary(min_size=1, max_size=12))
def test_damage_gives_a_picture_or_a_named_refusal(kind: str, place: float, junk: bytes) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    data = encoded(sample(), kind, exif=exif)
    start = int(place * (len(data) - 1))
    try:
        image = load_portrait(data[:start] + junk + data[start + len(junk) :], PortraitLimits(max_pixels=100_000))
    except PortraitError as error:
        assert error.reason in {"IMAGE_TOO_LARGE", "IMAGE_UNREADABLE"}
    else:
        assert image.mode == "RGB"


def test_reading_portraits_needs_no_torch() -> None:
    check = "import sys, live_avatar.portrait; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
