"""Large messages in pieces: cut serialized bytes into parts of at most 1 MiB and join them again.

Knows sizes and order alone, not what the bytes mean.
"""

from collections.abc import Sequence

import grpc

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.serving.errors import ServiceError

PART_BYTES = 1 << 20
MAX_JOINED_BYTES = 64 << 20


def cut(data: bytes, part_bytes: int = PART_BYTES) -> Sequence[bytes]:
    """Cuts bytes into parts of at most ``part_bytes``; empty bytes are one empty part."""
    if part_bytes <= 0:
        raise ValueError(f"a part must hold at least one byte, not {part_bytes}")
    return [data[start : start + part_bytes] for start in range(0, max(len(data), 1), part_bytes)]


def conditioning_parts(key: SessionKey, from_block: int, body: bytes) -> Sequence[StreamBlocksRequest]:
    """The requests that carry a serialized ``ConditioningBody``, in the order in which to send them."""
    pieces = cut(body)
    return [
        StreamBlocksRequest(
            conditioning_part=StreamBlocksRequest.ConditioningPart(
                key=key, from_block=from_block, part=part, part_count=len(pieces), data=piece
            )
        )
        for part, piece in enumerate(pieces)
    ]


class PartJoiner:
    """Joins the parts of one message after the other; holds at most ``max_bytes``.

    One joiner serves one sender; an error leaves it empty, ready for a new message.
    """

    def __init__(self, max_bytes: int = MAX_JOINED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._part_count = 0
        self._tag = 0

    def add(self, part: int, part_count: int, data: bytes, tag: int = 0) -> bytes | None:
        """Takes the next part; returns the joined bytes after the last one, else None.

        Args:
            part: number of this part, from 0.
            part_count: parts of the whole message; equal in all of them.
            data: at most ``PART_BYTES`` bytes.
            tag: anything else that all parts share, for example the block from which they hold.

        Raises:
            ServiceError: MESSAGE_OUT_OF_ORDER, or CONDITIONING_TOO_LARGE before the bound is passed.
        """
        if part == 0 and not self._pieces:
            self._part_count, self._tag = part_count, tag
        try:
            self._check(part, part_count, data, tag)
        except ServiceError:
            self._pieces = []
            raise
        self._pieces.append(data)
        if part + 1 < part_count:
            return None
        joined = b"".join(self._pieces)
        self._pieces = []
        return joined

    def _check(self, part: int, part_count: int, data: bytes, tag: int) -> None:
        expected = (len(self._pieces), self._part_count, self._tag)
        if (part, part_count, tag) != expected or part >= part_count:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "MESSAGE_OUT_OF_ORDER",
                f"part {part} of {part_count} came where part {expected[0]} of {expected[1]} was due",
                field="part",
            )
        held = sum(len(piece) for piece in self._pieces)
        if len(data) > PART_BYTES or held + len(data) > self._max_bytes or part_count > self._max_bytes:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "CONDITIONING_TOO_LARGE",
                f"{held + len(data)} bytes in {part + 1} parts; a part may have {PART_BYTES}, all {self._max_bytes}",
            )
