"""The recovery point of one session as it is stored: fields of one hash, by their names.

Knows names and messages; nothing of stores or sessions.
"""

from collections.abc import Mapping

from google.protobuf.message import DecodeError

from live_avatar.gateway.v1.recovery_point_pb2 import SessionState

STATE, FINISHED, OUT, MODEL = "s", "f", "o", "i"
"""What a number follows: a state before a block, a finished block, samples at the client's rate, and at the model's."""
SINK, OWN_SINK = "sink", "own"


class StoredPoint:
    """What was read.

    Args:
        fields: of the hash.

    Raises:
        ValueError: no state is among them, or one is none.
    """

    def __init__(self, fields: Mapping[str, bytes]) -> None:
        self._fields = fields
        try:
            self._states = {block: SessionState.FromString(data) for block, data in self.pieces(STATE).items()}
        except DecodeError as error:
            raise ValueError("a stored state cannot be read") from error
        if not self._states:
            raise ValueError("no state is stored")

    @property
    def newest(self) -> SessionState:
        """The state of the newest block."""
        return self._states[max(self._states)]

    def state(self, block: int) -> SessionState | None:
        """The newest state from which ``block`` follows; None: there is none."""
        found = max((one for one in self._states if one <= block), default=None)
        return None if found is None else self._states[found]

    def data(self, name: str) -> bytes:
        """A field; empty where it is not stored."""
        return self._fields.get(name, b"")

    def pieces(self, kind: str) -> dict[int, bytes]:
        """All fields of a kind, by their numbers."""
        size = len(kind)
        return {
            int(name[size:]): data
            for name, data in self._fields.items()
            if name[:size] == kind and name[size:].isdigit()
        }

    def finished(self, block: int, window: int) -> dict[int, bytes]:
        """The finished blocks of the ``window`` blocks before ``block``."""
        return {index: data for index, data in self.pieces(FINISHED).items() if block - window <= index < block}
