"""What a stream has to write: credits and receipts first, then everything else in order.

Numbers the samples of each utterance, and takes speech back that was interrupted before it was written.  Knows
messages; nothing of calls.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from live_avatar.v1 import avatar_service_pb2 as api

Request = api.StreamAvatarRequest

OUTBOX_SIZE = 16
MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Of messages that the server may have to get again; more than a recording of the longest kind."""
CREDITS_AT_ONCE = 16
"""Granted together: a message for each unit would be a tenth of a gateway's work."""


class OutboxClosedError(Exception):
    """Nothing is written any more."""


@dataclass(eq=False)
class Utterance:
    """One utterance, from its first piece on."""

    name: str
    samples: int = 0
    """That were taken for writing."""
    first_sequence: int | None = None
    """Of the message with its first piece; None: not written yet."""
    over: bool = False
    """It was interrupted: nothing of it is sent any more."""


@dataclass(frozen=True, eq=False)
class _Entry:
    request: Request
    utterance: Utterance | None = None
    """That it belongs to."""


class Outbox:
    """See the module; several tasks may put, one writes."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()
        self._changed = asyncio.Condition()
        self._speaking = asyncio.Lock()
        self._running: Utterance | None = None
        self._interruptions = 0
        """That took speech back or ended the running utterance."""
        self._owed_credits = 0
        self._receipt: Request | None = None
        """Newest that is not written; one stands for all before it."""
        self._sequence = 0
        self._closed = False
        self._kept: deque[Request] = deque()
        """Written messages that the server may not have taken, oldest first."""
        self._kept_bytes = 0
        self._gap_ends_at = 0
        """Sequence of the newest message that was not kept for want of room."""
        self._forgotten = 0
        """Sequence up to which the server needs nothing again."""
        self._again: deque[Request] = deque()
        """Those of them that are written again, before anything else."""
        self._keeps = False

    async def put(self, request: Request) -> None:
        """Adds a message, once there is room; raises OutboxClosedError."""
        await self._put(lambda: _Entry(request))

    async def speak(self, chunk: bytes, piece_bytes: int, sample_bytes: int, name: str) -> None:
        """Adds speech in pieces, each once there is room; what is interrupted meanwhile is left out.

        Args:
            chunk: whole samples.
            piece_bytes: longest piece.
            sample_bytes: size of a sample.
            name: of the utterance; another than the running one's ends that.  Empty: the running one.

        Raises:
            OutboxClosedError: see the class.
        """
        interruptions = self._interruptions
        async with self._speaking:
            if interruptions != self._interruptions:
                return
            if self._running is not None and name not in ("", self._running.name):
                await self._end(self._running)
            if self._running is None:
                self._running = Utterance(name)
            utterance = self._running
            for start in range(0, len(chunk), piece_bytes):
                await self._put_piece(utterance, chunk[start : start + piece_bytes], sample_bytes, name)

    async def end_utterance(self) -> None:
        """Says that the running utterance is complete; raises OutboxClosedError."""
        interruptions = self._interruptions
        async with self._speaking:
            if interruptions != self._interruptions:
                return
            if self._running is None:
                await self.put(Request(end_of_utterance=Request.EndOfUtterance()))
            else:
                await self._end(self._running)

    async def finish(self) -> None:
        """Says that nothing follows, after the speech that waits for room; raises OutboxClosedError."""
        async with self._speaking:
            await self.put(Request(finish=Request.Finish()))

    async def interrupt(self, request: Request) -> None:
        """Takes back all speech that was not written, that which waits for room too, and adds ``request``.

        Raises:
            OutboxClosedError: see the class.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._others < OUTBOX_SIZE)
            if self._closed:
                raise OutboxClosedError
            self._interruptions += 1
            self._drop_speech(lambda utterance: True)
            self._entries.append(_Entry(request))

    async def note_interruption(self, consumed: int) -> None:
        """The server was interrupted when it had taken the message with sequence ``consumed``.

        What began after that is spoken; what began before is over.
        """
        async with self._changed:
            self._drop_speech(lambda one: one.first_sequence is not None and one.first_sequence <= consumed)

    async def grant(self) -> None:
        """The server may send one more unit of video."""
        async with self._changed:
            self._owed_credits += 1
            if self._owed_credits >= CREDITS_AT_ONCE:
                self._changed.notify_all()

    async def acknowledge(self, next_block: int) -> None:
        """The client has received everything before ``next_block``; never waits for room, so that reading goes on."""
        async with self._changed:
            self._receipt = Request(received=Request.Received(next_block_index=next_block))
            self._changed.notify_all()

    def keep(self) -> None:
        """Keeps what is written from now on until ``forget``."""
        self._keeps = True

    @property
    def is_whole(self) -> bool:
        """Everything that the server has not taken can be written again."""
        return self._kept_bytes <= MAX_KEPT_BYTES and self._gap_ends_at <= self._forgotten

    def forget(self, consumed: int) -> None:
        """The server needs no message up to sequence ``consumed`` again."""
        self._forgotten = max(self._forgotten, consumed)
        while self._kept and self._kept[0].client_sequence <= consumed:
            self._kept_bytes -= self._kept.popleft().ByteSize()

    async def rewind(self, consumed: int) -> None:
        """Everything after sequence ``consumed`` is written again; credits are those of a new stream."""
        self.forget(consumed)
        async with self._changed:
            self._again = deque(map(_without_effect_on_time, self._kept))
            self._owed_credits = 0
            self._changed.notify_all()

    async def next(self) -> Request:
        """The next message to write.  Credits and receipts before speech: that may have to wait for the video that
        they let through."""
        async with self._changed:
            await self._changed.wait_for(self._has_next)
            if self._again:
                return self._again.popleft()
            self._sequence += 1
            if self._owed_credits >= CREDITS_AT_ONCE:
                request = Request(credit=Request.Credit(video_units=self._owed_credits))
                self._owed_credits = 0
            elif self._receipt is not None:
                request, self._receipt = self._receipt, None
            else:
                request = self._take()
            self._changed.notify_all()
        request.client_sequence = self._sequence
        if self._keeps:
            self._keep(request)
        return request

    def _keep(self, request: Request) -> None:
        if self._kept_bytes > MAX_KEPT_BYTES:
            self._gap_ends_at = request.client_sequence
            return
        self._kept.append(request)
        self._kept_bytes += request.ByteSize()

    def _has_next(self) -> bool:
        return bool(self._again or self._entries or self._receipt) or self._owed_credits >= CREDITS_AT_ONCE

    async def close(self) -> None:
        """Whoever waits for room, and whoever puts later, gets OutboxClosedError."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    @property
    def _others(self) -> int:
        """Messages that are no speech."""
        return sum(one.utterance is None for one in self._entries)

    def _take(self) -> Request:
        entry = self._entries.popleft()
        utterance = entry.utterance
        if utterance is not None and utterance.first_sequence is None:
            utterance.first_sequence = self._sequence
        return entry.request

    async def _put_piece(self, utterance: Utterance, data: bytes, sample_bytes: int, name: str) -> None:
        def numbered() -> _Entry | None:
            if utterance.over:
                return None
            piece = Request.AudioChunk(data=data, sample_offset=utterance.samples, utterance_id=name)
            utterance.samples += len(data) // sample_bytes
            return _Entry(Request(audio_chunk=piece), utterance)

        await self._put(numbered)

    async def _end(self, utterance: Utterance) -> None:
        def ending() -> _Entry | None:
            if utterance.over:
                return None
            self._running = None
            return _Entry(Request(end_of_utterance=Request.EndOfUtterance()), utterance)

        await self._put(ending)

    async def _put(self, make: Callable[[], _Entry | None]) -> None:
        """Adds what ``make`` gives, which is asked once there is room."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or len(self._entries) < OUTBOX_SIZE)
            if self._closed:
                raise OutboxClosedError
            entry = make()
            if entry is not None:
                self._entries.append(entry)
                self._changed.notify_all()

    def _drop_speech(self, concerns: Callable[[Utterance], bool]) -> None:
        """Takes back what was not written of the utterances that an interruption ``concerns``."""
        for entry in [one for one in self._entries if one.utterance is not None and concerns(one.utterance)]:
            self._entries.remove(entry)
        if self._running is not None and concerns(self._running):
            self._interruptions += 1
            self._running.over = True
            self._running = None
        self._changed.notify_all()


def _without_effect_on_time(request: Request) -> Request:
    """``request`` as it is written again: credits and positions of a player belong to the stream before."""
    if request.WhichOneof("payload") in ("credit", "playback_report"):
        return Request(client_sequence=request.client_sequence, credit=Request.Credit())
    return request
