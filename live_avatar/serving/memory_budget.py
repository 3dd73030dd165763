"""The sessions that a service has admitted, within its memory budget and their maximum number.

Knows keys, bytes and numbers; what a session is belongs to its service.  One thread owns it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.serving.errors import SESSION_NOT_FOUND, ServiceError
from live_avatar.serving.keys import key_name

_T = TypeVar("_T")


@dataclass(frozen=True)
class MemoryBudget:
    """Limits of all sessions of a service together."""

    max_bytes: int
    max_sessions: int
    """0: as many as the bytes allow."""

    def sessions_of(self, nbytes: int) -> int:
        """Sessions of ``nbytes`` each that have room at the same time."""
        fitting = self.max_bytes // max(1, nbytes)
        return min(fitting, self.max_sessions) if self.max_sessions else fitting


class AdmittedSessions(Generic[_T]):
    """Sessions by key, each with the bytes that it was promised."""

    def __init__(self, memory_budget: MemoryBudget) -> None:
        self.memory_budget = memory_budget
        self.nbytes = 0
        """Bytes promised to all sessions."""
        self._held: dict[tuple[str, int], tuple[_T, int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def open(self, key: SessionKey, nbytes: int, make: Callable[[], _T]) -> _T:
        """Promises ``nbytes`` to a new session, then makes it; a ``make`` that fails leaves nothing behind.

        Raises:
            ServiceError: CAPACITY_EXHAUSTED or KV_MEMORY_EXHAUSTED where there is no room, DUPLICATE_OPEN.
        """
        name = key_name(key)
        if name in self._held:
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "DUPLICATE_OPEN", "the session is open already")
        if self.memory_budget.max_sessions and len(self._held) >= self.memory_budget.max_sessions:
            raise _exhausted("CAPACITY_EXHAUSTED", f"all {self.memory_budget.max_sessions} sessions are taken")
        free = self.memory_budget.max_bytes - self.nbytes
        if nbytes > free:
            raise _exhausted("KV_MEMORY_EXHAUSTED", f"the session needs {nbytes} bytes, {free} are free")
        session = make()
        self._held[name] = session, nbytes
        self.nbytes += nbytes
        return session

    def get(self, key: SessionKey) -> _T:
        """The session of ``key``.

        Raises:
            ServiceError: SESSION_NOT_FOUND.
        """
        held = self._held.get(key_name(key))
        if held is None:
            raise ServiceError(grpc.StatusCode.NOT_FOUND, SESSION_NOT_FOUND, "the session is not open here")
        return held[0]

    def close(self, key: SessionKey) -> int:
        """Lets go of a session, if there is one; returns the bytes that are free again."""
        held = self._held.pop(key_name(key), None)
        if held is None:
            return 0
        self.nbytes -= held[1]
        return held[1]


def _exhausted(reason: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, message)
