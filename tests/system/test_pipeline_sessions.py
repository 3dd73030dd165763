"""Sessions share a pipeline and do not notice: not each other's blocks, sizes or failures."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
import torch

from live_avatar import wire
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest
from live_avatar.serving.errors import ServiceError

from .harness.gateway import Head, LatentOutput, Name, describe, key_of, latent_end, linked, new_session, open_request
from .harness.playing import Playing, play
from .harness.processes import ENCODER, chain_programs, free_port, processes, stage_name
from .harness.reference import SMALL, Script, latents, prepare, system

DIGEST = system(SMALL.name).networks.digest
FIRST = Script(seed=1, portrait=1, voice=1, prompt="a woman laughs")
SECOND = Script(seed=2, portrait=2, voice=2, prompt="a man whispers", streaming=True)
ANOTHER_SIZE = replace(SECOND, width=128)
STAGES = (stage_name(range(2)), stage_name(range(2, 4)))


@dataclass
class Chain:
    """A chain that ends in this process."""

    head: str
    end: int


@pytest.fixture(scope="module")
def chain(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with processes(tmp_path_factory.mktemp("logs")) as running:
        end = free_port()
        running.start(chain_programs(("--preset", str(small_file)), (range(2), range(2, 4)), end))
        yield Chain(running.address(ENCODER), end)


async def collect(output: LatentOutput, name: Name, script: Script) -> list[torch.Tensor]:
    return [await output.latent(name, block) for block in range(script.blocks)]


def assert_equal_solo(made: list[torch.Tensor], script: Script) -> None:
    expected = latents(SMALL.name, script)
    assert len(made) == len(expected)
    for block, (ours, theirs) in enumerate(zip(made, expected, strict=True)):
        assert torch.equal(ours, theirs), f"block {block} differs"


@pytest.mark.parametrize("other", [SECOND, ANOTHER_SIZE], ids=["64x64", "64x128"])
def test_two_sessions_equal_their_solo_runs(chain: Chain, other: Script) -> None:
    async def run() -> list[list[torch.Tensor]]:
        scripts: dict[Name, Script] = {new_session(): FIRST, new_session(): other}
        async with latent_end(chain.end, SMALL.name, DIGEST) as output, linked(chain.head, DIGEST) as head:
            await play(head, output, system(SMALL.name), scripts)
            return [await collect(output, name, script) for name, script in scripts.items()]

    prepare(SMALL.name, FIRST, other)
    first, second = asyncio.run(run())
    assert_equal_solo(first, FIRST)
    assert_equal_solo(second, other)
    assert not torch.equal(first[0], second[0][..., :8])


Fault = Callable[[Playing, Head], Awaitable[None]]


async def _no_conditioning(bad: Playing, head: Head) -> None:
    await head.open(open_request(bad.name, seed=1, width=bad.script.width, height=bad.script.height))
    await bad.speak()
    await bad.admit(0)


async def _malformed_tensor(bad: Playing, head: Head) -> None:
    await bad.open()
    states = wire.tensor_to_message(torch.zeros(3, SMALL.text.dim))
    states.data = states.data[:-1]
    await head.condition(bad.name, 0, ConditioningBody(text_states=states))


async def _wrong_text_width(bad: Playing, head: Head) -> None:
    await bad.open()
    states = wire.tensor_to_message(torch.zeros(3, SMALL.text.dim + 1))
    await head.condition(bad.name, 0, ConditioningBody(text_states=states))


async def _sink_of_another_size(bad: Playing, head: Head) -> None:
    await bad.open()
    sink, _ = system(SMALL.name).sink(ANOTHER_SIZE)
    await head.condition(bad.name, 0, ConditioningBody(sink=wire.sink_to_message(sink)))


async def _block_skipped(bad: Playing, head: Head) -> None:
    await bad.open()
    await bad.admit(0)
    await head.admit(bad.name, 2)


async def _latent_before_the_noise(bad: Playing, head: Head) -> None:
    await bad.open()
    await bad.speak()
    latent = wire.tensor_to_message(torch.zeros(SMALL.dit.latent_channels, 3, 8, 8))
    block = StreamBlocksRequest.Block(key=key_of(bad.name), index=0, latent=latent)
    await head.link.send(StreamBlocksRequest(block=block))


async def _audio_with_a_gap(bad: Playing, head: Head) -> None:
    await bad.open()
    audio = StreamBlocksRequest.Audio(key=key_of(bad.name), samples=bytes(400), sample_offset=1)
    await head.link.send(StreamBlocksRequest(audio=audio))


async def _huge_picture(bad: Playing, head: Head) -> None:
    request = open_request(bad.name, seed=1, width=1 << 20, height=1 << 20)
    with pytest.raises(ServiceError):
        await head.open(request)


@pytest.mark.parametrize(
    ("fault", "reason", "service"),
    [
        (_no_conditioning, "CONDITIONING_MISSING", STAGES[0]),
        (_malformed_tensor, "TENSOR_MALFORMED", STAGES[0]),
        (_wrong_text_width, "TENSOR_MALFORMED", STAGES[0]),
        (_sink_of_another_size, "TENSOR_MALFORMED", STAGES[0]),
        (_block_skipped, "MESSAGE_OUT_OF_ORDER", ENCODER),
        (_latent_before_the_noise, "MESSAGE_OUT_OF_ORDER", STAGES[0]),
        (_audio_with_a_gap, "MESSAGE_OUT_OF_ORDER", ENCODER),
        (_huge_picture, "SIZE_UNSUPPORTED", STAGES[0]),
    ],
)
def test_a_failing_session_leaves_the_other_alone(chain: Chain, fault: Fault, reason: str, service: str) -> None:
    async def run() -> tuple[ServiceError, list[torch.Tensor]]:
        small, good_name, bad_name = system(SMALL.name), new_session(), new_session()
        async with latent_end(chain.end, SMALL.name, DIGEST) as output, linked(chain.head, DIGEST) as head:
            good, bad = Playing(head, output, small, good_name, FIRST), Playing(head, output, small, bad_name, SECOND)
            await good.open()
            for block in range(3):
                await good.admit(block)
            await fault(bad, head)
            await good.admit(3)
            async with asyncio.timeout(10):
                failure = await head.failure(bad_name)
            await good.admit_all(4)
            await good.until(FIRST.blocks - 1)
            assert not head.has_failed(good_name)
            assert [info.sessions_open for info in (await describe(chain.head)).services] == [1] * 4
            assert output.held == {good_name}
            return failure, await collect(output, good_name, FIRST)

    prepare(SMALL.name, FIRST, SECOND)
    system(SMALL.name).sink(ANOTHER_SIZE)
    failure, made = asyncio.run(run())
    expected_code = grpc.StatusCode.FAILED_PRECONDITION if "MISSING" in reason else grpc.StatusCode.INVALID_ARGUMENT
    assert (failure.code, failure.reason, failure.metadata["service"]) == (expected_code, reason, service)
    assert_equal_solo(made, FIRST)
