"""A stage's work equals the library's loop, holds what it reserved, and refuses what it must."""

import gc
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from live_avatar import wire
from live_avatar.config import TINY, preset
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.kv_cache import KVWindow
from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest
from live_avatar.services.denoise_stage.loading import load_rng
from live_avatar.services.denoise_stage.settings import DenoiseStageSettings, parse_steps
from live_avatar.services.denoise_stage.work import DenoiseStageWork
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.memory_budget import MemoryBudget
from live_avatar.serving.parts import conditioning_parts
from live_avatar.streaming.block import Block, Conditioning, Sink
from live_avatar.streaming.local import generate, warmup_latents
from tests.streaming.partitions import split_steps

from . import tiny
from .tiny import key, open_request

BLOCKS = 6


def stage(steps: range, memory_budget: MemoryBudget = tiny.MEMORY_BUDGET) -> DenoiseStageWork:
    return DenoiseStageWork(TINY, tiny.denoiser(steps), memory_budget=memory_budget)


@cache
def sink() -> Sink:
    return tiny.frame_decoder().encode_portrait(tiny.portrait_pixels())


@cache
def tokens(block: int) -> AudioTokens:
    generator = torch.Generator().manual_seed(block)
    config, latents = TINY.dit, TINY.stream.latents_per_block
    local = torch.randn(1, 1, latents, config.audio_tokens + 1, config.dim, generator=generator)
    return AudioTokens(local=local, glob=torch.randn(1, 1, latents, config.dim, generator=generator))


@cache
def text_states() -> torch.Tensor:
    return tiny.text().encode(tiny.PROMPT)


@cache
def expected() -> tuple[torch.Tensor, ...]:
    decoder = tiny.frame_decoder()
    stages = [tiny.denoiser(range(TINY.stream.steps))]
    generated = generate(
        stages,
        decoder,
        sink=sink(),
        warmup=warmup_latents(sink(), decoder),
        text=text_states(),
        audio=[tokens(index) for index in range(BLOCKS)],
        seed=7,
    )
    return tuple(one.latent for one in generated)


def condition(stages: Sequence[DenoiseStageWork], conditioning: Conditioning, name: str = "session") -> None:
    body = wire.conditioning_to_body(conditioning).SerializeToString()
    parts = conditioning_parts(key(name), conditioning.from_block, body)
    for one in stages:
        parts = [passed for part in parts for passed in one.condition(part.conditioning_part)]


def message(index: int, name: str = "session") -> StreamBlocksRequest.Block:
    return wire.block_to_message(Block(index, tokens(index)), key(name))


def through(stages: Sequence[DenoiseStageWork], index: int, name: str = "session") -> torch.Tensor:
    block = message(index, name)
    for one in stages:
        (passed,) = one.block(block)
        block = passed.block
    latent = wire.block_from_message(block).latent
    assert latent is not None
    return latent


def run(stages: Sequence[DenoiseStageWork], index: int, name: str = "session") -> torch.Tensor:
    """One block, with the model's own sink sent down as the gateway does."""
    latent = through(stages, index, name)
    if index == 0:
        own = Sink(version=1, reference=latent[:, :1], motion=None)
        condition(stages, Conditioning(from_block=TINY.stream.sink_switch_block, sink=own), name)
    return latent


def start(stages: Sequence[DenoiseStageWork], name: str = "session") -> None:
    for one in stages:
        one.open(open_request(name))
    condition(stages, Conditioning(from_block=0, sink=sink(), text=text_states()), name)


@pytest.mark.parametrize("partition", [4, 2, 1])
def test_any_partition_equals_the_loop(partition: int) -> None:
    stages = [stage(steps) for steps in split_steps(TINY.stream.steps, partition)]
    start(stages)
    for index in range(BLOCKS):
        assert torch.equal(run(stages, index), expected()[index])


def test_interleaved_sessions_do_not_touch_each_other() -> None:
    stages = [stage(range(TINY.stream.steps))]
    start(stages, "a")
    start(stages, "b")
    for index in range(2):
        for name in ("a", "b"):
            assert torch.equal(run(stages, index, name), expected()[index])


def test_reserves_what_it_holds() -> None:
    denoiser = tiny.denoiser(range(1, 3))
    height, width = sink().reference.shape[2:]
    work = DenoiseStageWork(TINY, denoiser, memory_budget=tiny.MEMORY_BUDGET)
    reserved = work.open(open_request())
    session = work._sessions.get(key()).stage
    assert (session.geometry.height, session.geometry.width) == (height, width)
    denoiser.condition(session, Conditioning(from_block=0, sink=sink(), text=text_states()))
    noise = torch.randn(16, TINY.stream.latents_per_block, height, width)
    denoiser.denoise(session, Block(0, tokens(0), noise))
    assert session.nbytes == reserved


def test_close_frees_the_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[KVWindow]] = []
    reset = KVWindow.reset

    def noted(self: KVWindow) -> None:
        made.append(weakref.ref(self))
        reset(self)

    monkeypatch.setattr(KVWindow, "reset", noted)
    stages = [stage(range(TINY.stream.steps))]
    start(stages)
    through(stages, 0)
    assert stages[0].close(key()) > 0
    assert stages[0].close(key()) == 0
    gc.collect()
    assert len(made) == TINY.stream.steps
    assert not any(ref() for ref in made)


def test_memory_is_not_promised_twice() -> None:
    reserved = stage(range(1)).open(open_request())
    work = stage(range(1), MemoryBudget(max_bytes=2 * reserved - 1, max_sessions=0))
    work.open(open_request("a"))
    with pytest.raises(ServiceError, match="KV_MEMORY_EXHAUSTED"):
        work.open(open_request("b"))
    work.close(key("a"))
    assert work.open(open_request("b")) == reserved


@pytest.mark.parametrize(("width", "height"), [(64, 128), (72, 56), (0, 64), (64, 32), (2**32 - 1, 2**32 - 1)])
def test_sizes_that_are_not_served(width: int, height: int) -> None:
    work = stage(range(1))
    with pytest.raises(ServiceError, match="SIZE_UNSUPPORTED"):
        work.open(open_request(width=width, height=height))


def test_blocks_out_of_order() -> None:
    first, second = stages = [stage(range(2)), stage(range(2, 4))]
    with pytest.raises(ServiceError, match="SESSION_NOT_FOUND"):
        first.block(message(0))
    first.open(open_request())
    with pytest.raises(ServiceError, match="CONDITIONING_MISSING"):
        first.block(message(0))
    first.close(key())
    start(stages)
    with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
        first.block(message(1))
    with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
        second.block(message(0))
    with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
        first.audio(StreamBlocksRequest.Audio(key=key()))


def _sink(reference: tuple[int, ...] = (16, 1, 8, 8), motion: tuple[int, ...] | None = (16, 19, 8, 8)) -> Sink:
    return Sink(0, torch.zeros(reference), None if motion is None else torch.zeros(motion))


@pytest.mark.parametrize(
    ("bad_sink", "text_shape", "reason"),
    [
        (None, (4, 64), "CONDITIONING_MISSING"),
        (_sink(), None, "CONDITIONING_MISSING"),
        (_sink(motion=None), (4, 64), "TENSOR_MALFORMED"),
        (_sink((16, 1, 8, 9), (16, 19, 8, 9)), (4, 64), "TENSOR_MALFORMED"),
        (_sink((8, 1, 8, 8), (8, 19, 8, 8)), (4, 64), "TENSOR_MALFORMED"),
        (_sink(), (65, 64), "TENSOR_MALFORMED"),
        (_sink(), (4, 63), "TENSOR_MALFORMED"),
    ],
)
def test_bad_conditioning(bad_sink: Sink | None, text_shape: tuple[int, ...] | None, reason: str) -> None:
    work = stage(range(1))
    work.open(open_request())
    text = None if text_shape is None else torch.zeros(text_shape)
    with pytest.raises(ServiceError, match=reason):
        condition([work], Conditioning(from_block=0, sink=bad_sink, text=text))


def test_bad_tensors_in_a_block() -> None:
    first, second = stages = [stage(range(2)), stage(range(2, 4))]
    start(stages)
    (passed,) = first.block(message(0))
    passed.block.latent.CopyFrom(wire.tensor_to_message(torch.zeros(16, 3, 8, 9)))
    with pytest.raises(ServiceError, match="TENSOR_MALFORMED"):
        second.block(passed.block)
    block = message(1)
    block.audio.local.shape[2] = 4
    with pytest.raises(ServiceError, match="TENSOR_MALFORMED"):
        first.block(block)


@pytest.mark.parametrize(
    ("written", "steps"), [("2", range(2, 3)), ("0-3", range(4)), ("0,1", range(2)), ("0,1-3", range(4))]
)
def test_steps(written: str, steps: range) -> None:
    assert parse_steps(written) == steps


@pytest.mark.parametrize("written", ["", "a", "1,0", "0,2", "3-1", "-1", "0-9"])
def test_bad_steps(written: str) -> None:
    with pytest.raises(ValueError, match="steps"):
        DenoiseStageSettings.model_validate({"next": "localhost:1", "steps": written})


def test_replay_file(tmp_path: Path) -> None:
    noise, distance = torch.randn(2, 16, 3, 8, 8), torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]])
    save_file({"noise": noise, "distance": distance}, tmp_path / "replay.safetensors")
    rng = load_rng(preset("TINY"), tmp_path / "replay.safetensors", 4)
    assert torch.equal(rng.noise(0, 1, (16, 3, 8, 8)), noise[1])
    assert rng.reference_offset(0, 1, 2) == 10
    with pytest.raises(ValueError, match="replay"):
        load_rng(preset("TINY"), tmp_path / "replay.safetensors", 3)
    with pytest.raises(ValueError, match="replay"):
        load_rng(preset("TINY"), tmp_path / "absent.safetensors", 4)
