"""The rows of the table: ways to generate a video of a subject, each by the code that serves or trains.

Letters: F latents of a block, T frames, H and W pixels, N samples.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evaluation.avatar import Avatar, as_input
from evaluation.dataset import Segment, SessionVideo, Subject
from evaluation.frame_metrics import Frames
from evaluation.teacher import PIECE_BLOCKS, PieceConditions, Teacher
from evaluation.windows import TimeWindow, WindowDecoder, session_speech
from live_avatar.config import MOTION_LATENTS, StreamConfig
from live_avatar.streaming.block import Sink
from live_avatar.streaming.clean_history import CleanHistoryDenoiser
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.local import Generated, generate, warmup_latents
from live_avatar.streaming.resample import Samples
from live_avatar.streaming.rng import REFERENCE_STAYS, PhiloxRng
from live_avatar.streaming.schedule import inference_schedule

Progress = Callable[[int], object]
"""Receives the number of blocks that are done."""


class Variant(Protocol):
    """One way to generate a video."""

    @property
    def name(self) -> str:
        """For the table."""
        ...

    @property
    def about(self) -> str:
        """What exactly is done."""
        ...

    @property
    def digest(self) -> str:
        """Of the weights; numbers of other weights are not kept."""
        ...

    @property
    def furthest_s(self) -> float:
        """How late in a session the row is looked at."""
        ...

    def record(self, subject: Subject, spans: Sequence[TimeWindow], seed: int, progress: Progress) -> SessionVideo:
        """Returns the frames of the spans of one session."""
        ...


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """The library's own loop (``live_avatar/streaming/local.py``), with a switch for what can be left out."""

    name: str
    about: str
    avatar: Avatar
    steps: int = 4
    clean_history: bool = False
    switches_sink: bool = True
    """AAS: the model's own first latent becomes the sink."""
    rolls: bool = True
    """Rolling RoPE: the reference stays near the block."""
    furthest_s: float = 100.0

    @property
    def digest(self) -> str:
        """See ``Variant``."""
        return self.avatar.digest

    def record(self, subject: Subject, spans: Sequence[TimeWindow], seed: int, progress: Progress) -> SessionVideo:
        """See ``Variant``."""
        script = Script(subject.portrait, subject.clip.prompt, session_speech(subject.clip, spans, self.avatar.preset))
        return self.session(script, spans, seed, progress)

    def session(self, script: "Script", spans: Sequence[TimeWindow], seed: int, progress: Progress) -> SessionVideo:
        """What the spans of the session that follows ``script`` show."""
        rules = self.rules(spans[-1].end_block)
        use_motion = self.avatar.preset.dit.use_motion
        decoder = WindowDecoder(self.avatar.vae, rules, use_motion=use_motion, spans=spans)
        collector, began, rate = _FrameCollector(spans, rules), 0.0, None
        for made in self._blocks(script, rules, decoder, seed):
            collector.add(made)
            progress(made.block + 1)
            if made.block == 0:
                began = time.perf_counter()
            elif made.block + 1 == spans[0].end_block and spans[0].first_block == 0:
                rate = made.block * self.avatar.preset.frames_per_block / (time.perf_counter() - began)
        return SessionVideo(collector.segments(), rate)

    def rules(self, end_block: int) -> StreamConfig:
        """The rules of a session that ends before ``end_block``."""
        rules = self.avatar.preset.stream
        if not self.switches_sink:
            rules = replace(rules, sink_switch_block=end_block)
        return rules if self.rolls else replace(rules, reference_distance=REFERENCE_STAYS)

    def denoiser(self, rules: StreamConfig) -> Denoiser:
        """All steps as one stage."""
        schedule, rng = inference_schedule(self.steps), PhiloxRng(rules.reference_distance)
        if self.clean_history:
            return CleanHistoryDenoiser(self.avatar.dit, rules, schedule, rng)
        return Denoiser(self.avatar.dit, rules, schedule, range(self.steps), rng)

    @torch.inference_mode()
    def _blocks(self, script: "Script", rules: StreamConfig, decoder: FrameDecoder, seed: int) -> Iterator[Generated]:
        avatar, sink = self.avatar, decoder.encode_portrait(as_input(script.portrait))
        yield from generate(
            [self.denoiser(rules)],
            decoder,
            sink=sink,
            warmup=warmup_latents(sink, decoder),
            text=avatar.text(script.prompt),
            audio=(avatar.tokens(features) for features in avatar.features(script.speech)),
            seed=seed,
        )


@dataclass(frozen=True)
class Script:
    """What a session is fed."""

    portrait: Frames
    """[H, W, 3]"""
    prompt: str
    speech: Iterable[Samples]
    """[N] of every block."""


class _FrameCollector:
    """Collects the pictures of spans."""

    def __init__(self, spans: Sequence[TimeWindow], rules: StreamConfig) -> None:
        self._spans, self._rules = spans, rules
        self._pictures: dict[TimeWindow, list[Frames]] = {span: [] for span in spans}

    def add(self, made: Generated) -> None:
        """Keeps the pictures of a block, if a span holds it."""
        for span in self._spans:
            if span.first_block <= made.block < span.end_block:
                self._pictures[span] += [frames.pixels.numpy() for frames in made.frames]

    def segments(self) -> tuple[Segment, ...]:
        """All spans, once their blocks have come."""
        return tuple(self._segment(span) for span in self._spans)

    def _segment(self, span: TimeWindow) -> Segment:
        hidden = self._rules.dropped_frames if span.first_block == 0 else 0
        return Segment(span, np.concatenate(self._pictures[span]), hidden)


@dataclass(frozen=True, kw_only=True)
class TeacherVariant:
    """The teacher, piece by piece; its pieces follow each other without a cut, but none knows the one before."""

    name: str
    about: str
    avatar: Avatar
    teacher: Teacher
    furthest_s: float = 0.0

    @property
    def digest(self) -> str:
        """See ``Variant``."""
        return f"{self.avatar.digest} guidance {self.teacher.guidance:g} steps {self.teacher.schedule.steps}"

    @torch.inference_mode()
    def record(self, subject: Subject, spans: Sequence[TimeWindow], seed: int, progress: Progress) -> SessionVideo:
        """See ``Variant``."""
        (span,), avatar = spans, self.avatar
        rules = avatar.preset.stream
        decoder = FrameDecoder(avatar.vae, rules, use_motion=avatar.preset.dit.use_motion)
        sink = decoder.encode_portrait(as_input(subject.portrait))
        began = time.perf_counter()
        audio_features = list(avatar.features(session_speech(subject.clip, spans, avatar.preset)))
        pieces = self._pieces(subject, sink, audio_features, seed)
        segment = decoded(decoder, warmup_latents(sink, decoder), pieces, span, progress)
        return SessionVideo((segment,), span.blocks * avatar.preset.frames_per_block / (time.perf_counter() - began))

    def _pieces(self, subject: Subject, sink: Sink, audio_features: list[Tensor], seed: int) -> Iterator[Tensor]:
        """Latents [16, n, h, w] of piece after piece."""
        rules, rng = self.avatar.preset.stream, PhiloxRng(self.avatar.preset.stream.reference_distance)
        text, no_text = self.avatar.text(subject.clip.prompt), self.avatar.text("")
        channels, _, height, width = sink.reference.shape
        for first in range(0, len(audio_features), PIECE_BLOCKS):
            speech = torch.cat(audio_features[first : first + PIECE_BLOCKS], dim=-1)
            latents = len(audio_features[first : first + PIECE_BLOCKS]) * rules.latents_per_block
            noise = rng.noise(seed, first, (channels, latents, height, width))
            yield self.teacher.piece(PieceConditions(sink, text, no_text, speech), noise)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The true frames, encoded and decoded: what the autoencoder leaves of the truth."""

    name: str
    about: str
    avatar: Avatar
    furthest_s: float = 0.0

    @property
    def digest(self) -> str:
        """See ``Variant``."""
        return self.avatar.digest

    @torch.inference_mode()
    def record(self, subject: Subject, spans: Sequence[TimeWindow], seed: int, progress: Progress) -> SessionVideo:
        """See ``Variant``."""
        (span,), vae = spans, self.avatar.vae
        held = 1 + (MOTION_LATENTS - 1) * vae.config.temporal_factor
        still = as_input(subject.portrait)[None].expand(held, -1, -1, -1)
        clip = torch.cat([still, as_input(subject.clip.frames)]).movedim(0, 1)
        latents = vae.encode(clip[None])[0]
        decoder = FrameDecoder(vae, self.avatar.preset.stream, use_motion=True)
        pieces = [latents[:, MOTION_LATENTS:]]
        return SessionVideo((decoded(decoder, latents[:, :MOTION_LATENTS], pieces, span, progress),), None)


@dataclass(frozen=True, kw_only=True)
class TrueFrames:
    """The rendered clip itself: what the metrics give for the truth."""

    name: str
    about: str
    digest: str = "truth"
    furthest_s: float = 0.0

    def record(self, subject: Subject, spans: Sequence[TimeWindow], seed: int, progress: Progress) -> SessionVideo:
        """See ``Variant``."""
        (span,) = spans
        progress(span.blocks)
        return SessionVideo((Segment(span, subject.clip.frames, 0),), None)


def decoded(
    decoder: FrameDecoder, motion: Tensor, pieces: Iterable[Tensor], span: TimeWindow, progress: Progress
) -> Segment:
    """The pictures of latents [16, n, h, w] that begin a session, block by block after ``motion``."""
    session, pictures, index = decoder.open(), list[Frames](), 0
    decoder.warm(session, motion)
    for piece in pieces:
        for block in piece.split(decoder.rules.latents_per_block, dim=1):
            pictures += [frames.pixels.numpy() for frames in decoder.decode(session, index, block)]
            index += 1
            progress(index)
    return Segment(span, np.concatenate(pictures), decoder.rules.dropped_frames)
