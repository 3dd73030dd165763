"""Live sessions and deliveries without a stream or a pipeline."""

import time
from types import SimpleNamespace
from typing import cast

from opentelemetry.trace import INVALID_SPAN

from live_avatar.config import TINY
from live_avatar.services.gateway.access.tokens import SessionTokens
from live_avatar.services.gateway.audio.utterances import Utterances
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.sessions.delivery import DeliveryContext
from live_avatar.services.gateway.sessions.events import EventQueue
from live_avatar.services.gateway.sessions.ledger import ArrivedBlock, BlockLedger
from live_avatar.services.gateway.sessions.live import LiveDelivery
from live_avatar.services.gateway.sessions.policy import LiveRules, SessionPolicy
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import AudioFormat, VideoFormat

RATE_HZ = 16_000
POLICY = SessionPolicy(
    limits=Limits(), tokens=SessionTokens(b""), endpoint="", live=LiveRules(), drain_s=1.0, lease_s=10.0
)


def live_config(
    rate_hz: int = RATE_HZ, encoding: "AudioFormat.Encoding.ValueType" = AudioFormat.ENCODING_PCM_S16LE
) -> api.SessionConfig:
    return api.SessionConfig(
        audio=AudioFormat(encoding=encoding, sample_rate_hz=rate_hz, channel_count=1),
        video=VideoFormat(encoding=VideoFormat.ENCODING_RAW_RGB24, width=16, height=16),
        delivery=api.DELIVERY_LIVE,
        listening=api.LISTENING_STREAMING,
    )


def live_session(telemetry: Telemetry | None = None) -> Session:
    """A session that streams, on a pipeline that does nothing."""
    record = SessionRecord(
        session_id="one", tenant="", state=0, config=b"", request_hash=b"", request_id="",
        pipeline="", endpoint="",
    )  # fmt: skip
    pipeline = cast(
        Pipeline, SimpleNamespace(preset=TINY, services=("hearing", "denoising", "decoding"), model_digest="")
    )
    session = Session(record, live_config(), pipeline, POLICY, telemetry or Telemetry("test"))
    session.attach()
    session.credits.grant(POLICY.limits.max_video_credits)
    return session


def delivery_of(session: Session) -> LiveDelivery:
    """That of a live session."""
    assert isinstance(session.delivery, LiveDelivery)
    return session.delivery


def live_context(
    config: api.SessionConfig, rules: LiveRules | None = None, limits: Limits | None = None
) -> DeliveryContext:
    """What a live delivery without a session works with; a failure of its events is raised."""
    utterances = Utterances()
    return DeliveryContext(
        config=config,
        preset=TINY,
        depth=3,
        limits=limits or Limits(),
        rules=rules or LiveRules(),
        utterances=utterances,
        ledger=BlockLedger(),
        events=EventQueue(utterances, config.audio.sample_rate_hz, TINY, lambda: None, _fail),
        telemetry=Telemetry("test"),
    )


def _fail(error: ServiceError) -> None:
    raise error


def arrived(block: int, *, idle: bool = False) -> ArrivedBlock:
    """All frames of ``block``, which have just come."""
    first = max(0, block * TINY.frames_per_block - TINY.stream.dropped_frames)
    end = (block + 1) * TINY.frames_per_block - TINY.stream.dropped_frames
    return ArrivedBlock(
        index=block,
        first_frame=first,
        frames=(b"p",) * (end - first),
        timings=(),
        at=time.monotonic(),
        waited_s=0.0,
        idle=idle,
    )


def admit(session: Session, *, idle: bool = False) -> int:
    """Counts the next block as admitted; returns its index."""
    block = session.ledger.admitted
    session.ledger.admit(INVALID_SPAN, 0.0, idle=idle)
    return block


def arrive(session: Session, block: ArrivedBlock) -> None:
    """The pipeline has finished ``block``."""
    session.ledger._arrived[block.index] = block
