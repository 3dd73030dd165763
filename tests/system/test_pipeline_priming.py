"""A session goes on with the blocks that a pipeline gave back, on any other: the pictures are those of the loop."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from live_avatar import wire
from live_avatar.config import TINY
from live_avatar.pipeline.v1.blocks_pb2 import Sink as SinkMessage
from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest
from live_avatar.streaming.block import Block
from tests.streaming.partitions import split_steps

from .harness.gateway import Head, Name, VideoOutput, linked, new_session, video_end
from .harness.playing import Playing, play
from .harness.processes import (
    DECODER,
    ENCODER,
    Processes,
    chain_programs,
    decoder_program,
    encoder_program,
    free_port,
    processes,
    stage_name,
)
from .harness.reference import Script, numbered, pictures, prepare, system

NAME = TINY.name
RULES = TINY.stream
SCRIPTS = {"streamed": Script(blocks=6, streaming=True, seed=8), "whole": Script(blocks=6, voice=1)}
LAYOUTS: dict[int, Sequence[tuple[str, int]]] = {
    4: [("streamed", 5), ("whole", 2)],
    2: [("streamed", 2), ("whole", 5)],
    1: [("streamed", 5)],
}
"""Number of stages, and where sessions go on: before and after the sink switches, with fewer blocks than a window."""


@dataclass(frozen=True)
class Before:
    """What came of a session until it was interrupted."""

    blocks: tuple[bytes, ...]
    own: SinkMessage

    def parsed(self) -> list[Block]:
        """The finished blocks as the library knows them."""
        return [wire.block_from_message(StreamBlocksRequest.Block.FromString(data)) for data in self.blocks]


class Pipeline:
    """An audio encoder and a decoder that stay, and stages that come and go between them."""

    def __init__(self, running: Processes) -> None:
        self.running = running
        self._end, self._first = free_port(), free_port()
        model = ("--preset", NAME)
        running.start({encoder_program(model, self._first): free_port(), decoder_program(model): self._end})

    def spread(self, stages: int) -> list[str]:
        """Starts ``stages`` stages; returns their names."""
        slices = split_steps(RULES.steps, stages)
        self.running.start(chain_programs(("--preset", NAME), slices, self._end, head=self._first))
        return [stage_name(owned) for owned in slices]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with processes(tmp_path_factory.mktemp("logs")) as running:
        yield Pipeline(running)


@asynccontextmanager
async def both_ends(pipeline: Pipeline) -> AsyncIterator[tuple[Head, VideoOutput]]:
    """The gateway's place on both sides of the pipeline."""
    digest = system(NAME).networks.digest
    async with (
        video_end(pipeline.running.address(DECODER)) as output,
        linked(pipeline.running.address(ENCODER), digest) as head,
    ):
        yield head, output


async def interrupted(pipeline: Pipeline) -> dict[str, Before]:
    """Plays all scripts as a whole; what is needed to go on from anywhere in them."""
    async with both_ends(pipeline) as (head, output):
        names = {kind: new_session() for kind in SCRIPTS}
        await play(head, output, system(NAME), {names[kind]: script for kind, script in SCRIPTS.items()})
        for kind, script in SCRIPTS.items():
            assert output.frames(names[kind]) == pictures(NAME, script), "a session that is not interrupted has changed"
        return {kind: await before(output, names[kind], script) for kind, script in SCRIPTS.items()}


async def before(output: VideoOutput, name: Name, script: Script) -> Before:
    blocks = tuple(output.finished_blocks[*name, index] for index in range(script.blocks))
    return Before(blocks, await output.own_sink(name))


async def resumed(pipeline: Pipeline, kind: str, made: Before, next_block: int) -> list[tuple[int, bytes]]:
    """The pictures of a session that goes on; one before it that brings a damaged block fails alone."""
    damaged = StreamBlocksRequest.Block.FromString(made.blocks[next_block - 1])
    damaged.latent.shape[-1] += 1
    async with both_ends(pipeline) as (head, output):
        good, bad = (Playing(head, output, system(NAME), new_session(), SCRIPTS[kind]) for _ in range(2))
        await bad.resume([*made.blocks[: next_block - 1], damaged.SerializeToString()], next_block, made.own)
        await good.resume(made.blocks, next_block, made.own)
        assert (await head.failure(bad.name)).reason == "TENSOR_MALFORMED"
        await good.end()
        assert not output.frames(bad.name)
        return output.frames(good.name)


def test_a_session_goes_on_over_any_split_of_the_steps(pipeline: Pipeline) -> None:
    prepare(NAME, *SCRIPTS.values())
    made: dict[str, Before] = {}
    for stages, resumptions in LAYOUTS.items():
        names = pipeline.spread(stages)
        try:
            made = made or asyncio.run(interrupted(pipeline))
            for kind, next_block in resumptions:
                expected = system(NAME).resumed(SCRIPTS[kind], made[kind].parsed(), next_block)
                pictures_of = asyncio.run(resumed(pipeline, kind, made[kind], next_block))
                assert pictures_of == numbered(expected), f"{stages} stages, {kind} from block {next_block}"
        finally:
            pipeline.running.stop(*names)
