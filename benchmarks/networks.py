"""The smallest system's networks on one thread of the CPU: compiled against eager, and the decoder against the step."""

import statistics
from collections.abc import Callable, Mapping

import torch

from benchmarks.flops import geometry
from benchmarks.gpu_parts import times_ms
from benchmarks.gpu_sections import Place, repeated_block
from benchmarks.sections import Numbers, Workplace
from live_avatar.config import TINY
from live_avatar.memory import largest_size
from live_avatar.model.compiled_step import CompiledStep, EagerStep
from live_avatar.model.compiled_vae import CompiledVAE
from live_avatar.model.dit import CausalDiT
from live_avatar.model.networks import random_network
from live_avatar.model.vae import VAE, DecoderCache
from live_avatar.services.denoise_stage.loading import warm_window

ROUNDS = 60
_CPU = torch.device("cpu")


@torch.inference_mode()
def networks(place: Workplace) -> Numbers:
    """The step and the decoder, eager and compiled; the first time takes some minutes, to compile."""
    torch.set_num_threads(1)
    height, width = largest_size(TINY)
    where = Place(TINY, ((width, height),), _CPU, ROUNDS)
    model, vae = random_network(TINY, "dit"), random_network(TINY, "vae")
    assert isinstance(model, CausalDiT) and isinstance(vae, VAE)
    step, fast = CompiledStep(model), CompiledVAE(vae)
    step.warm_up([warm_window(TINY, (width, height), where.dtype, _CPU)])
    grid = geometry(TINY, width, height)
    fast.warm_up(grid.height, grid.width)
    latent = torch.randn(1, TINY.vae.latent_channels, 1, grid.height, grid.width)
    took = interleaved_ms(
        {
            "step_eager": repeated_block(EagerStep(model), model, where, (width, height)),
            "step_compiled": repeated_block(step, model, where, (width, height)),
            "decode_eager": _decoding(vae, latent),
            "decode_compiled": _decoding(fast, latent),
        },
        ROUNDS,
    )
    latents = TINY.stream.latents_per_block
    return {
        "compiled_over_eager": took["step_eager"] / took["step_compiled"],
        "decode_compiled_over_eager": took["decode_eager"] / took["decode_compiled"],
        "decode_share": latents * took["decode_eager"] / took["step_eager"],
        **{f"tiny_{name}_ms": milliseconds for name, milliseconds in took.items()},
    }


def interleaved_ms(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each call, all taken in turns, so that a busy machine troubles all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 3):
        for name, run in runs.items():
            [took] = times_ms(run, _CPU, 1)
            if turn >= 3:
                times[name].append(took)
    return {name: statistics.median(several) for name, several in times.items()}


def _decoding(vae: VAE, latent: torch.Tensor) -> Callable[[], object]:
    """A call that decodes the next latent of a video, over and over."""
    cache = DecoderCache()
    vae.decode_pixels(latent, cache)
    return lambda: vae.decode_pixels(latent, cache)
