"""Schedules what a session sends into its pipeline: speech, conditioning and blocks, each as soon as it is admitted.

Knows the order of messages on the hop; when something may go is for the session and its delivery to say.
"""

import asyncio
import time
from collections.abc import Iterable

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest
from live_avatar.services.gateway.pipelines import messages
from live_avatar.services.gateway.sessions.conditioning import IDLE_PERIOD_S
from live_avatar.services.gateway.sessions.delivery import Admission, AudioPiece
from live_avatar.services.gateway.sessions.line import Line
from live_avatar.services.gateway.sessions.portrait import parsed_sink
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.waiting import run_until
from live_avatar.serving.errors import as_service_error
from live_avatar.serving.parts import conditioning_parts
from live_avatar.serving.telemetry import Telemetry, traceparent

_RECORDED_TOGETHER = SAMPLE_RATE_HZ
"""Of a recording the encoder makes nothing before its end: samples that go down together."""


class BlockScheduler:
    """Feeds one session."""

    def __init__(self, session: Session, telemetry: Telemetry) -> None:
        self._session = session
        self._delivery = session.delivery
        self._telemetry = telemetry
        self._line: Line = session.line

    async def run(self) -> None:
        """Works until cancelled; rests while no block follows or the session is suspended.

        Raises:
            ServiceError: what ended the session.
        """
        session, delivery = self._session, self._delivery
        while True:
            await session.wait_for(lambda: session.is_served and not delivery.finished)
            self._line = session.line
            error = await run_until(lambda: not session.is_on(self._line), session.changed, self._feed_all())
            if error is not None and session.failure is None:
                session.lose(self._line, as_service_error(error))
            if session.failure is not None:
                raise session.failure

    async def _feed_all(self) -> None:
        """Feeds the pipeline on which the session is."""
        session, delivery = self._session, self._delivery
        while not delivery.finished and self._still_needed():
            await session.wait_for(lambda: session.may_admit or self._has_control or delivery.finished)
            with session.handover.sending():
                if self._has_control:
                    await self._send_control()
                else:
                    await self._feed()

    @property
    def _has_control(self) -> bool:
        """Something other than a block can go down."""
        session = self._session
        has_audio = not session.handover.begun and self._delivery.has_audio_ahead(_RECORDED_TOGETHER)
        return session.has_control or has_audio

    async def _send_control(self) -> None:
        session = self._session
        if session.conditioning.has_sink:
            await self._send_sink()
        if session.conditioning.has_update(session.ledger.admitted):
            await self._send_update()
        await self._send_audio(self._delivery.audio_ahead())

    async def _feed(self) -> None:
        """Waits until the next block is due, then for its slot; what it holds is settled at the last moment."""
        session = self._session
        await self._send_audio(self._delivery.audio_ahead())
        slot_ns = await session.next_slot()
        if slot_ns is None:
            return
        asked = time.monotonic()
        async with self._line.pipeline.slot(slot_ns):
            if self._has_control or self._delivery.finished or not session.may_admit or not self._still_needed():
                return
            admission = self._delivery.admit(time.monotonic_ns())
            block = self._admit(admission, time.monotonic() - asked)
            await self._send_audio(admission.pieces)
            await self._send(block)

    def _admit(self, admission: Admission, waited_s: float) -> StreamBlocksRequest:
        """The next block as a message; from now on it counts as admitted."""
        session, index = self._session, self._session.ledger.admitted
        span = self._telemetry.begin_block(session.key, index)
        session.ledger.admit(span, waited_s, idle=admission.idle)
        deadline_s = session.limits.block_deadline_seconds
        return messages.block(session.key, index, traceparent(span), deadline_s, idle=admission.idle)

    async def _send_audio(self, pieces: Iterable[AudioPiece]) -> None:
        for piece in pieces:
            key, first = self._line.key, piece.first
            await self._send(messages.audio(key, piece.samples, first, silence=piece.silence, last=piece.last))

    async def _send(self, request: StreamBlocksRequest) -> None:
        await self._line.pipeline.send(request, self._still_needed)

    def _still_needed(self) -> bool:
        """The session goes on where it is."""
        return self._session.failure is None and self._session.is_on(self._line)

    async def _send_sink(self) -> None:
        session, conditioning = self._session, self._session.conditioning
        sink = parsed_sink(conditioning.new_sink())
        first = max(conditioning.switch_block, session.ledger.admitted)
        await self._send_body(first, ConditioningBody(sink=sink))
        if session.is_on(self._line):
            conditioning.sink_sent(first, sink)

    async def _send_update(self) -> None:
        """Sends a new prompt, which holds from the next block on; it takes turns with all sessions' blocks."""
        session, prompts = self._session, self._session.conditioning.prompts
        async with self._line.pipeline.slot(self._delivery.slot_ns(time.monotonic_ns())):
            block = prompts.first_block(session.ledger.admitted)
            update = prompts.take(block) if self._still_needed() else None
            if update is None:
                return
            is_sent = False
            try:
                await self._send_body(block, ConditioningBody(prompt=update.prompt))
                is_sent = self._still_needed()
            finally:
                if is_sent:
                    prompts.sent(update, block)
                else:
                    prompts.put_back(update)
        session.changed.notify()
        # Whether another may follow without a block in between is a question of time.
        asyncio.get_running_loop().call_later(IDLE_PERIOD_S, session.changed.notify)

    async def _send_body(self, first: int, body: ConditioningBody) -> None:
        for part in conditioning_parts(self._line.key, first, body.SerializeToString()):
            await self._send(part)
