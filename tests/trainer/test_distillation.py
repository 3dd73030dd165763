"""Self-forcing where the answer is known: the teacher is the exact score of a small mixture in the plane.

Everything but the teacher is what trains the product: the causal DiT with its adapters, roll-outs by the denoisers
that serve, the fake score, Algorithm 2, the average of the weights.  The settings:
``docs/performance/distillation.md``.
"""

import logging
import shutil
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from live_avatar.config import LoRAConfig
from live_avatar.streaming.block import Block, Conditioning
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.rng import PhiloxRng
from live_avatar.streaming.schedule import inference_schedule
from live_avatar.trainer.adapters import STUDENT
from live_avatar.trainer.batches import batch_of
from live_avatar.trainer.data import NEGATIVE_TEXT
from live_avatar.trainer.distributed import Processes
from live_avatar.trainer.dmd import Score, dmd_gradient, draw_score_level
from live_avatar.trainer.export import export
from live_avatar.trainer.network import Batch, audio_of_blocks, geometry_of
from live_avatar.trainer.phases import build
from live_avatar.trainer.presets import ExportConfig
from live_avatar.trainer.random_streams import generator, normal
from live_avatar.trainer.rollout import blocks_of, first_sink, roll_out
from live_avatar.trainer.self_forcing import SelfForcing
from live_avatar.trainer.training import train
from tests.trainer.micro import MICRO, flow_config, preset_file, sample_tensors, self_forcing_config, write_weights
from tests.trainer.mixture import Mixture, points_of, sliced_wasserstein

logger = logging.getLogger(__name__)
ALONE = Processes(0, 1, torch.device("cpu"))
TEACHER = Mixture(centres=((0.0, 1.2), (-1.0, -0.6), (1.0, -0.6)), spreads=(0.3, 0.3, 0.3), shares=(0.5, 0.3, 0.2))
START = Mixture(centres=((1.6, -0.4), (2.4, 1.2), (0.8, 1.2)), spreads=(0.5, 0.5, 0.5), shares=(0.2, 0.3, 0.5))
"""What the base knows: other places, wider, other shares."""
BLOCKS, SIDE = 2, 8
SHAPE = (2, BLOCKS * MICRO.stream.latents_per_block, SIDE, SIDE)
"""Of a clip: 384 points that know nothing of one another."""
PLANE = replace(
    MICRO,
    name="PLANE",
    dit=replace(
        MICRO.dit, dim=48, ffn_dim=192, latent_channels=2, patch=(1, 1, 1), audio_layers=(0,), use_motion=False
    ),
    vae=replace(MICRO.vae, latent_channels=2, mean=(0.0, 0.0), std=(1.0, 1.0)),
    lora=LoRAConfig(rank=24, alpha=24.0),
)
SESSIONS = 12
"""Clips that are measured."""


def write_clips(folder: Path, count: int = 64) -> Path:
    """A data set of ``START``, all of whose conditions are silent."""
    folder.mkdir(parents=True)
    save_file({"text": torch.zeros(1, MICRO.dit.text_dim)}, folder / NEGATIVE_TEXT)
    silent = {name: torch.zeros_like(part) for name, part in sample_tensors(0, BLOCKS).items()}
    silent |= {"reference": torch.zeros(2, 1, SIDE, SIDE), "motion": silent["motion"][:2]}
    clips = START.clips((count, *SHAPE), seed=2)
    tensors = {
        f"{place:04}.{name}": part.contiguous().clone()
        for place, clip in enumerate(clips)
        for name, part in (silent | {"latents": clip}).items()
    }
    save_file(tensors, folder / "clips-000000.safetensors", metadata={"source": "mixture"})
    return folder


def write_base(folder: Path) -> Path:
    """Weights with a denoiser that knows ``START``, causal and bidirectional."""
    config = flow_config(
        folder, preset=preset_file(folder, PLANE), data=write_clips(folder / "data"), output=folder / "base",
        steps=250, batch=8, blocks=BLOCKS, learning_rate=4e-3, final_rate=0.1, save_every=250, log_every=50,
        levels="shifted_uniform", level_shift=2.0, causal_share=0.5, own_reference=0.0, drop_audio=0.0, drop_text=0.0,
        emphasis=1.0, at_start=1.0,
    )  # fmt: skip
    assert train(config) == 0
    weights = write_weights(folder / "weights", PLANE)
    shutil.rmtree(weights / "dit")
    export(ExportConfig(checkpoint=config.output, output=weights, average=False))
    return weights


@dataclass(frozen=True)
class Distillation:
    """Self-forcing towards ``TEACHER``."""

    phase: SelfForcing
    clip: Batch
    """Its conditions, which say nothing, and its size."""

    def rolled_out(self) -> Tensor:
        """Clips as training rolls them out, through all levels, with new noise between."""
        network, rules = self.phase.network, self.phase.rules
        last = len(rules.levels) - 1
        with self.phase.roles.using(STUDENT):
            made = [network(roll_out, self.clip, rules, last, 10_000 + seed).clean for seed in range(SESSIONS)]
        return torch.cat(made)

    def served(self) -> Tensor:
        """Clips as serving makes them, by Euler steps without new noise."""
        network, stream = self.phase.network, self.phase.rules.stream
        rng = PhiloxRng(stream.reference_distance)
        schedule = inference_schedule(stream.steps)
        made = []
        with self.phase.roles.using(STUDENT), torch.no_grad():
            stage = Denoiser(network.dit, stream, schedule, range(schedule.steps), rng)
            audio = blocks_of(audio_of_blocks(network.audio, self.clip.speech, BLOCKS), stream)
            for seed in range(SESSIONS):
                session = stage.open(20_000 + seed, geometry_of(network, self.clip.latents))
                stage.condition(session, Conditioning(from_block=0, sink=first_sink(self.clip), text=self.clip.text[0]))
                blocks = [stage.denoise(session, Block(index=index, audio=part)) for index, part in enumerate(audio)]
                made.append(torch.cat([block.latent for block in blocks if block.latent is not None], dim=1))
        return torch.stack(made)

    def use_average(self) -> None:
        """Makes the student what ``export`` would write."""
        for name, parameter in self.phase.student.parameters.items():
            parameter.data.copy_(self.phase.student.average[name])


def distillation(folder: Path) -> Distillation:
    """Ready to begin: student and fake score stand where the base does."""
    weights = write_base(folder)
    config = self_forcing_config(
        folder, preset=str(folder / "plane.json"), data=folder / "data", weights=weights, output=folder / "run",
        steps=300, batch=2, blocks=BLOCKS, learning_rate=4e-3, fake_learning_rate=8e-3, final_rate=0.05,
        generator_every=2, fake_warmup=10, ema=0.9, ema_from=0, score_shift=1.0, guidance=0.0,
    )  # fmt: skip
    phase, _ = build(config, ALONE)
    assert isinstance(phase, SelfForcing)

    def teacher(clip: Batch) -> Score:
        return TEACHER.velocity

    phase.teacher = teacher
    return Distillation(phase, batch_of(phase.data.of(0), config, 0, range(1), ALONE.device))


def to_teacher(clips: Tensor, seed: int = 9) -> float:
    """The distance between points of ``clips`` and as many of the teacher."""
    return sliced_wasserstein(points_of(clips), points_of(TEACHER.clips(tuple(clips.shape), seed)))


def walk_to_clean(noisy: Tensor, steps: int) -> Tensor:
    """``noisy`` [B, 2, F, h, w] carried to clean by the exact velocity in even steps."""
    levels = torch.linspace(1, 0, steps + 1)
    for level, following in pairwise(levels):
        noisy = noisy + (following - level) * TEACHER.velocity(noisy, level.expand(len(noisy)))
    return noisy


def score_of(points: Tensor) -> Score:
    """The exact score of a student whose videos are ``points`` [n, 2], each as likely."""

    def apply(noisy: Tensor, level: Tensor) -> Tensor:
        away = torch.cdist(points_of(noisy), (1 - level) * points)
        clean = (-away.square() / (2 * level.square())).softmax(-1) @ points
        return (noisy - clean.view(1, *noisy.shape[2:], 2).movedim(-1, 1)) / level

    return apply


def test_the_exact_velocity_is_the_mean_of_what_may_lie_behind_a_noisy_point() -> None:
    """Against the mean over very many draws, each weighed by how likely it gives that noisy point."""
    drawn = points_of(TEACHER.clips((1, 2, 1, 400, 400), seed=1))
    noisy, level = torch.tensor([0.3, 0.4]).view(1, 2, 1, 1, 1), torch.tensor([0.4])
    away = (noisy.flatten() - 0.6 * drawn).square().sum(dim=1)
    clean = (-away / (2 * 0.4**2)).softmax(dim=0) @ drawn
    expected = (noisy.flatten() - clean) / 0.4
    torch.testing.assert_close(TEACHER.velocity(noisy, level).flatten(), expected, rtol=0, atol=0.02)


def test_many_steps_of_the_exact_velocity_make_the_mixture_of_noise_and_four_do_not() -> None:
    noise = normal(generator(0, "noise", 0), 4, *SHAPE)
    assert to_teacher(walk_to_clean(noise, 100)) < 0.1
    assert to_teacher(walk_to_clean(noise, 4)) > 0.15


def test_videos_that_follow_the_gradient_become_the_teacher_s() -> None:
    """Points without a network, and a fake score that is exact: what the gradient itself is worth."""
    video = START.clips((1, 2, 1, 20, 20), seed=1)
    floor = to_teacher(TEACHER.clips((1, 2, 1, 20, 20), seed=4))
    before = to_teacher(video)
    for step in range(100):
        random = generator(0, "score", step)
        level = torch.tensor([draw_score_level(random, 1.0, (0.02, 0.98))])
        gradient = dmd_gradient(
            video, normal(random, *video.shape), level, TEACHER.velocity, score_of(points_of(video))
        )
        video = video - 0.15 * (1 - step / 100) * gradient
    assert to_teacher(video) < min(2 * floor, before / 5)


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_self_forcing_brings_the_student_to_the_teacher(tmp_path: Path) -> None:
    work = distillation(tmp_path)
    before = {"rolled out": to_teacher(work.rolled_out()), "served": to_teacher(work.served())}
    for step in range(work.phase.config.steps):
        work.phase.step(step)
    work.use_average()
    after = {"rolled out": to_teacher(work.rolled_out()), "served": to_teacher(work.served())}
    for sampler, distance in after.items():
        logger.info("%s: from %.3f to %.3f", sampler, before[sampler], distance)
        assert distance < before[sampler] / 5, f"{sampler}: from {before[sampler]:.3f} to {distance:.3f}"
