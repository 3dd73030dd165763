"""Events that the hop reports to telemetry: the interface between the two.

Knows the events alone; ``telemetry.py`` makes spans and metrics of them.  All methods are called in the event loop's
thread and must return at once.
"""

from dataclasses import dataclass
from typing import Protocol

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.v1.avatar_service_pb2 import BlockTiming


@dataclass(frozen=True, kw_only=True)
class BlockReport:
    """One block that left one service, or failed there."""

    service: str
    key: SessionKey
    index: int
    # Trace context of the block as it arrived; the span of this service is its child.
    traceparent: str
    # Wall clock, nanoseconds since 1970: arrival of the block, and the moment it was sent on.
    arrived_at_ns: int
    sent_at_ns: int
    timing: BlockTiming
    # Reason of the failure, for example "INTERNAL"; empty where the block was sent on.
    failure: str = ""


class Observer(Protocol):
    """Receives the events of one service."""

    def capacity(self, service: str, sessions: int) -> None:
        """The service is loaded and has room for so many sessions at the same time."""

    def block_started(self, service: str, key: SessionKey, index: int) -> None:
        """Device work on a block begins."""

    def block_finished(self, report: BlockReport) -> None:
        """A block was sent on, or its session failed at it."""

    def session_opened(self, service: str, key: SessionKey, reserved_bytes: int) -> None:
        """A session's memory is reserved here."""

    def session_closed(self, service: str, key: SessionKey, reserved_bytes: int) -> None:
        """A session's memory is free again; ``reserved_bytes`` as reported at opening."""

    def link_changed(self, service: str, target: str, ready: bool) -> None:
        """The link to the next service, and all that follow, became ready or lost that."""

    def rpc_finished(self, method: str, code: str, duration_s: float) -> None:
        """A call on the server ended; ``method`` is "/package.Service/Method", ``code`` for example "OK"."""

    def certificate_loaded(self, side: str, expires_s: float) -> None:
        """A certificate is in use as ``server`` or ``client`` until so many seconds after 1970; from any thread."""

    def certificate_rejected(self, side: str) -> None:
        """New files of a certificate cannot be used; from any thread."""


class NoObserver:
    """Receives events and forgets them."""

    def capacity(self, service: str, sessions: int) -> None:
        """Does nothing."""

    def block_started(self, service: str, key: SessionKey, index: int) -> None:
        """Does nothing."""

    def block_finished(self, report: BlockReport) -> None:
        """Does nothing."""

    def session_opened(self, service: str, key: SessionKey, reserved_bytes: int) -> None:
        """Does nothing."""

    def session_closed(self, service: str, key: SessionKey, reserved_bytes: int) -> None:
        """Does nothing."""

    def link_changed(self, service: str, target: str, ready: bool) -> None:
        """Does nothing."""

    def rpc_finished(self, method: str, code: str, duration_s: float) -> None:
        """Does nothing."""

    def certificate_loaded(self, side: str, expires_s: float) -> None:
        """Does nothing."""

    def certificate_rejected(self, side: str) -> None:
        """Does nothing."""
