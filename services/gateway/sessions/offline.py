"""Offline delivery: speech enters the pipeline as fast as it is taken, and ends with its last block.

See ``Delivery``.  The audio encoder gets either all speech before the first block, or that of each block as it comes.
"""

import time
from collections import deque

import grpc

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.services.gateway.audio.speech import Samples, Speech
from live_avatar.services.gateway.pipelines.deadline_queue import NO_HURRY_NS
from live_avatar.services.gateway.refusals import INVALID, MESSAGE_OUT_OF_ORDER, PRECONDITION
from live_avatar.services.gateway.sessions.delivery import (
    Admission,
    AudioPiece,
    DeliveryBounds,
    DeliveryContext,
    DeliveryCut,
)
from live_avatar.services.gateway.sessions.events import Interruption
from live_avatar.services.gateway.sessions.ledger import ArrivedBlock
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.parts import PART_BYTES
from live_avatar.v1 import avatar_service_pb2 as api

_PIECE_SAMPLES = PART_BYTES // 4
"""Samples of one audio message at most."""


class OfflineDelivery:
    """See ``Delivery``."""

    def __init__(self, context: DeliveryContext) -> None:
        self._speech = Speech(context.config.audio, context.preset)
        self._utterances = context.utterances
        self._ledger = context.ledger
        self._limits = context.limits
        self._preset = context.preset
        self._left_context = round(context.preset.stream.left_context_s * SAMPLE_RATE_HZ)
        self._lookahead = round(context.preset.stream.lookahead_s * SAMPLE_RATE_HZ)
        self._whole_file = context.config.listening == api.LISTENING_WHOLE_FILE
        self._sent_end = False
        self._keeps = context.limits.resume_seconds > 0
        self._taken: deque[AudioPiece] = deque()
        """What the encoder was sent and another one would need: all of a whole file, else what follows the left context
        of the next block to be delivered."""
        self.speech_at_s: float | None = None
        self.bounds = DeliveryBounds(
            spare_blocks=0,
            idle_timeout_s=context.limits.idle_timeout_seconds,
            quiet_messages=frozenset(),
            idles_in_flight=False,
            held_bytes=None,
            take_s=None,
            outlives_pipeline=True,
        )

    @property
    def has_next(self) -> bool:
        """The speech of the next block has come, with its look-ahead."""
        block = self._ledger.admitted
        if self._speech.finished:
            return block < self._speech.blocks_spoken
        return not self._whole_file and self._speech.audio_in.end >= self._block_end(block) + self._lookahead

    @property
    def finished(self) -> bool:
        """See ``Delivery``."""
        return self._speech.finished and self._ledger.admitted >= self._speech.blocks_spoken

    @property
    def end_sample(self) -> int:
        """See ``Delivery``."""
        return self._speech.audio_out.end

    @property
    def frames_shown(self) -> int:
        """See ``Delivery``."""
        return max(0, self._speech.frames_spoken - self._preset.stream.dropped_frames)

    def may_read(self, credits: int) -> bool:
        """Not while much speech waits, unless that waits for the client's messages."""
        most = self._limits.max_queued_audio_seconds * self._speech.rate_hz
        return self._whole_file or credits == 0 or self._held < most

    def opened(self) -> None:
        """See ``Delivery``; nothing depends on it."""

    def resumed(self) -> None:
        """Nothing: blocks wait for what they need."""

    @property
    def lacks_speech(self) -> bool:
        """Never, see ``has_next``."""
        return False

    def receive_audio(self, data: bytes, sample_offset: int, utterance_id: str, samples: int) -> None:
        """See ``Delivery``."""
        if self._speech.finished:
            raise ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, "speech came after its end", field="audio_chunk")
        self._check_room(samples)
        self._utterances.check(utterance_id)
        first = self._speech.audio_out.end
        self._speech.append(data, sample_offset)
        self._utterances.add(utterance_id, first, self._speech.end)
        self._note_speech()

    def end_utterance(self, utterance_id: str) -> None:
        """See ``Delivery``."""
        self._utterances.check(utterance_id)
        if self._whole_file:
            self.finish()
            return
        self._speech.end_utterance()
        self._utterances.end()
        self._note_speech()

    def finish(self) -> None:
        """See ``Delivery``."""
        if not self._speech.finished:
            self._speech.finish()
            self._utterances.end()
            self._note_speech()

    def interrupt(self, utterance_id: str, request_id: str, *, in_order: bool) -> Interruption:
        """Raises ServiceError FAILED_PRECONDITION."""
        raise ServiceError(PRECONDITION, "NOT_LIVE", "only live delivery can be interrupted")

    def report_playback(self, media_ns: int) -> None:
        """See ``Delivery``; nothing depends on it."""

    def next_admission_ns(self, now_ns: int) -> int | None:
        """At once: nobody waits for a block at a certain time."""
        return now_ns

    def slot_ns(self, due_ns: int) -> int:
        """After everything that has a due time."""
        return NO_HURRY_NS

    def has_audio_ahead(self, least: int) -> bool:
        """So much of a whole file waits: the encoder makes nothing before its end."""
        return self._whole_file and self._speech.audio_in.end - self._speech.audio_in.first >= least

    def audio_ahead(self) -> list[AudioPiece]:
        """All there is of a whole file."""
        return self._pieces(self._speech.audio_in.end) if self._whole_file else []

    def admit(self, now_ns: int) -> Admission:
        """The speech and look-ahead of the next block, or of a whole file all that is left."""
        # A streaming encoder holds little beyond the block it is at, so it gets no more than that needs.
        needed = self._block_end(self._ledger.admitted) + self._lookahead
        end = self._speech.audio_in.end if self._whole_file else min(self._speech.audio_in.end, needed)
        return Admission(pieces=tuple(self._pieces(end)), idle=False)

    def cut(self, arrived: ArrivedBlock) -> DeliveryCut:
        """See ``Delivery``; the last block has more frames than speech."""
        first = self._speech.audio_out.first
        return DeliveryCut(
            speech=self._speech.cut(arrived.index),
            first_sample=first,
            utterance_id=self._utterances.at(first),
            frames=self._frames_shown_of(arrived),
        )

    def encode(self, speech: Samples) -> bytes:
        """See ``Delivery``."""
        return self._speech.encode(speech)

    def delivered(self, arrived: ArrivedBlock) -> None:
        """See ``Delivery``."""
        before = self._needed_from(arrived.index + 1)
        while self._taken and self._taken[0].first + self._taken[0].samples.size <= before:
            self._taken.popleft()

    def move(self, depth: int) -> None:
        """See ``Delivery``; nothing is paced."""
        while self._taken:
            self._speech.audio_in.put_back(self._taken.pop().samples)
        self._speech.audio_in.take(self._needed_from(self._ledger.admitted))
        self._sent_end = False

    async def watch(self) -> None:
        """See ``Delivery``; nobody waits."""

    def close(self) -> None:
        """See ``Delivery``; nothing is held."""

    @property
    def _held(self) -> int:
        """Client's samples that wait for delivery."""
        return self._speech.audio_out.end - self._speech.audio_out.first

    def _block_end(self, block: int) -> int:
        """Position after the last sample of ``block``, at the model's rate."""
        return (block + 1) * self._preset.samples_per_block

    def _needed_from(self, block: int) -> int:
        """Position of the first sample that an encoder needs to go on with ``block``."""
        if self._whole_file:
            return 0
        return max(0, block * self._preset.samples_per_block - self._left_context)

    def _pieces(self, end: int) -> list[AudioPiece]:
        """The speech before position ``end``, in pieces of one message each."""
        speech, pieces = self._speech, list[AudioPiece]()
        audio_in = speech.audio_in
        while audio_in.first < end or (speech.finished and not self._sent_end and audio_in.first == audio_in.end):
            first = audio_in.first
            samples = audio_in.take(min(end, first + _PIECE_SAMPLES))
            self._sent_end = speech.finished and audio_in.first == audio_in.end
            pieces.append(AudioPiece(samples=samples, first=first, last=self._sent_end))
        if self._keeps:
            self._taken.extend(pieces)
        return pieces

    def _frames_shown_of(self, arrived: ArrivedBlock) -> tuple[bytes, ...]:
        speech = self._speech
        if not speech.finished or arrived.index + 1 < speech.blocks_spoken:
            return arrived.frames
        last = speech.frames_spoken - self._preset.stream.dropped_frames
        return arrived.frames[: max(0, last - arrived.first_frame)]

    def _note_speech(self) -> None:
        if self.speech_at_s is None and self.has_next:
            self.speech_at_s = time.monotonic()

    def _check_room(self, samples: int) -> None:
        rate_hz, limits = self._speech.rate_hz, self._limits
        if self._whole_file and self._speech.end + samples > limits.max_whole_file_seconds * rate_hz:
            message = f"a recording may last {limits.max_whole_file_seconds} s; longer speech can be streamed"
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "AUDIO_TOO_LONG", message)
        # What the client may have sent before it saw that nobody reads: as much again as waits.
        most_s = 2 * limits.max_queued_audio_seconds + limits.max_audio_chunk_seconds
        if not self._whole_file and self._held + samples > most_s * rate_hz:
            message = f"{self._held // rate_hz} s of speech wait; take video or grant credits first"
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "AUDIO_QUEUE_FULL", message)
