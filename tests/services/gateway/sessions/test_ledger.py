"""Blocks of a session from admission to delivery: each is counted once, in order, and held within bounds."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN

from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.services.gateway.sessions.ledger import BlockLedger
from live_avatar.serving.errors import ServiceError
from live_avatar.v1.avatar_service_pb2 import BlockTiming


def video(block: int, *frames: bytes, first: int = 0, last: bool = True) -> StreamVideoResponse.Video:
    timings = [BlockTiming(service="vae-decoder")] if last else []
    return StreamVideoResponse.Video(block_index=block, frames=frames, first_frame=first, last=last, timings=timings)


def ledger_of(blocks: int) -> BlockLedger:
    ledger = BlockLedger()
    for _ in range(blocks):
        ledger.admit(INVALID_SPAN, 0.25, idle=True)
    return ledger


def test_a_block_is_admitted_arrives_and_is_delivered() -> None:
    ledger = ledger_of(1)
    assert (ledger.admitted, ledger.delivered, ledger.ahead, ledger.is_in_flight) == (1, 0, 1, True)
    assert not ledger.receive(video(0, b"a", b"b", first=7, last=False), None)
    assert (ledger.next_arrived, ledger.held_bytes) == (None, 2)
    assert ledger.receive(video(0, b"c", first=9), None)
    block = ledger.next_arrived
    assert block is not None
    assert (block.index, block.first_frame, block.frames, block.size) == (0, 7, (b"a", b"b", b"c"), 3)
    assert (block.waited_s, block.idle, [timing.service for timing in block.timings]) == (0.25, True, ["vae-decoder"])
    ledger.deliver()
    assert (ledger.admitted, ledger.delivered, ledger.ahead, ledger.is_in_flight) == (1, 1, 0, False)
    assert (ledger.next_arrived, ledger.held_bytes, ledger.oldest_admitted_at) == (None, 0, None)


@given(st.permutations(range(6)))
def test_blocks_are_delivered_in_order_in_whatever_order_they_arrive(arrivals: list[int]) -> None:
    ledger, delivered = ledger_of(6), list[int]()
    for index in arrivals:
        ledger.receive(video(index, b"x"), None)
        while ledger.next_arrived is not None:
            delivered.append(ledger.next_arrived.index)
            ledger.deliver()
    assert delivered == list(range(6))


@pytest.mark.parametrize("block", [0, 1, 2])
def test_frames_of_a_block_that_is_not_in_the_pipeline_are_an_error(block: int) -> None:
    """Of one that was delivered, has arrived, or was never admitted."""
    ledger = ledger_of(2)
    for index in range(2):
        ledger.receive(video(index, b"x"), None)
    ledger.deliver()
    with pytest.raises(ServiceError, match=f"block {block}, which is not on its way") as caught:
        ledger.receive(video(block, b"x"), None)
    assert caught.value.code is grpc.StatusCode.INTERNAL


def test_too_much_that_waits_is_refused_before_it_is_taken() -> None:
    ledger = ledger_of(2)
    ledger.receive(video(0, bytes(60)), 100)
    ledger.receive(video(1, bytes(40), last=False), 100)
    with pytest.raises(ServiceError, match="100 bytes of video wait") as caught:
        ledger.receive(video(1, bytes(1)), 100)
    assert caught.value.reason == "SLOW_CONSUMER"
    assert ledger.held_bytes == 100


def test_one_block_may_have_any_size() -> None:
    ledger = ledger_of(1)
    ledger.receive(video(0, bytes(150), last=False), 100)
    ledger.receive(video(0, bytes(150)), 100)
    assert ledger.held_bytes == 300


def test_nothing_is_held_after_the_end() -> None:
    ledger = ledger_of(2)
    ledger.receive(video(0, b"x"), None)
    ledger.end()
    assert (ledger.held_bytes, ledger.is_in_flight, ledger.next_arrived) == (0, False, None)
