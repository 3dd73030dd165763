"""Which blocks of a session are finished ones, and how they come back to the gateway."""

import pytest

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.tensor_pb2 import Tensor
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.parts import PART_BYTES
from live_avatar.serving.priming import Priming, finished_block

Block = StreamBlocksRequest.Block
Open = StreamBlocksRequest.Open


@pytest.mark.parametrize(("first", "count"), [(0, 0), (0, 4), (7, 1), (2**32, 4)])
def test_what_may_be_announced(first: int, count: int) -> None:
    assert Priming.of(Open(first_block=first, primed_blocks=count), 4) == Priming(first, first + count)


@pytest.mark.parametrize(("first", "count"), [(0, 5), (1, 0), (2**32 + 1, 4), (0, 2**32 - 1)])
def test_what_may_not(first: int, count: int) -> None:
    with pytest.raises(ServiceError, match="PRIMING_INVALID"):
        Priming.of(Open(first_block=first, primed_blocks=count), 4)


def test_finished_blocks_come_first_and_no_others() -> None:
    priming = Priming(first_block=5, next_block=7)
    for index, prime in ((5, True), (6, True), (7, False), (8, False)):
        priming.check(Block(index=index, prime=prime), due=index)
        with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
            priming.check(Block(index=index, prime=not prime), due=index)
        with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
            priming.check(Block(index=index, prime=prime), due=index + 1)


def test_a_finished_block_comes_back_in_pieces_as_the_message_that_primes() -> None:
    key = SessionKey(session_id="a", epoch=3)
    came = Block(key=key, index=9, idle=True, traceparent="trace", sent_at_ns=5, latent=Tensor(data=b"x" * PART_BYTES))
    came.timings.add(service="before")
    came.audio.statistics.count = 4
    pieces = [response.finished_block for response in finished_block(came)]
    assert [(piece.part, piece.part_count) for piece in pieces] == [(0, 2), (1, 2)]
    assert all(piece.key == key and piece.block_index == 9 and len(piece.data) <= PART_BYTES for piece in pieces)
    kept = Block.FromString(b"".join(piece.data for piece in pieces))
    assert kept == Block(index=9, idle=True, prime=True, audio=came.audio, latent=came.latent)
