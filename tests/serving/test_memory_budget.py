"""Memory is promised once, and given back once."""

import pytest

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.memory_budget import AdmittedSessions, MemoryBudget


def key(name: str, epoch: int = 1) -> SessionKey:
    return SessionKey(session_id=name, epoch=epoch)


def test_promises_no_more_than_there_is() -> None:
    held: AdmittedSessions[str] = AdmittedSessions(MemoryBudget(max_bytes=100, max_sessions=0))
    assert held.open(key("a"), 60, lambda: "session a") == "session a"
    with pytest.raises(ServiceError, match="KV_MEMORY_EXHAUSTED"):
        held.open(key("b"), 41, lambda: "session b")
    held.open(key("b"), 40, lambda: "session b")
    assert (held.nbytes, len(held)) == (100, 2)
    assert held.close(key("a")) == 60
    assert held.close(key("a")) == 0
    assert (held.nbytes, len(held)) == (40, 1)


def test_keeps_to_the_number() -> None:
    held: AdmittedSessions[str] = AdmittedSessions(MemoryBudget(max_bytes=100, max_sessions=1))
    held.open(key("a"), 1, lambda: "a")
    with pytest.raises(ServiceError, match="CAPACITY_EXHAUSTED") as caught:
        held.open(key("b"), 1, lambda: "b")
    assert caught.value.retry_after_s


def test_what_could_not_be_made_is_not_held() -> None:
    def fail() -> str:
        raise MemoryError

    held: AdmittedSessions[str] = AdmittedSessions(MemoryBudget(max_bytes=100, max_sessions=0))
    with pytest.raises(MemoryError):
        held.open(key("a"), 60, fail)
    assert (held.nbytes, len(held)) == (0, 0)


def test_epochs_are_different_sessions() -> None:
    held: AdmittedSessions[str] = AdmittedSessions(MemoryBudget(max_bytes=100, max_sessions=0))
    held.open(key("a", 1), 10, lambda: "first")
    held.open(key("a", 2), 10, lambda: "second")
    with pytest.raises(ServiceError, match="DUPLICATE_OPEN"):
        held.open(key("a", 2), 10, lambda: "third")
    assert held.close(key("a", 1)) == 10
    assert held.get(key("a", 2)) == "second"
    with pytest.raises(ServiceError, match="SESSION_NOT_FOUND"):
        held.get(key("a", 1))


@pytest.mark.parametrize(
    ("memory_budget", "sessions"), [(MemoryBudget(100, 0), 3), (MemoryBudget(100, 2), 2), (MemoryBudget(20, 2), 0)]
)
def test_sessions_that_fit(memory_budget: MemoryBudget, sessions: int) -> None:
    assert memory_budget.sessions_of(30) == sessions
