"""Pacing as it is stored in a recovery point.

Translates; decides nothing.
"""

from live_avatar.gateway.v1.recovery_point_pb2 import PacingState
from live_avatar.streaming.pacing import Pacer, PlaybackAges


def pacing_message(pacer: Pacer, now_ns: int) -> PacingState:
    """What ``restore_pacing`` takes."""
    ages, began_ns = pacer.playback.ages(now_ns), pacer.age_ns(now_ns)
    return PacingState(
        frame=ages.frame,
        started=ages.frame_age_ns is not None,
        frame_age_ns=ages.frame_age_ns or 0,
        delivered=ages.delivered,
        reported=ages.reported,
        ran_dry=ages.dry_age_ns is not None,
        dry_age_ns=ages.dry_age_ns or 0,
        began=began_ns is not None,
        began_age_ns=began_ns or 0,
        latencies_ns=pacer.latencies_ns,
    )


def restore_pacing(pacer: Pacer, stored: PacingState, now_ns: int) -> None:
    """Makes ``pacer`` what the message was made of, as if no time had passed until ``now_ns``."""
    pacer.go_on(stored.latencies_ns, stored.began_age_ns if stored.began else None, now_ns)
    pacer.playback.go_on(
        PlaybackAges(
            frame=stored.frame,
            delivered=stored.delivered,
            reported=stored.reported,
            frame_age_ns=stored.frame_age_ns if stored.started else None,
            dry_age_ns=stored.dry_age_ns if stored.ran_dry else None,
        ),
        now_ns,
    )
