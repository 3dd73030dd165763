"""A stage from its settings: the denoiser, and where it draws its random numbers.

Reads files; knows nothing of sessions or messages.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from live_avatar.config import Preset
from live_avatar.model.dit import CausalDiT
from live_avatar.model.networks import Networks
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.draws import Draws, PhiloxDraws, ReplayDraws
from live_avatar.streaming.schedule import inference_schedule


def load_denoiser(
    networks: Networks, steps: range, step_count: int, *, join_last_step: bool = False, replay: Path | None = None
) -> Denoiser:
    """The denoiser of ``steps`` out of ``step_count``; see ``Schedule.without_last_step`` for ``join_last_step``.

    Raises:
        ValueError: weights or replay cannot be used, or there is no schedule of so many steps.
    """
    preset, draws = networks.preset, load_draws(networks.preset, replay, step_count)
    if join_last_step:
        schedule = inference_schedule(step_count + 1).without_last_step()
    else:
        schedule = inference_schedule(step_count)
    model = networks.load("dit")
    assert isinstance(model, CausalDiT)
    return Denoiser(model, preset.stream, schedule, steps, draws)


def load_draws(preset: Preset, replay: Path | None, step_count: int) -> Draws:
    """Random numbers of a live session, or those of a ``replay`` file.

    The file holds ``noise`` [blocks, 16, F, h, w] and ``distance`` [blocks, steps].

    Raises:
        ValueError: the file cannot be used.
    """
    if replay is None:
        return PhiloxDraws(preset.stream.reference_distance)
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
    return ReplayDraws(noise, distance)
