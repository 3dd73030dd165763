"""Self-forcing: the student learns on its own roll-outs, block by block, under a holistic loss (spec 10.3).

Algorithm 2 of the paper: the loss looks at the whole clip, the graph holds one block at a time.  The comparison of
scores is made once per clip and shared by all blocks; it does not depend on the graph, so that the sum over blocks
is exactly the gradient of the whole.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from live_avatar.streaming.schedule import inference_schedule
from live_avatar.trainer.adapters import FAKE, STUDENT, TEACHER, Roles, adapter_parameters
from live_avatar.trainer.batches import batch_of, items_of
from live_avatar.trainer.data import Datasets, padded
from live_avatar.trainer.distributed import Processes
from live_avatar.trainer.dmd import Score, dmd_gradient, dmd_loss, draw_score_level, fake_loss, guided
from live_avatar.trainer.network import Batch, SpeechToVideo, bidirectional_velocity
from live_avatar.trainer.optimizer import EmaOptimizer
from live_avatar.trainer.presets import SelfForcingConfig
from live_avatar.trainer.random_streams import generator, normal
from live_avatar.trainer.rollout import Replay, RolledOut, Rules, roll_out

Scores = Callable[[Batch], Score]
"""A score that knows the conditions of a clip."""


class SelfForcing:
    """The phase: one clip at a time, gradients of all clips of a step together."""

    def __init__(
        self, network: SpeechToVideo, roles: Roles, data: Datasets, config: SelfForcingConfig, group: Processes
    ) -> None:
        self.network, self.roles, self.data, self.config = network, roles, data, config
        self.device = group.device
        self.items = items_of(config, group.rank, group.count)
        stream = config.system.stream
        levels = inference_schedule(stream.steps).sigmas
        self.rules = Rules(stream=stream, levels=levels, clean_history=config.clean_history)
        self.student = EmaOptimizer(STUDENT, adapter_parameters(network, STUDENT), config, config.learning_rate)
        self.fake = EmaOptimizer(FAKE, adapter_parameters(network, FAKE), config, config.fake_learning_rate)
        self.optimizers = (self.student, self.fake)
        self.teacher: Scores = self._teacher

    def step(self, step: int) -> dict[str, Tensor]:
        """One step: the fake score learns; the student in every ``generator_every``-th step."""
        batch = batch_of(self.data.of(step), self.config, step, self.items, self.device)
        moves = step >= self.config.fake_warmup and step % self.config.generator_every == 0
        last = int(generator(self.config.seed, "level", step).integers(len(self.rules.levels)))
        sums: dict[str, Tensor] = {}
        for index, item in enumerate(self.items):
            clip = batch.take(index)
            for name, value in self._learn_from(clip, step, item, last, moves).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value / len(self.items)
        if moves:
            sums["student_norm"] = torch.tensor(self.student.update(step), device=self.device)
        sums["fake_norm"] = torch.tensor(self.fake.update(step), device=self.device)
        return sums

    def _learn_from(self, clip: Batch, step: int, item: int, last: int, moves: bool) -> dict[str, Tensor]:
        """Adds the gradients of one clip; its losses."""
        seed = int(generator(self.config.seed, "roll_out", step, item).integers(2**62))
        with self._as(STUDENT):
            rolled: RolledOut = self.network(roll_out, clip, self.rules, last, seed)
        losses: dict[str, Tensor] = {}
        if moves:
            losses["student"] = self._generator_step(clip, rolled, step, item)
        losses["fake"] = self._critic_step(clip, rolled.clean, step, item)
        return losses

    def _generator_step(self, clip: Batch, rolled: RolledOut, step: int, item: int) -> Tensor:
        """Algorithm 2: the student's gradient of the holistic loss, block after block."""
        level, noise = self._score_draw(rolled.clean, step, item)
        gradient = dmd_gradient(rolled.clean, noise, level, self.teacher(clip), self._fake_score(clip))
        with self._as(STUDENT):
            replay: Replay = self.network(Replay, clip, self.rules, rolled)
            for part in self._blocks(gradient):
                block: Tensor = self.network(replay.next_block)
                block.backward((part / (gradient.numel() * len(self.items))).to(block.dtype))
        return dmd_loss(rolled.clean, gradient).detach().float()

    def _critic_step(self, clip: Batch, video: Tensor, step: int, item: int) -> Tensor:
        """The fake score's gradient on the student's video; another draw than the student's."""
        level, noise = self._score_draw(video, step, item + self.config.batch)
        loss = fake_loss(video, noise, level, self._fake_score(clip))
        with self._as(FAKE):
            (loss / len(self.items)).backward()
        return loss.detach()

    def _score_draw(self, video: Tensor, step: int, item: int) -> tuple[Tensor, Tensor]:
        random = generator(self.config.seed, "score", step, item)
        level = draw_score_level(random, self.config.score_shift, self.config.score_range)
        return torch.tensor([level], device=video.device), normal(random, *video.shape).to(video)

    def _blocks(self, latents: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = latents.split(self.rules.stream.latents_per_block, dim=2)
        return parts

    def _teacher(self, clip: Batch) -> Score:
        """The frozen base with guidance: without it neither prompt nor audio are there (spec 10.3)."""
        text = padded(self.data.negative_text, clip.text.shape[1]).to(clip.text)[None]
        without = replace(clip, text=text, speech=torch.zeros_like(clip.speech))
        plain = self._score(TEACHER, clip)
        return guided(plain, self._score(TEACHER, without), self.config.guidance)

    def _fake_score(self, clip: Batch) -> Score:
        return self._score(FAKE, clip)

    def _score(self, role: str, clip: Batch) -> Score:
        def apply(noisy: Tensor, level: Tensor) -> Tensor:
            with self._as(role):
                predicted: Tensor = self.network(bidirectional_velocity, clip, noisy, level)
            return predicted

        return apply

    def _as(self, role: str) -> AbstractContextManager[None]:
        return self.roles.using(role)
