"""A session goes on from the blocks that the decoder gave back, through the work of all services, bit for bit."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

import numpy as np
import pytest
import torch

from live_avatar import wire
from live_avatar.config import SAMPLE_RATE_HZ, TINY
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.blocks_pb2 import Sink as SinkMessage
from live_avatar.services.audio_encoder.work import AudioEncoderWork
from live_avatar.services.denoise_stage.work import DenoiseStageWork
from live_avatar.services.vae_decoder.encoder_thread import EncoderThread
from live_avatar.services.vae_decoder.subscribers import SubscriberRegistry, VideoStream
from live_avatar.services.vae_decoder.work import VaeDecoderWork
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.parts import conditioning_parts
from live_avatar.serving.work import Work
from live_avatar.streaming.block import Block, Conditioning, Primed, Sink
from live_avatar.streaming.local import generate, warmup_latents
from live_avatar.v1.avatar_service_pb2 import LISTENING_STREAMING, LISTENING_WHOLE_FILE, BlockTiming, Listening
from tests.streaming.partitions import split_steps

from . import tiny
from .tiny import PROMPT, open_request, prompt_body, waveform

BLOCKS = 6
RULES = TINY.stream
LOOKAHEAD = round(RULES.lookahead_s * SAMPLE_RATE_HZ)
CONTEXT = round(RULES.left_context_s * SAMPLE_RATE_HZ)
BLOCK = TINY.samples_per_block
NEW_PROMPT, CHANGED_AT = "a fox", 3
RETAKEN = 1
"""The block whose look-ahead was silence at first."""
Mode: TypeAlias = Listening.ValueType
BlockMessage: TypeAlias = StreamBlocksRequest.Block


@cache
def sink() -> Sink:
    return tiny.frame_decoder().encode_portrait(tiny.portrait_pixels())


@cache
def first_sink() -> bytes:
    return wire.sink_to_message(sink(), warmup_latents(sink(), tiny.frame_decoder())).SerializeToString()


@cache
def samples() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return waveform(BLOCKS - 0.5)


@dataclass
class Received:
    """What came out of a chain."""

    blocks: dict[int, BlockMessage] = field(default_factory=dict)
    pictures: dict[int, bytes] = field(default_factory=dict)
    sinks: list[bytes] = field(default_factory=list)


class Chain:
    """The work of all services one after the other, in this thread, and one incarnation of a session on them."""

    def __init__(self, encoder: EncoderThread, stages: int, mode: Mode, epoch: int = 1) -> None:
        self.key = SessionKey(session_id="session", epoch=epoch)
        self.mode = mode
        self.received = Received()
        budget = tiny.MEMORY_BUDGET
        self.ears = AudioEncoderWork(
            TINY, tiny.speech(), tiny.audio_tokens(), tiny.text(), memory_budget=budget, max_whole_file_s=10
        )
        slices = split_steps(RULES.steps, stages)
        self.stages = [DenoiseStageWork(TINY, tiny.denoiser(owned), memory_budget=budget) for owned in slices]
        self.subscribers, self.stream = SubscriberRegistry(), VideoStream()
        self.decoder = VaeDecoderWork(
            TINY, tiny.frame_decoder(), memory_budget=budget, encoder=encoder, subscribers=self.subscribers
        )

        self.works: tuple[Work, ...] = (self.ears, *self.stages, self.decoder)

    def open(self, first_block: int = 0, primed_blocks: int = 0) -> None:
        request = open_request(listening=self.mode)
        request.key.CopyFrom(self.key)
        request.first_block, request.primed_blocks = first_block, primed_blocks
        self.subscribers.subscribe(self.key, self.stream, finished_blocks=True)
        for work in self.works:
            work.open(request)

    def close(self) -> None:
        for work in self.works:
            work.close(self.key)

    def condition(self, from_block: int, body: bytes) -> None:
        requests = conditioning_parts(self.key, from_block, body)
        for work in self.works:
            requests = [passed for one in requests for passed in work.condition(one.conditioning_part)]

    def speak(self, first: int, last: int, *, silence: bool = False) -> None:
        """Sends the samples from ``first`` to before ``last``, where there are any."""
        piece = samples()[first:last]
        if not piece.size:
            return
        data = np.zeros_like(piece) if silence else piece
        self.ears.audio(
            StreamBlocksRequest.Audio(
                key=self.key, samples=data.tobytes(), sample_offset=first, last=last >= samples().size
            )
        )

    async def block(self, message: BlockMessage) -> None:
        """Takes a block all the way, and what comes of it from the stream."""
        message.key.CopyFrom(self.key)
        for work in (self.ears.block, *(stage.block for stage in self.stages)):
            (passed,) = work(message)
            message = passed.block
        await self.decoder.block(message)(BlockTiming(service="vae-decoder"))
        parts: list[bytes] = []
        while (response := await self.stream.next(0.02)) is not None:
            if response.HasField("finished_block"):
                parts.append(response.finished_block.data)
            elif response.HasField("new_sink"):
                self.received.sinks.append(response.new_sink.data)
            for number, picture in enumerate(response.video.frames, response.video.first_frame):
                self.received.pictures[number] = picture
        if parts:
            self.received.blocks[message.index] = BlockMessage.FromString(b"".join(parts))


async def live(chain: Chain, first: int, sent: int) -> None:
    """Speaks and admits the blocks from ``first`` on, when the samples before ``sent`` are there."""
    for index in range(first, BLOCKS):
        needed = (index + 1) * BLOCK
        if chain.mode == LISTENING_STREAMING:
            chain.speak(sent, needed)
            chain.speak(needed, needed + LOOKAHEAD, silence=index == RETAKEN)
            sent = needed if index == RETAKEN else needed + LOOKAHEAD
        await chain.block(BlockMessage(index=index))
        if index == 0:
            chain.condition(RULES.sink_switch_block, ConditioningBody(
                sink=SinkMessage.FromString(chain.received.sinks[0])).SerializeToString())  # fmt: skip


async def whole(encoder: EncoderThread, mode: Mode) -> Received:
    chain = Chain(encoder, 1, mode)
    chain.open()
    chain.condition(0, prompt_body(first_sink()))
    chain.condition(CHANGED_AT, prompt_body(prompt=NEW_PROMPT))
    if mode == LISTENING_WHOLE_FILE:
        chain.speak(0, samples().size)
    await live(chain, 0, 0)
    return chain.received


async def resumed(encoder: EncoderThread, before: Received, mode: Mode, next_block: int, stages: int) -> Received:
    """The same session on another chain, from ``next_block`` on."""
    kept = range(max(0, next_block - RULES.window_blocks), next_block)
    chain = Chain(encoder, stages, mode, epoch=2)
    chain.open(kept.start, len(kept))
    chain.condition(0, prompt_body(first_sink()))
    own = ConditioningBody(sink=SinkMessage.FromString(before.sinks[0]))
    chain.condition(RULES.sink_switch_block, own.SerializeToString())
    chain.condition(CHANGED_AT, prompt_body(prompt=NEW_PROMPT))
    for index in kept:
        await chain.block(before.blocks[index])
    assert not chain.received.pictures and not chain.received.blocks and not chain.received.sinks
    if mode == LISTENING_WHOLE_FILE:
        chain.speak(0, samples().size)
        await live(chain, next_block, 0)
    else:
        await live(chain, next_block, max(0, next_block * BLOCK - CONTEXT))
    return chain.received


@torch.inference_mode()
def oracle(before: Received, next_block: int) -> Received:
    """What the library's loop makes of the same blocks."""
    came = {index: wire.block_from_message(message) for index, message in before.blocks.items()}
    kept = range(max(0, next_block - RULES.window_blocks), next_block)
    own = wire.sink_from_message(SinkMessage.FromString(before.sinks[0]))
    changes = (
        Conditioning(CHANGED_AT, text=tiny.text().encode(NEW_PROMPT)),
        Conditioning(RULES.sink_switch_block, sink=sink().own(own.reference)),
    )
    decoder = tiny.frame_decoder()
    made = generate(
        [tiny.denoiser(range(RULES.steps))],
        decoder,
        sink=sink(),
        warmup=warmup_latents(sink(), decoder),
        text=tiny.text().encode(PROMPT),
        audio=[came[index].audio for index in range(next_block, BLOCKS)],
        seed=7,
        primed=Primed(tuple(came[index] for index in kept), changes),
    )
    expected = Received()
    for one in made:
        message = wire.block_to_message(Block(one.block, came[one.block].audio, one.latent), SessionKey())
        expected.blocks[one.block] = message
        for frames in one.frames:
            for number, picture in enumerate(frames.pixels, frames.first):
                expected.pictures[number] = picture.numpy().tobytes()
    return expected


@cache
def undisturbed(mode: Mode) -> Received:
    with EncoderThread() as encoder:
        return asyncio.run(whole(encoder, mode))


@pytest.fixture(scope="module", autouse=True)
def made_before() -> None:
    """Makes what is kept while no event loop runs."""
    undisturbed(LISTENING_STREAMING)


@pytest.mark.parametrize(
    ("mode", "next_block", "stages"),
    [
        (LISTENING_STREAMING, 2, 2),
        (LISTENING_STREAMING, 5, 4),
        (LISTENING_WHOLE_FILE, 1, 2),
        (LISTENING_WHOLE_FILE, 5, 1),
    ],
)
def test_it_goes_on_like_the_library(mode: Mode, next_block: int, stages: int) -> None:
    before = undisturbed(mode)
    with EncoderThread() as encoder:
        made = asyncio.run(resumed(encoder, before, mode, next_block, stages))
    expected = oracle(before, next_block)
    assert list(made.blocks) == list(range(next_block, BLOCKS))
    for index, block in made.blocks.items():
        assert block.prime and not block.HasField("key")
        assert block.audio == before.blocks[index].audio, f"block {index} hears something else"
        assert block.latent == expected.blocks[index].latent, f"block {index} differs"
    assert made.pictures == expected.pictures
    assert not made.sinks


def test_an_undisturbed_session_gives_its_blocks_back() -> None:
    received = undisturbed(LISTENING_STREAMING)
    assert list(received.blocks) == list(range(BLOCKS))
    for index, block in received.blocks.items():
        assert (block.index, block.prime, block.audio.HasField("statistics")) == (index, True, True)
    counts = [block.audio.statistics.count for block in received.blocks.values()]
    assert counts == sorted(counts) and counts[0] > 0
    whole_file = undisturbed(LISTENING_WHOLE_FILE)
    assert not any(block.audio.HasField("statistics") for block in whole_file.blocks.values())


def kept(index: int) -> BlockMessage:
    """A copy of what came back of a block."""
    block = BlockMessage()
    block.CopyFrom(undisturbed(LISTENING_STREAMING).blocks[index])
    return block


def spoilt(index: int, spoil: Callable[[BlockMessage], object]) -> BlockMessage:
    block = kept(index)
    spoil(block)
    return block


async def goes_on(chain: Chain, announced: tuple[int, int], blocks: Sequence[BlockMessage]) -> None:
    chain.open(*announced)
    chain.condition(0, prompt_body(first_sink()))
    for block in blocks:
        await chain.block(block)


def _without_statistics(block: BlockMessage) -> None:
    block.audio.ClearField("statistics")


def _impossible_statistics(block: BlockMessage) -> None:
    block.audio.statistics.total = math.nan


def _other_size(block: BlockMessage) -> None:
    block.latent.CopyFrom(wire.tensor_to_message(torch.zeros(16, 3, 8, 9)))


def _other_tokens(block: BlockMessage) -> None:
    block.audio.local.CopyFrom(wire.tensor_to_message(torch.zeros(1, 3, 2, 8)))


def _without_latent(block: BlockMessage) -> None:
    block.ClearField("latent")


@pytest.mark.parametrize(
    ("announced", "blocks", "reason"),
    [
        ((0, RULES.window_blocks + 1), [], "PRIMING_INVALID"),
        ((3, 0), [], "PRIMING_INVALID"),
        ((2**32 + 1, 1), [], "PRIMING_INVALID"),
        ((2**64 - 1, 1), [], "PRIMING_INVALID"),
        ((0, 1), [lambda: kept(0), lambda: kept(1)], "MESSAGE_OUT_OF_ORDER"),
        ((2, 2), [lambda: BlockMessage(index=2)], "MESSAGE_OUT_OF_ORDER"),
        ((2, 2), [lambda: kept(3)], "MESSAGE_OUT_OF_ORDER"),
        ((2, 2), [lambda: kept(2), lambda: kept(2)], "MESSAGE_OUT_OF_ORDER"),
        ((0, 0), [lambda: kept(0)], "MESSAGE_OUT_OF_ORDER"),
        ((2, 2), [lambda: kept(2), lambda: spoilt(3, _without_statistics)], "PRIMING_INVALID"),
        ((2, 2), [lambda: spoilt(2, _impossible_statistics)], "TENSOR_MALFORMED"),
        ((2, 2), [lambda: spoilt(2, _other_size)], "TENSOR_MALFORMED"),
        ((2, 2), [lambda: spoilt(2, _other_tokens)], "TENSOR_MALFORMED"),
        ((2, 2), [lambda: spoilt(2, _without_latent)], "MESSAGE_OUT_OF_ORDER"),
    ],
)
def test_what_is_refused_ends_the_session_alone(
    announced: tuple[int, int], blocks: list[Callable[[], BlockMessage]], reason: str
) -> None:
    sent = [make() for make in blocks]

    async def scenario(encoder: EncoderThread) -> None:
        chain = Chain(encoder, 1, LISTENING_STREAMING, epoch=2)
        with pytest.raises(ServiceError, match=reason):
            await goes_on(chain, announced, sent)
        chain.close()
        await goes_on(chain, (2, 2), [kept(2)])

    with EncoderThread() as encoder:
        asyncio.run(scenario(encoder))


def test_a_finished_block_after_a_generated_one_is_refused() -> None:
    async def scenario(encoder: EncoderThread) -> None:
        chain = Chain(encoder, 1, LISTENING_STREAMING, epoch=2)
        await goes_on(chain, (0, 1), [kept(0)])
        chain.speak(0, 2 * BLOCK + LOOKAHEAD)
        await chain.block(BlockMessage(index=1))
        with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
            await chain.block(kept(2))

    with EncoderThread() as encoder:
        asyncio.run(scenario(encoder))


@pytest.mark.parametrize("stage", [True, False])
def test_stages_and_decoder_check_for_themselves(stage: bool) -> None:
    """Whatever passed the services before them."""

    async def scenario(encoder: EncoderThread) -> None:
        for message in (BlockMessage(index=2), kept(3), spoilt(2, _other_size)):
            chain = Chain(encoder, 1, LISTENING_STREAMING, epoch=2)
            await goes_on(chain, (2, 2), [])
            message.key.CopyFrom(chain.key)
            with pytest.raises(ServiceError):
                (chain.stages[0] if stage else chain.decoder).block(message)

    with EncoderThread() as encoder:
        asyncio.run(scenario(encoder))


@pytest.mark.parametrize(("offset", "fits"), [(0, False), (-1, False), (1, False), (None, True)])
def test_streamed_audio_goes_on_at_its_left_context(offset: int | None, fits: bool) -> None:
    async def scenario(encoder: EncoderThread) -> None:
        chain = Chain(encoder, 1, LISTENING_STREAMING, epoch=2)
        await goes_on(chain, (2, 4), [])
        begins = 6 * BLOCK - CONTEXT
        first = begins if offset is None else begins + offset if offset else 0
        if fits:
            chain.speak(first, first + 100)
        else:
            with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
                chain.speak(first, first + 100)

    with EncoderThread() as encoder:
        asyncio.run(scenario(encoder))
