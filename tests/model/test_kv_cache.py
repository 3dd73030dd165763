"""The window's memory: layout, ring, commit, reset, and that it never grows."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from live_avatar import memory
from live_avatar.config import TINY
from live_avatar.model.attention_patterns import Geometry, SinkStates
from live_avatar.model.kv_cache import KVWindow, rolling_reference_position
from tests.model.random_dit import CONFIG, Clip, random_dit

GEOMETRY = Geometry(config=CONFIG, height=8, width=8)
LATENTS, BLOCKS = 2, 3
SIZE = LATENTS * GEOMETRY.latent_tokens


def heads(seed: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, tokens, CONFIG.num_heads, CONFIG.head_dim, generator=generator)


def sink_states(seed: int) -> SinkStates:
    keys = tuple(heads(seed + layer, GEOMETRY.sink_tokens) for layer in range(CONFIG.num_layers))
    return SinkStates(keys, tuple(2 * k for k in keys))


def ready_window() -> KVWindow:
    window = KVWindow(GEOMETRY, latents_per_block=LATENTS, window_blocks=BLOCKS)
    window.set_sink(sink_states(100))
    return window


def attend_block(window: KVWindow, seed: int, reference_offset: int = 30) -> Tensor:
    """One block through layer 0, committed."""
    pattern = window.begin(reference_offset)
    out = pattern(0, heads(seed, SIZE), heads(seed + 1, SIZE), heads(seed + 2, SIZE))
    window.commit()
    return out


def pointers(window: KVWindow) -> list[int]:
    return [tensor.data_ptr() for layer in window.layers for tensor in (layer.k, layer.v, layer.reference_k)]


@pytest.mark.parametrize(
    ("first_frame", "reference_offset", "position"),
    [(0, 4, 30), (0, 30, 30), (3, 30, 33), (26, 4, 30), (27, 4, 31), (225_000, 11, 225_011)],
)
def test_rolling_position_of_the_specification(first_frame: int, reference_offset: int, position: int) -> None:
    assert rolling_reference_position(first_frame, reference_offset, 30) == position


def test_a_window_without_a_sink_says_so() -> None:
    window = KVWindow(GEOMETRY, latents_per_block=LATENTS, window_blocks=BLOCKS)
    with pytest.raises(RuntimeError, match="no sink yet"):
        window.begin(30)
    window.set_sink(sink_states(0))
    window.begin(30)
    window.reset()
    with pytest.raises(RuntimeError, match="no sink yet"):
        window.begin(30)


def test_slots_are_overwritten_oldest_first_with_rotated_keys() -> None:
    window, sink = ready_window(), GEOMETRY.sink_tokens
    held: dict[int, int] = {}
    for block in range(2 * BLOCKS + 1):
        attend_block(window, seed=10 * block)
        held[block % BLOCKS] = block
        for slot, of_block in held.items():
            own = slice(sink + slot * SIZE, sink + (slot + 1) * SIZE)
            rotation = GEOMETRY.noisy_rotation(torch.tensor(of_block * LATENTS), LATENTS)
            assert torch.equal(window.layers[0].k[:, own], rotation.rotate(heads(10 * of_block + 1, SIZE)))
            assert torch.equal(window.layers[0].v[:, own], heads(10 * of_block + 2, SIZE))


def test_a_block_sees_the_sink_and_the_filled_slots_alone() -> None:
    window = ready_window()
    for block in range(BLOCKS + 2):
        assert window.begin(30).visible == GEOMETRY.sink_tokens + min(block + 1, BLOCKS) * SIZE
        attend_block(window, seed=block)


def test_a_window_that_begins_later_fills_from_its_first_slot_and_stands_where_the_block_stands() -> None:
    late = KVWindow(GEOMETRY, latents_per_block=LATENTS, window_blocks=BLOCKS, first_block=10)
    late.set_sink(sink_states(100))
    early = ready_window()
    for index in range(2 * BLOCKS):
        there, here = early.place(30), late.place(30)
        assert (here.slot, here.visible) == (there.slot, there.visible)
        assert here.first_frame == there.first_frame + 10 * LATENTS == (10 + index) * LATENTS
        attend_block(early, index)
        attend_block(late, index)
    late.reset()
    assert (late.block, late.has_sink) == (10, False)


def test_sink_values_and_motion_keys_are_written_once_and_the_reference_rolls() -> None:
    window, states = ready_window(), sink_states(100)
    reference = GEOMETRY.latent_tokens
    motion = GEOMETRY.sink_rotation(30, torch.device("cpu")).rotate(states.keys[0])[:, reference:]
    for block, reference_offset in enumerate((30, 4, 17)):
        attend_block(window, seed=block, reference_offset=reference_offset)
        position = torch.tensor(rolling_reference_position(block * LATENTS, reference_offset, 30))
        rolled = GEOMETRY.reference_rotation(position).rotate(states.keys[0][:, :reference])
        layer = window.layers[0]
        assert torch.equal(layer.k[:, :reference], rolled)
        assert torch.equal(layer.k[:, reference : GEOMETRY.sink_tokens], motion)
        assert torch.equal(layer.v[:, : GEOMETRY.sink_tokens], states.values[0])


def test_a_new_sink_leaves_the_history() -> None:
    window, sink = ready_window(), GEOMETRY.sink_tokens
    for block in range(BLOCKS):
        attend_block(window, seed=block)
    before = [(layer.k[:, sink:].clone(), layer.v[:, sink:].clone()) for layer in window.layers]
    window.set_sink(sink_states(200))
    for layer, (k, v), states_v in zip(window.layers, before, sink_states(200).values, strict=True):
        assert torch.equal(layer.k[:, sink:], k)
        assert torch.equal(layer.v[:, sink:], v)
        assert torch.equal(layer.v[:, :sink], states_v)
    assert window.block == BLOCKS


def test_nothing_moves_before_commit() -> None:
    """A block begun again after half its layers gives the bits of one begun once."""
    once, again = ready_window(), ready_window()
    for block in range(BLOCKS + 2):
        half_done = again.begin(9)
        half_done(0, heads(900, SIZE), heads(901, SIZE), heads(902, SIZE))
        assert again.block == block
        assert torch.equal(
            attend_block(again, seed=block, reference_offset=9), attend_block(once, seed=block, reference_offset=9)
        )
    for one, other in zip(once.layers, again.layers, strict=True):
        assert torch.equal(one.k, other.k)
        assert torch.equal(one.v, other.v)


def test_no_tensor_is_replaced_and_none_is_added() -> None:
    clip = Clip(blocks=2 * BLOCKS, window_blocks=BLOCKS)
    model, window = random_dit(), clip.window()
    before, nbytes = pointers(window), window.nbytes
    clip.streamed(model, clip.latent(), window)
    window.set_sink(SinkStates(*_empty_sink(window)))
    window.reset()
    clip.streamed(model, clip.latent(), window)
    assert pointers(window) == before
    assert window.nbytes == nbytes
    assert {type(value) for value in vars(window).values()}.isdisjoint({list, dict}), "nowhere to collect"


def _empty_sink(window: KVWindow) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    sink = window.geometry.sink_tokens
    zeros = tuple(torch.zeros_like(layer.k[:, :sink]) for layer in window.layers)
    return zeros, zeros


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 64)])
def test_bytes_are_those_of_the_memory_table(height: int, width: int) -> None:
    factor = TINY.vae.spatial_factor
    geometry = Geometry(config=TINY.dit, height=height // factor, width=width // factor)
    window = KVWindow(
        geometry,
        latents_per_block=TINY.stream.latents_per_block,
        window_blocks=TINY.stream.window_blocks,
        dtype=torch.bfloat16,
    )
    table = memory.session_memory(TINY, height, width)
    assert window.nbytes == table.window + table.sink + table.reference


def test_a_window_without_motion_holds_the_reference_alone() -> None:
    config = replace(CONFIG, use_motion=False)
    geometry = Geometry(config=config, height=8, width=8)
    window = KVWindow(geometry, latents_per_block=LATENTS, window_blocks=BLOCKS)
    assert window.layers[0].k.shape[1] == geometry.latent_tokens + BLOCKS * SIZE
