"""What a stream has sent and still has to send, so that a stream after it can go on without a gap.

Messages belong to the block that they come with, or come before.  Knows messages and their order; nothing of streams.
"""

from collections import deque
from dataclasses import dataclass, field

from live_avatar.v1 import avatar_service_pb2 as api

Response = api.StreamAvatarResponse


@dataclass
class _Sent:
    """What was sent of one block, and since the block before it."""

    block: int
    messages: list[Response] = field(default_factory=list)
    size: int = 0

    def add(self, message: Response) -> None:
        """Adds a message that is sent now."""
        self.messages.append(message)
        self.size += message.ByteSize()


class ReplayLog:
    """The messages of the newest blocks of one session.

    Args:
        max_blocks: whole blocks that are kept after they were sent; 0: nothing is.
        max_bytes: of what is kept, where that is more than one block.
    """

    def __init__(self, max_blocks: int, max_bytes: int) -> None:
        self._max_blocks = max_blocks
        self._max_bytes = max_bytes
        self._sent: deque[_Sent] = deque([_Sent(0)])
        self._pending: deque[Response | None] = deque()
        """None: the end of a block."""
        self._size = 0

    @property
    def first_block(self) -> int:
        """The oldest block that can be sent again as a whole."""
        return self._sent[0].block

    @property
    def block(self) -> int:
        """The block whose messages are being sent."""
        return self._sent[-1].block

    def __bool__(self) -> bool:
        """Something is to be sent, or ended."""
        return bool(self._pending)

    def keep_nothing(self) -> None:
        """Keeps no message from now on that was sent."""
        self._max_blocks = 0

    def append(self, message: Response) -> None:
        """Adds a message that is to be sent after all others."""
        self._pending.append(message)

    def append_end(self) -> None:
        """Ends the block after all messages that are to be sent."""
        self._pending.append(None)

    @property
    def next(self) -> Response | None:
        """The message to send next; None: the block ends before it.  Only where there is one."""
        return self._pending[0]

    def pop(self) -> None:
        """Counts the next message as sent: before it is written, so that a broken write is not lost."""
        message = self._pending.popleft()
        if message is None:
            self.end_block()
        else:
            self.note_sent(message)

    def note_sent(self, message: Response) -> None:
        """``message`` is sent now, ahead of those that are to be sent; how much time is left is not said again."""
        if self._max_blocks and not message.HasField("go_away"):
            self._sent[-1].add(message)
            self._size += message.ByteSize()

    def end_block(self) -> None:
        """All messages of a block have been sent; those that follow belong to the next one."""
        self._sent.append(_Sent(self.block + 1))
        while len(self._sent) > 1 and self._is_full:
            self._size -= self._sent.popleft().size

    def forget(self, block: int) -> None:
        """What belongs to blocks before ``block`` need not be sent again."""
        while len(self._sent) > 1 and self._sent[0].block < block:
            self._size -= self._sent.popleft().size

    def has_room(self, received: int) -> bool:
        """Another block may be sent to a client that has ``received`` blocks, and all that it lacks is still kept."""
        if self._max_blocks == 0 or received < self.first_block:
            return True
        return self.block - received < self._max_blocks

    @property
    def _is_full(self) -> bool:
        blocks = len(self._sent) - 1
        return blocks > self._max_blocks or (blocks > 1 and self._size > self._max_bytes)

    def rewind(self, block: int) -> None:
        """Makes everything from ``block`` on, which is kept, to be sent again."""
        open_block = self.block
        while self._sent and self._sent[-1].block >= block:
            sent = self._sent.pop()
            self._size -= sent.size
            if sent.block < open_block:
                self._pending.appendleft(None)
            self._pending.extendleft(reversed(sent.messages))
        self._sent.append(_Sent(block))

    def go_on(self, block: int) -> None:
        """Everything before ``block`` was sent, by another log."""
        self._sent = deque([_Sent(block)])

    def end(self) -> None:
        """Forgets everything."""
        self._sent = deque([_Sent(self.block)])
        self._pending.clear()
        self._size = 0
