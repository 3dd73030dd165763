"""The patterns without memory, query by query."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from live_avatar.model.attention import attend
from live_avatar.model.attention_patterns import (
    BlockCausalAttention,
    Geometry,
    SinkPrefill,
    block_causal_attention,
    joint_attention,
)
from live_avatar.model.rope import join
from tests.model.random_dit import CONFIG

CPU = torch.device("cpu")
GEOMETRY = Geometry(config=CONFIG, height=8, width=8)
FAST = settings(max_examples=15, deadline=None)


def heads(seed: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (3, 1, tokens, CONFIG.num_heads, CONFIG.head_dim)
    q, k, v = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return q, k, v


def block_causal(
    positions: tuple[int, ...], window: int, latents: int = 1, first_frame: int = 0
) -> BlockCausalAttention:
    return block_causal_attention(
        GEOMETRY,
        first_frame=first_frame,
        latents_per_block=latents,
        window_blocks=window,
        reference_positions=positions,
        device=CPU,
    )


def test_sizes_come_from_the_configuration() -> None:
    geometry = Geometry(config=CONFIG, height=10, width=14)
    assert geometry.latent_tokens == 5 * 7
    assert geometry.sink_tokens == 35 + 35 + 2 * 3 + 4 * 1 * 1
    assert len(geometry.sink_rotation(30, CPU).cos) == geometry.sink_tokens
    assert len(geometry.noisy_rotation(torch.tensor(0), 3).cos) == 3 * 35


def test_a_latent_of_a_later_call_stands_where_it_stood_in_one_call() -> None:
    whole = GEOMETRY.noisy_rotation(torch.tensor(4), 3)
    parts = join(*(GEOMETRY.noisy_rotation(torch.tensor(4 + latent), 1) for latent in range(3)))
    assert torch.equal(whole.cos, parts.cos)
    assert torch.equal(whole.sin, parts.sin)


def test_joint_attention_lets_everyone_see_everyone() -> None:
    noisy = 2 * GEOMETRY.latent_tokens
    q, k, v = heads(0, noisy + GEOMETRY.sink_tokens)
    pattern = joint_attention(GEOMETRY, 2, CPU)
    rotation = join(GEOMETRY.noisy_rotation(torch.tensor(0), 2), GEOMETRY.sink_rotation(CONFIG.reference_position, CPU))
    plain = pattern(0, q, k, v)
    assert torch.equal(plain, attend(rotation.rotate(q), rotation.rotate(k), v))
    louder = v.clone()
    louder[:, -1] += 10
    assert ((pattern(0, q, k, louder) - plain).abs().amax(dim=(0, 2, 3)) > 0).all()


def test_prefill_collects_keys_before_their_rotation() -> None:
    rotation = GEOMETRY.sink_rotation(CONFIG.reference_position, CPU)
    prefill = SinkPrefill(rotation)
    inputs = [heads(seed, GEOMETRY.sink_tokens) for seed in range(2)]
    for layer, (q, k, v) in enumerate(inputs):
        assert torch.equal(prefill(layer, q, k, v), attend(rotation.rotate(q), rotation.rotate(k), v))
    states = prefill.states()
    for layer, (_, k, v) in enumerate(inputs):
        assert torch.equal(states.keys[layer], k)
        assert torch.equal(states.values[layer], v)


@FAST
@given(
    window=st.integers(1, 5),
    latents=st.integers(1, 3),
    positions=st.lists(st.sampled_from([30, 31, 44]), min_size=1, max_size=5).map(tuple),
    first_frame=st.integers(0, 300_000),
)
def test_block_causal_equals_one_attention_per_block(
    window: int, latents: int, positions: tuple[int, ...], first_frame: int
) -> None:
    size, blocks = latents * GEOMETRY.latent_tokens, len(positions)
    q, k, v = heads(blocks, blocks * size + GEOMETRY.sink_tokens)
    actual = block_causal(positions, window, latents, first_frame)(0, q, k, v)
    noisy = GEOMETRY.noisy_rotation(torch.tensor(first_frame), blocks * latents)
    noisy_q, noisy_k = noisy.rotate(q[:, : blocks * size]), noisy.rotate(k[:, : blocks * size])
    sink_q, sink_k, sink_v = q[:, blocks * size :], k[:, blocks * size :], v[:, blocks * size :]
    for block, position in enumerate(positions):
        seen = slice(max(0, block - window + 1) * size, (block + 1) * size)
        keys = torch.cat([noisy_k[:, seen], GEOMETRY.sink_rotation(position, CPU).rotate(sink_k)], dim=1)
        values = torch.cat([v[:, seen], sink_v], dim=1)
        own = slice(block * size, (block + 1) * size)
        torch.testing.assert_close(actual[:, own], attend(noisy_q[:, own], keys, values), rtol=1e-5, atol=1e-5)
    at_rest = GEOMETRY.sink_rotation(CONFIG.reference_position, CPU)
    expected = attend(at_rest.rotate(sink_q), at_rest.rotate(sink_k), sink_v)
    torch.testing.assert_close(actual[:, blocks * size :], expected, rtol=1e-5, atol=1e-5)


def test_equal_reference_positions_share_one_copy_of_the_sink() -> None:
    assert len(block_causal((30, 30, 30), 2).sinks) == 1
    assert len(block_causal((31, 44, 31), 2).sinks) == 3


@pytest.mark.parametrize("window", [1, 2, 4])
def test_what_lies_outside_the_window_leaves_no_trace(window: int) -> None:
    """One attention, bit for bit: keys and values of a hidden block may be anything."""
    blocks, size = 5, GEOMETRY.latent_tokens
    pattern = block_causal((30,) * blocks, window)
    q, k, v = heads(1, blocks * size + GEOMETRY.sink_tokens)
    plain = pattern(0, q, k, v)
    for changed in range(blocks):
        other_k, other_v = k.clone(), v.clone()
        own = slice(changed * size, (changed + 1) * size)
        other_k[:, own] *= 3
        other_v[:, own] += 100
        after = pattern(0, q, other_k, other_v)
        same = [
            torch.equal(after[:, b * size : (b + 1) * size], plain[:, b * size : (b + 1) * size]) for b in range(blocks)
        ]
        assert same == [not changed <= block < changed + window for block in range(blocks)]
        assert torch.equal(after[:, blocks * size :], plain[:, blocks * size :]), "the sink sees itself alone"
