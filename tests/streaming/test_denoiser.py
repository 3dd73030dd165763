"""A stage: any split gives the same bits, a failure changes nothing, conditioning holds from its block."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.dit import CausalDiT, NoisyInput
from live_avatar.model.kv_cache import KVWindow
from live_avatar.streaming.block import Conditioning
from live_avatar.streaming.denoiser import StageSession
from live_avatar.streaming.schedule import inference_schedule
from tests.model.random_dit import CONFIG, random_dit
from tests.streaming.small_pipeline import (
    DRAWS,
    GEOMETRY,
    RULES,
    SEED,
    Chain,
    block,
    failing,
    first_conditioning,
    sink,
    stages,
    started,
    text,
)

BLOCKS = range(4)
FAST = settings(max_examples=20, deadline=None)


def same(some: list[Tensor], others: list[Tensor]) -> list[bool]:
    return [torch.equal(one, other) for one, other in zip(some, others, strict=True)]


def window_contents(session: StageSession) -> list[Tensor]:
    layers = [layer for window in session.windows.values() for layer in window.layers]
    return [tensor.clone() for layer in layers for tensor in (layer.k, layer.v, layer.reference_k)]


@pytest.fixture(scope="module")
def model() -> CausalDiT:
    return random_dit()


@pytest.fixture(scope="module")
def plain(model: CausalDiT) -> list[Tensor]:
    """A session without incident."""
    return started(1, model=model).run(BLOCKS)


@torch.inference_mode()
def test_a_stage_is_the_algorithm_written_out(model: CausalDiT, plain: list[Tensor]) -> None:
    """Algorithm 3 with a bare window per step."""
    schedule, windows = inference_schedule(RULES.steps), []
    kv = model.embed_text(text()[None])
    portrait = sink()
    assert portrait.motion is not None
    for _ in range(RULES.steps):
        window = KVWindow(GEOMETRY, latents_per_block=RULES.latents_per_block, window_blocks=RULES.window_blocks)
        prefill = window.prefill()
        model(None, model.sink_input(portrait.reference[None], portrait.motion[None]), kv, prefill)
        window.set_sink(prefill.states())
        windows.append(window)
    for index in BLOCKS:
        latent = DRAWS.noise(SEED, index, plain[0].shape)[None]
        for step, window in enumerate(windows):
            time = model.embed_time(torch.tensor([[schedule.timestep(step)]]))
            pattern = window.begin(DRAWS.reference_offset(SEED, index, step))
            velocity = model(NoisyInput(latent=latent, time=time, audio=block(index).audio), None, kv, pattern)
            latent = latent + schedule.delta(step) * velocity
            window.commit()
        torch.testing.assert_close(latent[0], plain[index], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("steps", "count"), [(4, 2), (4, 3), (4, 4), (3, 1), (3, 2), (3, 3), (2, 1), (2, 2)])
def test_any_split_of_the_steps_gives_the_same_bits(model: CausalDiT, steps: int, count: int) -> None:
    whole, split = (started(stage_count, model=model, steps=steps) for stage_count in (1, count))
    switch = Conditioning(from_block=2, sink=sink(1))
    for chain in (whole, split):
        chain.condition(switch)
    assert all(same(whole.run(BLOCKS), split.run(BLOCKS)))


@FAST
@given(index=st.sampled_from(BLOCKS), layer=st.integers(0, CONFIG.num_layers - 1), calls=st.integers(0, 4))
def test_a_failed_block_changes_nothing(index: int, layer: int, calls: int) -> None:
    """In block 0 the first call is the prefill, later blocks have four calls."""
    calls = calls if index == 0 else min(calls, RULES.steps - 1)
    model = random_dit()
    undisturbed, disturbed = started(1, model=model), started(1, model=model)
    expected = undisturbed.run(BLOCKS)
    latents = disturbed.run(range(index))
    with pytest.raises(ConnectionError), failing(model, layer, calls):
        disturbed.block(index)
    session = disturbed.sessions[0]
    assert session.next_block == index
    assert {window.block for window in session.windows.values()} == {index}
    latents += disturbed.run(range(index, len(BLOCKS)))
    assert all(same(latents, expected))
    assert all(same(window_contents(session), window_contents(undisturbed.sessions[0])))


def test_a_reset_session_is_a_new_one(model: CausalDiT, plain: list[Tensor]) -> None:
    chain = Chain(stages(model, 1))
    chain.condition(first_conditioning(seed=1))
    chain.condition(Conditioning(from_block=3, text=text(1)))
    chain.run(range(3))
    session = chain.sessions[0]
    session.reset()
    assert session.next_block == 0
    assert session.text is None
    assert session.sink is None
    chain.condition(first_conditioning())
    assert all(same(chain.run(BLOCKS), plain))


def test_sessions_on_one_stage_do_not_touch_each_other(model: CausalDiT, plain: list[Tensor]) -> None:
    denoisers = stages(model, 2)
    first, second = Chain(denoisers), Chain(denoisers, seed=99)
    first.condition(first_conditioning())
    second.condition(first_conditioning(seed=1))
    latents = [(first.block(index), second.block(index)) for index in BLOCKS]
    assert all(same([one for one, _ in latents], plain))
    assert not any(same([other for _, other in latents], plain))


@pytest.mark.parametrize("conditioning", [Conditioning(2, text=text(1)), Conditioning(2, sink=sink(1))])
def test_conditioning_holds_from_its_block(model: CausalDiT, plain: list[Tensor], conditioning: Conditioning) -> None:
    early, just_in_time = started(2, model=model), started(2, model=model)
    early.condition(conditioning)
    latents = just_in_time.run(range(2))
    just_in_time.condition(conditioning)
    latents += just_in_time.run(range(2, 4))
    assert same(latents, plain) == [True, True, False, False]
    assert all(same(early.run(BLOCKS), latents))


def test_late_conditioning_holds_from_the_next_block(model: CausalDiT, plain: list[Tensor]) -> None:
    chain = started(1, model=model)
    latents = chain.run(range(3))
    chain.condition(Conditioning(from_block=1, text=text(1)))
    latents += chain.run(range(3, 4))
    assert same(latents, plain) == [True, True, True, False]


def test_of_two_sinks_for_a_block_the_later_counts(model: CausalDiT) -> None:
    both, one = started(1, model=model), started(1, model=model)
    for seed in (1, 2):
        both.condition(Conditioning(from_block=1, sink=sink(seed)))
    one.condition(Conditioning(from_block=1, sink=sink(2)))
    assert all(same(both.run(BLOCKS), one.run(BLOCKS)))


def test_text_and_sink_of_one_block_may_come_apart(model: CausalDiT, plain: list[Tensor]) -> None:
    chain = Chain(stages(model, 1))
    chain.condition(Conditioning(from_block=0, text=text()))
    chain.condition(Conditioning(from_block=0, sink=sink()))
    assert all(same(chain.run(BLOCKS), plain))


def test_a_sink_without_motion_keeps_that_of_the_one_before(model: CausalDiT) -> None:
    without, full = started(1, model=model), started(1, model=model)
    bare = sink(1, motion=False)
    without.condition(Conditioning(from_block=1, sink=bare))
    full.condition(Conditioning(from_block=1, sink=replace(bare, motion=sink().motion)))
    assert all(same(without.run(BLOCKS), full.run(BLOCKS)))


def test_half_a_conditioning_is_refused(model: CausalDiT) -> None:
    for half in (Conditioning(0, text=text()), Conditioning(0, sink=sink())):
        chain = Chain(stages(model, 1))
        chain.condition(half)
        with pytest.raises(ValueError, match="block 0 came before the session had a text and a sink"):
            chain.block(0)


@pytest.mark.parametrize("index", [1, 7])
def test_a_block_out_of_turn_is_refused(model: CausalDiT, index: int) -> None:
    chain = started(1, model=model)
    with pytest.raises(ValueError, match=f"block {index} came where block 0 was due"):
        chain.block(index)
    chain.block(0)
    with pytest.raises(ValueError, match="block 0 came where block 1 was due"):
        chain.block(0)


def test_only_the_first_stage_draws_noise(model: CausalDiT) -> None:
    first, second = stages(model, 2)
    assert (first.is_first, second.is_first) == (True, False)
    chain = started(2, model=model)
    with pytest.raises(ValueError, match="block 0 came with a latent"):
        first.denoise(chain.sessions[0], block(0, torch.zeros(4, 3, 8, 10)))
    with pytest.raises(ValueError, match="block 0 came without a latent"):
        second.denoise(chain.sessions[1], block(0))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_memory_is_what_was_reserved_and_stays(model: CausalDiT, count: int) -> None:
    chain = started(count, model=model)
    chain.block(0)
    for denoiser, session in zip(chain.denoisers, chain.sessions, strict=True):
        assert session.nbytes == denoiser.session_nbytes(GEOMETRY)
    before = [
        layer.k.data_ptr()
        for session in chain.sessions
        for window in session.windows.values()
        for layer in window.layers
    ]
    chain.condition(Conditioning(from_block=2, sink=sink(1), text=text(1)))
    chain.run(range(1, 6))
    after = [
        layer.k.data_ptr()
        for session in chain.sessions
        for window in session.windows.values()
        for layer in window.layers
    ]
    assert after == before
    for denoiser, session in zip(chain.denoisers, chain.sessions, strict=True):
        assert session.nbytes == denoiser.session_nbytes(GEOMETRY)


def test_audio_reaches_the_latent(model: CausalDiT, plain: list[Tensor]) -> None:
    chain = started(1, model=model)
    spoken = block(0).audio
    other = AudioTokens(spoken.local + 1, spoken.glob)
    received = chain.denoisers[0].denoise(chain.sessions[0], replace(block(0), audio=other))
    assert received.latent is not None
    assert not torch.equal(received.latent, plain[0])


def test_bfloat16_stays_in_bfloat16_and_near(plain: list[Tensor]) -> None:
    """Weights and activations are rounded by up to 0.4 %; a few roundings in a row make it about 1 %."""
    chain = started(2, model=random_dit().to(torch.bfloat16))
    for low, exact in zip(chain.run(BLOCKS), plain, strict=True):
        assert low.dtype == torch.bfloat16
        assert (low.float() - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()
