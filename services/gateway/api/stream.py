"""One client's stream: its messages in, its video out, its blocks through the pipeline.

Tasks share a session: one reads the client, one feeds the pipeline, one delivers, one writes events.  The first that
fails ends the stream.  Knows the order of the protocol; the rules are those of the session and its delivery.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from live_avatar.services.gateway.access.audit import audited_call
from live_avatar.services.gateway.access.handles import ResumeHandles
from live_avatar.services.gateway.api import messages
from live_avatar.services.gateway.api.message_rate import MessageRate
from live_avatar.services.gateway.api.validation import check_chunk, check_message, check_update
from live_avatar.services.gateway.pipelines.pipeline import SERVICE
from live_avatar.services.gateway.provenance.signing import signing
from live_avatar.services.gateway.refusals import (
    INVALID,
    MESSAGE_OUT_OF_ORDER,
    PRECONDITION,
    slow_consumer,
)
from live_avatar.services.gateway.sessions.delivery import DeliveryCut
from live_avatar.services.gateway.sessions.events import Event, EventKind
from live_avatar.services.gateway.sessions.ledger import ArrivedBlock
from live_avatar.services.gateway.sessions.point_source import PointSource
from live_avatar.services.gateway.sessions.point_writer import PointWriter
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.sessions.stream_state import RenderedBlock, replaced
from live_avatar.services.gateway.video.muxer import EncodedFrames, Fragment
from live_avatar.services.gateway.waiting import run_until, ungrouped
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api


async def first_open(requests: AsyncIterator[api.StreamAvatarRequest]) -> api.StreamAvatarRequest:
    """The first message of a stream.

    Raises:
        ServiceError: it is no Open.
    """
    message = await anext(requests, None)
    kind = message.WhichOneof("payload") if message is not None else None
    if message is None or kind != "open":
        raise out_of_order(f"a stream begins with open, not {kind or 'nothing'}")
    return message


def out_of_order(message: str) -> ServiceError:
    """The answer to a message at the wrong place."""
    return ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, message, field="payload")


class Stream:
    """A stream of one session, from after its Open to the last unit of video or to its loss."""

    def __init__(
        self,
        session: Session,
        requests: AsyncIterator[api.StreamAvatarRequest],
        write: Callable[[api.StreamAvatarResponse], Awaitable[None]],
        telemetry: Telemetry,
        handles: ResumeHandles | None = None,
        points: PointWriter | None = None,
    ) -> None:
        self._session = session
        self._delivery = session.delivery
        self._requests = requests
        self._write = write
        self._telemetry = telemetry
        self._handles = handles if session.attachment.is_resumable else None
        self._state = session.attachment.streams
        self._points = points
        name = session.record.session_id
        self._point = points.source(name) if points is not None and self._handles is not None else None
        self._all_sent = False
        self._log = self._state.log
        self._number = self._state.number
        self._server_sequence = 0
        self._writing = asyncio.Lock()
        self._emitting = asyncio.Lock()
        self._rate_hz = session.config.audio.sample_rate_hz

    async def run(self, opening: api.StreamAvatarRequest) -> None:
        """Serves the client until it has all video of a finished session.

        Raises:
            ServiceError: whatever ended the stream before.
        """
        session, state = self._session, self._state
        if self._number == 1:
            state.number_open(opening.client_sequence)
            self._check_next(opening.open.next_client_sequence)
        session.credits.grant(opening.open.initial_video_credits)
        await self._respond(messages.opened(session.record, session.config, state, self._handle()))
        if session.disclosure:
            await self._respond(messages.notice(Event(kind=EventKind.DISCLOSURE, text=session.disclosure)))
        error = await run_until(self._is_replaced, session.changed, self._run_all())
        if error is not None:
            raise error
        if self._is_replaced():
            raise replaced()

    def _is_replaced(self) -> bool:
        return self._session.attachment.is_replaced(self._number)

    def _handle(self, block: int | None = None) -> str:
        """With which the client can resume at ``block``, or at the next one; empty: not at all."""
        if self._handles is None:
            return ""
        handle = self._state.handle
        return self._handles.make(handle if block is None else replace(handle, block=block))

    async def _run_all(self) -> None:
        async with ungrouped(), asyncio.TaskGroup() as tasks:
            helpers = [tasks.create_task(self._read_all()), tasks.create_task(self._emit_all())]
            helpers.append(tasks.create_task(self._delivery.watch()))
            if self._point is not None:
                helpers.append(tasks.create_task(self._send_safe_handles(self._point)))
            await self._deliver_all()
            for helper in helpers:
                helper.cancel()

    def _check_next(self, promised: int) -> None:
        sequence = self._state.client_sequence
        if promised not in (0, sequence + 1):
            raise out_of_order(f"open has sequence {sequence} but promises {promised} next")

    async def _read_all(self) -> None:
        """Takes the client's messages; the end of them is the end of the speech, unless it may be a broken line."""
        session, limits = self._session, self._session.limits
        rate = MessageRate(limits.max_messages_per_second, limits.message_burst)
        while True:
            await session.wait_for(lambda: self._delivery.may_read(self._sendable))
            await rate.take()
            request = await anext(self._requests, None)
            if request is None:
                if not session.attachment.is_resumable:
                    self._delivery.finish()
                    session.changed.notify()
                return
            self._consume(request)

    @property
    def _sendable(self) -> int:
        """Units that may be sent before the client grants credits, or says what it has received."""
        return self._session.credits.available if self._state.may_send else 0

    def _consume(self, request: api.StreamAvatarRequest) -> None:
        """Takes one message after the last."""
        due = self._state.client_sequence + 1
        if request.client_sequence != due:
            message = f"client_sequence is {request.client_sequence} where {due} was due"
            raise ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, message, field="client_sequence")
        self._state.count(due)
        self._session.events.message_consumed(due)
        check_message(request, self._session.limits)
        self.receive(request)
        self._session.touch(request.WhichOneof("payload") or "")

    def receive(self, request: api.StreamAvatarRequest) -> None:
        """Does what a message of the client asks for.

        Raises:
            ServiceError: it breaks a limit, or comes at the wrong place.
        """
        session, delivery = self._session, self._delivery
        match request.WhichOneof("payload"):
            case "audio_chunk":
                chunk = request.audio_chunk
                samples = check_chunk(chunk, session.config.audio, session.limits)
                delivery.receive_audio(chunk.data, chunk.sample_offset, chunk.utterance_id, samples)
            case "end_of_utterance":
                delivery.end_utterance(request.end_of_utterance.utterance_id)
            case "credit":
                session.credits.grant(request.credit.video_units)
            case "playback_report":
                delivery.report_playback(request.playback_report.played_through_time.ToNanoseconds())
            case "interrupt":
                audited_call().received("interrupt")
                delivery.interrupt(request.interrupt.utterance_id, request.interrupt.request_id, in_order=True)
            case "update":
                audited_call().received("update")
                update = request.update
                session.update(check_update(update.config, update.update_mask.paths, session.limits))
            case "finish":
                delivery.finish()
            case "received":
                self._state.receive(request.received.next_block_index)
            case "open":
                raise ServiceError(PRECONDITION, "DUPLICATE_OPEN", "the stream is open already", field="payload")
            case _:
                raise out_of_order("a message has a payload")

    async def _emit_all(self) -> None:
        """Writes what the client learns beside the video."""
        session = self._session
        while True:
            await session.wait_for(lambda: bool(session.events))
            await self._emit_now()

    async def _emit_now(self) -> None:
        """Writes the events there are, and returns when they are written, by whichever task that was begun."""
        async with self._emitting:
            while self._session.events:
                message = messages.notice(self._session.events.take())
                self._log.note_sent(message)
                await self._respond(message)

    async def _deliver_all(self) -> None:
        session, ledger, attachment = self._session, self._session.ledger, self._session.attachment
        await self._send_all()
        while True:
            await session.wait_for(
                lambda: attachment.release is not None or ledger.next_arrived is not None or session.all_delivered
            )
            if attachment.release is not None:
                await self._emit_now()
                await attachment.leave()
                continue
            arrived = ledger.next_arrived
            if arrived is None:
                break
            end_sample = await self._deliver_in_time(arrived)
            self._delivery.delivered(arrived)
            ledger.deliver()
            self._end_block(arrived.index, end_sample)
            session.touch("video")
            await self._send_all()
            self._note_point()
        self._render_tail()
        await self._render_record()
        if not self._state.is_complete:
            self._end_block(ledger.delivered, self._delivery.end_sample)
            self._state.complete()
        await self._send_all()
        await self._emit_now()
        await self._wait_until_received()

    async def _wait_until_received(self) -> None:
        """Keeps the session for a client that may yet have to resume, until it has everything."""
        if self._handles is None:
            return
        self._all_sent = True
        await self._respond(messages.resumption_update(self._log.block, self._state.client_sequence, ""))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._session.limits.slow_consumer_seconds):
                await self._session.wait_for(lambda: self._state.received >= self._log.block)

    async def _deliver_in_time(self, arrived: ArrivedBlock) -> int:
        """``_deliver``, for which a live client has a certain time from the arrival of the frames on."""
        take_s = self._delivery.bounds.take_s
        if take_s is None:
            return await self._deliver(arrived)
        try:
            async with asyncio.timeout(max(arrived.at, self._session.attachment.since) + take_s - time.monotonic()):
                return await self._deliver(arrived)
        except TimeoutError:
            raise slow_consumer(f"a live block waited for {take_s} s") from None

    async def _deliver(self, arrived: ArrivedBlock) -> int:
        """Sends all messages of a block; returns the position after its last sample."""
        rendered = self._state.rendered
        if rendered is None or rendered.index != arrived.index:
            await self._session.wait_for(lambda: self._state.may_send)
            await self._prepare(arrived)
            rendered = self._render(arrived)
        await self._send_all()
        return rendered.end_sample

    async def _prepare(self, arrived: ArrivedBlock) -> None:
        """Has the header signed, which may take as long as a key service does."""
        if arrived.index == 0 and arrived.frames and self._state.signature is not None:
            await signing(partial(self._state.muxer.prepare, arrived.frames[0]))

    def _render(self, arrived: ArrivedBlock) -> RenderedBlock:
        """Adds the messages of a block to those that are to be sent, in one step: a stream may break at any wait."""
        session, block = self._session, arrived.index
        began = time.monotonic()
        cut = self._delivery.cut(arrived)
        frames = EncodedFrames(block=block, first_frame=arrived.first_frame, frames=cut.frames)
        fragments = list(self._state.muxer.mux(frames, cut.speech))
        timings = (*arrived.timings, _timing(arrived, began))
        session.events.block_begins(block, cut.end_sample)
        units = [messages.notice(session.events.take()) for _ in range(len(session.events))]
        units += [
            messages.video_unit(fragment, block, session.preset, idle=arrived.idle, timings=timings)
            for fragment in fragments
        ]
        if cut.speech.size and not self._state.muxer.carries_audio:
            units.append(self._audio_unit(cut))
        return self._state.render(block, cut.end_sample, units)

    def _audio_unit(self, cut: DeliveryCut) -> api.StreamAvatarResponse:
        data = self._delivery.encode(cut.speech)
        return messages.audio_unit(data, cut.first_sample, cut.speech.size, self._rate_hz, cut.utterance_id)

    def _render_tail(self) -> None:
        """Adds what is left of the speech to what is to be sent."""
        session, block = self._session, self._session.ledger.delivered
        if self._state.rendered is not None and self._state.rendered.index == block:
            return
        tail, units = self._state.muxer.finish(), []
        if tail:
            frames = self._delivery.frames_shown
            fragment = Fragment(data=tail, first_frame=frames, frame_count=0, keyframe=False)
            units.append(messages.video_unit(fragment, block, session.preset, idle=False, timings=()))
        self._state.render(block, self._delivery.end_sample, units)

    async def _render_record(self) -> None:
        """Adds the signed record of all that was rendered."""
        signature = self._state.signature
        if signature is None or signature.is_sent:
            return
        record = await signature.record()
        self._log.append(messages.notice(Event(kind=EventKind.SIGNED_RECORD, signed_record=record)))
        signature.note_sent()

    def _end_block(self, block: int, end_sample: int) -> None:
        """Adds the events after a block to what is to be sent, and its end, in one step as ``_render`` does."""
        events = self._session.events
        events.block_ended(block, end_sample)
        for _ in range(len(events)):
            self._log.append(messages.notice(events.take()))
        self._log.append_end()

    def _note_point(self) -> None:
        """Has stored what another gateway needs to go on at the next block; the client gets its handle then."""
        if self._point is not None and self._points is not None:
            self._points.note(self._session.record.session_id)

    async def _send_handle(self) -> None:
        """Lets the client go on at the next block, unless what another gateway needs for that is not stored yet."""
        block, sequence = self._log.block, self._state.client_sequence
        stored = self._point.sequence_of(block) if self._point is not None else sequence
        if self._handles is not None and stored is not None:
            await self._respond_handle(block, stored)

    async def _respond_handle(self, block: int, sequence: int) -> None:
        await self._respond(messages.resumption_update(block, sequence, self._handle(block)))

    async def _send_safe_handles(self, point: PointSource) -> None:
        """Lets the client go on wherever another gateway could, as soon as it could."""
        sent = self._log.block

        def is_newer() -> bool:
            return point.safe is not None and point.safe[0] > sent and not self._all_sent

        while True:
            await self._session.wait_for(is_newer)
            if point.safe is not None:
                sent, sequence = point.safe
                await self._respond_handle(sent, sequence)

    async def _send_all(self) -> None:
        """Writes what is to be sent, in order."""
        while self._log:
            message = self._log.next
            if message is None:
                self._log.pop()
                await self._send_handle()
            elif message.HasField("video_unit"):
                await self._send_unit(message)
            else:
                self._log.pop()
                await self._respond(message)

    def _note_first_frame(self, block: int) -> None:
        if block == 0 and self._delivery.speech_at_s is not None:
            self._telemetry.first_frame(time.monotonic() - self._delivery.speech_at_s)

    async def _send_unit(self, response: api.StreamAvatarResponse) -> None:
        """Spends one of the client's credits, waiting for it."""
        session = self._session
        try:
            async with asyncio.timeout(session.limits.slow_consumer_seconds):
                await session.wait_for(lambda: session.credits.available > 0)
        except TimeoutError:
            raise slow_consumer(f"finished video waited for {session.limits.slow_consumer_seconds} s") from None
        session.credits.spend()
        self._log.pop()
        await self._respond(response)
        self._note_first_frame(response.video_unit.block_index)

    async def _respond(self, response: api.StreamAvatarResponse) -> None:
        limit_s = self._session.limits.slow_consumer_seconds
        try:
            async with asyncio.timeout(limit_s), self._writing:
                with self._session.writing(response):
                    response.server_sequence = self._server_sequence
                    self._server_sequence += 1
                    await self._write(response)
        except TimeoutError:
            raise slow_consumer(f"finished video waited for {limit_s} s") from None


def _timing(arrived: ArrivedBlock, began: float) -> api.BlockTiming:
    """The gateway's own times: what a block waited for its slot and for the client, and its muxing since ``began``."""
    timing = api.BlockTiming(service=SERVICE)
    timing.queue_time.FromNanoseconds(int((arrived.waited_s + began - arrived.at) * 1e9))
    timing.encode_time.FromNanoseconds(int((time.monotonic() - began) * 1e9))
    return timing
