"""Interruptions of a session in plain words."""

import grpc
import pytest

from live_avatar.client import AudioUnit, AvatarError, Event, GoAway, Result, StreamLost, StreamResumed
from live_avatar.client.breaks import describe_break


def left_for(reason: str) -> Event:
    cause = AvatarError(grpc.StatusCode.OK, reason, "a sentence")
    return Event(kind="DISCONTINUITY", utterance_id="", media_time_ns=1_500_000_000, block_index=3, warning=cause)


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (
            StreamLost(cause=AvatarError(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "reset")),
            "the stream broke (reset); it is being resumed",
        ),
        (StreamResumed(after_s=1.24, attempts=1), "the stream goes on after 1.2 s, 1 attempt"),
        (StreamResumed(after_s=8, attempts=3), "the stream goes on after 8.0 s, 3 attempts"),
        (
            GoAway(time_left_s=5, reason="DRAINING", resumable=True),
            "the gateway ends this stream, and the session goes on in another, in 5 s (DRAINING)",
        ),
        (GoAway(time_left_s=5, reason="IDLE"), "the gateway ends the session, in 5 s (IDLE)"),
        (left_for("STAGE_LOST"), "the session left its pipeline (STAGE_LOST); another goes on at 1.50 s"),
        (left_for("GATEWAY_LOST"), "the session left its gateway (GATEWAY_LOST); another goes on at 1.50 s"),
        (AudioUnit(data=b"", start_ns=0, end_ns=1, utterance_id=""), None),
    ],
)
def test_what_a_person_reads(result: Result, sentence: str | None) -> None:
    assert describe_break(result) == sentence
