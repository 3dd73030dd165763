"""One denoising stage: a slice of the timesteps, and what it remembers of each session.

A stage always performs the same steps (Timestep-forcing Pipeline Parallelism) and passes only the latent on.
``Denoiser`` is the stage, without state of its own; ``StageSession`` is its memory of one session.  Neither knows
of other stages, of transport or of time.

Letters: F latents of a block, h and w latent pixels.
"""

from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor

from live_avatar.config import StreamConfig
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.compiled_step import EagerStep, StepForward
from live_avatar.model.dit import CausalDiT, NoisyInput, SinkInput, TextKV
from live_avatar.model.kv_cache import KVWindow
from live_avatar.streaming.block import Block, Conditioning, Sink
from live_avatar.streaming.rng import Rng
from live_avatar.streaming.schedule import Schedule


@dataclass
class StageSession:
    """What one stage remembers of one session: a window per step it owns, the sink's and the text's K/V."""

    seed: int
    geometry: Geometry
    windows: dict[int, KVWindow]
    """By step."""
    text_states: Tensor | None = None
    text: TextKV | None = None
    sink: Sink | None = None
    pending: list[Conditioning] = field(default_factory=list)
    """Conditioning that has arrived but holds from a later block, in the order of arrival."""

    @property
    def next_block(self) -> int:
        """Index of the block that this stage expects."""
        return next(iter(self.windows.values())).block

    @property
    def nbytes(self) -> int:
        """Bytes of K/V held for this session."""
        text = chain.from_iterable(self.text.layers) if self.text else ()
        return sum(window.nbytes for window in set(self.windows.values())) + sum(t.nbytes for t in text)

    def reset(self) -> None:
        """Forgets everything; the windows stay allocated."""
        for window in self.windows.values():
            window.reset()
        self.text_states = self.text = self.sink = None
        self.pending.clear()


class Denoiser:
    """Performs the steps ``steps`` of ``schedule`` on blocks of any session."""

    def __init__(
        self,
        model: CausalDiT,
        rules: StreamConfig,
        schedule: Schedule,
        steps: range,
        rng: Rng,
        *,
        forward: StepForward | None = None,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        """A stage of ``model``.

        Args:
            model: the denoiser.
            rules: of the stream.
            schedule: all noise levels.
            steps: those of this stage.
            draws: random numbers.
            forward: a faster way through the model; None: operator by operator.
            kv_dtype: how keys and values are stored; None: as the model calculates.
        """
        self.model = model
        self.rules = rules
        self.schedule = schedule
        self.steps = steps
        self.rng = rng
        self.dtype = model.patch_embedding.weight.dtype
        self.device = model.patch_embedding.weight.device
        self.kv_dtype = kv_dtype or self.dtype
        self._forward = forward or EagerStep(model)
        with torch.inference_mode():
            self._times = {
                step: model.embed_time(torch.full((1, 1), schedule.timestep(step), device=self.device))
                for step in steps
            }

    @property
    def is_first(self) -> bool:
        """Whether this stage draws the noise."""
        return self.steps.start == 0

    @property
    def windows_per_session(self) -> int:
        """One per step."""
        return len(self.steps)

    def open(self, seed: int, geometry: Geometry, first_block: int = 0) -> StageSession:
        """Allocates the memory of a session whose latents have the size of ``geometry``.

        Args:
            seed: of the session's random numbers.
            geometry: of its latents.
            first_block: the first block that will come; later than 0 where ``prime`` begins.
        """
        windows = {step: self._window(geometry, first_block) for step in self.steps}
        return StageSession(seed=seed, geometry=geometry, windows=windows)

    def session_nbytes(self, geometry: Geometry) -> int:
        """Bytes that a session holds once its first block has come, without allocating them."""
        config = self.model.config
        block = self.rules.latents_per_block * geometry.latent_tokens
        window = 2 * (geometry.sink_tokens + self.rules.window_blocks * block) + geometry.latent_tokens
        windows = self.windows_per_session * window * self.kv_dtype.itemsize
        return config.num_layers * config.dim * (windows + 2 * config.text_len * self.dtype.itemsize)

    def condition(self, session: StageSession, conditioning: Conditioning) -> None:
        """Takes note of ``conditioning``; it is applied when its first block comes."""
        session.pending.append(conditioning)

    @torch.inference_mode()
    def denoise(self, session: StageSession, block: Block) -> Block:
        """Takes ``block`` through this stage's steps.

        All steps succeed and the windows move on, or nothing has changed.

        Raises:
            ValueError: not the block that comes next, or a latent where none or one must be.
        """
        self._check(session, block, has_latent=not self.is_first)
        self._apply_due(session, block.index)
        latent = self._noise(session, block) if block.latent is None else block.latent
        latent, audio = latent.to(self.device, self.dtype)[None], self._to_device(block.audio)
        for step in self.steps:
            velocity = self._velocity(session, step, latent, audio)
            latent = self.schedule.advance(latent, velocity, step)
        self._remember(session, latent, audio)
        return replace(block, latent=latent[0])

    @torch.inference_mode()
    def prime(self, session: StageSession, block: Block) -> None:
        """Makes the finished ``block`` of an earlier incarnation of the session history.

        Its clean latents are brought to the noise level of each step with the noise that the block began with, and go
        through the network once: what a step remembers then is near to what it remembered when the block grew.

        Raises:
            ValueError: not the block that comes next, or without latents.
        """
        self._check(session, block, has_latent=True)
        self._apply_due(session, block.index)
        assert block.latent is not None
        clean, noise, audio = block.latent.cpu(), self._noise(session, block), self._to_device(block.audio)
        for step in self.steps:
            noisy = self.schedule.noised(clean, noise, step)
            self._velocity(session, step, noisy.to(self.device, self.dtype)[None], audio)
        self._remember(session, clean.to(self.device, self.dtype)[None], audio)

    def _remember(self, session: StageSession, latent: Tensor, audio: AudioTokens) -> None:
        """Makes the block history, with the keys and values that each step left of it, noisy as it was then."""
        for window in session.windows.values():
            window.commit()

    def _velocity(self, session: StageSession, step: int, latent: Tensor, audio: AudioTokens) -> Tensor:
        window = session.windows[step]
        reference_offset = self.rng.reference_offset(session.seed, window.block, step)
        noisy = NoisyInput(latent=latent, time=self._times[step], audio=audio)
        assert session.text is not None
        return self._forward(noisy, session.text, window, reference_offset)

    def _check(self, session: StageSession, block: Block, *, has_latent: bool) -> None:
        if block.index != session.next_block:
            raise ValueError(f"block {block.index} came where block {session.next_block} was due")
        if (block.latent is not None) != has_latent:
            raise ValueError(
                f"block {block.index} came {'without' if has_latent else 'with'} a latent to steps {self.steps}"
            )

    def _apply_due(self, session: StageSession, block: int) -> None:
        """Applies the conditioning that holds from ``block``: latest text, latest sink, one prefill."""
        due = [c for c in session.pending if c.from_block <= block]
        if not due and session.text is not None:
            return
        text, sink = session.text_states, session.sink
        for conditioning in due:
            text = text if conditioning.text is None else conditioning.text
            sink = sink if conditioning.sink is None else _with_motion(conditioning.sink, sink)
        if text is None or sink is None:
            raise ValueError(f"block {block} came before the session had a text and a sink")
        text_kv = session.text
        if text_kv is None or text is not session.text_states:
            text_kv = self.model.embed_text(text.to(self.device, self.dtype)[None])
        prefill = next(iter(session.windows.values())).prefill()
        self.model(None, self._sink_input(sink), text_kv, prefill)
        for window in session.windows.values():
            window.set_sink(prefill.states())
        session.text_states, session.text, session.sink = text, text_kv, sink
        session.pending = [c for c in session.pending if c.from_block > block]

    def _sink_input(self, sink: Sink) -> SinkInput:
        motion = None if sink.motion is None else sink.motion.to(self.device, self.dtype)[None]
        return self.model.sink_input(sink.reference.to(self.device, self.dtype)[None], motion)

    def _noise(self, session: StageSession, block: Block) -> Tensor:
        shape = (
            self.model.config.latent_channels,
            self.rules.latents_per_block,
            session.geometry.height,
            session.geometry.width,
        )
        return self.rng.noise(session.seed, block.index, shape)

    def _to_device(self, audio: AudioTokens) -> AudioTokens:
        mask = None if audio.mask is None else audio.mask.to(self.device, self.dtype)
        return AudioTokens(audio.local.to(self.device, self.dtype), audio.glob.to(self.device, self.dtype), mask)

    def _window(self, geometry: Geometry, first_block: int) -> KVWindow:
        return KVWindow(
            geometry,
            latents_per_block=self.rules.latents_per_block,
            window_blocks=self.rules.window_blocks,
            first_block=first_block,
            dtype=self.kv_dtype,
            device=self.device,
        )


def _with_motion(sink: Sink, before: Sink | None) -> Sink:
    """``sink`` with the motion of the sink ``before`` it, where it brings none: a model's own latent has no past."""
    if sink.motion is not None or before is None:
        return sink
    return replace(sink, motion=before.motion)
