"""Boxes of a C2PA manifest store (ISO/IEC 19566-5) and of MP4 files (ISO/IEC 14496-12).

Knows bytes; nothing of what the boxes say.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

_TYPE_TAIL = bytes.fromhex("00110010800000aa00389b71")
STORE, MANIFEST, ASSERTIONS, CLAIM, SIGNATURE, CBOR = (
    kind + _TYPE_TAIL for kind in (b"c2pa", b"c2ma", b"c2as", b"c2cl", b"c2cs", b"cbor")
)
_REQUESTABLE_WITH_LABEL = 0x03
MANIFEST_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
"""Of the ``uuid`` box that holds a manifest store."""
HEADER_BYTES = 8


@dataclass(frozen=True)
class Box:
    """A box at the top of an MP4 file."""

    kind: bytes
    start: int
    data: bytes
    """With its header."""


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of ``kind`` (four characters)."""
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + HEADER_BYTES, kind) + body


def superbox(kind: bytes, label: str, *parts: bytes) -> bytes:
    """A JUMBF box of ``kind`` (16 bytes) with a label and boxes within."""
    description = box(b"jumd", kind, bytes([_REQUESTABLE_WITH_LABEL]), label.encode(), b"\0")
    return box(b"jumb", description, *parts)


def cbor_box(kind: bytes, label: str, content: bytes) -> bytes:
    """A JUMBF box of ``kind`` (16 bytes) with CBOR in it."""
    return superbox(kind, label, box(b"cbor", content))


def content_hash(superbox_bytes: bytes) -> bytes:
    """SHA-256 of a JUMBF box as C2PA refers to it: without the header."""
    return sha256(superbox_bytes[HEADER_BYTES:]).digest()


def manifest_box(store: bytes) -> bytes:
    """The MP4 box that holds a manifest store."""
    return box(b"uuid", MANIFEST_UUID, bytes(4), b"manifest\0", bytes(8), store)


def top_boxes(data: bytes) -> Iterator[Box]:
    """The boxes at the top of ``data``, in order.

    Raises:
        ValueError: their sizes do not add up to ``data``, or are written in the long form.
    """
    at = 0
    while at < len(data):
        if len(data) - at < HEADER_BYTES:
            raise ValueError(f"{len(data) - at} bytes follow the last box")
        size, kind = struct.unpack_from(">I4s", data, at)
        if not HEADER_BYTES <= size <= len(data) - at:
            raise ValueError(f"a box at {at} claims {size} of {len(data) - at} bytes")
        yield Box(kind, at, data[at : at + size])
        at += size


def bmff_hash(data: bytes, leaving_out: frozenset[bytes]) -> bytes:
    """SHA-256 over the top boxes but those of the kinds ``leaving_out``, each after its position (C2PA, 18.6.2)."""
    digest = sha256()
    for each in top_boxes(data):
        if each.kind not in leaving_out:
            digest.update(struct.pack(">Q", each.start) + each.data)
    return digest.digest()
