"""Other ways to cut the work of a step, each relative to the step as it is: section ``variants`` of ``benchmarks.gpu``.

A first block of one latent, two sessions in turns and in one batch, and one card's share where four share a step.
Layers run operator by operator: ratios of the same way of running them.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from benchmarks.flops import StepWork, geometry, step_work
from benchmarks.gpu_parts import draw_network, median_ms, random_like
from benchmarks.gpu_sections import Numbers, Place, label, repeated_block
from live_avatar.model.compiled_step import EagerStep
from live_avatar.model.dit import CausalDiT

CARDS = 4
"""That share a step in sequence parallelism: each has a part of the tokens, and in attention a part of the heads."""


@torch.inference_mode()
def variants(place: Place, before: Mapping[str, float]) -> Numbers:
    """The ratios, at the first size."""
    size = place.sizes[0]
    model = draw_network(place.preset, "dit", place.device)
    assert isinstance(model, CausalDiT)
    forward, name = EagerStep(model), label(size)
    runs = max(3, place.runs // 3)
    whole = repeated_block(forward, model, place, size)
    whole_ms = median_ms(whole, place.device, runs)
    small_ms = median_ms(repeated_block(forward, model, one_latent(place), size), place.device, runs)
    both = functools.partial(_in_turns, whole, repeated_block(forward, model, place, size))
    both_ms = median_ms(both, place.device, runs)
    batch_ms = median_ms(repeated_block(forward, model, place, size, batch=2), place.device, runs)
    return {
        f"one_latent_over_block_{name}": small_ms / whole_ms,
        f"two_sessions_over_twice_one_{name}": both_ms / (2 * whole_ms),
        f"batch_of_two_over_twice_one_{name}": batch_ms / (2 * whole_ms),
    } | _shared(place)


def one_latent(place: Place) -> Place:
    """Blocks of one latent that see as many latents as before."""
    stream = place.preset.stream
    short = replace(stream, latents_per_block=1, window_blocks=stream.latents_per_block * stream.window_blocks)
    return replace(place, preset=replace(place.preset, stream=short))


def _in_turns(one: Callable[[], object], other: Callable[[], object]) -> None:
    one()
    other()


def _shared(place: Place) -> Numbers:
    """Products and attention of one of four cards, times four, over those of a single card; no exchange counted."""
    size = place.sizes[0]
    work = step_work(place.preset, geometry(place.preset, *size))
    share = _operators_ms(place, work, rows=CARDS, heads=CARDS)
    return {f"sp{CARDS}_share_times_{CARDS}_{label(size)}": CARDS * share / _operators_ms(place, work, rows=1, heads=1)}


def _operators_ms(place: Place, work: StepWork, *, rows: int, heads: int) -> float:
    """All products with 1/``rows`` of the tokens, and the attention of 1/``heads`` of the heads."""
    total, config = 0.0, place.preset.dit
    for product in work.products:
        x = random_like(place.device, place.dtype, max(1, product.rows // rows), product.inner)
        weight = random_like(place.device, place.dtype, product.columns, product.inner)
        total += product.count * median_ms(functools.partial(linear, x, weight), place.device, place.runs)
    some = max(1, config.num_heads // heads)
    q, k, v = (
        random_like(place.device, place.dtype, 1, some, tokens, config.head_dim)
        for tokens in (work.queries, work.keys, work.keys)
    )
    attend = functools.partial(scaled_dot_product_attention, q, k, v)
    return total + config.num_layers * median_ms(attend, place.device, place.runs)
