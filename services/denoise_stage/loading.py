"""A stage from its settings: the denoiser, and where it draws its random numbers.

Reads files; knows nothing of sessions or messages.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from live_avatar.config import Preset
from live_avatar.model import fp8
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.compiled_step import CompiledStep, StepForward
from live_avatar.model.cuda_graph_step import fastest_step
from live_avatar.model.dit import CausalDiT
from live_avatar.model.kv_cache import KVWindow
from live_avatar.model.networks import Networks
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.picture import latent_size
from live_avatar.streaming.rng import PhiloxRng, RecordedRng, Rng
from live_avatar.streaming.schedule import inference_schedule


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a stage gives up for speed or room; by default nothing."""

    compiled_sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of the pictures that code is generated for; none: no code is."""
    fp8: bool = False
    """Linear layers in 8 bits."""
    fp8_kv: bool = False
    """Keys and values in 8 bits."""


def load_denoiser(
    networks: Networks,
    steps: range,
    step_count: int,
    *,
    join_last_step: bool = False,
    replay: Path | None = None,
    speed: Speed | None = None,
) -> Denoiser:
    """The denoiser of ``steps`` out of ``step_count``; see ``Schedule.without_last_step`` for ``join_last_step``.

    Compiles for minutes where ``speed`` asks for it.

    Raises:
        ValueError: weights, replay or a size cannot be used, or there is no schedule of so many steps.
    """
    preset, rng = networks.preset, load_rng(networks.preset, replay, step_count)
    if join_last_step:
        schedule = inference_schedule(step_count + 1).without_last_step()
    else:
        schedule = inference_schedule(step_count)
    model = networks.load("dit")
    assert isinstance(model, CausalDiT)
    speed = speed or Speed()
    if speed.fp8:
        fp8.quantise(model, preset.dit)
    kv_dtype = fp8.FP8 if speed.fp8_kv else None
    forward = _compiled(model, preset, speed.compiled_sizes, kv_dtype) if speed.compiled_sizes else None
    return Denoiser(model, preset.stream, schedule, steps, rng, forward=forward, kv_dtype=kv_dtype)


def _compiled(
    model: CausalDiT, preset: Preset, sizes: tuple[tuple[int, int], ...], kv_dtype: torch.dtype | None
) -> StepForward:
    """A compiled way through the model, warm for pictures of ``sizes``."""
    step, weight = CompiledStep(model), model.patch_embedding.weight
    step.warm_up([warm_window(preset, size, kv_dtype or weight.dtype, weight.device) for size in sizes])
    return fastest_step(step)


def warm_window(preset: Preset, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> KVWindow:
    """An empty window for pictures of ``size``, width and height.

    Raises:
        ValueError: the preset has no such pictures.
    """
    height, width = latent_size(preset, *size)
    return KVWindow(
        Geometry(config=preset.dit, height=height, width=width),
        latents_per_block=preset.stream.latents_per_block,
        window_blocks=preset.stream.window_blocks,
        dtype=dtype,
        device=device,
    )


def load_rng(preset: Preset, replay: Path | None, step_count: int) -> Rng:
    """Random numbers of a live session, or those of a ``replay`` file.

    The file holds ``noise`` [blocks, 16, F, h, w] and ``distance`` [blocks, steps].

    Raises:
        ValueError: the file cannot be used.
    """
    if replay is None:
        return PhiloxRng(preset.stream.reference_distance)
    try:
        tensors = load_file(replay)
        noise, distance = tensors["noise"], tensors["distance"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"replay {replay}: cannot be read: {error}") from error
    if noise.ndim != 5 or distance.shape != (len(noise), step_count) or distance.is_floating_point():
        raise ValueError(
            f"replay {replay}: noise {list(noise.shape)} and distance {list(distance.shape)} {distance.dtype} "
            f"are not [blocks, channels, latents, h, w] and [blocks, {step_count}] of whole numbers"
        )
    return RecordedRng(noise, distance)
