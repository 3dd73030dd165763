"""Who is served next."""

import pytest

from live_avatar.serving.decode_queue import DecodeQueue, QueueFullError, Ticket


def queue(places: int = 3, max_light: int = 100, max_heavy: int = 100) -> DecodeQueue[Ticket]:
    return DecodeQueue(places, max_light, max_heavy)


def joined(turns: DecodeQueue[Ticket], caller: str, count: int = 1, *, light: bool = True) -> list[Ticket]:
    tickets = [Ticket(caller, light) for _ in range(count)]
    for ticket in tickets:
        turns.join(ticket)
    return tickets


def served(turns: DecodeQueue[Ticket]) -> list[Ticket]:
    """All that are served now."""
    found = []
    while (ticket := turns.next()) is not None:
        found.append(ticket)
    return found


def test_callers_take_turns_however_many_portraits_one_has() -> None:
    turns = queue(places=1)
    joined(turns, "a", 5)
    joined(turns, "b", 2)
    order = []
    while turns.waiting:
        (ticket,) = served(turns)
        order.append(ticket.caller)
        turns.discard(ticket)
    assert "".join(order) == "ababaaa"


def test_one_caller_never_has_all_places() -> None:
    turns = queue(places=4)
    joined(turns, "a", 9)
    assert len(served(turns)) == 2
    joined(turns, "b")
    assert [ticket.caller for ticket in served(turns)] == ["b"]


def test_a_place_is_kept_for_light_work() -> None:
    turns = queue(places=3)
    for caller in "abcdef":
        joined(turns, caller, light=False)
    assert len(served(turns)) == 2
    (light,) = joined(turns, "g")
    assert served(turns) == [light]
    turns.discard(light)
    assert served(turns) == []


def test_callers_nobody_knows_are_served_in_order() -> None:
    turns = queue(places=2)
    first, second, third = joined(turns, "", 3)
    assert served(turns) == [first, second]
    turns.discard(first)
    assert served(turns) == [third]


def test_a_single_place_serves_heavy_work_too() -> None:
    turns = queue(places=1)
    tickets = joined(turns, "a", light=False)
    assert served(turns) == tickets


def test_who_leaves_is_forgotten() -> None:
    turns = queue(places=1)
    first, second = joined(turns, "a", 2)
    turns.discard(first)
    turns.discard(first)
    assert served(turns) == [second]
    turns.discard(second)
    assert (turns.waiting, served(turns)) == (0, [])


def test_no_more_wait_than_may() -> None:
    turns = queue(max_light=2, max_heavy=1)
    joined(turns, "a", 2)
    with pytest.raises(QueueFullError, match="2 portraits wait"):
        joined(turns, "a")
    joined(turns, "a", light=False)
    with pytest.raises(QueueFullError, match="1 portraits wait"):
        joined(turns, "b", light=False)


def test_whoever_has_most_makes_room_for_others() -> None:
    turns = queue(places=1, max_light=4)
    greedy = joined(turns, "a", 4)
    first, second = Ticket("b", True), Ticket("c", True)
    assert turns.join(first) is greedy[3]
    assert turns.join(second) is greedy[2]
    with pytest.raises(QueueFullError):
        turns.join(Ticket("a", True))
    assert turns.waiting == 4
