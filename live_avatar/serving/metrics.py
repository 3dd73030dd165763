"""Every metric of the system, as data; ``docs/reference/metrics.md`` is written from this table.

This file does not know how a metric is recorded or exported.
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "live_avatar_"
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From a hop on one host to a block of the large model on a slow device."""

_SUFFIXES = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    """Without prefix, unit and ``_total``."""
    kind: Literal["counter", "gauge", "sum", "histogram"]
    """``sum`` goes up and down and is reported by its changes; Prometheus shows it as a gauge."""
    unit: str
    """UCUM: ``s``, ``By``, or what is counted in braces."""
    labels: tuple[str, ...]
    about: str

    @property
    def exported(self) -> str:
        """Its name on the Prometheus endpoint."""
        total = "_total" if self.kind == "counter" else ""
        return f"{PREFIX}{self.name}{_SUFFIXES.get(self.unit, '')}{total}"


BLOCK_QUEUE = Metric(
    name="block_queue",
    kind="histogram",
    unit="s",
    labels=("service",),
    about="time from a block's arrival at a service to the start of its computation",
)
BLOCK_COMPUTE = Metric(
    name="block_compute", kind="histogram", unit="s", labels=("service",), about="computation of a block at a service"
)
BLOCK_ENCODE = Metric(
    name="block_encode", kind="histogram", unit="s", labels=("service",), about="video encoding of a block"
)
BLOCK_HOP = Metric(
    name="block_hop",
    kind="histogram",
    unit="s",
    labels=("service",),
    about="time from the previous service's send to a block's arrival, if both share a clock",
)
BLOCKS_FAILED = Metric(
    name="blocks_failed",
    kind="counter",
    unit="{block}",
    labels=("service", "reason"),
    about="blocks at which a session failed",
)
BLOCKS_STARTED = Metric(
    name="blocks_started",
    kind="counter",
    unit="{block}",
    labels=("service",),
    about="blocks whose computation began; one more than those that ended while a block runs",
)
SESSIONS_ACTIVE = Metric(
    name="sessions_active",
    kind="sum",
    unit="{session}",
    labels=("service",),
    about="sessions whose memory is reserved",
)
SESSIONS_CAPACITY = Metric(
    name="sessions_capacity",
    kind="gauge",
    unit="{session}",
    labels=("service",),
    about="sessions that fit at the same time",
)
SESSION_MEMORY = Metric(
    name="session_memory",
    kind="sum",
    unit="By",
    labels=("service",),
    about="memory reserved for sessions: K/V windows, decoder caches, audio",
)
ADMISSIONS_REJECTED = Metric(
    name="admissions_rejected",
    kind="counter",
    unit="{session}",
    labels=("reason",),
    about="sessions rejected at creation",
)
QUOTA_REJECTIONS = Metric(
    name="quota_rejections",
    kind="counter",
    unit="{session}",
    labels=("quota",),
    about="sessions rejected at creation because a quota of their tenant is used up, by quota",
)
USAGE_BACKLOG = Metric(
    name="usage_backlog",
    kind="gauge",
    unit="{record}",
    labels=(),
    about="usage records that wait for the session store",
)
WEBHOOK_DELAY = Metric(
    name="usage_webhook_delay",
    kind="gauge",
    unit="s",
    labels=(),
    about="age of the oldest usage record that was not posted to the webhook yet; 0: none waits",
)
FIRST_FRAME = Metric(
    name="time_to_first_frame",
    kind="histogram",
    unit="s",
    labels=(),
    about="time from the audio of a session's first block to its first frame leaving the gateway",
)
AUDIO_STARVED = Metric(
    name="audio_starved_blocks",
    kind="counter",
    unit="{block}",
    labels=(),
    about="live blocks with inserted silence because the rest of an utterance did not arrive in time",
)
SESSIONS_DEGRADED = Metric(
    name="sessions_degraded",
    kind="sum",
    unit="{session}",
    labels=("reason",),
    about="live sessions with a problem, by reason",
)
VIEWER_WAITED = Metric(
    name="viewer_waited",
    kind="counter",
    unit="s",
    labels=("reason",),
    about="time for which viewers of live sessions had no new frames, by reason",
)
SESSIONS_SUSPENDED = Metric(
    name="sessions_suspended",
    kind="counter",
    unit="{session}",
    labels=("reason",),
    about="times a session lost its pipeline or its client and waited for another, by reason",
)
SESSION_RECOVERY = Metric(
    name="session_recovery",
    kind="histogram",
    unit="s",
    labels=("reason",),
    about="time from the loss of a session's pipeline until another continued with it, by reason of the loss",
)
RECOVERIES_FAILED = Metric(
    name="recoveries_failed",
    kind="counter",
    unit="{session}",
    labels=("reason",),
    about="sessions that ended because no pipeline continued with them, by reason of the loss",
)
SESSION_MOVE = Metric(
    name="session_move",
    kind="histogram",
    unit="s",
    labels=(),
    about="time for which a session admitted no block while it moved off a pipeline that is about to end",
)
STREAMS_RESUMED = Metric(
    name="streams_resumed",
    kind="counter",
    unit="{stream}",
    labels=(),
    about="streams that were opened in place of one that broke",
)
LINK_READY = Metric(
    name="link_ready",
    kind="gauge",
    unit="{link}",
    labels=("service", "target"),
    about="1 while the next service and all behind it accept work, otherwise 0",
)
LINK_LOSSES = Metric(
    name="link_losses",
    kind="counter",
    unit="{loss}",
    labels=("service", "target"),
    about="times a link stopped being ready",
)
ISSUER_KEYS = Metric(
    name="oidc_keys",
    kind="gauge",
    unit="{key}",
    labels=(),
    about="public keys of the OIDC issuer that are known; without any no token is accepted",
)
ISSUER_FETCHES = Metric(
    name="oidc_key_fetches",
    kind="counter",
    unit="{fetch}",
    labels=("result",),
    about="fetches of the OIDC issuer's keys; result: ok or failed",
)
AUDIT_LOST = Metric(
    name="audit_lost",
    kind="counter",
    unit="{line}",
    labels=("sink",),
    about="lines of the audit that could not be kept; sink: queue, file or stream",
)
RPC_DURATION = Metric(
    name="rpc_duration",
    kind="histogram",
    unit="s",
    labels=("method", "code"),
    about="duration of calls on the server, streams included",
)
CERTIFICATE_EXPIRY = Metric(
    name="tls_certificate_expiry_timestamp",
    kind="gauge",
    unit="s",
    labels=("side",),
    about="when the certificate in use expires, in seconds after 1970; side: server or client",
)
CERTIFICATES_REJECTED = Metric(
    name="tls_certificates_rejected",
    kind="counter",
    unit="{change}",
    labels=("side",),
    about="changes of certificate files after which they could not be used; those before stay in use",
)

METRICS = (
    BLOCK_QUEUE,
    BLOCK_COMPUTE,
    BLOCK_ENCODE,
    BLOCK_HOP,
    BLOCKS_FAILED,
    BLOCKS_STARTED,
    SESSIONS_ACTIVE,
    SESSIONS_CAPACITY,
    SESSION_MEMORY,
    ADMISSIONS_REJECTED,
    QUOTA_REJECTIONS,
    USAGE_BACKLOG,
    WEBHOOK_DELAY,
    FIRST_FRAME,
    AUDIO_STARVED,
    SESSIONS_DEGRADED,
    VIEWER_WAITED,
    SESSIONS_SUSPENDED,
    SESSION_RECOVERY,
    RECOVERIES_FAILED,
    SESSION_MOVE,
    STREAMS_RESUMED,
    LINK_READY,
    LINK_LOSSES,
    ISSUER_KEYS,
    ISSUER_FETCHES,
    AUDIT_LOST,
    RPC_DURATION,
    CERTIFICATE_EXPIRY,
    CERTIFICATES_REJECTED,
)
