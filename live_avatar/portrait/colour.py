"""Colours as a file means them to colours as a screen shows them: everything becomes sRGB.

A profile that cannot be used is ignored, as viewers do; a picture never fails by it.
"""

import io
import struct
from typing import Any

from PIL import ExifTags, Image, ImageChops, ImageCms

from live_avatar.portrait.header import Header
from live_avatar.portrait.profile import ADOBE_GAMMA, ADOBE_RGB, SRGB, Chromaticities, coded_profile, rgb_profile

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_SCREEN = ImageCms.createProfile("sRGB")
_SAME = 1
"""Levels by which a profile may differ from sRGB and count as sRGB: its pictures are left as they are."""
_STEPS = 9
_FILE_GAMMA, _GAMMA_SLACK = 1 / 2.2, 0.05
"""What PNG files with the curve of sRGB say."""
_CHROMATICITY_SLACK = 0.002
_UNCALIBRATED = 0xFFFF
_BROKEN_EXIF = (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, struct.error)


def to_srgb(image: Image.Image, header: Header, info: dict[str | tuple[int, int], Any]) -> Image.Image:
    """An opaque picture as RGB in sRGB.

    Args:
        image: of mode L, RGB or CMYK, or one that Pillow makes RGB of.
        header: of its file.
        info: what Pillow found in the file beside the picture.
    """
    for profile in _profiles(header, info):
        try:
            return _converted(image, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            continue
    return image.convert("RGB")


def _profiles(header: Header, info: dict[str | tuple[int, int], Any]) -> list[bytes]:
    """What the file says of its colours, the better word first."""
    embedded = info.get("icc_profile")
    coded = coded_profile(header.primaries, header.transfer)
    if header.kind == "PNG" and header.primaries:
        return [coded] if coded else []
    if embedded:
        return [embedded]
    further = {"PNG": _png_profile, "JPEG": _camera_profile}.get(header.kind)
    found = coded or (further(info) if further else None)
    return [found] if found else []


def _png_profile(info: dict[str | tuple[int, int], Any]) -> bytes | None:
    """The profile of a PNG file's gAMA and cHRM chunks; None where they say sRGB, or nothing that can be used."""
    gamma, chromaticities = info.get("gamma"), tuple(info.get("chromaticity", SRGB))
    if "srgb" in info or not gamma:
        return None
    if abs(gamma / _FILE_GAMMA - 1) < _GAMMA_SLACK and _near(chromaticities, SRGB):
        return None
    try:
        return rgb_profile(chromaticities, 1 / gamma)
    except ValueError:
        return None


def _camera_profile(info: dict[str | tuple[int, int], Any]) -> bytes | None:
    """Adobe RGB where a camera says so by the rules of cameras alone (DCF 2.0): interoperability R03."""
    exif = Image.Exif()
    try:
        exif.load(info.get("exif", b""))
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except _BROKEN_EXIF:
        return None
    if space != _UNCALIBRATED or str(index).rstrip("\0") != "R03":
        return None
    return rgb_profile(ADOBE_RGB, ADOBE_GAMMA)


def _near(first: Chromaticities, second: Chromaticities) -> bool:
    return all(abs(a - b) < _CHROMATICITY_SLACK for a, b in zip(first, second, strict=True))


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture seen through an ICC profile; raises one of Pillow's errors where it does not fit."""
    opened = ImageCms.getOpenProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    if space == "RGB" and image.mode != "CMYK":
        image = image.convert("RGB")
    if _SPACES.get(image.mode) != space:
        raise ValueError(f"a profile for {space} in a picture of mode {image.mode}")
    transform = ImageCms.buildTransform(
        opened,
        _SCREEN,
        image.mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if image.mode != "CMYK" and _is_same(image.mode, transform):
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None, "the picture is not converted in place"
    return converted


def _is_same(mode: str, transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform changes no colour visibly; its rounding would change pictures that say they are sRGB."""
    levels = [round(255 * step / (_STEPS - 1)) for step in range(_STEPS)]
    colours = [(r, g, b) for r in levels for g in levels for b in levels] if mode == "RGB" else [(g,) for g in levels]
    probe = Image.frombytes(mode, (len(colours), 1), bytes(level for colour in colours for level in colour))
    seen = ImageCms.applyTransform(probe, transform)
    assert seen is not None, "the probe is not converted in place"
    differences = ImageChops.difference(seen, probe.convert("RGB")).tobytes()
    return max(differences) <= _SAME
