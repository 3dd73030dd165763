"""Schedules what a session sends into its pipeline: speech, conditioning and blocks, each as soon as it is admitted.

Knows the order of messages on the hop; when something may go is for the session and its delivery to say.
"""

import asyncio
import time
from collections.abc import Iterable

import grpc
from google.protobuf.message import DecodeError

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.novelty import PORTRAIT_UNLIKE_TRAINING
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, Sink, StreamBlocksRequest
from live_avatar.services.gateway.pipelines import messages
from live_avatar.services.gateway.refusals import PRECONDITION
from live_avatar.services.gateway.sessions.conditioning import IDLE_PERIOD_S
from live_avatar.services.gateway.sessions.delivery import Admission, AudioPiece
from live_avatar.services.gateway.sessions.events import Event, EventKind
from live_avatar.services.gateway.sessions.session import Phase, Session
from live_avatar.serving.errors import ServiceError, as_service_error
from live_avatar.serving.parts import conditioning_parts
from live_avatar.serving.telemetry import Telemetry, traceparent

CONDITION_S = 60.0
"""From a portrait to its sink, on the slowest device."""
_RECORDED_TOGETHER = SAMPLE_RATE_HZ
"""Of a recording the encoder makes nothing before its end: samples that go down together."""


class BlockScheduler:
    """Feeds one session."""

    def __init__(self, session: Session, telemetry: Telemetry) -> None:
        self._session = session
        self._delivery = session.delivery
        self._telemetry = telemetry

    async def run(self) -> None:
        """Returns when no block follows; raises what ended the session."""
        session, delivery = self._session, self._delivery
        while not delivery.finished:
            await session.wait_for(lambda: session.may_admit or self._has_control or delivery.finished)
            if self._has_control:
                await self._send_control()
            else:
                await self._feed()

    @property
    def _has_control(self) -> bool:
        """Something other than a block can go down."""
        session = self._session
        is_due = session.conditioning.is_due(session.ledger.admitted)
        return is_due or self._delivery.has_audio_ahead(_RECORDED_TOGETHER)

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
        async with session.pipeline.slot(slot_ns):
            if self._has_control or self._delivery.finished or session.failure is not None:
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
            key, first = self._session.key, piece.first
            await self._send(messages.audio(key, piece.samples, first, silence=piece.silence, last=piece.last))

    async def _send(self, request: StreamBlocksRequest) -> None:
        session = self._session
        await session.pipeline.send(request, lambda: session.failure is None)

    async def _send_sink(self) -> None:
        session, conditioning = self._session, self._session.conditioning
        body = ConditioningBody(sink=parsed_sink(conditioning.new_sink()))
        first = max(conditioning.switch_block, session.ledger.admitted)
        for part in conditioning_parts(session.key, first, body.SerializeToString()):
            await session.pipeline.send(part)
        conditioning.sink_sent()

    async def _send_update(self) -> None:
        """Sends a new prompt, which holds from the next block on; it takes turns with all sessions' blocks."""
        session = self._session
        async with session.pipeline.slot(self._delivery.slot_ns(time.monotonic_ns())):
            block = session.ledger.admitted
            update = session.conditioning.prompts.take(block)
            if update is None:
                return
            body = ConditioningBody(prompt=update.prompt)
            for part in conditioning_parts(session.key, block, body.SerializeToString()):
                await self._send(part)
            session.conditioning.prompts.apply(update, block)
        session.changed.notify()
        # Whether another may follow without a block in between is a question of time.
        asyncio.get_running_loop().call_later(IDLE_PERIOD_S, session.changed.notify)


async def condition(session: Session, image: bytes, timeout_s: float = CONDITION_S) -> None:
    """Encodes the portrait and sends it down with the prompt; whatever fails ends that session and no other.

    Stops when the session is over: the portraits of those that are gone would keep later ones waiting.
    """
    working = asyncio.create_task(send_portrait(session, image, timeout_s))
    over = asyncio.create_task(session.changed.wait_for(lambda: session.phase is Phase.OVER))
    try:
        await asyncio.wait([working, over], return_when=asyncio.FIRST_COMPLETED)
    finally:
        over.cancel()
        working.cancel()
    await asyncio.wait([working])
    error = None if working.cancelled() else working.exception()
    if error is not None:
        session.fail(as_service_error(error))


async def send_portrait(session: Session, image: bytes, timeout_s: float) -> None:
    """Encodes the portrait and sends it down with the prompt; warns of one the weights do not know.

    Raises:
        ServiceError: the portrait cannot be used, or the pipeline failed.
    """
    request = messages.portrait_request(image, session.config)
    encoded = await session.pipeline.encode_portrait(request, timeout_s)
    sink = parsed_sink(encoded.sink)
    novelty = encoded.novelty
    if novelty is not None and not novelty.is_familiar:
        problem = ServiceError(PRECONDITION, PORTRAIT_UNLIKE_TRAINING, novelty.message, novelty.metadata)
        session.events.add(Event(kind=EventKind.WARNING, problem=problem))
    body = ConditioningBody(sink=sink, prompt=session.conditioning.prompts.compose())
    for part in conditioning_parts(session.key, 0, body.SerializeToString()):
        await session.pipeline.send(part)
    session.conditioning.portrait_sent()
    session.changed.notify()


def parsed_sink(data: bytes) -> Sink:
    """A decoder's sink; raises ServiceError INTERNAL where it is none."""
    try:
        return Sink.FromString(data)
    except DecodeError as error:
        raise ServiceError(grpc.StatusCode.INTERNAL, "INTERNAL", "the decoder's sink is no sink") from error
