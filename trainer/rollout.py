"""The student's own roll-out, by the code that serves, and its blocks once more with gradients (spec 10.3).

``roll_out`` is Algorithm 1 of the paper: each block walks from noise to the pass at level ``t_s``, re-noised between
steps; history is what the passes at each level left behind, noisy as it was (History Corrupt).  Every pass is a
``live_avatar.streaming.Denoiser`` with the one-step schedule from its level to clean, so every level has a window of
its own, as the stages of a pipeline do.  ``Replay`` gives single blocks of a roll-out again, for Algorithm 2.

Letters: F latents, N blocks, h and w latent pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from live_avatar.config import StreamConfig
from live_avatar.model.attention import attend
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.compiled_step import EagerStep
from live_avatar.model.dit import NoisyInput
from live_avatar.model.kv_cache import KVWindow, StreamingAttention
from live_avatar.streaming import rollout
from live_avatar.streaming.block import Block, Conditioning, Sink
from live_avatar.streaming.clean_history import clean_time, remember_clean
from live_avatar.streaming.denoiser import Denoiser, StageSession
from live_avatar.streaming.rng import PhiloxRng
from live_avatar.streaming.schedule import Schedule
from live_avatar.streaming.sinks import SinkSchedule
from live_avatar.trainer.network import Batch, SpeechToVideo, audio_of_block, audio_of_blocks, geometry_of, text_of
from live_avatar.trainer.random_streams import generator, normal


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How roll-outs go."""

    stream: StreamConfig
    levels: tuple[float, ...]
    """Noise levels of the steps, from 1 down."""
    clean_history: bool
    """Baseline: history is passed through the network again, clean."""

    def schedule(self, step: int) -> tuple[Schedule, range]:
        """The pass of ``step`` as a schedule that ends clean, and the steps of it to perform."""
        if step == 0:
            return Schedule(self.levels[:1]), range(1)
        return Schedule((self.levels[0], self.levels[step])), range(1, 2)


@dataclass(frozen=True)
class RolledOut:
    """One clip as the student made it, without gradients."""

    seed: int
    step: int
    """Index of the last pass, the one at t_s."""
    noisy: Tensor
    """[1, 16, F, h, w] what the last pass was given"""
    clean: Tensor
    """[1, 16, F, h, w] what it made of it"""


@dataclass(frozen=True)
class _StepRng:
    """The draws of one step of serving, whatever the schedule calls that step."""

    inner: PhiloxRng
    step: int

    def noise(self, seed: int, block: int, shape: tuple[int, ...]) -> Tensor:
        """See ``live_avatar.streaming.rng.Rng``."""
        return self.inner.noise(seed, block, shape)

    def reference_offset(self, seed: int, block: int, step: int) -> int:
        """See ``live_avatar.streaming.rng.Rng``."""
        return self.inner.reference_offset(seed, block, self.step)


def roll_out(network: SpeechToVideo, clip: Batch, rules: Rules, step: int, seed: int) -> RolledOut:
    """The blocks of ``clip`` (a batch of one) from noise, each up to its pass ``step``."""
    clip = clip.to(network.dtype)
    passes = _Passes(network, rules, step, seed, geometry_of(network, clip.latents))
    with torch.no_grad():
        audio = blocks_of(audio_of_blocks(network.audio, clip.speech, _blocks(clip, rules)), rules.stream)
    schedule = SinkSchedule(rules.stream)
    clean = list(rollout.roll_out(passes, schedule, schedule.first(first_sink(clip), clip.text[0]), audio))
    return RolledOut(seed, step, torch.cat(passes.noisy, dim=1)[None], torch.cat(clean, dim=1)[None])


def first_sink(clip: Batch) -> Sink:
    """The sink of version 0 of a batch of one."""
    return Sink(version=0, reference=clip.reference[0], motion=None if clip.motion is None else clip.motion[0])


def blocks_of(audio: AudioTokens, stream: StreamConfig) -> list[AudioTokens]:
    """Audio tokens of a clip, block by block."""
    count = audio.glob.shape[2] // stream.latents_per_block
    return [audio_of_block(audio, block, stream.latents_per_block) for block in range(count)]


class _Pass(Denoiser):
    """The pass from the level of one step of serving to clean."""

    def __init__(self, network: SpeechToVideo, rules: Rules, step: int) -> None:
        schedule, steps = rules.schedule(step)
        rng = _StepRng(PhiloxRng(rules.stream.reference_distance), step)
        super().__init__(network.dit, rules.stream, schedule, steps, rng)


class _CleanHistoryPass(_Pass):
    """A pass whose block becomes history when it is clean, which is after the last pass."""

    def _remember(self, session: StageSession, latent: Tensor, audio: AudioTokens) -> None:
        """Nothing: ``remember`` does."""

    @torch.inference_mode()
    def remember(self, session: StageSession, clean: Tensor, audio: AudioTokens) -> None:
        """Makes the block [16, F, h, w] just denoised history, with its clean keys and values."""
        assert session.text is not None
        for step, window in session.windows.items():
            reference_offset = self.rng.reference_offset(session.seed, window.block, step)
            latent = NoisyInput(latent=clean[None], time=clean_time(self.model), audio=audio)
            remember_clean(EagerStep(self.model), latent, session.text, window, reference_offset)


class _Passes:
    """The passes of a roll-out up to the one at t_s, as a pipeline; keeps what the last was given."""

    def __init__(self, network: SpeechToVideo, rules: Rules, step: int, seed: int, geometry: Geometry) -> None:
        self.rules, self.seed = rules, seed
        kind = _CleanHistoryPass if rules.clean_history else _Pass
        self.chain = rollout.StageChain([kind(network, rules, index) for index in range(step + 1)], seed, geometry)
        self.noisy: list[Tensor] = []
        """[16, F, h, w] of every block"""

    def condition(self, conditioning: Conditioning) -> None:
        """See ``live_avatar.streaming.rollout.Pipeline``."""
        self.chain.condition(conditioning)

    def denoise(self, block: Block) -> Tensor:
        """See ``live_avatar.streaming.rollout.Pipeline``; ordinary tensors."""
        for step, (denoiser, session) in enumerate(self._passes()):
            if block.latent is None:
                given = denoiser.rng.noise(self.seed, block.index, _shape(denoiser, session)).to(denoiser.device)
            else:
                given = _noised_again(block.latent, self.rules.levels[step], self.seed, block.index, step)
                block = replace(block, latent=given)
            block = denoiser.denoise(session, block)
        assert block.latent is not None
        # Made in inference mode, where tensors may not enter a graph: copies may.
        clean = block.latent.clone()
        self.noisy.append(given.to(clean.dtype).clone())
        for denoiser, session in self._passes():
            if isinstance(denoiser, _CleanHistoryPass):
                denoiser.remember(session, clean, block.audio)
        return clean

    def _passes(self) -> Iterator[tuple[Denoiser, StageSession]]:
        return zip(self.chain.stages, self.chain.sessions, strict=True)


def _noised_again(clean: Tensor, level: float, seed: int, block: int, step: int) -> Tensor:
    """``clean`` with new noise at ``level`` (Psi of the paper)."""
    noise = normal(generator(seed, "roll_out", step, block), *clean.shape).to(clean)
    return (1 - level) * clean + level * noise


def _shape(denoiser: Denoiser, session: StageSession) -> tuple[int, ...]:
    geometry = session.geometry
    channels = denoiser.model.config.latent_channels
    return channels, denoiser.rules.latents_per_block, geometry.height, geometry.width


def _blocks(clip: Batch, rules: Rules) -> int:
    return clip.latents.shape[2] // rules.stream.latents_per_block


@dataclass(frozen=True)
class ReplayedAttention:
    """Streaming attention of a block whose own keys and values carry gradients; history and sink are constants.

    Leaves the window as streaming attention would.
    """

    streaming: StreamingAttention

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Rotates, stores the block's keys without their graph, and attends to copies that have it."""
        place, window = self.streaming, self.streaming.layers[layer]
        rotated = place.block_rotation.rotate(k)
        with torch.no_grad():
            window.k.index_copy_(1, place.slot_tokens, rotated)
            window.v.index_copy_(1, place.slot_tokens, v)
            reference = place.reference_rotation.rotate(window.reference_k)
            window.k[:, : reference.shape[1]].copy_(reference)
        keys = window.k[:, : place.visible].index_copy(1, place.slot_tokens, rotated)
        values = window.v[:, : place.visible].index_copy(1, place.slot_tokens, v)
        return attend(place.block_rotation.rotate(q), keys, values)


class Replay:
    """The last pass over each block of a roll-out again, in order, with gradients that end at the block's start.

    The window fills with the same keys and values as before, so none of them had to be kept: memory is that of one
    block and one window, however long the clip.
    """

    def __init__(self, network: SpeechToVideo, clip: Batch, rules: Rules, rolled: RolledOut) -> None:
        self.clip, self.rules, self.rolled = clip.to(network.dtype), rules, rolled
        self.schedule, (self.step,) = rules.schedule(rolled.step)
        self.rng = PhiloxRng(rules.stream.reference_distance)
        self.blocks = _blocks(clip, rules)
        self.sinks = SinkSchedule(rules.stream)
        self.pending = self.sinks.first(first_sink(self.clip), self.clip.text[0])
        self.window = KVWindow(
            geometry_of(network, clip.latents),
            latents_per_block=rules.stream.latents_per_block,
            window_blocks=rules.stream.window_blocks,
            dtype=network.dtype,
            device=clip.latents.device,
        )
        with torch.no_grad():
            self.audio = blocks_of(audio_of_blocks(network.audio, self.clip.speech, self.blocks), rules.stream)

    def next_block(self, network: SpeechToVideo) -> Tensor:
        """The clean latents [1, 16, f, h, w] of the next block, with a graph of this block alone."""
        dit, block = network.dit, self.window.block
        self._apply_due(network, block)
        noisy = self._part(self.rolled.noisy, block)
        time = dit.embed_time(torch.full((1, 1), self.schedule.timestep(self.step), device=noisy.device))
        reference_offset = self.rng.reference_offset(self.rolled.seed, block, self.rolled.step)
        pattern = ReplayedAttention(self.window.begin(reference_offset))
        text = text_of(dit, self.clip.text)
        velocity = dit(NoisyInput(latent=noisy, time=time, audio=self.audio[block]), None, text, pattern)
        clean = self.schedule.advance(noisy, velocity, self.step)
        if self.rules.clean_history:
            with torch.no_grad():
                latent = NoisyInput(latent=clean.detach(), time=clean_time(dit), audio=self.audio[block])
                remember_clean(EagerStep(dit), latent, text, self.window, reference_offset)
        else:
            self.window.commit()
        rolled = self._part(self.rolled.clean, block)[0]
        self.pending = self.sinks.after_block(block, rolled, first_sink(self.clip)) or self.pending
        return clean

    @torch.no_grad()
    def _apply_due(self, network: SpeechToVideo, block: int) -> None:
        """Prefills the sink that holds from ``block``, where one begins there."""
        if self.pending.from_block != block:
            return
        sink = self.pending.sink
        assert sink is not None
        motion = None if sink.motion is None else sink.motion[None]
        prefill = self.window.prefill()
        text = network.dit.embed_text(self.clip.text)
        network.dit(None, network.dit.sink_input(sink.reference[None], motion), text, prefill)
        self.window.set_sink(prefill.states())

    def _part(self, latents: Tensor, block: int) -> Tensor:
        size = self.rules.stream.latents_per_block
        return latents[:, :, block * size : (block + 1) * size]
