"""Portraits look as their files mean them to: profiles, colours described by numbers, inks, greys, transparency."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from live_avatar.portrait.fitting import fit_portrait
from live_avatar.portrait.reading import load_portrait, read_portrait

Floats = NDArray[np.float64]

D65 = (0.3127, 0.3290)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_GAMMA = 563 / 256
LEVELS = 2
"""By which a converted picture may differ from the exact one."""
SKIN = np.array(
    [[224, 172, 140], [141, 85, 54], [90, 56, 37], [250, 220, 200], [60, 120, 60], [40, 60, 130], [128, 128, 128]]
)
"""Colours within all the spaces here."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(levels: NDArray[np.generic]) -> Image.Image:
    """Fields of 16 x 16 pixels, one of each of ``levels`` [n, channels] or [n]."""
    return Image.fromarray(np.tile(np.repeat(levels.astype(np.uint8), 16, 0)[None], (16, 1, *[1] * (levels.ndim - 1))))


def fields(data: bytes) -> NDArray[np.int64]:
    """The colours of a portrait made by ``picture``, [n, 3]."""
    return np.asarray(load_portrait(data)).astype(np.int64)[8, 8::16]


def to_xyz(primaries: Sequence[tuple[float, float]]) -> Floats:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([D65[0] / D65[1], 1, (1 - D65[0] - D65[1]) / D65[1]])
    return columns * np.linalg.solve(columns, white)


def srgb_curve(linear: Floats) -> Floats:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def srgb_linear(levels: Floats) -> Floats:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def stored(colours: NDArray[np.generic], primaries: Sequence[tuple[float, float]], gamma: float | None) -> Floats:
    """What a file in another RGB holds for colours of sRGB [n, 3]; ``gamma`` None: it has the curve of sRGB."""
    linear = srgb_linear(colours.astype(np.float64) / 255) @ to_xyz(SRGB).T @ np.linalg.inv(to_xyz(primaries)).T
    return np.round(255 * (srgb_curve(linear) if gamma is None else linear.clip(0) ** (1 / gamma)))


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65_536) for value in values))


def profile_file(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2."""
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12x4s28x", start + len(body), b"", 0x02400000, kind, space, connection, b"acsp"
    ) + fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + table + body


def rgb_profile(primaries: Sequence[tuple[float, float]], gamma: float) -> bytes:
    """A matrix profile, made apart from the product's own."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    white = to_xyz(primaries).sum(1)
    gains = (bradford @ [0.9642, 1, 0.8249]) / (bradford @ white)
    matrix = np.linalg.inv(bradford) @ np.diag(gains) @ bradford @ to_xyz(primaries)
    tags = {b"rgb"[i : i + 1] + b"XYZ": b"XYZ \0\0\0\0" + fixed(*matrix[:, i]) for i in range(3)}
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(256 * gamma))
    tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    return profile_file(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(256 * gamma))
    return profile_file(
        b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve, b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)}
    )


def ink_profile() -> bytes:
    """CMYK of which the cyan ink is printed green, and the others as they are called."""
    lab = {"white": (255, 128, 128), "green": (140, 60, 190), "black": (0, 128, 128)}
    grid = b"".join(
        bytes(lab["black" if k or m or y else "green" if c else "white"])
        for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)
    )  # fmt: skip
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + ramp * 4 + grid + ramp * 3
    return profile_file(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG file with chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def gamma_chunk(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(100_000 / gamma)))


def primaries_chunk(primaries: Sequence[tuple[float, float]]) -> bytes:
    values = [*D65, *(side for pair in primaries for side in pair)]
    return chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in values)))


ADOBE_FILE = picture(stored(SKIN, ADOBE_RGB, ADOBE_GAMMA))
ADOBE_PROFILE = rgb_profile(ADOBE_RGB, ADOBE_GAMMA)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 98, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_an_embedded_profile_is_applied(kind: str, options: dict[str, object]) -> None:
    found = fields(encoded(ADOBE_FILE, kind, icc_profile=ADOBE_PROFILE, **options))
    assert np.abs(found - SKIN).max() <= LEVELS + (2 if kind in {"JPEG", "AVIF"} else 0)
    # Without its profile the file looks otherwise, so the assertion above says something.
    assert np.abs(fields(encoded(ADOBE_FILE, kind, **options)) - SKIN).max() > 5 * LEVELS


@pytest.mark.parametrize("mode", ["RGBA", "P", "P with a clear colour", "RGB with a clear colour"])
def test_a_profile_holds_in_every_mode_of_colour(mode: str) -> None:
    image, options = ADOBE_FILE.convert("RGB"), dict[str, object]()
    if mode == "RGBA":
        image.putalpha(255)
    if mode.startswith("P"):
        image = image.quantize(256)
    if mode == "P with a clear colour":
        options["transparency"] = 255
    if mode == "RGB with a clear colour":
        options["transparency"] = (1, 2, 3)
    assert np.abs(fields(encoded(image, "PNG", icc_profile=ADOBE_PROFILE, **options)) - SKIN).max() <= LEVELS


def test_what_is_clear_is_white_whatever_the_profile() -> None:
    image = ADOBE_FILE.convert("RGB")
    image.putalpha(0)
    assert (fields(encoded(image, "PNG", icc_profile=ADOBE_PROFILE)) == 255).all()


def test_a_profile_that_says_srgb_changes_nothing() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(np.asarray(load_portrait(encoded(image, "PNG", icc_profile=profile))), np.asarray(image))


@pytest.mark.parametrize(
    "profile",
    [
        b"\0",
        b"no profile at all" * 20,
        ADOBE_PROFILE[:200],
        grey_profile(1.8),
        ink_profile(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
    ids=["a byte", "text", "half", "for grey", "for inks", "for Lab"],
)
def test_a_profile_that_does_not_fit_is_ignored(profile: bytes) -> None:
    assert np.array_equal(fields(encoded(picture(SKIN), "PNG", icc_profile=profile)), SKIN)


GREYS = np.array([0, 20, 60, 128, 200, 255])


def as_seen(greys: NDArray[np.int64], gamma: float) -> Floats:
    return np.repeat(255 * srgb_curve((greys / 255) ** gamma)[:, None], 3, 1)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_greys_with_a_profile(mode: str) -> None:
    image = picture(GREYS)
    if mode == "LA":
        image = image.convert("LA")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    found = fields(encoded(image, "PNG", icc_profile=grey_profile(1.0)))
    assert np.abs(found - as_seen(GREYS, 1.0)).max() <= LEVELS


def test_greys_with_a_profile_for_colours() -> None:
    found = fields(encoded(picture(GREYS), "JPEG", quality=100, icc_profile=rgb_profile(SRGB, 1.0)))
    assert np.abs(found - as_seen(GREYS, 1.0)).max() <= 2 * LEVELS


INKS = np.array([[255, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255]])


def test_inks_are_seen_through_their_profile() -> None:
    image = Image.frombytes("CMYK", (48, 16), np.tile(np.repeat(INKS, 16, 0).astype(np.uint8), (16, 1, 1)).tobytes())
    plain = fields(encoded(image, "JPEG", quality=98, subsampling=0))
    assert np.abs(plain - [[0, 255, 255], [255, 255, 255], [0, 0, 0]]).max() <= 8
    cyan, white, black = fields(encoded(image, "JPEG", quality=98, subsampling=0, icc_profile=ink_profile()))
    assert cyan[1] > cyan[0] + 60
    assert cyan[1] > cyan[2] + 60
    assert white.min() > 245
    assert black.max() < 10


def test_inks_with_a_broken_profile_are_read_as_without() -> None:
    image = Image.new("CMYK", (32, 32), (30, 120, 140, 10))
    plain = load_portrait(encoded(image, "JPEG"))
    for profile in (b"nonsense" * 20, ADOBE_PROFILE):
        assert load_portrait(encoded(image, "JPEG", icc_profile=profile)) == plain


def test_png_files_that_describe_their_colours_by_numbers() -> None:
    described = with_chunks(encoded(ADOBE_FILE, "PNG"), gamma_chunk(ADOBE_GAMMA), primaries_chunk(ADOBE_RGB))
    assert np.abs(fields(described) - SKIN).max() <= LEVELS
    linear = with_chunks(encoded(picture(GREYS), "PNG"), gamma_chunk(1.0))
    assert np.abs(fields(linear) - as_seen(GREYS, 1.0)).max() <= LEVELS


@pytest.mark.parametrize(
    "chunks",
    [
        (gamma_chunk(2.2),),
        (gamma_chunk(2.2), primaries_chunk(SRGB)),
        (chunk(b"sRGB", b"\0"), gamma_chunk(1.0)),
        (primaries_chunk(((0.5, 0.5), (0.5, 0.5), (0.5, 0.5))), gamma_chunk(1.0)),
        (chunk(b"gAMA", bytes(4)),),
    ],
    ids=["curve of sRGB", "sRGB in full", "sRGB wins", "no colours", "no curve"],
)
def test_numbers_that_say_srgb_or_nothing_change_nothing(chunks: tuple[bytes, ...]) -> None:
    assert np.array_equal(fields(with_chunks(encoded(picture(SKIN), "PNG"), *chunks)), SKIN)


def test_a_profile_wins_over_numbers_and_codes_over_both() -> None:
    both = encoded(ADOBE_FILE, "PNG", icc_profile=ADOBE_PROFILE)
    assert np.abs(fields(with_chunks(both, gamma_chunk(1.0))) - SKIN).max() <= LEVELS
    p3 = encoded(picture(stored(SKIN, DISPLAY_P3, None)), "PNG", icc_profile=ADOBE_PROFILE)
    coded = with_chunks(p3, chunk(b"cICP", bytes([12, 13, 0, 1])))
    assert np.abs(fields(coded) - SKIN).max() <= LEVELS


def test_cameras_that_say_adobe_rgb_in_their_own_way() -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 0xFFFF
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {ExifTags.Interop.InteropIndex: "R03"}
    found = fields(encoded(ADOBE_FILE.convert("RGB"), "JPEG", quality=98, subsampling=0, exif=exif))
    assert np.abs(found - SKIN).max() <= LEVELS + 1


def test_large_pictures_are_read_smaller_and_look_the_same() -> None:
    rows, columns = np.mgrid[0:2100, 0:2800]
    waves = 120 + 60 * np.sin(rows / 90) + 60 * np.sin(columns / 70)
    image = Image.fromarray(np.stack([waves, waves[::-1], waves[:, ::-1]], -1).astype(np.uint8))
    files = [
        encoded(image, "JPEG", quality=95),
        encoded(image, "PNG", compress_level=1, icc_profile=ADOBE_PROFILE),
        encoded(image.convert("RGBA"), "WEBP", quality=95, method=0),
        encoded(image.quantize(256), "PNG", compress_level=1),
    ]
    for data in files:
        small = read_portrait(data, needed=128)
        assert (small.width, small.height) == (2800, 2100)
        assert 2 * 128 <= min(small.image.size) < 1000
        seen = [
            fit_portrait(one, 128, 128, "cover", (small.width, small.height))
            for one in (load_portrait(data), small.image)
        ]
        difference = np.abs(np.subtract(*(np.asarray(one).astype(int) for one in seen)))
        assert difference.mean() < 1.5
        assert difference.max() <= 12
