"""One session: its states, its speech, and how far its blocks have come.

The rules of who may do what and when, without a wait in them but ``until``: streams and pipelines act on a session
from outside.  Knows the public API's messages; nothing of gRPC or Redis.
"""

import asyncio
import time
from collections.abc import Callable

import grpc

from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from services.gateway.audio.speech import Speech
from services.gateway.audio.utterances import Utterances
from services.gateway.limits import (
    INVALID,
    MESSAGE_OUT_OF_ORDER,
    Limits,
    check_chunk,
    check_credits,
    expired,
    slow_consumer,
)
from services.gateway.pipelines.pipeline import Pipeline
from services.gateway.sessions.barge_ins import BargeIns
from services.gateway.sessions.events import Notices
from services.gateway.sessions.live import Live, LiveRules
from services.gateway.sessions.progress import Arrived, InFlight, Interruption, Phase
from services.gateway.sessions.prompts import Prompts
from services.gateway.store.records import SessionRecord
from services.gateway.waiting import Changes

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
_AHEAD_BLOCKS = 2
"""Blocks of a live session beyond one per service: one that is delivered, one that enters."""
IDLE = "IDLE"
"""Reason of the end of a session in which nothing happens."""
_QUIET = ("credit", "playback_report")
"""Messages that a client sends without anybody's doing."""


class Session:
    """A session that this gateway holds; a pipeline's ``Listener``."""

    def __init__(
        self,
        record: SessionRecord,
        config: api.SessionConfig,
        pipeline: Pipeline,
        limits: Limits,
        rules: LiveRules,
    ) -> None:
        self.record = record
        self.config = config
        self.pipeline = pipeline
        self.preset: Preset = pipeline.preset
        self.depth = len(pipeline.services)
        self.limits = limits
        self.key = SessionKey(session_id=record.session_id, epoch=record.epoch)
        self.phase = Phase.RESERVED
        self.failure: ServiceError | None = None
        self.changes = Changes()
        self.utterances = Utterances()
        self.live: Live | None = None
        """Pacing of live delivery."""
        if config.delivery == api.DELIVERY_LIVE:
            self.live = Live(config.audio, self.preset, self.utterances, rules, self.depth)
        self.speech = self.live.speech if self.live else Speech(config.audio, self.preset)
        self.notices = Notices(self.utterances, self.speech.rate_hz, self.preset, self.changes.notify, self.fail)
        self._barge_ins = BargeIns(self.live, self.notices) if self.live else None
        self.consumed = 0
        """Sequence of the client's last message that was taken."""
        self.prompts = Prompts(config, self.notices.update_applied)
        self.conditioned = False
        """Sink version 0 and the prompt are on their way."""
        self.new_sink: bytes | None = None
        """The model's own first latent, until it is sent down."""
        self.switched = False
        """The new sink is on its way."""
        self.admitted = 0
        self.delivered = 0
        self.in_flight: dict[int, InFlight] = {}
        self.arrived: dict[int, Arrived] = {}
        self.credits = 0
        self.began_at = time.monotonic()
        self.active_at = self.began_at
        self.heard_at: float | None = None
        """When the speech of block 0 had come."""

    @property
    def whole_file(self) -> bool:
        """The model hears all speech before the first block."""
        return self.config.listening == api.LISTENING_WHOLE_FILE

    def attach(self) -> None:
        """A client opens the stream.

        Raises:
            ServiceError: a stream is open already, or the session is over.
        """
        if self.failure is not None:
            raise self.failure
        if self.phase is Phase.STREAMING:
            raise ServiceError(PRECONDITION, "DUPLICATE_OPEN", "the session's stream is open already")
        if self.phase is Phase.OVER:
            raise expired("the session is over")
        self.phase = Phase.STREAMING
        self.active_at = time.monotonic()
        if self.live is not None:
            self.heard_at = self.active_at

    @property
    def idle_timeout_s(self) -> int:
        """How long nothing may happen; in a live session that streams, how long nobody may speak."""
        talks = self.live is not None and self.phase is Phase.STREAMING
        return self.limits.live_idle_s if talks else self.limits.idle_timeout_s

    def touch(self, what: str) -> None:
        """The client sent ``what``, or its ``video`` moved; in a live session some of that goes on by itself."""
        if self.live is None or what not in (*_QUIET, "video"):
            self.active_at = time.monotonic()
            self.notices.goes_on(IDLE)

    def warn(self, time_left_s: float, reason: str) -> None:
        """Tells the client, once for each reason, that the stream will end."""
        if self.phase is Phase.STREAMING:
            self.notices.go_away(time_left_s, reason)

    def hear(self, chunk: api.StreamAvatarRequest.AudioChunk) -> None:
        """Takes a piece of speech.

        Raises:
            ServiceError: INVALID_ARGUMENT where it breaks a limit or comes out of order, RESOURCE_EXHAUSTED where it
                is too much.
        """
        if self.speech.finished:
            raise ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, "speech came after its end", field="audio_chunk")
        samples = check_chunk(chunk, self.config.audio, self.limits)
        if self.live is not None:
            self.live.speech.check_room(samples, self.limits.max_live_audio_s)
            self.live.speech.hear(chunk.data, chunk.sample_offset, chunk.utterance_id, time.monotonic_ns())
            assert self._barge_ins is not None, "live sessions have them"
            self._barge_ins.watch(self.limits.max_live_audio_s, self.admitted, self.consumed)
            self.changes.notify()
            return
        self._check_room(samples)
        self.utterances.check(chunk.utterance_id)
        first = self.speech.played.end
        self.speech.append(chunk.data, chunk.sample_offset)
        self.utterances.hear(chunk.utterance_id, first, self.speech.end)
        self._note_first()
        self.changes.notify()

    def end_utterance(self, utterance_id: str) -> None:
        """The utterance is complete; of a whole file, it is the end of all speech."""
        if self.live is not None:
            self.live.speech.end_utterance(utterance_id)
            self.changes.notify()
            return
        self.utterances.check(utterance_id)
        if self.whole_file:
            self.finish()
            return
        self.speech.end_utterance()
        self.utterances.end()
        self._note_first()
        self.changes.notify()

    def finish(self) -> None:
        """No speech follows.  Idempotent."""
        if not self.speech.finished:
            self.speech.finish()
            if self.live is None:
                self.utterances.end()
                self._note_first()
            self.changes.notify()

    def interrupt(self, utterance_id: str, request_id: str = "", *, in_order: bool = False) -> Interruption:
        """Barge-in, see ``BargeIns.interrupt``; raises ServiceError FAILED_PRECONDITION where delivery is not live."""
        if self._barge_ins is None:
            raise ServiceError(PRECONDITION, "NOT_LIVE", "only live delivery can be interrupted")
        return self._barge_ins.interrupt(utterance_id, request_id, self.admitted, self.consumed, in_order=in_order)

    def report(self, report: api.StreamAvatarRequest.PlaybackReport) -> None:
        """The client says what it has played."""
        if self.live is not None:
            self.live.report(report.played_through_time.ToNanoseconds(), time.monotonic_ns())
            self.changes.notify()

    def update(self, prompt: str) -> "asyncio.Future[int]":
        """Changes the prompt from the next block on; returns which one that is, once it is known."""
        applied = self.prompts.ask(prompt, self.admitted)
        self.changes.notify()
        return applied

    @property
    def update_due(self) -> bool:
        """A new prompt may go down now: the first conditioning comes before it."""
        return self.conditioned and self.prompts.due(self.admitted)

    async def wait_due(self, live: Live) -> int | None:
        """Returns when the next block is due, with that time; None where something else comes first."""
        while True:
            if self.failure is not None:
                raise self.failure
            if self.new_sink or self.update_due or self.all_admitted or not self.may_enter():
                return None
            now_ns = time.monotonic_ns()
            due_ns = live.admit_at_ns(now_ns)
            if due_ns is not None and due_ns <= now_ns:
                return due_ns
            try:
                async with asyncio.timeout(None if due_ns is None else (due_ns - now_ns) / 1e9):
                    await self.changes.next()
            except TimeoutError:
                continue

    def grant(self, units: int) -> None:
        """The client has room for more units of video; raises ServiceError beyond the limit."""
        self.credits = check_credits(self.credits, units, self.limits)
        self.changes.notify()

    @property
    def may_read(self) -> bool:
        """Whether more of the client's messages are taken: not while much speech waits, unless it waits for them.

        A live client is always read: what it says next may be a barge-in.
        """
        held = self.speech.played.end - self.speech.played.first
        return (
            self.live is not None
            or self.whole_file
            or self.credits == 0
            or held < self.limits.max_queued_audio_s * self.speech.rate_hz
        )

    @property
    def spoken(self) -> bool:
        """The speech of the next block has come, with what the model must hear beyond it."""
        if self.speech.finished:
            return self.admitted < self.speech.blocks_spoken
        lookahead = round(self.preset.stream.lookahead_s * SAMPLE_RATE_HZ)
        return not self.whole_file and self.speech.heard.end >= self.heard_end(self.admitted) + lookahead

    def may_enter(self) -> bool:
        """Whether the next block may enter the pipeline, as far as pipeline and speech are concerned."""
        ahead = self.admitted - self.delivered
        waits_for_sink = self.admitted >= self.preset.stream.sink_switch_block and not self.switched
        bound = self.limits.max_unread_blocks or self.depth + (_AHEAD_BLOCKS if self.live else 0)
        return self.conditioned and not waits_for_sink and ahead < bound and (self.live is not None or self.spoken)

    @property
    def all_admitted(self) -> bool:
        """No block follows."""
        if self.live is not None:
            return self.live.all_admitted
        return self.speech.finished and self.admitted >= self.speech.blocks_spoken

    @property
    def all_delivered(self) -> bool:
        """The client has all video."""
        return self.all_admitted and self.delivered >= self.admitted

    def heard_end(self, block: int) -> int:
        """Sample after the last of ``block``, at the model's rate."""
        return (block + 1) * self.preset.samples_per_block

    def shown_frames(self, arrived: Arrived) -> tuple[bytes, ...]:
        """The pictures of a block that lie within the speech; the last block has more than are needed."""
        if self.live is not None or not self.speech.finished:
            return arrived.frames
        last = self.speech.frames_spoken - self.preset.stream.dropped_frames
        if self.delivered + 1 < self.speech.blocks_spoken:
            return arrived.frames
        return arrived.frames[: max(0, last - arrived.first_frame)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once ``condition`` holds; raises what ended the session."""
        await self.changes.until(lambda: self.failure is not None or condition())
        if self.failure is not None:
            raise self.failure

    def fail(self, error: ServiceError) -> None:
        """See ``Listener``; the first failure stays."""
        if self.failure is None and self.phase is not Phase.OVER:
            self.failure = error
            self.changes.notify()

    def receive_video(self, video: StreamVideoResponse.Video) -> None:
        """See ``Listener``."""
        flying = self.in_flight.get(video.block_index)
        if flying is None:
            message = f"pictures came of block {video.block_index}, which is not on its way"
            self.fail(ServiceError(grpc.StatusCode.INTERNAL, "INTERNAL", message))
            return
        if not self._has_room(flying, sum(map(len, video.frames))):
            return
        if not flying.frames:
            flying.first_frame = video.first_frame
        flying.frames += video.frames
        if video.last:
            del self.in_flight[video.block_index]
            flying.span.end()
            self.arrived[video.block_index] = Arrived(
                first_frame=flying.first_frame,
                frames=tuple(flying.frames),
                timings=tuple(video.timings),
                at=time.monotonic(),
                waited_s=flying.waited_s,
                idle=flying.idle,
            )
            self.changes.notify()

    def receive_sink(self, data: bytes) -> None:
        """See ``Listener``."""
        self.new_sink = data
        self.changes.notify()

    def end(self) -> None:
        """Nothing happens any more; what was held is free."""
        self.phase = Phase.OVER
        self.changes.notify()
        for flying in self.in_flight.values():
            flying.span.end()
        self.in_flight.clear()
        self.arrived.clear()
        self.changes.notify()

    def _note_first(self) -> None:
        if self.heard_at is None and self.spoken:
            self.heard_at = time.monotonic()

    def _has_room(self, flying: InFlight, size: int) -> bool:
        """Ends a live session whose client leaves too much video, before more is taken; one block may have any size."""
        if self.live is None:
            return True
        blocks = [arrived.size for arrived in self.arrived.values()]
        blocks += [one.size + (size if one is flying else 0) for one in self.in_flight.values()]
        if sum(blocks) <= max(self.limits.max_unread_bytes, *blocks):
            return True
        self.fail(slow_consumer(f"{sum(blocks) - size} bytes of video wait"))
        return False

    def _check_room(self, samples: int) -> None:
        rate_hz = self.speech.rate_hz
        if self.whole_file and self.speech.end + samples > self.limits.max_whole_file_s * rate_hz:
            message = f"a recording may last {self.limits.max_whole_file_s} s; longer speech can be streamed"
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "AUDIO_TOO_LONG", message)
        held = self.speech.played.end - self.speech.played.first
        # What the client may have sent before it saw that nobody reads: as much again as waits.
        most_s = 2 * self.limits.max_queued_audio_s + self.limits.max_audio_chunk_s
        if not self.whole_file and held + samples > most_s * rate_hz:
            message = f"{held // rate_hz} s of speech wait; take video or grant credits first"
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "AUDIO_QUEUE_FULL", message)
