"""The same networks on a GPU: what is compiled, recorded or rounded there against what runs operator by operator."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.compiled_step import CompiledStep, EagerStep, StepForward
from live_avatar.model.compiled_vae import compile_vae
from live_avatar.model.cuda_graph_step import CudaGraphStep, fastest_step
from live_avatar.model.dit import CausalDiT
from live_avatar.model.kv_cache import KVWindow
from live_avatar.model.vae import DecoderCache
from tests.model.random_dit import CONFIG, Clip, random_dit
from tests.model.test_compiled_vae import random_vae

pytestmark = pytest.mark.gpu

GPU = "cuda"
WIDE = replace(CONFIG, dim=64, num_heads=2, ffn_dim=96)
"""Heads as wide as the fused kernels of attention ask for."""
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def exact_and_fresh() -> Iterator[None]:
    """No 19-bit products, no code of another test."""
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, such as that 19-bit products were faster
        torch.compiler.reset()
        yield
        torch.compiler.reset()
    torch.backends.cudnn.allow_tf32 = kept


@dataclass(frozen=True, kw_only=True)
class OnGPU(Clip):
    """The same clip there."""

    def audio(self) -> AudioTokens:
        """See ``Clip``."""
        audio = super().audio()
        return AudioTokens(audio.local.to(GPU), audio.glob.to(GPU))

    def window(self) -> KVWindow:
        """See ``Clip``."""
        return KVWindow(
            self.geometry,
            latents_per_block=self.latents_per_block,
            window_blocks=self.window_blocks,
            device=torch.device(GPU),
        )

    def _random(self, purpose: int, *shape: int) -> Tensor:
        return super()._random(purpose, *shape).to(GPU)


SIZE = {"config": WIDE, "blocks": 8, "window_blocks": 2, "latents_per_block": 1, "width": 8}
CLIP = OnGPU(**SIZE)  # type: ignore[arg-type]


def streamed(forward: StepForward, model: CausalDiT, clips: tuple[Clip, ...]) -> list[Tensor]:
    """The clips through ``forward`` in turns; the first changes its prompt near the end."""
    windows = [clip.with_sink(model, clip.window()) for clip in clips]
    texts = [clip.text(model) for clip in clips]
    times = [clip.noisy(model, clip.latent(), 0).time for clip in clips]  # a stage has one, the same object
    velocities = []
    for block in range(clips[0].blocks):
        if block == clips[0].blocks - 2:
            texts[0] = replace(clips[0], seed=3).text(model)
        for clip, window, text, time in zip(clips, windows, texts, times, strict=True):
            noisy = replace(clip.noisy(model, clip.latent(), block), time=time)
            velocities.append(forward(noisy, text, window, clip.distances()[block]).clone())
            window.commit()
    return velocities


def near(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Up to the order of summation."""
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=TOLERANCE, atol=TOLERANCE)


@torch.inference_mode()
def test_a_gpu_streams_what_a_cpu_streams() -> None:
    model, slow = random_dit(WIDE).to(GPU), random_dit(WIDE)
    near(streamed(EagerStep(model), model, (CLIP,)), streamed(EagerStep(slow), slow, (Clip(**SIZE),)))  # type: ignore[arg-type]


@torch.inference_mode()
def test_recorded_steps_equal_eager_ones_and_sessions_do_not_mix() -> None:
    model = random_dit(WIDE).to(GPU)
    step = CompiledStep(model)
    step.warm_up([CLIP.window()])
    fast = fastest_step(step)
    assert isinstance(fast, CudaGraphStep)
    clips = (CLIP, replace(CLIP, seed=7))
    expected = streamed(EagerStep(model), model, clips)
    near(streamed(step, model, clips), expected)
    near(streamed(fast, model, clips), expected)
    near(streamed(fast, model, clips), expected)


@torch.inference_mode()
def test_a_recorded_decoder_equals_the_decoder_and_sessions_do_not_mix() -> None:
    vae = random_vae().to(GPU)
    fast = compile_vae(vae)
    fast.warm_up(4, 6)
    latents = torch.randn(2, 1, 4, 6, 4, 6, device=GPU)
    caches = [DecoderCache() for _ in range(4)]
    for position in range(latents.shape[3]):
        for session in range(2):
            one = latents[session, :, :, position : position + 1]
            expected = vae.decode_pixels(one, caches[session]).int()
            difference = (fast.decode_pixels(one, caches[2 + session]).int() - expected).abs()
            assert difference.max() <= 1
            assert (difference > 0).float().mean() < 1e-3
