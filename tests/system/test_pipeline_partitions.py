"""However the steps are spread over processes, the latents are those of the library's loop, bit for bit."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from live_avatar.config import TINY
from tests.streaming.partitions import split_steps

from .harness.gateway import describe, latent_end, linked, new_session
from .harness.playing import play
from .harness.processes import ENCODER, Processes, chain_programs, encoder_program, free_port, processes, stage_name
from .harness.reference import SMALL, Script, latents, prepare, system

NAME = TINY.name
WHOLE = Script()
STREAMED = Script(streaming=True, seed=8, portrait=1, voice=1)


class Chain:
    """An audio encoder that stays, and stages that come and go behind it."""

    def __init__(self, running: Processes) -> None:
        self.running = running
        self.end = free_port()
        self._first = free_port()
        running.start({encoder_program(("--preset", NAME), self._first): free_port()})

    def spread(self, steps: int, stages: int) -> list[str]:
        """Starts ``stages`` stages that share ``steps`` steps; returns their names."""
        slices = split_steps(steps, stages)
        self.running.start(chain_programs(("--preset", NAME), slices, self.end, head=self._first))
        return [stage_name(owned) for owned in slices]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with processes(Path(tmp_path_factory.mktemp("logs"))) as running:
        yield Chain(running)


async def through(chain: Chain, stages: list[str]) -> dict[str, list[Tensor]]:
    """The latents of both scripts."""
    digest = system(NAME).networks.digest
    head_target = chain.running.address(ENCODER)
    async with latent_end(chain.end, NAME, digest) as output, linked(head_target, digest) as head:
        services = (await describe(head_target)).services
        assert [service.name for service in services] == [ENCODER, *stages, "end"]
        made = {}
        for kind, script in (("whole", WHOLE), ("streamed", STREAMED)):
            name = new_session()
            await play(head, output, system(NAME), {name: script})
            made[kind] = [await output.latent(name, block) for block in range(script.blocks)]
        return made


@pytest.mark.parametrize(("stages", "steps"), [(4, 4), (2, 4), (1, 4), (3, 3)])
def test_latents_are_those_of_the_loop(chain: Chain, stages: int, steps: int) -> None:
    prepare(NAME, WHOLE, STREAMED, steps=steps)
    names = chain.spread(steps, stages)
    try:
        made = asyncio.run(through(chain, names))
    finally:
        chain.running.stop(*names)
    for kind, script in (("whole", WHOLE), ("streamed", STREAMED)):
        expected = latents(NAME, script, steps)
        assert len(made[kind]) == len(expected) == script.blocks > TINY.stream.window_blocks + 1
        for block, (ours, theirs) in enumerate(zip(made[kind], expected, strict=True)):
            assert torch.equal(ours, theirs), f"{kind}: block {block} differs"


def test_every_part_of_a_script_counts() -> None:
    """What the comparison rests on: no part of a script leaves the latents as they are."""
    plain = latents(SMALL.name, Script(blocks=1))
    for changed in (
        Script(blocks=1, seed=8),
        Script(blocks=1, portrait=1),
        Script(blocks=1, voice=1),
        Script(blocks=1, prompt="something else"),
        Script(blocks=1, streaming=True),
    ):
        assert not torch.equal(plain[0], latents(SMALL.name, changed)[0]), changed
