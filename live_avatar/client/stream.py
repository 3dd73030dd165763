"""One media stream: speech goes up, results come down.

A single task writes, so that speech waits for a slow server without keeping the reader from granting credits.  Knows
order, credits and deadlines; nothing of files or players.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self

import grpc

from live_avatar.client.errors import AvatarError, from_rpc_error
from live_avatar.client.options import SAMPLE_BYTES, SessionOptions
from live_avatar.client.outbox import MAX_KEPT_BYTES, Outbox, OutboxClosedError
from live_avatar.client.results import Event, Result, StreamLost, StreamResumed, from_response
from live_avatar.client.resumption import (
    RESUME_S,
    Position,
    hinted_pause_s,
    is_resumable,
    is_worth_another_attempt,
    pauses,
)
from live_avatar.v1 import avatar_service_pb2 as api

Call = grpc.aio.StreamStreamCall[api.StreamAvatarRequest, api.StreamAvatarResponse]

OPEN_TIMEOUT_S = 30.0
END_TIMEOUT_S = 5.0
ATTEMPT_S = 5.0
"""Longest wait for the answer to one attempt to resume."""
SILENCE_S = 300.0
"""Longest wait for the next result; a server that works says something far earlier."""
VIDEO_CREDITS = 256
"""Units that the server may send ahead of those that were taken.  gRPC's own window holds most of them back at the
server; the number must exceed what fits between the two in one round trip."""
RECEIPT_BLOCKS = 4
"""After the first of every so many blocks the server receives a receipt: until then it keeps what it has sent."""
INTERRUPTED = "UTTERANCE_INTERRUPTED"
CHUNK_S = 1
"""Longest piece of speech in one message."""


class AvatarStream:
    """An open stream; iterate over it for results.  ``Session.stream`` makes it, opens it and closes it.

    Args:
        connect: begins a call.
        options: of the session.
        resume: a stream that breaks is resumed, while it is iterated over.
        resume_s: for how long that is tried.
    """

    def __init__(
        self, connect: Callable[[], Call], options: SessionOptions, *, resume: bool = True, resume_s: float = RESUME_S
    ) -> None:
        self._connect = connect
        self._call = connect()
        self._sample_bytes = SAMPLE_BYTES[options.sample_format]
        self._chunk_bytes = CHUNK_S * options.sample_rate_hz * self._sample_bytes
        self._outbox = Outbox()
        self._resume = resume
        self._resume_s = resume_s
        self._token = ""
        self._position = Position()
        self._lost: tuple[AvatarError, float] | None = None
        """Why the stream broke, and when; None while it is open."""
        self._finished = False
        self._complete = False
        """Everything was received; how the call ends does not matter."""
        self._writer: asyncio.Task[None] | None = None
        self.width = 0
        self.height = 0
        self.frames_per_second = 0

    async def open(self, session_token: str) -> None:
        """Opens the stream and learns the video's format; raises AvatarError."""
        self._token = session_token
        if self._resume:
            self._outbox.keep()
        await self._outbox.put(api.StreamAvatarRequest(open=self._opening()))
        # Not a task group: its errors would reach the caller's code wrapped in an exception group.
        self._writer = asyncio.create_task(self._write_all())
        opened = await self._read_opened(OPEN_TIMEOUT_S)
        self._position.note_handle(opened.resume_handle)
        video = opened.negotiated_video
        self.width, self.height, self.frames_per_second = video.width, video.height, video.frames_per_second

    def _opening(self) -> api.StreamAvatarRequest.Open:
        return api.StreamAvatarRequest.Open(
            session_token=self._token,
            resume_handle=self._position.handle,
            initial_video_credits=VIDEO_CREDITS,
            resumable=self._resume,
        )

    async def _read_opened(self, timeout_s: float) -> api.StreamAvatarResponse.Opened:
        response = await self._read(timeout_s)
        if response is None or response.WhichOneof("payload") != "opened":
            raise AvatarError(grpc.StatusCode.INTERNAL, "PROTOCOL", "the server did not begin with Opened")
        return response.opened

    @property
    def outlives_call(self) -> bool:
        """The session waits for another stream once the call is over."""
        return bool(self._position.handle) and not self._complete

    async def close(self) -> None:
        """Ends the call, whatever is on its way.  Idempotent."""
        await self._end_call()
        await self._outbox.close()

    async def _end_call(self) -> None:
        self._call.cancel()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait({self._writer})

    async def send_audio(self, chunk: bytes, utterance_id: str = "") -> None:
        """Sends speech of any length; waits while the server has enough.

        Returns early where an interruption, by whomever, ends the utterance meanwhile.

        Args:
            chunk: whole samples.
            utterance_id: name of the utterance in events; another one's ends the running utterance.  Empty: that of
                the running one, or none.

        Raises:
            AvatarError: the stream has ended.
        """
        async with self._sending():
            self._check_unfinished()
            await self._outbox.speak(chunk, self._chunk_bytes, self._sample_bytes, utterance_id)

    async def end_utterance(self) -> None:
        """Says that a pause follows: what was said is finished without waiting for more."""
        async with self._sending():
            self._check_unfinished()
            await self._outbox.end_utterance()

    async def interrupt(self, *, request_id: str = "") -> None:
        """Barge-in: speech that has not entered the pipeline is dropped; what is sent next is a new utterance.

        Args:
            request_id: that of a ``Session.interrupt`` which asks for the same; empty: an interruption of its own.
        """
        message = api.StreamAvatarRequest.Interrupt(request_id=request_id)
        async with self._sending():
            await self._outbox.interrupt(api.StreamAvatarRequest(interrupt=message))

    async def change_prompt(self, prompt: str) -> None:
        """Asks for another prompt from the next block on."""
        update = api.StreamAvatarRequest.Update(config=api.SessionConfig(prompt=prompt))
        update.update_mask.paths.append("prompt")
        async with self._sending():
            await self._outbox.put(api.StreamAvatarRequest(update=update))

    async def report_playback(self, played_through_ns: int) -> None:
        """Tells how much of the session's media has been shown."""
        report = api.StreamAvatarRequest.PlaybackReport()
        report.played_through_time.FromNanoseconds(played_through_ns)
        async with self._sending():
            await self._outbox.put(api.StreamAvatarRequest(playback_report=report))

    async def end(self) -> None:
        """Says that no speech follows; the stream ends after the last result.  Idempotent."""
        async with self._sending():
            if not self._finished:
                self._finished = True
                await self._outbox.finish()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        """The next result; raises AvatarError where the session failed."""
        if self._lost is not None:
            return await self._reopen(*self._lost)
        try:
            while (response := await self._read(SILENCE_S)) is not None:
                result = await self._take(response)
                if result is not None:
                    return result
        except AvatarError as error:
            if not self._complete:
                return await self._lose(error)
        await self._outbox.close()
        raise StopAsyncIteration

    async def _lose(self, error: AvatarError) -> StreamLost:
        """Notes that the stream broke; raises AvatarError where it cannot be resumed."""
        if self._position.handle and is_resumable(error):
            if self._outbox.is_whole:
                self._lost = error, time.monotonic()
                return StreamLost(cause=error)
            error = _not_resumed(error, f"the server had not taken {MAX_KEPT_BYTES >> 20} MiB of what was sent", error)
        await self._outbox.close()
        raise error

    async def _take(self, response: api.StreamAvatarResponse) -> Result | None:
        """The result that a response is; None where it is none, or one that came before."""
        kind = response.WhichOneof("payload")
        if kind == "resumption_update":
            await self._note_handle(response.resumption_update)
            return None
        if kind == "video_unit":
            await self._outbox.grant()
        if not self._position.is_new(response):
            return None
        result = from_response(response)
        if isinstance(result, Event) and result.kind == INTERRUPTED:
            await self._outbox.note_interruption(response.event.last_consumed_client_sequence)
        return result

    async def _note_handle(self, update: api.StreamAvatarResponse.ResumptionUpdate) -> None:
        self._outbox.forget(update.last_consumed_client_sequence)
        self._complete = not update.resumable
        if update.resumable:
            self._position.note_handle(update.resume_handle, update.next_block_index)
        if self._complete or update.next_block_index % RECEIPT_BLOCKS == 1:
            await self._outbox.acknowledge(update.next_block_index)

    async def _reopen(self, cause: AvatarError, lost_at: float) -> StreamResumed:
        """Opens a stream in place of the one that broke; raises AvatarError where that is of no use."""
        await self._end_call()
        last, hint_s = cause, 0.0
        for attempt, pause_s in enumerate(pauses(self._resume_s), 1):
            await asyncio.sleep(max(pause_s, hint_s))
            try:
                await self._attempt()
            except AvatarError as error:
                last, hint_s = error, hinted_pause_s(error)
                await self._end_call()
                if not is_worth_another_attempt(error):
                    break
            else:
                self._lost = None
                return StreamResumed(after_s=time.monotonic() - lost_at, attempts=attempt)
        await self._outbox.close()
        raise _not_resumed(cause, last.message, last) from last

    async def _attempt(self) -> None:
        self._position.rewind()
        self._call = self._connect()
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the answer says why
            await self._call.write(api.StreamAvatarRequest(open=self._opening()))
        opened = await self._read_opened(ATTEMPT_S)
        self._position.handle = opened.resume_handle
        await self._outbox.rewind(opened.last_consumed_client_sequence)
        self._writer = asyncio.create_task(self._write_all())

    async def _read(self, timeout_s: float) -> api.StreamAvatarResponse | None:
        """The next response; None after the last."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._call.read()
        except TimeoutError:
            message = f"the server said nothing for {timeout_s:.0f} s"
            raise AvatarError(grpc.StatusCode.DEADLINE_EXCEEDED, "SERVER_SILENT", message) from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return response if isinstance(response, api.StreamAvatarResponse) else None

    @asynccontextmanager
    async def _sending(self) -> AsyncIterator[None]:
        """Says why nothing can be sent, where that is so."""
        try:
            yield
        except OutboxClosedError:
            raise await self._reason() from None

    def _check_unfinished(self) -> None:
        if self._finished:
            raise _ended("no speech follows the end of it")

    async def _reason(self) -> AvatarError:
        """Why nothing can be sent any more."""
        async with asyncio.timeout(END_TIMEOUT_S):
            code, details = await self._call.code(), await self._call.details()
            initial, trailing = await self._call.initial_metadata(), await self._call.trailing_metadata()
        if code is grpc.StatusCode.OK:
            return _ended("the stream has ended")
        return from_rpc_error(grpc.aio.AioRpcError(code, initial, trailing, details))

    async def _write_all(self) -> None:
        """Writes until the call ends; the reader learns why it did, and who sends next where it is not resumed."""
        try:
            while True:
                await self._call.write(await self._outbox.next())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            if self._position.handle:
                # Whoever reads resumes it and ends this task; where the results are not read, sending ends in time too.
                await asyncio.sleep(self._resume_s)
            await self._outbox.close()


def _ended(message: str) -> AvatarError:
    return AvatarError(grpc.StatusCode.FAILED_PRECONDITION, "STREAM_ENDED", message)


def _not_resumed(cause: AvatarError, why: str, last: AvatarError) -> AvatarError:
    """The stream broke for ``cause`` and could not be resumed, as ``last`` says."""
    message = f"the stream broke ({cause.message}) and could not be resumed: {why}"
    return AvatarError(last.code, last.reason, message, last.metadata, last.retry_after_s, last.quota)
