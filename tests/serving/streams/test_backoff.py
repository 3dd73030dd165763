"""Waits between attempts: they double up to a bound, are drawn from the upper half, and begin anew."""

import pytest

from live_avatar.serving.streams.backoff import Backoff


def within(waits: list[float], bounds: list[float]) -> bool:
    return all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))


def test_waits_double_up_to_the_bound() -> None:
    backoff = Backoff(0.1, 0.5)
    assert within([backoff.next_s() for _ in range(5)], [0.1, 0.2, 0.4, 0.5, 0.5])


def test_a_peer_that_was_reached_is_tried_again_at_once() -> None:
    backoff = Backoff(0.1, 2.0)
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert within([backoff.next_s(), backoff.next_s()], [0.1, 0.2])


def test_callers_do_not_come_back_together() -> None:
    waits = {Backoff(1.0, 1.0).next_s() for _ in range(20)}
    assert len(waits) > 1 and max(waits) - min(waits) == pytest.approx(0.25, abs=0.25)
