"""A session's way into its pipeline: speech, conditioning and blocks, each as soon as it may go.

Knows the order of messages on the hop; when something may go is the session's to say.
"""

import asyncio
import time

import grpc
from google.protobuf.message import DecodeError

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, Sink, StreamBlocksRequest
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.parts import PART_BYTES, conditioning_parts
from live_avatar.serving.telemetry import Telemetry, traceparent
from services.gateway.api import messages
from services.gateway.pipelines.deadline_queue import NO_HURRY_NS
from services.gateway.sessions.live import Live
from services.gateway.sessions.progress import InFlight
from services.gateway.sessions.prompts import IDLE_PERIOD_S
from services.gateway.sessions.punctuality import Punctuality
from services.gateway.sessions.session import Session

_PIECE_SAMPLES = PART_BYTES // 4
"""Samples of one Audio message at most."""


class Feeder:
    """Feeds one session; ``punctuality`` is that of a live one."""

    def __init__(self, session: Session, telemetry: Telemetry, punctuality: Punctuality | None) -> None:
        self._session = session
        self._telemetry = telemetry
        self._punctuality = punctuality
        self._told_end = False

    async def run(self) -> None:
        """Returns when no block follows; raises what ended the session."""
        session = self._session
        while not session.all_admitted:
            await session.until(lambda: self._has_control or session.may_enter() or session.all_admitted)
            if self._has_control:
                await self._send_control()
            elif session.live is not None and session.may_enter():
                await self._feed_live(session.live)
            elif session.live is None:
                await self._feed_offline()

    @property
    def _has_control(self) -> bool:
        """Something other than a block can go down."""
        session = self._session
        heard = session.speech.heard
        # Of a recording the encoder makes nothing before its end: small pieces go down together.
        recorded = session.whole_file and heard.end - heard.first >= SAMPLE_RATE_HZ
        return bool(session.new_sink or session.update_due) or recorded

    async def _send_control(self) -> None:
        session = self._session
        if session.new_sink is not None:
            await self._send_sink(session.new_sink)
        if session.update_due:
            await self._send_update()
        if session.whole_file:
            await self._send_all(self._speech())

    async def _feed_offline(self) -> None:
        session = self._session
        if session.whole_file:
            await self._send_all(self._speech())
        if session.may_enter():
            asked = time.monotonic()
            async with session.pipeline.turn(NO_HURRY_NS):
                requests = self._speech()
                requests.append(self._admit(asked, idle=False))
                await self._send_all(requests)

    async def _feed_live(self, live: Live) -> None:
        """Waits until the next block is due, then for its turn; what it holds is settled at the last moment."""
        session = self._session
        due_ns = await session.wait_due(live)
        if due_ns is None:
            return
        asked = time.monotonic()
        async with session.pipeline.turn(due_ns):
            if self._has_control or session.all_admitted or session.failure is not None:
                return
            filled = live.admit(time.monotonic_ns())
            if self._punctuality is not None:
                self._punctuality.admitted(session.admitted, filled)
            requests = self._live_speech(live)
            requests.append(self._admit(asked, idle=filled.idle))
            await self._send_all(requests)

    def _speech(self) -> list[StreamBlocksRequest]:
        """What the next block needs to hear, or of a whole file all there is, as messages."""
        session, speech = self._session, self._session.speech
        heard, requests = speech.heard, list[StreamBlocksRequest]()
        # A streaming encoder holds little beyond the block it is at, so it gets no more than that needs.
        lookahead = round(session.preset.stream.lookahead_s * SAMPLE_RATE_HZ)
        end = heard.end if session.whole_file else min(heard.end, session.heard_end(session.admitted) + lookahead)
        while heard.first < end or (speech.finished and not self._told_end and heard.first == heard.end):
            first = heard.first
            samples = heard.take(min(end, first + _PIECE_SAMPLES))
            self._told_end = speech.finished and heard.first == heard.end
            requests.append(messages.audio(session.key, samples, first, last=self._told_end))
        return requests

    def _live_speech(self, live: Live) -> list[StreamBlocksRequest]:
        """What the next block hears: what is known of its look-ahead, and silence that later speech may replace."""
        session, heard = self._session, live.speech.heard
        block = session.admitted
        lookahead = round(session.preset.stream.lookahead_s * SAMPLE_RATE_HZ)
        first = heard.first
        samples = heard.take(session.heard_end(block) + lookahead)
        request = messages.audio(session.key, samples, first, silence=live.speech.look_ahead(block))
        return [request]

    def _admit(self, asked: float, *, idle: bool) -> StreamBlocksRequest:
        """The next block as a message; from now on it counts as admitted."""
        session, index = self._session, self._session.admitted
        span = self._telemetry.begin_block(session.key, index)
        block = StreamBlocksRequest.Block(key=session.key, index=index, traceparent=traceparent(span), idle=idle)
        block.budget.FromSeconds(session.limits.block_deadline_s)
        now = time.monotonic()
        session.in_flight[index] = InFlight(span=span, admitted_at=now, waited_s=now - asked, idle=idle)
        session.admitted += 1
        return StreamBlocksRequest(block=block)

    async def _send_all(self, requests: list[StreamBlocksRequest]) -> None:
        session = self._session
        for request in requests:
            await session.pipeline.send(request, lambda: session.failure is None)

    async def _send_sink(self, data: bytes) -> None:
        session = self._session
        body = ConditioningBody(sink=parsed_sink(data))
        switch = session.preset.stream.sink_switch_block
        for part in conditioning_parts(session.key, max(switch, session.admitted), body.SerializeToString()):
            await session.pipeline.send(part)
        session.new_sink, session.switched = None, True

    async def _send_update(self) -> None:
        """Sends a new prompt, which holds from the next block on; it takes turns with all sessions' blocks."""
        session = self._session
        due_ns = NO_HURRY_NS if session.live is None else time.monotonic_ns()
        async with session.pipeline.turn(due_ns):
            block = session.admitted
            update = session.prompts.take(block)
            if update is None:
                return
            body = ConditioningBody(prompt=update.prompt)
            for part in conditioning_parts(session.key, block, body.SerializeToString()):
                await session.pipeline.send(part, lambda: session.failure is None)
            session.prompts.apply(update, block)
        session.changes.notify()
        # Whether another may follow without a block in between is a question of time.
        asyncio.get_running_loop().call_later(IDLE_PERIOD_S, session.changes.notify)


async def condition(session: Session, image: bytes, timeout_s: float) -> None:
    """Encodes the portrait and sends it down with the prompt; warns of one the weights do not know.

    Raises:
        ServiceError: the portrait cannot be used, or the pipeline failed.
    """
    size = messages.generated_size(session.config.video)
    request = messages.portrait_request(image, session.config, size)
    encoded = await session.pipeline.encode_portrait(request, timeout_s)
    sink = parsed_sink(encoded.sink)
    if encoded.novelty is not None and not encoded.novelty.is_familiar:
        session.notices.add(messages.unlike_training(encoded.novelty))
    body = ConditioningBody(sink=sink, prompt=session.prompts.compose())
    for part in conditioning_parts(session.key, 0, body.SerializeToString()):
        await session.pipeline.send(part)
    session.conditioned = True
    session.changes.notify()


def parsed_sink(data: bytes) -> Sink:
    """A decoder's sink; raises ServiceError INTERNAL where it is none."""
    try:
        return Sink.FromString(data)
    except DecodeError as error:
        raise ServiceError(grpc.StatusCode.INTERNAL, "INTERNAL", "the decoder's sink is no sink") from error
