"""Blocks through the stages of a pipeline equal the reference: latents and velocities of every step."""

from typing import Any

import pytest
import torch
from torch import Tensor

from live_avatar.config import StreamConfig
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.dit import CausalDiT
from live_avatar.streaming.block import Block, Conditioning, Sink
from live_avatar.streaming.denoiser import Denoiser, StageSession
from live_avatar.streaming.rng import RecordedRng
from live_avatar.streaming.schedule import Schedule, inference_schedule
from tests.streaming.partitions import split_steps

from .conftest import Golden
from .reference_models import dit_pair

pytestmark = pytest.mark.golden_kind("rollout")


class Rollout:
    """The golden's model split over ``stages`` stages, with every block's latents and velocities recorded."""

    def __init__(self, golden: Golden, stages: int) -> None:
        self.golden = golden
        config: dict[str, Any] = golden.meta["config"]
        self.model, self.audio = dit_pair(golden, "dit")
        self.schedule = inference_schedule(config["steps"])
        self.velocities: list[Tensor] = []
        self.model.register_forward_hook(self._record)
        rules = StreamConfig(
            latents_per_block=config["frames_per_block"],
            window_blocks=config["window_blocks"],
            steps=config["steps"],
            sink_switch_block=golden.meta["aas"]["applied_from_block"],
        )
        rng = RecordedRng(golden.tensors["in/noise"], golden.tensors["in/relative_dist"])
        height, width = config["latent_hw"]
        self.geometry = Geometry(config=self.model.config, height=height, width=width)
        self.stages = [
            Denoiser(self.model, rules, self.schedule, steps, rng) for steps in split_steps(config["steps"], stages)
        ]
        self.sessions = [stage.open(0, self.geometry) for stage in self.stages]

    def condition(self, from_block: int, reference: str, motion: str | None = None, text: bool = False) -> None:
        """Tells every stage what holds from ``from_block``, by the names of the golden's tensors."""
        tensors = self.golden.tensors
        sink = Sink(
            version=0,
            reference=tensors[reference][0],
            motion=None if motion is None else tensors[motion][0],
        )
        context = tensors["in/context"] if text else None
        for stage, session in zip(self.stages, self.sessions, strict=True):
            stage.condition(session, Conditioning(from_block=from_block, sink=sink, text=context))

    def block(self, index: int) -> tuple[Tensor, Tensor]:
        """Clean latent of block ``index``, and the velocity of each of its steps [steps, 16, F, h, w]."""
        self.velocities.clear()
        block = Block(index=index, audio=self._tokens(index))
        for stage, session in zip(self.stages, self.sessions, strict=True):
            block = stage.denoise(session, block)
        assert block.latent is not None
        return block.latent, torch.cat(self.velocities)

    def window_session(self, step: int) -> StageSession:
        """The session of the stage that owns ``step``."""
        return next(s for s in self.sessions if step in s.windows)

    def _tokens(self, index: int) -> AudioTokens:
        frames = self.golden.tensors["in/audio_features"].shape[-1] // self.golden.meta["config"]["num_blocks"]
        features = self.golden.tensors["in/audio_features"][..., index * frames : (index + 1) * frames]
        tokens: AudioTokens = self.audio(features)
        return tokens

    def _record(self, _module: CausalDiT, _inputs: object, output: Tensor | None) -> None:
        if output is not None:
            self.velocities.append(output)


@pytest.mark.parametrize("most_steps", [1, 2, None], ids=["a step a stage", "two steps a stage", "one stage"])
@torch.inference_mode()
def test_pipeline_parallel(golden: Golden, most_steps: int | None) -> None:
    config = golden.meta["config"]
    rollout = Rollout(golden, 1 if most_steps is None else -(-config["steps"] // most_steps))
    rollout.condition(0, "tpp/ref_latents", "tpp/motion_latents", text=True)
    rollout.condition(golden.meta["aas"]["applied_from_block"], "tpp/ref_latents_after_aas", "tpp/motion_latents")
    latents, velocities = _run(rollout, config["num_blocks"])
    golden.close(torch.stack(velocities), "tpp/velocity")
    noise = golden.tensors["in/noise"]
    golden.close(_path(rollout.schedule, noise, torch.stack(velocities)), "tpp/latents")
    torch.testing.assert_close(torch.stack(latents), golden.tensors["tpp/latents"][:, -1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latents[0][:, :1], golden.tensors["tpp/ref_latents_after_aas"][0], rtol=1e-4, atol=1e-4)
    for step in range(config["steps"]):
        window = rollout.window_session(step).windows[step]
        golden.close(window.layers[0].k[:, rollout.geometry.sink_tokens :], f"tpp/kv_k_layer0_step_{step}_final")


@torch.inference_mode()
def test_single_process_online(golden: Golden) -> None:
    rollout = Rollout(golden, 1)
    rollout.condition(0, "single_online/ref_latents", "single_online/motion_latents", text=True)
    rollout.condition(
        golden.meta["aas"]["applied_from_block"],
        "single_online/ref_latents_after_aas",
        "single_online/motion_latents_after_aas",
    )
    _, velocities = _run(rollout, golden.meta["config"]["num_blocks"])
    noise = golden.tensors["in/noise"]
    golden.close(_path(rollout.schedule, noise, torch.stack(velocities)), "single_online/latents")


@torch.inference_mode()
def test_single_process_without_sink_switch(golden: Golden) -> None:
    rollout = Rollout(golden, 1)
    rollout.condition(0, "single_online/ref_latents", "single_online/motion_latents", text=True)
    latents, _ = _run(rollout, golden.meta["config"]["num_blocks"])
    golden.close(torch.stack(latents), "single_offline/latents_final")


def test_schedule_is_that_of_the_rollout(golden: Golden) -> None:
    schedule = inference_schedule(golden.meta["config"]["steps"])
    timesteps = torch.tensor([schedule.timestep(step) for step in range(schedule.steps)])
    golden.close(timesteps, "in/timesteps")
    golden.close(torch.tensor([*schedule.sigmas, 0.0]), "in/sigmas")


def _run(rollout: Rollout, blocks: int) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [rollout.block(index) for index in range(blocks)]
    return [latent for latent, _ in pairs], [velocity for _, velocity in pairs]


def _path(schedule: Schedule, noise: Tensor, velocities: Tensor) -> Tensor:
    """Latents [blocks, steps, 16, F, h, w] after each step, from the velocities of all steps."""
    latents = [noise]
    for step in range(schedule.steps):
        latents.append(schedule.advance(latents[-1], velocities[:, step], step))
    return torch.stack(latents[1:], dim=1)
