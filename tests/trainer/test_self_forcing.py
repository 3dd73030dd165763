"""Self-forcing: gradients of blocks one by one against the graph of the whole clip, and what they hold in memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from live_avatar.config import StreamConfig
from live_avatar.model.attention import attend
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.kv_cache import rolling_reference_position
from live_avatar.streaming.rng import PhiloxRng
from live_avatar.streaming.schedule import TIMESTEP_SCALE
from live_avatar.trainer.adapters import FAKE, STUDENT, adapter_parameters
from live_avatar.trainer.batches import batch_of
from live_avatar.trainer.distributed import Processes
from live_avatar.trainer.dmd import dmd_gradient, dmd_loss
from live_avatar.trainer.network import Batch, audio_of_blocks, geometry_of, velocity
from live_avatar.trainer.phases import build
from live_avatar.trainer.rollout import Replay, RolledOut, roll_out
from live_avatar.trainer.self_forcing import SelfForcing
from tests.trainer.micro import MICRO, preset_file, self_forcing_config, write_data

ALONE = Processes(0, 1, torch.device("cpu"))
LAST_PASS = 2


@dataclass(frozen=True)
class DetachedHistory:
    """A whole clip in one forward: each block sees its window and the sink as constants, itself with gradients."""

    geometry: Geometry
    rules: StreamConfig
    distances: tuple[int, ...]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = self.rules.latents_per_block * self.geometry.latent_tokens
        noisy = len(self.distances) * size
        sink_q, sink_k, sink_v = q[:, noisy:], k[:, noisy:], v[:, noisy:]
        prefill = self.geometry.sink_rotation(self.geometry.config.reference_position, q.device)
        seen = [attend(prefill.rotate(sink_q), prefill.rotate(sink_k), sink_v)]
        for block in range(len(self.distances)):
            seen.insert(block, self.block(block, size, (q, k, v), (sink_k.detach(), sink_v.detach())))
        return torch.cat(seen, dim=1)

    def block(self, block: int, size: int, noisy: tuple[Tensor, ...], sink: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = noisy
        first = max(0, block - self.rules.window_blocks + 1)
        frame = block * self.rules.latents_per_block
        place = rolling_reference_position(frame, self.distances[block], self.geometry.config.reference_position)
        keys = [self.geometry.sink_rotation(place, q.device).rotate(sink[0])]
        values = [sink[1]]
        for past in range(first, block + 1):
            part = slice(past * size, (past + 1) * size)
            rotated = self.rotation(past).rotate(k[:, part])
            keys.append(rotated if past == block else rotated.detach())
            values.append(v[:, part] if past == block else v[:, part].detach())
        queries = self.rotation(block).rotate(q[:, block * size : (block + 1) * size])
        return attend(queries, torch.cat(keys, dim=1), torch.cat(values, dim=1))

    def rotation(self, block: int) -> Any:
        frame = torch.tensor(block * self.rules.latents_per_block)
        return self.geometry.noisy_rotation(frame, self.rules.latents_per_block)


def phase_of(folder: Path, dtype: torch.dtype = torch.float64, **changes: Any) -> SelfForcing:
    """A distillation at work: its adapters have left zero."""
    phase, _ = build(self_forcing_config(folder, **changes), ALONE)
    assert isinstance(phase, SelfForcing)
    random = torch.Generator().manual_seed(1)
    for role in (STUDENT, FAKE):
        for parameter in adapter_parameters(phase.network, role).values():
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=random))
    phase.network.to(dtype)
    return phase


def clip_of(phase: SelfForcing) -> Batch:
    batch = batch_of(phase.data.of(0), phase.config, 0, range(1), torch.device("cpu"))
    return batch.to(phase.network.dtype)


def rolled_of(phase: SelfForcing, clip: Batch, seed: int = 5) -> RolledOut:
    with phase.roles.using(STUDENT):
        rolled: RolledOut = phase.network(roll_out, clip, phase.rules, LAST_PASS, seed)
    return rolled


def gradients(phase: SelfForcing) -> dict[str, Tensor]:
    """The student's gradients, which are forgotten."""
    taken = {}
    for name, parameter in phase.student.parameters.items():
        assert parameter.grad is not None, name
        taken[name], parameter.grad = parameter.grad, None
    return taken


def whole_graph(phase: SelfForcing, clip: Batch, rolled: RolledOut) -> Tensor:
    """The clip made again in one masked forward, with one graph."""
    network, rules = phase.network, phase.rules.stream
    blocks = clip.latents.shape[2] // rules.latents_per_block
    rng = PhiloxRng(rules.reference_distance)
    distances = tuple(rng.reference_offset(rolled.seed, block, rolled.step) for block in range(blocks))
    level = phase.rules.levels[rolled.step]
    assert network.dit.config == MICRO.dit
    with phase.roles.using(STUDENT):
        pattern = DetachedHistory(geometry_of(network, clip.latents), rules, distances)
        audio = audio_of_blocks(network.audio, clip.speech, blocks)
        # As serving tells it to the model: rounded to float32 after scaling, which its angles feel.
        reported = torch.tensor(TIMESTEP_SCALE * level).double() / TIMESTEP_SCALE
        made = velocity(network, clip, rolled.noisy, reported.expand(1, blocks), audio, pattern)
    return rolled.noisy - level * made


def holistic(phase: SelfForcing, clip: Batch, rolled: RolledOut, video: Tensor, step: int = 0) -> Tensor:
    """The loss of the whole clip that Algorithm 2 splits."""
    level, noise = phase._score_draw(rolled.clean, step, 0)
    gradient = dmd_gradient(rolled.clean, noise, level, phase.teacher(clip), phase._fake_score(clip))
    return dmd_loss(video, gradient)


def whole_backward(phase: SelfForcing, clip: Batch, rolled: RolledOut) -> None:
    holistic(phase, clip, rolled, whole_graph(phase, clip, rolled)).backward()


def test_the_blocks_together_have_the_gradient_of_the_whole_clip(tmp_path: Path) -> None:
    phase = phase_of(tmp_path, batch=1, blocks=4)
    clip = clip_of(phase)
    rolled = rolled_of(phase, clip)
    phase._generator_step(clip, rolled, 0, 0)
    blockwise = gradients(phase)
    video = whole_graph(phase, clip, rolled)
    torch.testing.assert_close(video.detach(), rolled.clean, rtol=0, atol=1e-6)
    holistic(phase, clip, rolled, video).backward()
    for name, expected in gradients(phase).items():
        difference = (blockwise[name] - expected).abs().max() / expected.abs().max()
        assert difference < 1e-6, f"{name}: {difference}"


def test_a_history_with_gradients_would_be_noticed(tmp_path: Path) -> None:
    """The two sides of the test above differ where one of them lets gradients into the past."""
    phase = phase_of(tmp_path, batch=1, blocks=4)
    clip = clip_of(phase)
    rolled = rolled_of(phase, clip)
    phase._generator_step(clip, rolled, 0, 0)
    blockwise = gradients(phase)
    first, *_ = blockwise
    part = rolled.clean.split(3, dim=2)[0]
    with phase.roles.using(STUDENT):
        replay = Replay(phase.network, clip, phase.rules, rolled)
        block = replay.next_block(phase.network)
    block.backward(torch.ones_like(part))
    assert not torch.allclose(gradients(phase)[first], blockwise[first], rtol=1e-3)


@pytest.mark.parametrize("clean_history", [False, True], ids=["noisy history", "clean history"])
def test_a_replayed_block_is_the_block_that_was_rolled_out(tmp_path: Path, clean_history: bool) -> None:
    """Also behind the change of the sink, and with the baseline's clean history."""
    changes = {"batch": 1, "blocks": 4, "clean_history": clean_history, "preset": _early_switch(tmp_path)}
    phase = phase_of(tmp_path, torch.float32, **changes)
    assert phase.rules.stream.sink_switch_block < 4
    clip = clip_of(phase)
    rolled = rolled_of(phase, clip)
    with phase.roles.using(STUDENT):
        replay = Replay(phase.network, clip, phase.rules, rolled)
        made = torch.cat([replay.next_block(phase.network).detach() for _ in range(replay.blocks)], dim=2)
    torch.testing.assert_close(made, rolled.clean, rtol=0, atol=1e-5)


def test_clean_history_is_another_roll_out(tmp_path: Path) -> None:
    """From block 1 on; block 0 has no history."""
    rolled = []
    for clean_history in (False, True):
        phase = phase_of(tmp_path, batch=1, blocks=3, clean_history=clean_history)
        rolled.append(rolled_of(phase, clip_of(phase)).clean.split(3, dim=2))
    assert torch.equal(rolled[0][0], rolled[1][0])
    assert not torch.allclose(rolled[0][1], rolled[1][1], rtol=1e-2)


def test_memory_of_blocks_one_by_one_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    one_by_one, whole = [], []
    for blocks in (5, 10):
        folder = tmp_path / str(blocks)
        folder.mkdir()
        phase = phase_of(folder, torch.float32, batch=1, blocks=blocks, data=write_data(folder / "data", blocks=blocks))
        clip = clip_of(phase)
        rolled = rolled_of(phase, clip)
        one_by_one.append(peak_of_graphs(partial(phase._generator_step, clip, rolled, 0, 0)))
        whole.append(peak_of_graphs(partial(whole_backward, phase, clip, rolled)))
    assert one_by_one[1] == one_by_one[0]
    assert whole[1] > 1.8 * whole[0] > 1.8 * one_by_one[0]


class Held:
    """Bytes that graphs keep, now and at most."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


class Kept:
    """A tensor in a graph, counted as long as the graph keeps it."""

    def __init__(self, tensor: Tensor, held: Held) -> None:
        self.tensor, self.held = tensor, held
        held.add(tensor.nbytes)

    def __del__(self) -> None:
        self.held.now -= self.tensor.nbytes


def peak_of_graphs(work: Callable[[], object]) -> int:
    """Most bytes that graphs kept for backward passes at any time during ``work``."""
    held = Held()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: Kept(tensor, held), lambda kept: kept.tensor):
        work()
    assert held.now == 0
    return held.peak


def _early_switch(folder: Path) -> str:
    stream = replace(MICRO.stream, sink_switch_block=2, window_blocks=2)
    return preset_file(folder, replace(MICRO, stream=stream))
