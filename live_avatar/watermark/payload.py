"""The 64 bits that a mark carries: which deployment, which session, and when in the session.

Two code words, each with a CRC of 16 bits: the identity (48 bits) is the same for a whole session, the slot (16 bits)
moves on.  A window in which the slot changes therefore still has its identity.
"""

import hashlib
from binascii import crc_hqx
from dataclasses import dataclass

import numpy as np

from live_avatar.watermark import convolution
from live_avatar.watermark.convolution import Bits, Soft

DEPLOYMENT_BITS, SESSION_BITS, SLOT_BITS = 24, 24, 16
IDENTITY_BITS = DEPLOYMENT_BITS + SESSION_BITS
BLOCKS_PER_SLOT = 64
"""30.72 s: 16 bits of slots last for 23 days, then they start over."""
_CRC_BITS, _CRC_START = 16, 0xFFFF
_IDENTITY_CODED = convolution.coded_length(IDENTITY_BITS + _CRC_BITS)
CODED_BITS = _IDENTITY_CODED + convolution.coded_length(SLOT_BITS + _CRC_BITS)


@dataclass(frozen=True)
class Payload:
    """What a mark says."""

    deployment: int
    """0 to 2**24 - 1, chosen by the operator."""
    session: int
    """0 to 2**24 - 1, from ``session_number``."""
    slot: int | None
    """0 to 2**16 - 1, from ``slot_of``; None where it could not be read."""


def session_number(session_id: str) -> int:
    """The number of a session in its marks: the first 24 bits of the SHA-256 of its id.

    Among 4,800 sessions two are probably the same; together with the slot and the operator's records it is enough.
    """
    return int.from_bytes(hashlib.sha256(session_id.encode()).digest()[: SESSION_BITS // 8], "big")


def slot_of(block: int) -> int:
    """The slot that block ``block`` of a session lies in."""
    return block // BLOCKS_PER_SLOT % (1 << SLOT_BITS)


def encode(payload: Payload) -> Bits:
    """Encodes a payload, whose slot is a number, as ``CODED_BITS`` bits.

    Raises:
        ValueError: a number is outside its range, or the slot is None.
    """
    if payload.slot is None:
        raise ValueError("a payload without a slot cannot be encoded")
    identity = _checked(payload.deployment, DEPLOYMENT_BITS) << SESSION_BITS | _checked(payload.session, SESSION_BITS)
    slot = _checked(payload.slot, SLOT_BITS)
    words = (_with_crc(identity, IDENTITY_BITS), _with_crc(slot, SLOT_BITS))
    return np.concatenate([convolution.encode(word) for word in words])


def decode(soft: Soft) -> Payload | None:
    """Decodes soft values [CODED_BITS], see ``convolution.decode``; None where the identity's CRC does not hold."""
    identity = _without_crc(convolution.decode(soft[:_IDENTITY_CODED]))
    if identity is None:
        return None
    slot = _without_crc(convolution.decode(soft[_IDENTITY_CODED:]))
    return Payload(identity >> SESSION_BITS, identity & (1 << SESSION_BITS) - 1, slot)


def _checked(number: int, bits: int) -> int:
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{number} is outside 0..{(1 << bits) - 1}")
    return number


def _with_crc(number: int, bits: int) -> Bits:
    data = number.to_bytes(bits // 8, "big")
    return np.unpackbits(np.frombuffer(data + crc_hqx(data, _CRC_START).to_bytes(2, "big"), np.uint8))


def _without_crc(word: Bits) -> int | None:
    """The number in a decoded word, None where its CRC does not hold."""
    data = np.packbits(word).tobytes()
    body, crc = data[: -_CRC_BITS // 8], data[-_CRC_BITS // 8 :]
    return int.from_bytes(body, "big") if crc_hqx(body, _CRC_START).to_bytes(2, "big") == crc else None
