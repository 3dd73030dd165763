"""The clock of a player under a fake time."""

import pytest

from live_avatar.client.player import PlayerClock


def test_it_plays_what_has_come_in_its_time() -> None:
    clock = PlayerClock(25)
    assert (clock.position(5.0), clock.due_s(0), clock.lead_s(5.0)) == (0, None, 0.0)
    clock.receive(9, 10.0)
    clock.receive(21, 10.2)
    assert clock.position(10.0) == 0
    assert clock.position(10.4) == 10
    assert clock.due_s(21) == pytest.approx(10.84)
    assert clock.lead_s(10.4) == pytest.approx(11 / 25)
    assert clock.position(99.0) == 21
    assert clock.late_frames == 0


def test_a_gap_counts_and_is_not_made_up_for() -> None:
    clock = PlayerClock(25)
    clock.receive(9, 10.0)
    clock.receive(21, 10.56)
    assert clock.late_frames == 5
    assert clock.stalled_s == pytest.approx(0.2)
    assert clock.position(10.56) == 9
    assert clock.position(10.96) == 19
