"""Goes on with sessions whose gateway is lost, from what it has stored of them.

Knows the order of a take-over; what a session is made of is for others to know.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog
from google.protobuf.message import DecodeError

from live_avatar.services.gateway.access.handles import ResumeHandle
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.refusals import PRECONDITION
from live_avatar.services.gateway.sessions.lookup import gateway_lost
from live_avatar.services.gateway.sessions.placement import Placement
from live_avatar.services.gateway.sessions.policy import SessionPolicy
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.sessions.snapshot import VERSION, restore
from live_avatar.services.gateway.sessions.stored_point import StoredPoint
from live_avatar.services.gateway.sessions.stream_state import HANDLE_FIELD
from live_avatar.services.gateway.store.points import RecoveryPoints
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.logs import session_name

Make = Callable[[SessionRecord, Pipeline], Session]


@dataclass(frozen=True)
class Taken:
    """A session that is ours now."""

    session: Session
    pipeline: Pipeline
    """On which it has a place, and is not open yet."""
    fields: tuple[str, ...]
    """Names of what is stored of it."""


class TakeOver:
    """Of the sessions of lost gateways.

    Args:
        points: what they have stored.
        placement: on the pipelines of this gateway.
        policy: of this gateway.
    """

    def __init__(self, points: RecoveryPoints, placement: Placement, policy: SessionPolicy) -> None:
        self._points = points
        self._placement = placement
        self._policy = policy
        self._log = structlog.get_logger(__name__)

    async def take(
        self, record: SessionRecord, lost: str, handle: ResumeHandle | None, next_block: int, make: Make
    ) -> Taken:
        """Takes a session in the next epoch and rebuilds it, suspended, at the first block that its client lacks.

        Args:
            record: of the session.
            lost: name of the gateway that holds it and does not answer; empty: nobody does.
            handle: of its client; None: it has none.
            next_block: first block that the client lacks; 0: that of the handle.
            make: a session as it is when it begins.

        Raises:
            ServiceError: UNAVAILABLE GATEWAY_LOST where nothing is stored to go on from, FAILED_PRECONDITION
                HANDLE_EXPIRED where the handle is too old for it, NOT_FOUND where another gateway was faster;
                as ``Placement.move``.
        """
        fields, now_ms = await self._points.read(record.session_id, record.point_epoch)
        point = _read(fields)
        state = point.state(max(next_block, handle.block if handle is not None else 0))
        if state is None:
            message = "what is stored of the session begins after the block of the handle"
            raise ServiceError(PRECONDITION, "HANDLE_EXPIRED", message, field=HANDLE_FIELD)
        here = replace(record, endpoint=self._policy.endpoint, relay=self._policy.relay)
        record, pipeline = await self._placement.move(here, state.model_digest, primed=state.block > 0, lost=lost)
        session = make(record, pipeline)
        session.go_on((now_ms - record.create_ms) / 1000, gateway_lost("the gateway that had the session is lost"))
        try:
            restore(session, point, state, handle.stream if handle is not None else 0)
        except (ValueError, DecodeError) as error:
            raise gateway_lost(f"what is stored of the session is not whole: {error}") from error
        self._log.warning("session taken over", session=session_name(record.session_id), block=state.block)
        return Taken(session, pipeline, tuple(fields))


def _read(fields: Mapping[str, bytes]) -> StoredPoint:
    try:
        point = StoredPoint(fields)
    except ValueError as error:
        raise gateway_lost(f"the session cannot go on elsewhere: {error}") from error
    if point.newest.version != VERSION:
        raise gateway_lost(f"what is stored of the session has version {point.newest.version}, not {VERSION}")
    return point
