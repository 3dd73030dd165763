"""What an image file claims about itself, read without a decoder: kind, size, work, and how its colours are meant.

Needs no library, so that it can run where none is installed, and before anything is allocated for the file.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from live_avatar.limits import IMAGE_FORMATS
from live_avatar.portrait.limits import DEFAULT_LIMITS, PortraitError, PortraitLimits

Kind = Literal["JPEG", "PNG", "WEBP", "HEIF", "AVIF"]

LIGHT_WORK = 4_000_000
"""Work up to which a picture counts as light: some tens of milliseconds."""
_PASSES: dict[Kind, int] = {"JPEG": 1, "PNG": 1, "WEBP": 2, "HEIF": 3, "AVIF": 3}
"""Work for each pixel, in units of a baseline JPEG's."""
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_MOVING_BRANDS = {b"avis", b"hevc", b"hevx", b"msf1"}
_WAY = ((b"meta", 4), (b"iprp", 0), (b"ipco", 0))
"""Boxes that are looked into, each in the one before, and how many bytes precede their content."""
_MAX_PARTS = 10_000
"""Of a header; files have some tens."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file claims; nothing of it is proven."""

    kind: Kind
    width: int
    """As stored; rotation may exchange it with the height."""
    height: int
    passes: int
    """How often a decoder goes over the picture."""
    primaries: int = 0
    """Code of its colour primaries (ITU-T H.273), as HEIC, AVIF and PNG files have it; 0: none."""
    transfer: int = 0
    """Code of its tone curve (ITU-T H.273); 0: none."""

    @property
    def work(self) -> int:
        """Work to decode it, in pixels of a baseline JPEG."""
        return self.width * self.height * self.passes

    @property
    def light(self) -> bool:
        """It is decoded in some tens of milliseconds."""
        return self.work <= LIGHT_WORK


def read_header(data: bytes, limits: PortraitLimits = DEFAULT_LIMITS) -> Header:
    """What a portrait's file claims, held to the limits.

    Raises:
        PortraitError: IMAGE_TOO_LARGE where the file or the size it claims is over a limit; IMAGE_TOO_SLOW where it
            asks for more passes than pictures do; IMAGE_UNREADABLE for other formats, animations and damaged headers.
    """
    limits.check_bytes(len(data))
    try:
        header = _parse(data)
    except (struct.error, IndexError) as error:
        raise PortraitError("IMAGE_UNREADABLE", "the image ends within its header") from error
    limits.check_size(header.width, header.height)
    if header.work > limits.max_pixels * limits.max_passes:
        raise PortraitError(
            "IMAGE_TOO_SLOW", f"the image is stored in {header.passes} passes, too many for its size; save it anew"
        )
    return header


def _parse(data: bytes) -> Header:
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data[4:8] == b"ftyp":
        return _isobmff(data)
    raise PortraitError("IMAGE_UNREADABLE", f"the image is no {IMAGE_FORMATS} file")


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    primaries, transfer = _png_colour(data)
    return Header(kind="PNG", width=width, height=height, passes=_PASSES["PNG"], primaries=primaries, transfer=transfer)


def _png_colour(data: bytes) -> tuple[int, int]:
    """Primaries and transfer of the cICP chunk, which comes before the pixels."""
    position = 8
    for _ in range(_MAX_PARTS):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 12]
        if kind == b"cICP" and length == len(body):
            return body[0], body[1]
        if kind in {b"IDAT", b""}:
            break
        position += 12 + length
    return 0, 0


def _jpeg(data: bytes) -> Header:
    """Size in the first start-of-frame segment of a JPEG file (ITU T.81, annex B)."""
    position = 2
    for _ in range(_MAX_PARTS):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", data, position + 5)
            # Each scan is one pass; entropy-coded data cannot hold its marker.
            scans = data.count(b"\xff\xda", position)
            return Header(kind="JPEG", width=width, height=height, passes=max(1, scans))
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + max(2, length)
    raise PortraitError("IMAGE_UNREADABLE", "the JPEG header is damaged")


def _webp(data: bytes) -> Header:
    """Size in the first chunk of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    match data[12:16]:
        case b"VP8X":
            if data[20] & 0x02:
                raise _animated()
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case _:
            raise PortraitError("IMAGE_UNREADABLE", "the WebP header is damaged")
    return Header(kind="WEBP", width=width, height=height, passes=_PASSES["WEBP"])


def _isobmff(data: bytes) -> Header:
    """The largest size and the first colour description in a HEIC or AVIF file (ISO/IEC 23008-12)."""
    (end,) = struct.unpack_from(">I", data)
    brands = {data[at : at + 4] for at in (8, *range(16, min(end, len(data), 256), 4))}
    kind: Kind = "AVIF" if brands & _AVIF_BRANDS else "HEIF"
    if data[8:12] in _MOVING_BRANDS:
        raise _animated()
    if kind == "HEIF" and not brands & _HEIF_BRANDS:
        raise PortraitError("IMAGE_UNREADABLE", f"the file is no {IMAGE_FORMATS} picture")
    sizes, colour = [(0, 0)], (0, 0)
    for name, start, stop in islice(_boxes(data, 0, len(data), _WAY), _MAX_PARTS):
        if name == b"ispe":
            width, height = struct.unpack_from(">II", data, start + 4)
            sizes.append((width, height))
        elif name == b"colr" and data[start : start + 4] == b"nclx" and stop >= start + 8 and colour == (0, 0):
            primaries, transfer = struct.unpack_from(">HH", data, start + 4)
            colour = primaries, transfer
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header(kind=kind, width=width, height=height, passes=_PASSES[kind], primaries=colour[0], transfer=colour[1])


def _boxes(data: bytes, start: int, stop: int, way: Sequence[tuple[bytes, int]]) -> Iterator[tuple[bytes, int, int]]:
    """Name, first and last byte of the content of every box, those on the ``way`` to item properties included."""
    while start + 8 <= stop:
        length, name = struct.unpack_from(">I4s", data, start)
        if not 8 <= length <= stop - start:
            return  # to the end of the file, 64 bits, or damaged: pixels
        yield name, start + 8, start + length
        if way and name == way[0][0]:
            yield from _boxes(data, start + 8 + way[0][1], start + length, way[1:])
        start += length


def _animated() -> PortraitError:
    return PortraitError("IMAGE_UNREADABLE", "the image is animated; a portrait must be one still picture")
