"""What goes with a call from the gateway that was asked to the one that holds its session.

Knows metadata and peers; nothing of messages.
"""

from collections.abc import Iterable
from typing import Any

from live_avatar.services.gateway.access.failure_limit import peer_address

PEER = "live-avatar-peer"
"""Who called the gateway that was asked; believed on the port for other gateways alone."""
ACCEPTED = "live-avatar-accepted"
"""Initial metadata of the holder: it works, however long the answer takes."""
_OWN = frozenset({PEER, ACCEPTED, "user-agent", "content-type", "te", "host"})
Metadata = tuple[tuple[str, str | bytes], ...]


def passed_on(metadata: Iterable[tuple[str, str | bytes]] | None, peer: str) -> Metadata:
    """All metadata of a call but those of its connection, and the caller's address."""
    kept = ((key, value) for key, value in metadata or () if key not in _OWN and not key.startswith((":", "grpc-")))
    return (*kept, (PEER, peer))


class RelayedContext:
    """The context of a call that another gateway passed on: its peer is the caller of that gateway."""

    def __init__(self, context: Any) -> None:
        self._context = context
        peers = [value for key, value in context.invocation_metadata() or () if key == PEER]
        self._peer = peers[0] if peers and peer_address(peers[0]) else context.peer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def peer(self) -> str:
        """As gRPC says it."""
        return str(self._peer)
