"""What this gateway stores of its sessions so that another can go on with them, and what it takes over from others.

Knows which sessions are stored; what of them, and how, is for others to know.
"""

from collections.abc import Iterable
from dataclasses import replace

from live_avatar.services.gateway.sessions.lookup import gateway_lost
from live_avatar.services.gateway.sessions.placement import Placement
from live_avatar.services.gateway.sessions.point_source import PointSource
from live_avatar.services.gateway.sessions.point_writer import PointWriter
from live_avatar.services.gateway.sessions.policy import SessionPolicy
from live_avatar.services.gateway.sessions.recovery import Recovery
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.sessions.takeover import TakeOver
from live_avatar.services.gateway.store.points import RecoveryPoints
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.v1 import avatar_service_pb2 as api


class Continuity:
    """Of one gateway; ``run`` must run while it is used.

    Args:
        points: of all sessions; None: no other gateway shares the store, and nothing is stored.
        placement: on the pipelines of this gateway.
        recovery: of its sessions.
        policy: of this gateway.
    """

    def __init__(
        self, points: RecoveryPoints | None, placement: Placement, recovery: Recovery, policy: SessionPolicy
    ) -> None:
        is_on = points is not None and policy.limits.resume_seconds > 0
        self.writer = PointWriter(points) if points is not None and is_on else None
        """Stores points; None: nothing is stored."""
        self._taking = TakeOver(points, placement, policy) if points is not None and is_on else None
        self._recovery = recovery
        self._resume_ms = policy.limits.resume_ms

    async def run(self) -> None:
        """Works until cancelled, where anything is stored."""
        if self.writer is not None:
            await self.writer.run()

    @property
    def taking(self) -> TakeOver:
        """What takes sessions over; raises ServiceError GATEWAY_LOST where none can be."""
        if self._taking is None:
            raise gateway_lost("what the session needs is not stored here")
        return self._taking

    def plan(self, record: SessionRecord, config: api.SessionConfig) -> SessionRecord:
        """The record of a new session, as one of which a point is stored where that is possible."""
        if self.writer is None or config.delivery != api.DELIVERY_LIVE:
            return record
        return replace(record, point_epoch=record.epoch, resume_ms=self._resume_ms)

    def begin(self, session: Session, stale: Iterable[str] = ()) -> None:
        """Stores a planned session from now on; ``stale`` fields are stored of it already, by another gateway."""
        if self.writer is None or not session.record.point_epoch:
            return
        limits = session.limits
        self.writer.add(PointSource(session, limits.max_replay_blocks, limits.max_recovery_point_bytes, stale))
        self.note_ready(session)

    def note_ready(self, session: Session) -> None:
        """Stores a session that has its portrait and nobody has watched yet, or that was taken over just now."""
        if (
            self.writer is not None
            and session.conditioning.has_portrait
            and session.attachment.streams.rendered is None
        ):
            self.writer.note(session.record.session_id)

    def source(self, session: Session) -> PointSource | None:
        """What is stored of a session; None: nothing."""
        return self.writer.source(session.record.session_id) if self.writer is not None else None

    async def give_up(self, session: Session) -> None:
        """Nothing is stored of a session that ends with its stream; its place is free when its gateway is lost."""
        if self.writer is not None and session.record.point_epoch:
            self.drop(session.record.session_id)
            await self._recovery.give_up_point(session)

    def drop(self, session_id: str) -> None:
        """Stores nothing of a session any more.  Idempotent."""
        if self.writer is not None:
            self.writer.drop(session_id)
