"""Cutting and joining of large messages."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.parts import PART_BYTES, PartJoiner, conditioning_parts, cut


@given(st.binary(max_size=200), st.integers(1, 50))
def test_joined_parts_are_the_whole(data: bytes, part_bytes: int) -> None:
    pieces = cut(data, part_bytes)
    assert all(len(piece) <= part_bytes for piece in pieces) and len(pieces) >= 1
    joiner = PartJoiner()
    joined = [joiner.add(part, len(pieces), piece) for part, piece in enumerate(pieces)]
    assert joined == [None] * (len(pieces) - 1) + [data]


def test_no_request_of_a_large_conditioning_comes_near_the_message_limit() -> None:
    body = bytes(range(256)) * (9 << 10)
    requests = conditioning_parts(SessionKey(session_id="a", epoch=1), 4, body)
    assert len(requests) == 3 and all(request.ByteSize() < PART_BYTES + 1000 for request in requests)
    joiner = PartJoiner()
    parts = [request.conditioning_part for request in requests]
    assert {part.from_block for part in parts} == {4}
    assert [joiner.add(part.part, part.part_count, part.data, part.from_block) for part in parts][-1] == body


@pytest.mark.parametrize(
    "parts",
    [
        [(1, 2, 0)],
        [(0, 2, 0), (0, 2, 0)],
        [(0, 3, 0), (2, 3, 0)],
        [(0, 2, 0), (1, 3, 0)],
        [(0, 2, 0), (1, 2, 7)],
        [(0, 0, 0)],
    ],
)
def test_parts_out_of_order_are_refused_and_the_next_message_is_taken(parts: list[tuple[int, int, int]]) -> None:
    joiner = PartJoiner()
    with pytest.raises(ServiceError) as caught:
        for part, count, tag in parts:
            joiner.add(part, count, b"x", tag)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_OUT_OF_ORDER")
    assert joiner.add(0, 1, b"whole") == b"whole"


def test_the_bound_holds_before_bytes_are_kept() -> None:
    joiner = PartJoiner(max_bytes=10)
    assert joiner.add(0, 3, b"12345678") is None
    with pytest.raises(ServiceError) as caught:
        joiner.add(1, 3, b"901")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CONDITIONING_TOO_LARGE")
    assert joiner.add(0, 1, b"1234567890") == b"1234567890"


def test_a_part_that_is_too_large_or_a_count_that_promises_too_much_is_refused() -> None:
    for count, data in ((1, bytes(PART_BYTES + 1)), (2**32 - 1, b"")):
        with pytest.raises(ServiceError, match="CONDITIONING_TOO_LARGE"):
            PartJoiner().add(0, count, data)


def test_parts_without_bytes_are_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="0"):
        cut(b"x", 0)
