"""The decoder's steady step, one latent at a time, as compiled code of fixed shapes and on a GPU as a recorded graph.

The very first latent of a video and calls with several latents take the way of ``VAE``, which is the twin.  What the
compiler joins here: norm and SiLU, the past frames and the new ones laid side by side for a convolution, and the last
two of them kept for the next latent; pictures leave as bytes.  Convolutions work on channels-last memory as in ``VAE``.

Letters: B batch, h and w latent pixels, C latent channels.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from einops import rearrange
from torch import Tensor, nn

from live_avatar.model.compiled_step import Compile
from live_avatar.model.cuda_graph_step import CudaGraphRecorder, Record, Replay
from live_avatar.model.vae import VAE, DecoderCache, to_uint8
from live_avatar.model.vae_layers import TimeWalk


class CompiledVAE(VAE):
    """The same weights and the same results as the ``VAE`` it is made of, up to rounding.

    Args:
        vae: shares its weights.
        compiler: what compiles.
        record: records a step where that pays; None: nothing is recorded.
    """

    def __init__(self, vae: VAE, compiler: Compile = torch.compile, record: Record | None = None) -> None:
        nn.Module.__init__(self)
        self.config = vae.config
        for name, module in vae.named_children():
            self.add_module(name, module)
        for name, buffer in vae.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=False)
        on_cpu = vae.from_latents.weight.device.type == "cpu"
        options = {"cpp_wrapper": True} if on_cpu else None
        self._run: Callable[..., Any] = compiler(self._steady, dynamic=False, fullgraph=True, options=options)
        self._record = record
        self._recordings: WeakKeyDictionary[DecoderCache, _CudaGraphCapture] = WeakKeyDictionary()
        self._warm: set[tuple[int, ...]] = set()

    def decode_pixels(self, latents: Tensor, cache: DecoderCache) -> Tensor:
        """As ``to_uint8(decode_next(...))``: pictures [B, 4, H, W, 3] of the next latent [B, C, 1, h, w]."""
        if not cache.histories or tuple(latents.shape) not in self._warm:
            return to_uint8(self.decode_next(latents, cache))
        self._check_latents(latents, cache)
        if self._record is None:
            pixels: Tensor
            pixels, cache.histories = self._run(self._plain(latents), tuple(map(_plain_memory, cache.histories)))
            return pixels
        recording = self._recordings.get(cache)
        if recording is None or recording.histories is not cache.histories:
            recording = self._recordings[cache] = _CudaGraphCapture(self._run, self._plain(latents), cache)
        return recording.step(latents, self._record)

    @torch.inference_mode()
    def warm_up(self, height: int, width: int, batch: int = 1) -> None:
        """Compiles the steady step for latents of this size; slow, to be called before a service is ready."""
        latents = torch.zeros(batch, self.config.latent_channels, 1, height, width, device=self.mean.device)
        cache = DecoderCache()
        self.decode_next(latents, cache)
        self._warm.add(tuple(latents.shape))
        self.decode_pixels(latents, cache)

    def _plain(self, latents: Tensor) -> Tensor:
        """The same values in plain memory order and the type of the weights, on which the code relies."""
        weight = self.from_latents.weight
        return torch.empty(latents.shape, dtype=weight.dtype, device=weight.device).copy_(latents)

    def _steady(self, latents: Tensor, histories: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Pictures of one latent that is not the first, and the histories for the next."""
        x = rearrange(self.denormalise(latents), "b c f h w -> b f h w c")
        walk = TimeWalk(histories)
        frames = self.decoder(self.from_latents(x.contiguous()), walk)
        kept = tuple(history.clone(memory_format=torch.contiguous_format) for history in walk.finish())
        return to_uint8(rearrange(frames, "b t h w c -> b c t h w")), kept


def _plain_memory(history: Tensor) -> Tensor:
    """``history`` in plain memory order, on which the code relies; a copy where it is a part of a larger tensor.

    So are those that several latents at once have left behind: their strides differ, for sides of length 1 too.
    """
    plain, size = [], 1
    for length in reversed(history.shape):
        plain.append(size)
        size *= length
    return (
        history if history.stride() == tuple(reversed(plain)) else history.clone(memory_format=torch.contiguous_format)
    )


class _CudaGraphCapture:
    """What a recorded step of one cache reads and writes, at places that never change."""

    def __init__(self, run: Callable[..., Any], latents: Tensor, cache: DecoderCache) -> None:
        self._run = run
        self._latents = latents
        self.histories = cache.histories = tuple(
            history.clone(memory_format=torch.contiguous_format) for history in cache.histories
        )
        self._pixels: Tensor | None = None
        self._replay: Replay | None = None

    def step(self, latents: Tensor, record: Record) -> Tensor:
        """Pictures of the next latent; the first step runs unrecorded."""
        self._latents.copy_(latents, non_blocking=True)
        if self._pixels is None:
            pixels: Tensor
            pixels, histories = self._run(self._latents, self.histories)
            self._pixels = torch.empty_like(pixels)
            self._keep(histories)
            return pixels
        if self._replay is None:
            before = [history.clone() for history in self.histories]
            self._replay = record(self._recorded)
            self._keep(tuple(before))  # recording may have run the step already
        self._replay()
        return self._pixels.clone()

    def _recorded(self) -> None:
        pixels, histories = self._run(self._latents, self.histories)
        assert self._pixels is not None
        self._pixels.copy_(pixels)
        self._keep(histories)

    def _keep(self, histories: tuple[Tensor, ...]) -> None:
        for mine, new in zip(self.histories, histories, strict=True):
            mine.copy_(new)


def compile_vae(vae: VAE) -> CompiledVAE:
    """``vae`` compiled, and recorded where it is on a GPU."""
    on_gpu = vae.from_latents.weight.device.type == "cuda"
    return CompiledVAE(vae, record=CudaGraphRecorder() if on_gpu else None)
