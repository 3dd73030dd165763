"""torch.compile takes the streaming forward whole: no graph break, no value read back, no recompilation at rest."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from live_avatar.model.dit import CausalDiT
from tests.model.random_dit import CONFIG, Clip, near, random_dit

CLIP = Clip(
    config=replace(CONFIG, num_layers=2, audio_layers=(0,)),
    blocks=6,
    window_blocks=2,
    latents_per_block=1,
    height=8,
    width=8,
)

Compiled = Callable[..., Any]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the compiler's own
        yield
    torch.compiler.reset()


def streamed(model: CausalDiT, forward: Compiled, warm_blocks: int) -> Tensor:
    """The clip through ``forward``; from ``warm_blocks`` on a recompilation is an error."""
    window, latent, velocities = CLIP.with_sink(model, CLIP.window()), CLIP.latent(), []
    text = CLIP.text(model)
    for block, reference_offset in enumerate(CLIP.distances()):
        noisy = CLIP.noisy(model, latent, block)
        with torch._dynamo.config.patch(error_on_recompile=block >= warm_blocks):
            velocities.append(forward(noisy, None, text, window.begin(reference_offset)))
        window.commit()
    return torch.cat(velocities, dim=2)


@torch.no_grad()
def test_one_graph_and_none_more_once_a_window_was_full() -> None:
    """Captured, not translated: quick, and a graph break or a read of a tensor's value fails it just the same."""
    model = random_dit(CLIP.config)
    forward = torch.compile(model, fullgraph=True, backend="eager")
    first = streamed(model, forward, warm_blocks=CLIP.window_blocks)
    near(first, CLIP.streamed(model, CLIP.latent()))
    assert torch.equal(streamed(model, forward, warm_blocks=0), first), "a second window, without a new graph"


@pytest.mark.slow
@torch.no_grad()
def test_generated_code_equals_eager() -> None:
    model = random_dit(CLIP.config)
    forward = torch.compile(model, fullgraph=True)
    near(streamed(model, forward, warm_blocks=CLIP.window_blocks), CLIP.streamed(model, CLIP.latent()))
