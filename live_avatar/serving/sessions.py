"""The sessions of one hop, and the epochs it has seen.

Knows keys and states; knows nothing of streams' messages or of the work.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator

import grpc

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.serving.errors import STALE_EPOCH, ServiceError
from live_avatar.serving.keys import key_name
from live_avatar.serving.upstream import Upstream

EPOCH_MEMORY = 4096
MAX_SESSION_ID_LENGTH = 128


class Session:
    """One session on one hop, owned by the stream on which it was opened."""

    def __init__(self, key: SessionKey, upstream: Upstream) -> None:
        self.key = SessionKey(session_id=key.session_id, epoch=key.epoch)
        self.upstream = upstream
        # Memory reserved here; None until it is, and again when it is free.
        self.reserved_bytes: int | None = None
        # The session is open on the next service too (as far as this one knows).
        self.forwarded = False
        # Opened was sent up.
        self.opened = False
        # Nothing more is done for it; its memory is freed by an item that waits already.
        self.closed = False
        # Its last work failed, which the event loop may not have seen yet; set by the device's thread.
        self.failed = False
        self.delivery: asyncio.Timeout | None = None

    def end(self) -> None:
        """Marks the session as closed and stops its running delivery."""
        self.closed = True
        if self.delivery is not None and not self.delivery.expired():
            self.delivery.reschedule(asyncio.get_running_loop().time())

    @property
    def wants_blocks(self) -> bool:
        """Whether its blocks are still to be worked on."""
        return not self.closed and not self.failed


class SessionTable:
    """Open sessions by key, and the largest epoch of each session id, remembered for the last ``epoch_memory`` ids."""

    def __init__(self, epoch_memory: int = EPOCH_MEMORY) -> None:
        self._sessions: dict[tuple[str, int], Session] = {}
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._epoch_memory = epoch_memory
        self.empty = asyncio.Event()
        self.empty.set()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    @property
    def reserved_bytes(self) -> int:
        """Memory of all sessions."""
        return sum(session.reserved_bytes or 0 for session in self._sessions.values())

    def note_epoch(self, key: SessionKey) -> bool:
        """Remembers the epoch of a message; returns whether the session id was known.

        Raises:
            ServiceError: STALE_EPOCH where a larger epoch was seen.
        """
        largest = self._epochs.get(key.session_id)
        if largest is not None and key.epoch < largest:
            raise ServiceError(
                grpc.StatusCode.ABORTED, STALE_EPOCH, f"epoch {key.epoch} is behind {largest} of the same session"
            )
        self._epochs[key.session_id] = key.epoch
        self._epochs.move_to_end(key.session_id)
        if len(self._epochs) > self._epoch_memory:
            self._epochs.popitem(last=False)
        return largest is not None

    def add(self, session: Session) -> None:
        """Registers a session in place of an ended one of the same key."""
        self._sessions[key_name(session.key)] = session
        self.empty.clear()

    def remove(self, session: Session) -> None:
        """Forgets a session, if it is still the one registered under its key."""
        if self._sessions.get(key_name(session.key)) is session:
            del self._sessions[key_name(session.key)]
        if not self._sessions:
            self.empty.set()

    def find(self, key: SessionKey) -> Session | None:
        """The session of this key, unless it is over."""
        session = self._sessions.get(key_name(key))
        return None if session is None or session.closed else session

    def older(self, key: SessionKey) -> list[Session]:
        """Sessions of the same id with a smaller epoch that are not over."""
        return [s for s in self if s.key.session_id == key.session_id and s.key.epoch < key.epoch and not s.closed]
