"""Clean history: the algorithm written out, and what it has in common with the usual one."""

import pytest
import torch
from torch import Tensor

from live_avatar.model.dit import CausalDiT, NoisyInput
from live_avatar.model.kv_cache import KVWindow
from live_avatar.streaming.block import Conditioning
from live_avatar.streaming.clean_history import CleanHistoryDenoiser
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.schedule import inference_schedule
from tests.model.random_dit import random_dit
from tests.streaming.small_pipeline import (
    DRAWS,
    GEOMETRY,
    RULES,
    SEED,
    Chain,
    block,
    first_conditioning,
    sink,
    stages,
    text,
)

BLOCKS = range(4)
SCHEDULE = inference_schedule(RULES.steps)


@pytest.fixture(scope="module")
def model() -> CausalDiT:
    return random_dit()


def chain_of(model: CausalDiT) -> Chain:
    chain = Chain([CleanHistoryDenoiser(model, RULES, SCHEDULE, DRAWS)])
    chain.condition(first_conditioning())
    return chain


@torch.inference_mode()
def written_out(model: CausalDiT) -> list[Tensor]:
    """One bare window that every step writes to, and a last pass at noise level 0 that stays."""
    window = KVWindow(GEOMETRY, latents_per_block=RULES.latents_per_block, window_blocks=RULES.window_blocks)
    kv, portrait, prefill = model.embed_text(text()[None]), sink(), window.prefill()
    assert portrait.motion is not None
    model(None, model.sink_input(portrait.reference[None], portrait.motion[None]), kv, prefill)
    window.set_sink(prefill.states())
    shape = (model.config.latent_channels, RULES.latents_per_block, GEOMETRY.height, GEOMETRY.width)
    clean = []
    for index in BLOCKS:
        latent = DRAWS.noise(SEED, index, shape)[None]
        for step in range(SCHEDULE.steps + 1):
            level = SCHEDULE.timestep(step) if step < SCHEDULE.steps else 0.0
            time = model.embed_time(torch.tensor([[level]]))
            pattern = window.begin(DRAWS.reference_offset(SEED, index, step))
            velocity = model(NoisyInput(latent=latent, time=time, audio=block(index).audio), None, kv, pattern)
            if step < SCHEDULE.steps:
                latent = latent + SCHEDULE.delta(step) * velocity
        window.commit()
        clean.append(latent[0])
    return clean


def test_it_is_the_algorithm_written_out(model: CausalDiT) -> None:
    for made, wanted in zip(chain_of(model).run(BLOCKS), written_out(model), strict=True):
        torch.testing.assert_close(made, wanted, rtol=1e-6, atol=1e-6)


def test_only_the_first_block_is_that_of_a_noisy_history(model: CausalDiT) -> None:
    noisy = Chain([_usual(model)])
    noisy.condition(first_conditioning())
    same = [torch.equal(*pair) for pair in zip(chain_of(model).run(BLOCKS), noisy.run(BLOCKS), strict=True)]
    assert same == [True, False, False, False]


def test_a_session_has_one_window(model: CausalDiT) -> None:
    chain = chain_of(model)
    chain.condition(Conditioning(from_block=1, sink=sink(1)))
    chain.run(BLOCKS)
    (denoiser,), (session,) = chain.denoisers, chain.sessions
    assert session.next_block == len(BLOCKS)
    assert session.nbytes == denoiser.session_nbytes(GEOMETRY)
    assert session.nbytes < _usual(model).session_nbytes(GEOMETRY) / 2


def _usual(model: CausalDiT) -> Denoiser:
    return stages(model, 1)[0]
