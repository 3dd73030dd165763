"""One client's stream: its messages in, its video out, its blocks through the pipeline.

Three tasks share a session: one reads the client, one feeds the pipeline, one delivers.  The first that fails ends
the stream.  Knows the order of the protocol; the rules are the session's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext

from live_avatar.pipeline.v1.blocks_pb2 import BlockTiming
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api
from services.gateway.api import messages
from services.gateway.api.message_rate import MessageRate
from services.gateway.api.validation import check_message
from services.gateway.limits import INVALID, MESSAGE_OUT_OF_ORDER, check_update, not_yet_served, slow_consumer
from services.gateway.pipelines.pipeline import SERVICE
from services.gateway.sessions.feeder import Feeder
from services.gateway.sessions.progress import Arrived
from services.gateway.sessions.punctuality import Punctuality
from services.gateway.sessions.session import PRECONDITION, Session
from services.gateway.video.muxer import Packer, Pictures, Unit, packer_for
from services.gateway.waiting import ungrouped


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
        self._requests = requests
        self._write = write
        self._telemetry = telemetry
        self._client_sequence = 0
        self._server_sequence = 0
        self._punctuality = None if session.live is None else Punctuality(session, session.live, telemetry)
        self._feeder = Feeder(session, telemetry, self._punctuality)
        self._writing = asyncio.Lock()
        self._telling = asyncio.Lock()
        video = session.config.video
        self._packer: Packer = packer_for(
            video.encoding, session.preset, (video.width, video.height), session.config.audio.sample_rate_hz
        )

    async def run(self, opening: api.StreamAvatarRequest) -> None:
        """Serves the client until it has all video of a finished session.

        Raises:
            ServiceError: whatever ended the stream before.
        """
        session = self._session
        self._client_sequence = opening.client_sequence
        self._check_next(opening.open.next_client_sequence)
        session.grant(opening.open.initial_video_credits)
        await self._respond(messages.opened(session.record, session.config, self._client_sequence))
        with self._punctuality or nullcontext():
            await self._run_all()

    async def _run_all(self) -> None:
        async with ungrouped(), asyncio.TaskGroup() as tasks:
            helpers = [tasks.create_task(self._read_all()), tasks.create_task(self._feeder.run())]
            helpers.append(tasks.create_task(self._tell_all()))
            if self._punctuality is not None:
                helpers.append(tasks.create_task(self._punctuality.watch()))
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
            await session.until(lambda: session.may_read)
            await rate.take()
            request = await anext(self._requests, None)
            if request is None:
                session.finish()
                return
            due = self._client_sequence + 1
            if request.client_sequence != due:
                message = f"client_sequence is {request.client_sequence} where {due} was due"
                raise ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, message, field="client_sequence")
            self._client_sequence = session.consumed = due
            check_message(request, limits)
            self._take(request)
            session.touch(request.WhichOneof("payload") or "")

    def _take(self, request: api.StreamAvatarRequest) -> None:
        session = self._session
        match request.WhichOneof("payload"):
            case "audio_chunk":
                session.hear(request.audio_chunk)
            case "end_of_utterance":
                session.end_utterance(request.end_of_utterance.utterance_id)
            case "credit":
                session.grant(request.credit.video_units)
            case "playback_report":
                session.report(request.playback_report)
            case "interrupt":
                session.interrupt(request.interrupt.utterance_id, request.interrupt.request_id, in_order=True)
            case "update":
                update = request.update
                session.update(check_update(update.config, update.update_mask.paths, session.limits))
            case "finish":
                session.finish()
            case "open":
                raise ServiceError(PRECONDITION, "DUPLICATE_OPEN", "the stream is open already", field="payload")
            case _:
                raise out_of_order("a message has a payload")

    async def _tell_all(self) -> None:
        """Writes what is to be told beside the video."""
        session = self._session
        while True:
            await session.until(lambda: bool(session.notices))
            await self._tell_now()

    async def _tell_now(self) -> None:
        """Writes what there is to tell, and returns when it is written, by whichever task that was begun."""
        async with self._telling:
            while self._session.notices:
                await self._respond(self._session.notices.take())

    async def _deliver_all(self) -> None:
        session = self._session
        while True:
            await session.until(lambda: session.delivered in session.arrived or session.all_delivered)
            if session.delivered not in session.arrived:
                break
            await self._deliver_in_time(session.arrived[session.delivered])
            arrived, now_ns = session.arrived.pop(session.delivered), time.monotonic_ns()
            if session.live is not None and self._punctuality is not None:
                self._punctuality.delivered(session.delivered, arrived, now_ns)
                session.live.deliver(session.delivered, now_ns)
            session.delivered += 1
            session.touch("video")
            session.changes.notify()
        tail = self._packer.finish()
        if tail:
            unit = Unit(data=tail, first_frame=self._shown_frames(), frame_count=0, keyframe=False)
            await self._respond(messages.video_unit(unit, session.delivered, session.preset, idle=False, timings=()))
        session.notices.block_ended(session.delivered, session.speech.played.end)
        await self._tell_now()

    def _shown_frames(self) -> int:
        """Frames of a session that has ended."""
        session = self._session
        blocks = session.delivered * session.preset.frames_per_block
        frames = session.speech.frames_spoken if session.live is None else blocks
        return max(0, frames - session.preset.stream.dropped_frames)

    async def _deliver_in_time(self, arrived: Arrived) -> None:
        """``_deliver``, for which a live client has a certain time from the arrival of the pictures on."""
        session = self._session
        if session.live is None:
            await self._deliver(arrived)
            return
        limit_s = session.limits.live_slow_consumer_s
        try:
            async with asyncio.timeout(arrived.at + limit_s - time.monotonic()):
                await self._deliver(arrived)
        except TimeoutError:
            raise slow_consumer(f"a live block waited for {limit_s} s") from None

    async def _deliver(self, arrived: Arrived) -> None:
        session, block = self._session, self._session.delivered
        began = time.monotonic()
        first_sample = session.speech.played.first
        speech = session.speech.cut(block)
        end = first_sample + speech.size
        name = session.utterances.at(first_sample)
        pictures = Pictures(block=block, first_frame=arrived.first_frame, frames=session.shown_frames(arrived))
        units = list(self._packer.pack(pictures, speech))
        timings = (*arrived.timings, _timing(arrived, began))
        session.notices.block_begins(block, end)
        await self._tell_now()
        for unit in units:
            await self._send_unit(messages.video_unit(unit, block, session.preset, idle=arrived.idle, timings=timings))
            self._note_first_picture(block)
        if speech.size and not self._packer.carries_audio:
            data = session.speech.encode(speech)
            await self._respond(messages.audio_unit(data, first_sample, speech.size, session.speech.rate_hz, name))
        session.notices.block_ended(block, end)
        await self._tell_now()

    def _note_first_picture(self, block: int) -> None:
        if self._session.heard_at is not None and block == 0:
            self._telemetry.first_frame(time.monotonic() - self._session.heard_at)

    async def _send_unit(self, response: api.StreamAvatarResponse) -> None:
        """Spends one of the client's credits, waiting for it."""
        session = self._session
        try:
            async with asyncio.timeout(session.limits.slow_consumer_s):
                await session.until(lambda: session.credits > 0)
        except TimeoutError:
            raise slow_consumer(f"finished video waited for {session.limits.slow_consumer_s} s") from None
        session.credits -= 1
        await self._respond(response)

    async def _respond(self, response: api.StreamAvatarResponse) -> None:
        limit_s = self._session.limits.slow_consumer_s
        try:
            async with asyncio.timeout(limit_s), self._writing:
                response.server_sequence = self._server_sequence
                self._server_sequence += 1
                await self._write(response)
        except TimeoutError:
            raise slow_consumer(f"finished video waited for {limit_s} s") from None


def _timing(arrived: Arrived, began: float) -> BlockTiming:
    """The gateway's own times: what a block waited for its turn and for the client, and its packing since ``began``."""
    timing = BlockTiming(service=SERVICE)
    timing.queue_time.FromNanoseconds(int((arrived.waited_s + began - arrived.at) * 1e9))
    timing.encode_time.FromNanoseconds(int((time.monotonic() - began) * 1e9))
    return timing
