"""One session: its phase, its end, and the parts that share its life.

The rules of who may do what and when, without a wait in them but ``wait_for`` and ``next_slot``: streams and pipelines
act on a session from outside.  Knows nothing of gRPC's servicers, of Redis, or of messages to clients.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from live_avatar.config import Preset
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.services.gateway.access.handles import ResumeHandle
from live_avatar.services.gateway.audio.utterances import Utterances
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.refusals import expired
from live_avatar.services.gateway.sessions.attachment import CLIENT_GONE, Attachment, Phase
from live_avatar.services.gateway.sessions.conditioning import Conditioning, Prompts
from live_avatar.services.gateway.sessions.credits import CreditWindow
from live_avatar.services.gateway.sessions.delivery import Delivery, DeliveryContext
from live_avatar.services.gateway.sessions.events import EventQueue
from live_avatar.services.gateway.sessions.handover import Handover
from live_avatar.services.gateway.sessions.ledger import BlockLedger
from live_avatar.services.gateway.sessions.line import Line
from live_avatar.services.gateway.sessions.live import LiveDelivery
from live_avatar.services.gateway.sessions.offline import OfflineDelivery
from live_avatar.services.gateway.sessions.policy import SessionPolicy
from live_avatar.services.gateway.sessions.recovery_point import FinishedBlocks
from live_avatar.services.gateway.sessions.stream_state import stream_state
from live_avatar.services.gateway.sessions.suspension import Suspension
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.services.gateway.store.usage import Amounts
from live_avatar.services.gateway.usage.meter import UsageMeter
from live_avatar.services.gateway.waiting import Condition
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api

IDLE = "IDLE"
"""Reason of the end of a session in which nothing happens."""
NOTICE_S = 10.0
"""How long before its end a session is warned."""


class Session:
    """A session that this gateway holds.

    Args:
        record: as it is stored.
        config: negotiated; its prompt changes with updates.
        pipeline: on which it has a slot.
        policy: of this gateway.
        telemetry: of this gateway.
    """

    def __init__(
        self,
        record: SessionRecord,
        config: api.SessionConfig,
        pipeline: Pipeline,
        policy: SessionPolicy,
        telemetry: Telemetry,
    ) -> None:
        self.record = record
        self.config = config
        self.line = Line(self, pipeline, SessionKey(session_id=record.session_id, epoch=record.epoch))
        """Where it is in its present epoch, or was before it was suspended."""
        self._depth = len(pipeline.services)
        self.preset: Preset = pipeline.preset
        self.limits = policy.limits
        self.model_digest = pipeline.model_digest
        self.failure: ServiceError | None = None
        self.changed = Condition()
        self.publishing = asyncio.Lock()
        """Held while its state is written to the store."""
        self.disclosure = policy.disclosure
        """What people are shown first; empty: nothing."""
        streams = stream_state(record, config, self.preset, self.limits, policy.signing)
        self.attachment = Attachment(self.limits, streams, self.changed)
        self.credits = CreditWindow(self.limits.max_video_credits)
        self.ledger = BlockLedger()
        self.suspension = Suspension(self.limits)
        self.handover = Handover(self.changed.notify)
        self._recover: Callable[[Session], None] | None = None
        utterances, rate_hz = Utterances(), config.audio.sample_rate_hz
        self.events = EventQueue(utterances, rate_hz, self.preset, self.changed.notify, self.fail)
        prompts = Prompts(config, self.events.update_applied)
        self.conditioning = Conditioning(prompts, self.preset.stream.sink_switch_block)
        form = LiveDelivery if config.delivery == api.DELIVERY_LIVE else OfflineDelivery
        self.delivery: Delivery = form(
            DeliveryContext(
                config=config,
                preset=self.preset,
                depth=self._depth,
                limits=self.limits,
                rules=policy.live,
                utterances=utterances,
                ledger=self.ledger,
                events=self.events,
                telemetry=telemetry,
            )
        )
        self.meter = UsageMeter(self.preset.stream.fps)
        self.finished_blocks = FinishedBlocks(self.preset.stream.window_blocks, self._most_ahead)
        self._ending: tuple[float, ServiceError] | None = None
        """When the session ends for a reason that its client was warned of."""
        self._began_at = time.monotonic()
        self._active_at = self._began_at

    @property
    def pipeline(self) -> Pipeline:
        """On which it is, or was before it was suspended."""
        return self.line.pipeline

    @property
    def live(self) -> LiveDelivery:
        """Its delivery, which is live: of others nothing is stored."""
        assert isinstance(self.delivery, LiveDelivery), "the session is live"
        return self.delivery

    @property
    def key(self) -> SessionKey:
        """Of its present epoch."""
        return self.line.key

    @property
    def phase(self) -> Phase:
        """Where it stands."""
        return self.attachment.phase

    @property
    def waits(self) -> bool:
        """It has no client or no pipeline, and may get another."""
        return self.phase is Phase.DETACHED or not self.is_served

    def attach(self, *, resumable: bool = False) -> None:
        """A client opens the first stream.

        Args:
            resumable: the session outlives it.

        Raises:
            ServiceError: a stream was opened already, or the session is over.
        """
        self._check_lives()
        self.attachment.open(resumable=resumable)
        self._active_at = time.monotonic()
        self.delivery.opened()

    async def resume_stream(self, handle: ResumeHandle | None, next_block: int) -> None:
        """A client opens a stream in place of the last one; see ``Attachment.resume``."""
        self._check_lives()
        await self.attachment.resume(handle, next_block)
        self._check_lives()
        self.credits = CreditWindow(self.limits.max_video_credits)
        self.delivery.resumed()
        self._active_at = time.monotonic()

    def _check_lives(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.phase is Phase.OVER:
            raise expired("the session is over")

    def detach(self) -> None:
        """The stream has ended, and the session waits for another."""
        self.events.forget_ends()
        self.attachment.detach()

    @property
    def idle_timeout_s(self) -> int:
        """How long nothing may happen; in a live session that streams, how long nobody may speak."""
        streams = self.phase is Phase.STREAMING
        return self.delivery.bounds.idle_timeout_s if streams else self.limits.idle_timeout_seconds

    def life_left_s(self, now: float) -> float:
        """Seconds until the session has lasted as long as it may; negative afterwards."""
        return self._began_at + self.record.max_duration_ms / 1000 - now

    def idle_left_s(self, now: float) -> float | None:
        """Seconds until the session ends where nothing happens; None while it is not idle."""
        if self.phase is Phase.DETACHED or (self.ledger.is_in_flight and not self.delivery.bounds.idles_in_flight):
            return None
        return self._active_at + self.idle_timeout_s - now

    def touch(self, what: str) -> None:
        """The client sent ``what``, or its ``video`` moved: whoever waits for that looks again, and time is granted."""
        if what not in self.delivery.bounds.quiet_messages:
            self._active_at = time.monotonic()
            self.events.goes_on(IDLE)
        self.changed.notify()

    def warn(self, time_left_s: float, reason: str) -> None:
        """Announces to the client, once for each reason, that the stream will end."""
        if self.phase is Phase.STREAMING:
            self.events.go_away(time_left_s, reason)

    @property
    def used(self) -> Amounts:
        """All that the session has used so far."""
        return self.meter.total

    def writing(self, response: api.StreamAvatarResponse) -> AbstractContextManager[None]:
        """Counts a message that the body writes to the client; raises what ended the session before."""
        if self.failure is not None and response.HasField("video_unit"):
            raise self.failure
        return self.meter.writing(response)

    def end_with_notice(self, error: ServiceError, notice_s: float = NOTICE_S) -> None:
        """Warns the client now, and fails ``notice_s`` later; the first reason stays."""
        if self._ending is None:
            self._ending = (time.monotonic() + notice_s, error)
            self.warn(notice_s, error.reason)

    def fail_if_due(self, now: float) -> None:
        """Fails where the time of a notice is over, or the client has been away for too long."""
        if self.attachment.is_left(now):
            self.fail(expired(f"the client did not return within {self.limits.resume_seconds:g} s", CLIENT_GONE))
        if self._ending is not None and now >= self._ending[0]:
            self.fail(self._ending[1])

    def update(self, prompt: str) -> "asyncio.Future[int]":
        """Changes the prompt from the next block on; returns which one that is, once it is known."""
        applied = self.conditioning.prompts.ask(prompt, self.ledger.admitted)
        self.changed.notify()
        return applied

    def refresh_record(self) -> SessionRecord:
        """The record with the config as it is now."""
        self.record = replace(self.record, config=self.config.SerializeToString())
        return self.record

    @property
    def may_admit(self) -> bool:
        """The next block may enter the pipeline, as far as pipeline and speech are concerned."""
        ledger = self.ledger
        if self.handover.begun or ledger.ahead >= self._most_ahead or self.phase is Phase.DETACHED:
            return False
        if self.attachment.awaits_repetition and self.delivery.lacks_speech:
            return False
        return self.conditioning.allows(ledger.admitted) and self.delivery.has_next

    @property
    def _most_ahead(self) -> int:
        """Blocks that may be ahead of the client."""
        return self.limits.max_unread_blocks or self._depth + self.delivery.bounds.spare_blocks

    @property
    def has_control(self) -> bool:
        """Conditioning can go down before the next block."""
        return not self.handover.begun and self.conditioning.is_due(self.ledger.admitted)

    @property
    def all_delivered(self) -> bool:
        """The client has all video."""
        return self.delivery.finished and not self.ledger.ahead

    async def next_slot(self) -> int | None:
        """Waits until the next block is due.

        Returns:
            Its due time in the queue of the pipeline; None where something else comes first.
        """
        while True:
            if self.failure is not None:
                raise self.failure
            if self.has_control or self.delivery.finished or not self.may_admit:
                return None
            now_ns = time.monotonic_ns()
            due_ns = self.delivery.next_admission_ns(now_ns)
            if due_ns is not None and due_ns <= now_ns:
                return self.delivery.slot_ns(due_ns)
            try:
                async with asyncio.timeout(None if due_ns is None else (due_ns - now_ns) / 1e9):
                    await self.changed.wait()
            except TimeoutError:
                continue

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Returns once ``predicate`` holds; raises what ended the session."""
        await self.changed.wait_for(lambda: self.failure is not None or predicate())
        if self.failure is not None:
            raise self.failure

    def fail(self, error: ServiceError) -> None:
        """Ends the session; the first failure stays."""
        if self.failure is None and self.phase is not Phase.OVER:
            self.failure = error
            self.changed.notify()

    @property
    def outlives_pipeline(self) -> bool:
        """Another pipeline could go on with it."""
        return self.delivery.bounds.outlives_pipeline and self.limits.resume_seconds > 0

    @property
    def is_served(self) -> bool:
        """The session is not suspended."""
        return self.suspension.cause is None

    def is_on(self, line: Line) -> bool:
        """The session is on ``line``, and not suspended."""
        return self.line is line and self.is_served and self.phase is not Phase.OVER

    @property
    def may_move(self) -> bool:
        """It could leave its pipeline for another one now."""
        if self.failure is not None or self._recover is None or not self.is_on(self.line):
            return False
        return self.outlives_pipeline and (not self.ledger.admitted or self.pipeline.primes)

    def lose(self, line: Line, error: ServiceError) -> None:
        """See ``LineOwner``; suspends the session where another pipeline can go on with it, else fails it."""
        if not self.is_on(line):
            return
        if not self.outlives_pipeline or self.failure is not None or not self.suspension.begin(error, time.monotonic()):
            self.fail(self.suspension.refusal or error)
            return
        line.close()
        first = self.ledger.rewind()
        self.finished_blocks.rewind(first)
        self.conditioning.rewind(first)
        if first and not self.finished_blocks.count_before(first):
            self.fail(self.suspension.expire())
            return
        self.changed.notify()
        if self._recover is not None:
            self._recover(self)

    def go_on(self, age_s: float, cause: ServiceError) -> None:
        """It began ``age_s`` seconds ago, and lost its pipeline for ``cause``: another one goes on with it."""
        self._began_at = time.monotonic() - age_s
        self.suspension.begin(cause, time.monotonic())

    def recover_with(self, recover: Callable[["Session"], None]) -> None:
        """Calls ``recover`` where the session is suspended, now or later: it goes on with it, or fails it."""
        self._recover = recover
        if not self.is_served:
            recover(self)

    def move(self, record: SessionRecord) -> None:
        """The store has it as ``record`` now."""
        self.record = record

    def resume(self, line: Line, cause: ServiceError) -> None:
        """The pipeline of ``line`` is primed and goes on with the next block; it left the one before for ``cause``."""
        if self.phase is Phase.OVER:
            line.close()
            return
        block = self.ledger.admitted
        if block or self.phase is Phase.STREAMING:
            self.events.goes_on_with(block, cause)
        self.line = line
        self.suspension.end()
        self._depth = len(line.pipeline.services)
        self.delivery.move(self._depth)
        self.conditioning.portrait_sent()
        self.changed.notify()

    def receive_finished(self, line: Line, piece: StreamVideoResponse.FinishedBlock) -> None:
        """See ``LineOwner``."""
        if not self.is_on(line):
            return
        try:
            self.finished_blocks.receive(piece)
        except ServiceError as error:
            self.fail(error)

    def receive_video(self, line: Line, video: StreamVideoResponse.Video) -> None:
        """See ``LineOwner``."""
        if not self.is_on(line):
            return
        try:
            arrived = self.ledger.receive(video, self.delivery.bounds.held_bytes)
        except ServiceError as error:
            self.fail(error)
            return
        if arrived:
            self.changed.notify()

    def receive_sink(self, line: Line, data: bytes) -> None:
        """See ``LineOwner``."""
        if self.is_on(line):
            self.conditioning.receive_sink(data)
            self.changed.notify()

    def end(self) -> None:
        """Nothing happens any more; what was held is free."""
        self.attachment.end()
        self.ledger.end()
        self.delivery.close()
        self.changed.notify()
