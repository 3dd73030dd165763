"""How a session's speech becomes blocks and its blocks become video: what offline and live delivery have in common.

Offline, speech enters as fast as the pipeline takes it; live, a block enters when its viewer needs it.  Knows audio and
counts; nothing of gRPC, of the store or of the public API's responses.
"""

from dataclasses import dataclass
from typing import Protocol

from live_avatar.config import Preset
from live_avatar.services.gateway.audio.speech import Samples
from live_avatar.services.gateway.audio.utterances import Utterances
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.sessions.events import EventQueue, Interruption
from live_avatar.services.gateway.sessions.ledger import ArrivedBlock, BlockLedger
from live_avatar.services.gateway.sessions.policy import LiveRules
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api


@dataclass(frozen=True, kw_only=True)
class DeliveryContext:
    """What a delivery works with."""

    config: api.SessionConfig
    preset: Preset
    depth: int
    """Services of the pipeline."""
    limits: Limits
    rules: LiveRules
    utterances: Utterances
    ledger: BlockLedger
    events: EventQueue
    telemetry: Telemetry


@dataclass(frozen=True, kw_only=True)
class DeliveryBounds:
    """In what the two forms of delivery differ by a number or a word."""

    spare_blocks: int
    """Blocks that may be ahead of the client beyond one per service."""
    idle_timeout_s: int
    """How long nothing may happen while the client streams."""
    quiet_messages: frozenset[str]
    """Messages that a client sends by itself: they do not count as activity."""
    idles_in_flight: bool
    """A session may be idle although a block is in the pipeline."""
    held_bytes: int | None
    """Bytes of finished video that may wait for the client; None: any number."""
    take_s: float | None
    """How long a finished block may wait for the client; None: as long as any unit."""
    outlives_pipeline: bool
    """The session goes on with another pipeline where its own is lost."""


@dataclass(frozen=True, kw_only=True)
class AudioPiece:
    """Speech on its way to the audio encoder."""

    samples: Samples
    first: int
    """Position of the first sample, at the model's rate."""
    silence: int = 0
    """Zeros after them that later speech may replace."""
    last: bool = False
    """No speech follows."""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What the next block is admitted with."""

    pieces: tuple[AudioPiece, ...]
    idle: bool
    """It holds no sample of the client's."""


@dataclass(frozen=True, kw_only=True)
class DeliveryCut:
    """The part of a block that the client gets."""

    frames: tuple[bytes, ...]
    speech: Samples
    """At the client's rate."""
    first_sample: int
    utterance_id: str
    """Of the utterance at the first sample; empty in silence."""

    @property
    def end_sample(self) -> int:
        """Position after the last sample."""
        return self.first_sample + self.speech.size


class Delivery(Protocol):
    """One session's way from speech to blocks and from blocks to video; times are of the monotonic clock."""

    bounds: DeliveryBounds
    speech_at_s: float | None
    """When the speech of block 0 had come, in seconds; None before."""

    @property
    def has_next(self) -> bool:
        """The next block can be filled."""

    @property
    def finished(self) -> bool:
        """No block follows those that were admitted."""

    @property
    def end_sample(self) -> int:
        """Position after the last sample of the session, at the client's rate."""

    @property
    def frames_shown(self) -> int:
        """Frames of the session that were shown, once all blocks are delivered."""

    def may_read(self, credits: int) -> bool:
        """More of the client's messages are taken, while it has granted ``credits``."""

    def opened(self) -> None:
        """The client opened the stream."""

    def resumed(self) -> None:
        """The client opened a stream in place of the last one."""

    @property
    def lacks_speech(self) -> bool:
        """Silence would stand in the next block where the rest of a running utterance should."""

    def receive_audio(self, data: bytes, sample_offset: int, utterance_id: str, samples: int) -> None:
        """Takes a checked chunk of ``samples`` samples.

        Raises:
            ServiceError: INVALID_ARGUMENT where it comes out of order, RESOURCE_EXHAUSTED where it is too much.
        """

    def end_utterance(self, utterance_id: str) -> None:
        """The utterance is complete; of a whole file, it is the end of all speech."""

    def finish(self) -> None:
        """No speech follows.  Idempotent."""

    def interrupt(self, utterance_id: str, request_id: str, *, in_order: bool) -> Interruption:
        """Barge-in, see ``BargeIns.interrupt``; raises ServiceError FAILED_PRECONDITION where delivery is not live."""

    def report_playback(self, media_ns: int) -> None:
        """The client has played up to ``media_ns`` of the session."""

    def next_admission_ns(self, now_ns: int) -> int | None:
        """When the next block is to be admitted: now or earlier means at once; None: not before something changes."""

    def slot_ns(self, due_ns: int) -> int:
        """Due time in the pipeline's queue of something that this session wants to send at ``due_ns``."""

    def has_audio_ahead(self, least: int) -> bool:
        """So many samples wait that go down without a block of their own."""

    def audio_ahead(self) -> list[AudioPiece]:
        """Speech that goes down now, before the next block is admitted."""

    def admit(self, now_ns: int) -> Admission:
        """Fills the next block, which is admitted now; what it holds is settled."""

    def cut(self, arrived: ArrivedBlock) -> DeliveryCut:
        """Frames and speech of the next block for the client; earlier speech is gone."""

    def encode(self, speech: Samples) -> bytes:
        """Samples as the client sent them."""

    def delivered(self, arrived: ArrivedBlock) -> None:
        """The client has all of a block; before the ledger counts it."""

    def move(self, depth: int) -> None:
        """Another pipeline, of ``depth`` services, goes on with the next block, and has none of the speech."""

    async def watch(self) -> None:
        """Reports a viewer who waits; returns where nobody does, else runs until cancelled."""

    def close(self) -> None:
        """The stream is over.  Idempotent."""
