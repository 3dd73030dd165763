"""Streaming through the window against its twins: one masked forward, a retry, a reset, a session ten hours old."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from live_avatar.config import DiTConfig
from live_avatar.model.attention import SelfAttend
from live_avatar.model.attention_patterns import block_causal_attention
from live_avatar.model.dit import CausalDiT
from live_avatar.model.kv_cache import KVWindow
from tests.model.random_dit import CONFIG, NO_MOTION, ONE_LAYER, TOLERANCE, Clip, near, random_dit, transformer_layer

TWINS = settings(max_examples=25, deadline=None)
TEN_HOURS_BLOCK = 75_000

THREE_TOKENS = replace(CONFIG, dim=80, audio_tokens=3)
"""A width that does not split into the audio tokens."""

clips = st.builds(
    Clip,
    config=st.sampled_from([CONFIG, NO_MOTION, THREE_TOKENS]),
    height=st.sampled_from([8, 10, 14]),
    width=st.sampled_from([8, 10, 14]),
    latents_per_block=st.integers(1, 3),
    window_blocks=st.integers(1, 5),
    blocks=st.integers(1, 6),
    first_block=st.just(0),
    seed=st.integers(0, 3),
    same_level=st.booleans(),
)


class Recording:
    """A pattern that also keeps the keys and values every layer hands it."""

    def __init__(self, pattern: SelfAttend) -> None:
        self.pattern = pattern
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.keys.append(k)
        self.values.append(v)
        return self.pattern(layer, q, k, v)


def blocks_of(clip: Clip, velocity: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = velocity.split(clip.latents_per_block, dim=2)
    return parts


def contents(window: KVWindow) -> list[Tensor]:
    return [tensor.clone() for layer in window.layers for tensor in (layer.k, layer.v, layer.reference_k)]


def same_bits(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@TWINS
@given(clip=clips)
@torch.inference_mode()
def test_blocks_through_the_window_equal_one_masked_forward(clip: Clip) -> None:
    model, latent = random_dit(clip.config), clip.latent()
    near(clip.streamed(model, latent), clip.masked(model, latent))


@torch.inference_mode()
def test_an_error_of_the_twins_size_would_be_seen() -> None:
    """The smallest rule broken, one position of the reference, moves the result far beyond the tolerance."""
    clip, model = Clip(), random_dit()
    window = clip.with_sink(model, clip.window())
    window.block = 20
    inputs = clip.noisy(model, clip.latent(), 0), None, clip.text(model)
    shifted = model(*inputs, window.begin(11)) - model(*inputs, window.begin(10))
    assert shifted.abs().max() > 20 * TOLERANCE


@pytest.mark.parametrize("window_blocks", [1, 2, 3])
@torch.inference_mode()
def test_influence_goes_forward_and_no_further_than_windows_reach(window_blocks: int) -> None:
    """Per layer a block hands on to ``window - 1`` later ones; everything else keeps its bits."""
    clip = Clip(config=ONE_LAYER, window_blocks=window_blocks, blocks=5)
    model, latent = random_dit(clip.config), clip.latent()
    for forward in (clip.masked, clip.streamed):
        plain = blocks_of(clip, forward(model, latent))
        for changed in range(clip.blocks):
            other = latent.clone()
            other[:, :, changed * clip.latents_per_block] += 1
            after = blocks_of(clip, forward(model, other))
            reached = [not torch.equal(*pair) for pair in zip(plain, after, strict=True)]
            assert reached == [changed <= block < changed + window_blocks for block in range(clip.blocks)]


@torch.inference_mode()
def test_history_reaches_through_the_layers_but_never_back() -> None:
    clip = Clip(window_blocks=2, blocks=6)
    model, latent = random_dit(), clip.latent()
    plain = blocks_of(clip, clip.streamed(model, latent))
    for changed in range(clip.blocks):
        other = latent.clone()
        other[:, :, changed * clip.latents_per_block] += 1
        after = blocks_of(clip, clip.streamed(model, other))
        reached = [not torch.equal(*pair) for pair in zip(plain, after, strict=True)]
        assert reached == [changed <= block <= changed + CONFIG.num_layers for block in range(clip.blocks)]


@pytest.mark.parametrize("config", [CONFIG, NO_MOTION], ids=["motion", "reference alone"])
@torch.inference_mode()
def test_the_sink_sees_itself_alone(config: DiTConfig) -> None:
    """Its keys and values in a masked forward are those of the prefill, whatever the noisy tokens are."""
    clip = Clip(config=config)
    model = random_dit(clip.config)
    prefill = clip.window().prefill()
    model(None, clip.sink(model), clip.text(model), prefill)
    states, seen = prefill.states(), []
    for latent in (clip.latent(), 5 * clip.latent() + 1):
        positions = (30,) * clip.blocks
        masked = block_causal_attention(
            clip.geometry,
            latents_per_block=clip.latents_per_block,
            window_blocks=clip.window_blocks,
            reference_positions=positions,
            device=torch.device("cpu"),
        )
        recording = Recording(masked)
        model(clip.noisy(model, latent), clip.sink(model), clip.text(model), recording)
        noisy = clip.latents * clip.geometry.latent_tokens
        seen.append([tensor[:, noisy:] for tensor in (*recording.keys, *recording.values)])
    assert same_bits(*seen)
    for actual, expected in zip(seen[0], (*states.keys, *states.values), strict=True):
        near(actual, expected)


@TWINS
@given(layer=st.integers(0, CONFIG.num_layers - 1), block=st.integers(0, 4), after=st.booleans())
@torch.inference_mode()
def test_a_block_that_failed_half_way_can_be_done_again(layer: int, block: int, after: bool) -> None:
    clip = Clip(blocks=5, window_blocks=2)
    model, latent = random_dit(), clip.latent()
    undisturbed = clip.window()
    expected = clip.streamed(model, latent, undisturbed)
    window = clip.with_sink(model, clip.window())
    velocities = []
    for index in range(clip.blocks):
        if index == block:
            with pytest.raises(ConnectionError), _failing(model, layer, after):
                clip.stream_block(model, window, latent, index)
            assert window.block == index
        velocities.append(clip.stream_block(model, window, latent, index))
    assert torch.equal(torch.cat(velocities, dim=2), expected)
    assert same_bits(contents(window), contents(undisturbed))


@contextmanager
def _failing(model: CausalDiT, layer: int, after: bool) -> Iterator[None]:
    """While it lasts, the model fails before or after one layer."""

    def fail(*_: object) -> None:
        raise ConnectionError("the device is gone")

    module = transformer_layer(model, layer)
    hook = module.register_forward_hook(fail) if after else module.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode()
def test_a_second_session_after_reset_is_a_first_one() -> None:
    model, first, second = random_dit(), Clip(seed=1, blocks=5), Clip(seed=2, blocks=3)
    window = first.window()
    first.streamed(model, first.latent(), window)
    window.reset()
    assert torch.equal(second.streamed(model, second.latent(), window), second.streamed(model, second.latent()))


@torch.inference_mode()
def test_two_sessions_do_not_touch_each_other() -> None:
    model = random_dit()
    sessions = [Clip(seed=1, blocks=5), Clip(seed=2, blocks=5)]
    windows = [clip.with_sink(model, clip.window()) for clip in sessions]
    together: list[list[Tensor]] = [[], []]
    for block in range(5):
        for clip, window, velocities in zip(sessions, windows, together, strict=True):
            velocities.append(clip.stream_block(model, window, clip.latent(), block))
    for clip, velocities in zip(sessions, together, strict=True):
        assert torch.equal(torch.cat(velocities, dim=2), clip.streamed(model, clip.latent()))


@pytest.mark.parametrize("window_blocks", [1, 3])
@torch.inference_mode()
def test_ten_hours_in_equals_the_shifted_computation(window_blocks: int) -> None:
    """Without motion tokens, which stay in the past, all that counts is differences of positions."""
    early = Clip(config=NO_MOTION, latents_per_block=3, blocks=4, window_blocks=window_blocks, first_block=30)
    late = replace(early, first_block=TEN_HOURS_BLOCK)
    model, latent = random_dit(NO_MOTION), early.latent()
    near(late.streamed(model, latent), early.streamed(model, latent))


@torch.inference_mode()
def test_ten_hours_in_with_motion_equals_the_masked_forward() -> None:
    """A window set to a late block holds zeros for the past; what they reach through the layers is left out."""
    clip = Clip(first_block=TEN_HOURS_BLOCK, window_blocks=2, blocks=CONFIG.num_layers + 3)
    model, latent = random_dit(), clip.latent()
    late = blocks_of(clip, clip.streamed(model, latent))[CONFIG.num_layers :]
    masked = blocks_of(clip, clip.masked(model, latent))[CONFIG.num_layers :]
    near(torch.cat(late), torch.cat(masked))
    early = blocks_of(clip, replace(clip, first_block=30).streamed(model, latent))[CONFIG.num_layers :]
    assert (torch.cat(late) - torch.cat(early)).abs().max() > 20 * TOLERANCE, "motion tokens fall behind"
