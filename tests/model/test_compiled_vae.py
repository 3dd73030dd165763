"""The compiled steady step of the decoder against the decoder itself."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from live_avatar.config import VAEConfig
from live_avatar.model.compiled_vae import CompiledVAE
from live_avatar.model.vae import VAE, DecoderCache
from tests.model.random_dit import randomise

CONFIG = VAEConfig(
    dim=4,
    latent_channels=4,
    multipliers=(1, 2),
    residual_blocks=1,
    temporal_downsample=(True,),
    mean=(0.5, -0.25, 0.0, 0.1),
    std=(2.0, 0.5, 1.5, 1.0),
)
"""Every kind of layer once, so that it is compiled in seconds."""
LATENTS, HEIGHT, WIDTH = 6, 2, 4


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the compiler's own
        yield
    torch.compiler.reset()


def random_vae() -> VAE:
    vae = VAE(CONFIG)
    randomise(vae)
    return vae


def captured(function: Callable[..., Any], **_: object) -> Callable[..., Any]:
    """A compiler that captures graphs but generates no code."""
    return torch.compile(function, backend="eager", dynamic=False, fullgraph=True)


def latents(seed: int) -> Tensor:
    return torch.randn(1, 4, LATENTS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def decoded(vae: VAE, seed: int = 0) -> Tensor:
    cache = DecoderCache()
    with torch._dynamo.config.patch(error_on_recompile=True):
        pictures = [vae.decode_pixels(one, cache).clone() for one in latents(seed).split(1, dim=2)]
    return torch.cat(pictures, dim=1)


def nearly_the_same(actual: Tensor, expected: Tensor) -> None:
    """Rounding to bytes may fall to the other side."""
    difference = (actual.int() - expected.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3


def warm(vae: VAE, **how: Any) -> CompiledVAE:
    fast = CompiledVAE(vae, **how)
    fast.warm_up(HEIGHT, WIDTH)
    return fast


def test_captured_equals_eager_bit_for_bit() -> None:
    vae = random_vae()
    assert torch.equal(decoded(warm(vae, compiler=captured)), decoded(vae))


@torch.inference_mode()
def test_a_cache_filled_by_several_latents_at_once_needs_no_other_code() -> None:
    """As a session's is: the latents before its first block are decoded together."""
    vae = random_vae()
    fast = warm(vae, compiler=captured)
    caches, pictures = (DecoderCache(), DecoderCache()), []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for network, cache in zip((vae, fast), caches, strict=True):
            network.decode_next(latents(0)[:, :, :3], cache)
            rest = latents(0)[:, :, 3:].split(1, dim=2)
            pictures.append(torch.cat([network.decode_pixels(one, cache) for one in rest], dim=1))
    assert torch.equal(*pictures)


def test_recorded_equals_eager_and_sessions_do_not_mix() -> None:
    """On the CPU a recording is the call itself; what is tested are the places that never change."""
    vae = random_vae()
    fast = warm(vae, compiler=captured, record=lambda run: (run(), run)[1])
    assert torch.equal(decoded(fast), decoded(vae))
    with torch.inference_mode():
        caches, pictures = [DecoderCache() for _ in range(2)], [[], []]  # type: ignore[var-annotated]
        for position in range(LATENTS):
            for seed, cache in enumerate(caches):
                one = latents(seed)[:, :, position : position + 1]
                pictures[seed].append(fast.decode_pixels(one, cache).clone())
    for seed, several in enumerate(pictures):
        assert torch.equal(torch.cat(several, dim=1), decoded(vae, seed))


def test_a_size_that_was_not_warmed_up_takes_the_slow_way() -> None:
    vae = random_vae()
    assert torch.equal(decoded(CompiledVAE(vae, compiler=captured)), decoded(vae))


@pytest.mark.slow
def test_generated_code_equals_eager() -> None:
    vae = random_vae()
    nearly_the_same(decoded(warm(vae)), decoded(vae))
