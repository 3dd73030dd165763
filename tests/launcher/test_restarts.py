"""How often a service is started again."""

from live_avatar.launcher.restarts import LONGEST_PAUSE_S, Restarts
from live_avatar.limits import MAX_RESTARTS, RESTART_WINDOW_S

DAY_S = 86_400.0


def test_one_crash_a_day_never_ends_it() -> None:
    restarts = Restarts()
    assert [restarts.next_pause_s("decoder", day * DAY_S) for day in range(100)] == [0.0] * 100


def test_what_cannot_run_ends_soon_and_later_begins_anew() -> None:
    restarts = Restarts()
    pauses = [restarts.next_pause_s("decoder", float(second)) for second in range(MAX_RESTARTS + 2)]
    assert pauses[:MAX_RESTARTS] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert pauses[MAX_RESTARTS:] == [None, None]
    assert max(pause for pause in pauses if pause is not None) <= LONGEST_PAUSE_S
    assert restarts.next_pause_s("decoder", RESTART_WINDOW_S + MAX_RESTARTS + 1.0) == 0.0


def test_each_service_has_its_own_share() -> None:
    """One fault of the machine ends all of them at once."""
    restarts = Restarts()
    assert [restarts.next_pause_s(f"stage {index}", 1.0) for index in range(9)] == [0.0] * 9
