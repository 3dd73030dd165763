"""The compiled and the recorded step against the eager one."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from live_avatar.model.compiled_step import CompiledStep, EagerStep, StepForward
from live_avatar.model.cuda_graph_step import CudaGraphStep, Replay
from live_avatar.model.dit import CausalDiT
from live_avatar.model.kv_cache import KVWindow
from tests.model.random_dit import CONFIG, Clip, near, random_dit

CLIP = Clip(
    config=replace(CONFIG, num_layers=3, audio_layers=(0, 2)), blocks=6, window_blocks=2, latents_per_block=1, width=8
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the compiler's own
        yield
    torch.compiler.reset()


def captured(function: Callable[..., Any], **_: object) -> Callable[..., Any]:
    """A compiler that captures graphs but generates no code: quick, and just as strict about breaks and guards."""
    return torch.compile(function, backend="eager", dynamic=False, fullgraph=True)


@torch.inference_mode()
def warm(model: CausalDiT, clip: Clip, compiler: Callable[..., Any] = captured) -> CompiledStep:
    step = CompiledStep(model, compiler)
    step.warm_up([clip.window()])
    return step


def streamed(forward: StepForward, model: CausalDiT, clip: Clip) -> Tensor:
    """The clip through ``forward``; a compilation is an error."""
    window = clip.with_sink(model, clip.window())
    text, velocities = clip.text(model), []
    for block, reference_offset in enumerate(clip.distances()):
        noisy = clip.noisy(model, clip.latent(), block)
        noisy = replace(noisy, time=TIMES.setdefault(id(model), noisy.time))
        with torch._dynamo.config.patch(error_on_recompile=True):
            velocities.append(forward(noisy, text, window, reference_offset).clone())
        window.commit()
    return torch.cat(velocities, dim=2)


TIMES: dict[int, Any] = {}
"""One noise level per model, as a stage has it: the same object for every block."""


@torch.inference_mode()
def test_compiled_equals_eager_and_compiles_nothing_after_warm_up() -> None:
    model = random_dit(CLIP.config)
    step = warm(model, CLIP)
    expected = streamed(EagerStep(model), model, CLIP)
    near(streamed(step, model, CLIP), expected)
    near(streamed(step, model, CLIP), expected)


@torch.inference_mode()
def test_all_layers_share_the_code_of_one_of_their_kind() -> None:
    model, deep = (random_dit(replace(CLIP.config, num_layers=n, audio_layers=(0, n - 1))) for n in (3, 9))
    counts = []
    for each in (model, deep):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        warm(each, replace(CLIP, config=each.config))
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[0] == counts[1]


@torch.inference_mode()
def test_models_of_one_process_share_no_code_that_does_not_fit() -> None:
    """The compiler keeps code by function; once, the second model here ran by the numbers of the first."""
    for config in (CLIP.config, replace(CLIP.config, num_heads=1), replace(CLIP.config, eps=1e-2)):
        model, clip = random_dit(config), replace(CLIP, config=config)
        near(streamed(warm(model, clip), model, clip), streamed(EagerStep(model), model, clip))


@torch.inference_mode()
def test_a_size_that_was_not_warmed_up_takes_the_eager_way() -> None:
    model, other = random_dit(CLIP.config), replace(CLIP, width=12)
    step = warm(model, CLIP)
    assert torch.equal(streamed(step, model, other), streamed(EagerStep(model), model, other))


@torch.inference_mode()
def test_a_recording_equals_the_compiled_step_bit_for_bit() -> None:
    """On the CPU a recording is the call itself; what is tested are the places that never change."""
    recorded: list[Replay] = []

    def record(run: Replay) -> Replay:
        recorded.append(run)
        return run

    model = random_dit(CLIP.config)
    step = warm(model, CLIP)
    assert torch.equal(streamed(CudaGraphStep(step, record), model, CLIP), streamed(step, model, CLIP))
    assert len(recorded) == 1, "one for a full window, and none before"


@torch.inference_mode()
def test_recordings_of_two_windows_and_a_new_prompt_do_not_mix() -> None:
    model = random_dit(CLIP.config)
    step = warm(model, CLIP)
    recorded = CudaGraphStep(step, lambda run: run)
    sides: dict[StepForward, list[Tensor]] = {step: [], recorded: []}
    clips = (CLIP, replace(CLIP, seed=7))
    for forward, velocities in sides.items():
        windows = [clip.with_sink(model, clip.window()) for clip in clips]
        texts = [clip.text(model) for clip in clips]
        for block in range(CLIP.blocks):
            if block == CLIP.blocks - 2:
                texts[0] = replace(CLIP, seed=3).text(model)
            for clip, window, text in zip(clips, windows, texts, strict=True):
                noisy = clip.noisy(model, clip.latent(), block)
                velocities.append(forward(noisy, text, window, clip.distances()[block]).clone())
                window.commit()
    assert all(torch.equal(one, other) for one, other in zip(*sides.values(), strict=True))


@pytest.mark.slow
@torch.inference_mode()
def test_generated_code_equals_eager() -> None:
    model = random_dit(CLIP.config)
    near(streamed(warm(model, CLIP, torch.compile), model, CLIP), streamed(EagerStep(model), model, CLIP))


def test_windows_store_8_bit_floats() -> None:
    clip = replace(CLIP, width=10)
    model = random_dit(clip.config)
    small = KVWindow(clip.geometry, latents_per_block=1, window_blocks=2, dtype=torch.float8_e4m3fn)
    expected, rounded = clip.streamed(model, clip.latent()), clip.streamed(model, clip.latent(), small)
    assert 4 * small.nbytes == clip.window().nbytes
    error = (rounded - expected).norm() / expected.norm()
    assert 0 < error < 2**-4, "keys and values have 3 bits of mantissa"
