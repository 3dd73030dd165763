"""A session that goes on from finished blocks: the same on every split of the steps, and near to what it was."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.streaming.block import Block, Conditioning, Primed
from live_avatar.streaming.clean_history import CleanHistoryDenoiser
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.local import Generated, generate, warmup_latents
from live_avatar.streaming.schedule import inference_schedule
from tests.model.random_dit import random_dit
from tests.streaming.small_pipeline import (
    DRAWS,
    GEOMETRY,
    HEIGHT,
    RULES,
    SEED,
    WIDTH,
    Chain,
    block,
    failing,
    first_conditioning,
    random_vae,
    sink,
    stages,
    text,
)

BLOCKS = 6
MODEL = random_dit()
DECODER = FrameDecoder(random_vae(), RULES, use_motion=True)
NEW_PROMPT = Conditioning(from_block=2, text=text(seed=1))


def spoken(first: int, last: int) -> list[AudioTokens]:
    return [block(index).audio for index in range(first, last)]


def session(denoisers: Sequence[Denoiser], primed: Primed | None = None) -> list[Generated]:
    first = primed.next_block if primed else 0
    made = generate(
        denoisers,
        DECODER,
        sink=sink(),
        warmup=warmup_latents(sink(), DECODER),
        text=text(),
        audio=spoken(first, BLOCKS),
        seed=SEED,
        primed=primed,
    )
    return list(made)


@cache
def undisturbed(steps: int = RULES.steps) -> list[Generated]:
    return session(stages(MODEL, 1, steps))


def primed_at(next_block: int, *changes: Conditioning, steps: int = RULES.steps) -> Primed:
    """The last finished blocks before ``next_block`` of the undisturbed session."""
    before = undisturbed(steps)
    own = sink().own(before[0].latent[:, :1])
    kept = range(max(0, next_block - RULES.window_blocks), next_block)
    blocks = tuple(block(index, before[index].latent) for index in kept)
    return Primed(blocks, (Conditioning(from_block=RULES.sink_switch_block, sink=own), *changes))


def assert_equal(made: Sequence[Generated], expected: Sequence[Generated]) -> None:
    for ours, theirs in zip(made, expected, strict=True):
        assert ours.block == theirs.block
        assert torch.equal(ours.latent, theirs.latent), f"block {ours.block}"
        for frames, others in zip(ours.frames, theirs.frames, strict=True):
            assert frames.first == others.first
            assert torch.equal(frames.pixels, others.pixels)


@pytest.mark.parametrize("changes", [(), (NEW_PROMPT,)], ids=["one prompt", "a new prompt"])
@pytest.mark.parametrize(("count", "next_block"), [(2, 1), (4, 1), (4, 2), (2, 3), (4, 5)])
def test_any_split_over_stages_goes_on_with_the_same_bits(
    count: int, next_block: int, changes: tuple[Conditioning, ...]
) -> None:
    primed = primed_at(next_block, *changes)
    expected = session(stages(MODEL, 1), primed)
    assert [one.block for one in expected] == list(range(next_block, BLOCKS))
    assert_equal(session(stages(MODEL, count), primed), expected)


@pytest.mark.parametrize("next_block", [1, RULES.window_blocks])
def test_a_session_of_one_step_goes_on_as_if_nothing_had_happened(next_block: int) -> None:
    """Its only level is pure noise, which is drawn again: the history is exactly what it was."""
    primed = primed_at(next_block, steps=1)
    assert_equal(session(stages(MODEL, 1, steps=1), primed), undisturbed(steps=1)[next_block:])


def test_what_a_session_goes_on_from_counts() -> None:
    expected = session(stages(MODEL, 1), primed_at(4))
    plain = primed_at(4)
    zeros = torch.zeros_like(expected[0].latent)
    forgotten = Primed(tuple(Block(one.index, one.audio, zeros) for one in plain.blocks), plain.changes)
    for other in (forgotten, primed_at(4, NEW_PROMPT), Primed(plain.blocks), Primed(plain.blocks[1:], plain.changes)):
        assert not torch.equal(session(stages(MODEL, 1), other)[0].latent, expected[0].latent)


def test_it_stays_near_to_the_undisturbed_session() -> None:
    """Nearer than a session that goes on with another history."""
    primed, there = primed_at(4), undisturbed()[4].latent
    other = Primed(tuple(Block(one.index, one.audio, -one.latent) for one in primed.blocks if one.latent is not None))
    near, far = (session(stages(MODEL, 1), one)[0].latent for one in (primed, other))
    assert distance(near, there) < 0.5 * distance(far, there)


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm())


def test_a_clean_history_is_primed_exactly() -> None:
    """Its windows hold nothing but finished blocks: while none has left them, priming is what happened before."""
    stage = CleanHistoryDenoiser(MODEL, RULES, inference_schedule(2), DRAWS)
    whole = session([stage])
    own = Conditioning(from_block=RULES.sink_switch_block, sink=sink().own(whole[0].latent[:, :1]))
    primed = Primed(tuple(block(index, whole[index].latent) for index in range(2)), (own,))
    assert_equal(session([stage], primed), whole[2:])


def test_a_step_that_fails_while_priming_can_be_repeated() -> None:
    shape = (MODEL.config.latent_channels, RULES.latents_per_block, HEIGHT, WIDTH)
    finished = block(4, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    results = []
    for fails in (False, True):
        (stage,) = stages(MODEL, 1)
        chain = Chain([stage])
        chain.sessions = [stage.open(SEED, GEOMETRY, first_block=4)]
        chain.condition(first_conditioning())
        if fails:
            with failing(MODEL, layer=1, calls=2), pytest.raises(ConnectionError):
                stage.prime(chain.sessions[0], finished)
            assert chain.sessions[0].next_block == 4
        stage.prime(chain.sessions[0], finished)
        results.append(chain.block(5))
    assert torch.equal(*results)


@pytest.mark.parametrize(("index", "has_latent"), [(4, False), (3, True), (5, True)])
def test_blocks_that_cannot_be_primed(index: int, has_latent: bool) -> None:
    (stage,) = stages(MODEL, 1)
    memory = stage.open(SEED, GEOMETRY, first_block=4)
    stage.condition(memory, first_conditioning())
    latent = torch.zeros(MODEL.config.latent_channels, RULES.latents_per_block, HEIGHT, WIDTH) if has_latent else None
    with pytest.raises(ValueError, match=f"block {index} came"):
        stage.prime(memory, block(index, latent))
    assert memory.next_block == 4
