"""What the streams of one session have in common: where each of them stands, and what the next one needs to go on.

Knows numbers and messages; nothing of gRPC, or of who sends them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from live_avatar.config import Preset
from live_avatar.gateway.v1.recovery_point_pb2 import SessionState
from live_avatar.services.gateway.access.handles import ResumeHandle
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.provenance.signing import MediaSigning, SessionSignature, media_facts
from live_avatar.services.gateway.refusals import INVALID, PRECONDITION
from live_avatar.services.gateway.sessions.replay import ReplayLog
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.services.gateway.video.muxer import Muxer, muxer_for
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api

Response = api.StreamAvatarResponse
BLOCK_OUT_OF_RANGE = "BLOCK_OUT_OF_RANGE"
HANDLE_FIELD = "open.resume_handle"


@dataclass(frozen=True)
class RenderedBlock:
    """The block of which all messages were made, and perhaps not all were sent."""

    index: int
    end_sample: int
    """Position after its last sample of speech, at the client's rate."""


class StreamState:
    """Of one session.

    Args:
        session_id: of the session.
        muxer: turns its blocks into units.
        log: keeps what was sent.
        signature: of its media; None: they are not signed.
    """

    def __init__(self, session_id: str, muxer: Muxer, log: ReplayLog, signature: SessionSignature | None) -> None:
        self._session_id = session_id
        self._muxer: Muxer | None = muxer
        self.log = log
        self.signature = signature
        self.number = 0
        """Of the newest stream, from 1; 0: none was opened."""
        self.is_confirmed = False
        """The client of that stream has shown that it received the answer to its Open."""
        self.known = 0
        """Newest stream before that one of which its client has shown the same."""
        self.client_sequence = 0
        """Of the last message of the client that was taken."""
        self.received = 0
        """Blocks that the client says it has."""
        self.rendered: RenderedBlock | None = None
        """None: none is on its way."""
        self.is_complete = False
        """Everything was rendered, and its end too."""

    @property
    def muxer(self) -> Muxer:
        """Turns the session's blocks into units; only while the session lasts."""
        assert self._muxer is not None, "nothing is muxed of a session that is over"
        return self._muxer

    def end(self) -> None:
        """Lets go of everything."""
        self._muxer, self.rendered = None, None
        self.log.end()

    def complete(self) -> None:
        """The end of the session is among what is to be sent."""
        self.is_complete = True

    def begin(self) -> None:
        """A new stream takes over."""
        if self.is_confirmed:
            self.known = self.number
        self.number += 1
        self.is_confirmed = False

    def count(self, sequence: int) -> None:
        """The client's message ``sequence`` is taken; it comes after the Open."""
        self.client_sequence, self.is_confirmed = sequence, True

    def receive(self, next_block: int) -> None:
        """The client has everything before ``next_block``; raises ServiceError where that was never sent."""
        if next_block > self.log.block:
            raise ServiceError(INVALID, BLOCK_OUT_OF_RANGE, f"block {next_block} was not sent yet", field="received")
        self.received = max(self.received, next_block)
        self.log.forget(self.received)

    @property
    def may_send(self) -> bool:
        """Another block may be sent without one being forgotten that a client who says what it receives may lack."""
        return not self.received or self.log.has_room(self.received)

    def restore(self, state: SessionState, newest: SessionState, number: int) -> None:
        """Makes it what it was before block ``state.block``.

        Args:
            state: of that block.
            newest: of the newest block.
            number: of the newest stream that is known of.
        """
        self.number = max(number, newest.stream)
        self.is_confirmed = newest.is_confirmed and self.number == newest.stream
        self.client_sequence = state.client_sequence
        self.log.go_on(state.block)
        if self.signature is not None and state.block:
            self.signature.go_on()

    def number_open(self, sequence: int) -> None:
        """The first Open has number ``sequence``."""
        self.client_sequence = sequence

    def render(self, block: int, end_sample: int, units: Iterable[Response]) -> RenderedBlock:
        """Takes all messages of a block, which are to be sent from now on."""
        for unit in units:
            self.log.append(unit)
            if self.signature is not None:
                self.signature.add(unit.video_unit.data or unit.audio_unit.data)
        self.rendered = RenderedBlock(block, end_sample)
        return self.rendered

    @property
    def handle(self) -> ResumeHandle:
        """With which the client can go on after the messages that it has got."""
        return ResumeHandle(self._session_id, self.number, self.log.block)

    def rewind(self, block: int) -> None:
        """Everything from ``block`` on is sent again, see ``first_block``."""
        self.log.rewind(block)

    def first_block(self, handle: ResumeHandle | None, next_block: int) -> int:
        """The block with which a new stream goes on; changes nothing.

        Args:
            handle: of the client; None: it has none, since it never got the answer to its first Open.
            next_block: which the client lacks; 0: that of the handle.

        Raises:
            ServiceError: FAILED_PRECONDITION where the handle is not this session's, was used, or is too old;
                INVALID_ARGUMENT where the client claims to have what was never sent.
        """
        if handle is not None and handle.session_id != self._session_id:
            raise _refused("HANDLE_FOREIGN", "the resume handle belongs to another session")
        stream = handle.stream if handle is not None else 0
        # The answers to several attempts in a row may have been lost.
        oldest = self.number if self.is_confirmed else self.known
        if not oldest <= stream <= self.number:
            raise _refused("HANDLE_USED", "a newer stream of the session has taken the place of the handle's")
        block = max(next_block, handle.block if handle is not None else 0)
        if block > self.log.block:
            message = f"block {block} was not sent yet"
            raise ServiceError(INVALID, BLOCK_OUT_OF_RANGE, message, field="open.next_block_index")
        if block < self.log.first_block:
            raise _refused("HANDLE_EXPIRED", f"the gateway keeps what it sent from block {self.log.first_block} on")
        return block


def stream_state(
    record: SessionRecord,
    config: api.SessionConfig,
    preset: Preset,
    limits: Limits,
    signing: MediaSigning | None = None,
) -> StreamState:
    """That of a session without a stream; ``signing`` signs its media."""
    video, rate_hz = config.video, config.audio.sample_rate_hz
    facts = media_facts(record.session_id, api.Session.Provenance.FromString(record.provenance))
    signature = None if signing is None else SessionSignature(signing, facts)
    signer = None if signing is None else signing.segments(facts, record.max_duration_ms / 1000)
    muxer = muxer_for(video.encoding, preset, (video.width, video.height), rate_hz, signer)
    log = ReplayLog(limits.max_replay_blocks, limits.max_replay_bytes)
    return StreamState(record.session_id, muxer, log, signature)


def _refused(reason: str, message: str) -> ServiceError:
    return ServiceError(PRECONDITION, reason, message, field=HANDLE_FIELD)


def replaced() -> ServiceError:
    """What a stream ends with when another takes its place."""
    message = "another stream of the session has taken the place of this one"
    return ServiceError(grpc.StatusCode.ABORTED, "STREAM_REPLACED", message)
