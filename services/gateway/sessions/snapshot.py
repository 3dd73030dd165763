"""A live session before a block, as it is stored, and a session that becomes what was stored.

Joins the parts of a session; each of them knows its own form.
"""

import time

from live_avatar.gateway.v1.recovery_point_pb2 import MuxerState, SampleTrack, SessionState
from live_avatar.services.gateway.audio.stored_speech import StoredLog, oldest_origin
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.sessions.stored_point import MODEL, OUT, OWN_SINK, SINK, StoredPoint
from live_avatar.services.gateway.video.muxer import MuxerPosition

VERSION = 1


def snapshot(session: Session) -> SessionState:
    """What is stored of ``session``, which is between two blocks."""
    delivery, streams = session.live, session.attachment.streams
    block, window = streams.log.block, session.preset.stream.window_blocks
    fragments, packets = streams.muxer.position
    state = SessionState(
        version=VERSION,
        block=block,
        stream=streams.number,
        is_confirmed=streams.is_confirmed,
        client_sequence=streams.client_sequence,
        model_digest=session.model_digest,
        events=session.events.snapshot(),
        conditioning=session.conditioning.snapshot(max(0, block - window)),
        muxer=MuxerState(fragments=fragments, packets=packets),
        usage=session.meter.snapshot(),
    )
    delivery.snapshot(state, time.monotonic_ns())
    return state


def restore(session: Session, point: StoredPoint, state: SessionState, stream: int) -> None:
    """Makes ``session``, which is new, what ``state`` was made of: without a pipeline and without a stream.

    Args:
        session: of the same config.
        point: everything that is stored.
        state: one of its states.
        stream: number of the newest stream that is known of.

    Raises:
        ValueError: what is stored is not whole.
    """
    delivery, streams = session.live, session.attachment.streams
    out, model = StoredLog(point.pieces(OUT), session.config.audio.encoding), StoredLog(point.pieces(MODEL))
    session.ledger.go_on(state.block)
    session.events.restore(state.events)
    session.conditioning.restore(state.conditioning, point.data(SINK), point.data(OWN_SINK))
    delivery.restore(state, out, model, time.monotonic_ns())
    delivery.speech.log_out.go_on(*out.read_bytes(needed_out(state), state.speech.out_end))
    delivery.speech.log_in.go_on(*model.read_bytes(needed_in(state), state.speech.in_end))
    streams.muxer.go_on(
        MuxerPosition(
            fragments=state.muxer.fragments,
            packets=state.muxer.packets,
            sample=state.speech.audio_out.first,
            recent=delivery.speech.played,
        )
    )
    streams.restore(state, point.newest, stream)
    session.finished_blocks.restore(point.finished(state.block, session.preset.stream.window_blocks))
    session.meter.restore(point.newest.usage)
    if streams.number:
        session.attachment.restore()


def needed_out(state: SessionState) -> int:
    """The first sample at the client's rate that ``restore`` reads."""
    speech = state.speech
    waiting = SampleTrack(runs=[one.audio_out for one in speech.waiting])
    return min(
        oldest_origin([speech.audio_out, speech.played, waiting], speech.out_end), speech.out_end - speech.recent
    )


def needed_in(state: SessionState) -> int:
    """The first sample at the model's rate that ``restore`` reads."""
    speech = state.speech
    waiting = SampleTrack(runs=[one.audio_in for one in speech.waiting])
    return oldest_origin([speech.audio_in, speech.sound, waiting], speech.in_end)
