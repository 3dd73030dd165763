"""How long neighbours wait for each other.

Knows numbers alone.
"""

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from live_avatar.limits import MAX_MESSAGE_BYTES
from live_avatar.proxies import DIRECT

# Of the protocol between neighbours, newest first.  The one before the newest is served too, so that neighbours can be
# upgraded one after the other.
PROTOCOL_VERSION = 2
SERVED_VERSIONS = (PROTOCOL_VERSION, PROTOCOL_VERSION - 1)
# From which on sessions can go on from finished blocks.
PRIMING_VERSION = 2

# A frozen peer is found by pings only where both options stand; the heartbeats find it sooner, so the pings may be
# patient: on a machine with more to do than cores, an answer can take more than a second.  The local pool keeps one
# link's back-off from slowing the next attempt.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *DIRECT,
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


@dataclass(frozen=True, kw_only=True)
class HopTiming:
    """Waits of one hop, in seconds."""

    heartbeat_s: float = 1.0
    # A peer that says nothing, or leaves a question open, for so long is lost.
    silence_s: float = 2.5
    # A block that runs or is delivered for longer makes its service count as lost; unlike the block's own deadline,
    # which holds for all services together.
    service_deadline_s: float = 30.0
    # From dialling to Welcome.
    connect_s: float = 5.0
    backoff_min_s: float = 0.1
    backoff_max_s: float = 2.0


def duration(nanoseconds: int) -> Duration:
    """A time span as a message."""
    message = Duration()
    message.FromNanoseconds(nanoseconds)
    return message
