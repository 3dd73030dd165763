"""One client's stream: its messages in, its video out, its blocks through the pipeline.

Tasks share a session: one reads the client, one feeds the pipeline, one delivers, one writes events.  The first that
fails ends the stream.  Knows the order of the protocol; the rules are those of the session and its delivery.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing

from live_avatar.services.gateway.access.audit import audited_call
from live_avatar.services.gateway.api import messages
from live_avatar.services.gateway.api.message_rate import MessageRate
from live_avatar.services.gateway.api.validation import check_chunk, check_message, check_update
from live_avatar.services.gateway.pipelines.pipeline import SERVICE
from live_avatar.services.gateway.refusals import (
    INVALID,
    MESSAGE_OUT_OF_ORDER,
    PRECONDITION,
    not_yet_served,
    slow_consumer,
)
from live_avatar.services.gateway.sessions.block_scheduler import BlockScheduler
from live_avatar.services.gateway.sessions.delivery import DeliveryCut
from live_avatar.services.gateway.sessions.ledger import ArrivedBlock
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.video.muxer import EncodedFrames, Fragment, Muxer, muxer_for
from live_avatar.services.gateway.waiting import ungrouped
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api


async def first_open(requests: AsyncIterator[api.StreamAvatarRequest]) -> api.StreamAvatarRequest:
    """The first message of a stream.

    Raises:
        ServiceError: it is no Open, or one that wants to resume.
    """
    message = await anext(requests, None)
    kind = message.WhichOneof("payload") if message is not None else None
    if message is None or kind != "open":
        raise out_of_order(f"a stream begins with open, not {kind or 'nothing'}")
    if message.open.resume_handle:
        raise not_yet_served("open.resume_handle")
    return message


def out_of_order(message: str) -> ServiceError:
    """The answer to a message at the wrong place."""
    return ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, message, field="payload")


class Stream:
    """The stream of one session, from after its Open to the last unit of video."""

    def __init__(
        self,
        session: Session,
        requests: AsyncIterator[api.StreamAvatarRequest],
        write: Callable[[api.StreamAvatarResponse], Awaitable[None]],
        telemetry: Telemetry,
    ) -> None:
        self._session = session
        self._delivery = session.delivery
        self._requests = requests
        self._write = write
        self._telemetry = telemetry
        self._client_sequence = 0
        self._server_sequence = 0
        self._scheduler = BlockScheduler(session, telemetry)
        self._writing = asyncio.Lock()
        self._emitting = asyncio.Lock()
        video = session.config.video
        self._rate_hz = session.config.audio.sample_rate_hz
        self._muxer: Muxer = muxer_for(video.encoding, session.preset, (video.width, video.height), self._rate_hz)

    async def run(self, opening: api.StreamAvatarRequest) -> None:
        """Serves the client until it has all video of a finished session.

        Raises:
            ServiceError: whatever ended the stream before.
        """
        session = self._session
        self._client_sequence = opening.client_sequence
        self._check_next(opening.open.next_client_sequence)
        session.credits.grant(opening.open.initial_video_credits)
        await self._respond(messages.opened(session.record, session.config, self._client_sequence))
        with closing(self._delivery):
            await self._run_all()

    async def _run_all(self) -> None:
        async with ungrouped(), asyncio.TaskGroup() as tasks:
            helpers = [tasks.create_task(self._read_all()), tasks.create_task(self._scheduler.run())]
            helpers.append(tasks.create_task(self._emit_all()))
            helpers.append(tasks.create_task(self._delivery.watch()))
            await self._deliver_all()
            for helper in helpers:
                helper.cancel()

    def _check_next(self, promised: int) -> None:
        if promised not in (0, self._client_sequence + 1):
            raise out_of_order(f"open has sequence {self._client_sequence} but promises {promised} next")

    async def _read_all(self) -> None:
        """Takes the client's messages; the end of them is the end of the speech."""
        session, limits = self._session, self._session.limits
        rate = MessageRate(limits.max_messages_per_second, limits.message_burst)
        while True:
            await session.wait_for(lambda: self._delivery.may_read(session.credits.available))
            await rate.take()
            request = await anext(self._requests, None)
            if request is None:
                self._delivery.finish()
                session.changed.notify()
                return
            self._consume(request)

    def _consume(self, request: api.StreamAvatarRequest) -> None:
        """Takes one message after the last."""
        due = self._client_sequence + 1
        if request.client_sequence != due:
            message = f"client_sequence is {request.client_sequence} where {due} was due"
            raise ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, message, field="client_sequence")
        self._client_sequence = due
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
                await self._respond(messages.notice(self._session.events.take()))

    async def _deliver_all(self) -> None:
        session, ledger = self._session, self._session.ledger
        while True:
            await session.wait_for(lambda: ledger.next_arrived is not None or session.all_delivered)
            arrived = ledger.next_arrived
            if arrived is None:
                break
            await self._deliver_in_time(arrived)
            self._delivery.delivered(arrived)
            ledger.deliver()
            session.touch("video")
        tail = self._muxer.finish()
        if tail:
            frames = self._delivery.frames_shown
            fragment = Fragment(data=tail, first_frame=frames, frame_count=0, keyframe=False)
            await self._respond(messages.video_unit(fragment, ledger.delivered, session.preset, idle=False, timings=()))
        session.events.block_ended(ledger.delivered, self._delivery.end_sample)
        await self._emit_now()

    async def _deliver_in_time(self, arrived: ArrivedBlock) -> None:
        """``_deliver``, for which a live client has a certain time from the arrival of the frames on."""
        take_s = self._delivery.bounds.take_s
        if take_s is None:
            await self._deliver(arrived)
            return
        try:
            async with asyncio.timeout(arrived.at + take_s - time.monotonic()):
                await self._deliver(arrived)
        except TimeoutError:
            raise slow_consumer(f"a live block waited for {take_s} s") from None

    async def _deliver(self, arrived: ArrivedBlock) -> None:
        session, block = self._session, arrived.index
        began = time.monotonic()
        cut = self._delivery.cut(arrived)
        frames = EncodedFrames(block=block, first_frame=arrived.first_frame, frames=cut.frames)
        fragments = list(self._muxer.mux(frames, cut.speech))
        timings = (*arrived.timings, _timing(arrived, began))
        session.events.block_begins(block, cut.end_sample)
        await self._emit_now()
        for fragment in fragments:
            unit = messages.video_unit(fragment, block, session.preset, idle=arrived.idle, timings=timings)
            await self._send_unit(unit)
            self._note_first_frame(block)
        if cut.speech.size and not self._muxer.carries_audio:
            await self._send_speech(cut)
        session.events.block_ended(block, cut.end_sample)
        await self._emit_now()

    async def _send_speech(self, cut: DeliveryCut) -> None:
        data = self._delivery.encode(cut.speech)
        await self._respond(
            messages.audio_unit(data, cut.first_sample, cut.speech.size, self._rate_hz, cut.utterance_id)
        )

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
        await self._respond(response)

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
