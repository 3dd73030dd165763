"""Names of keys in Redis.

In a Cluster all of them lie in one slot, since transactions must not span slots: there, the prefix that they share is
written as their hash tag.  Elsewhere they are as they always were.  Knows names alone.
"""

from typing import Any

from redis._parsers import Encoder

_PREFIX = "live_avatar:"
TAG = "{live_avatar}"
"""What decides on the slot of every key in a Cluster."""


class Key(str):
    """A key, as opposed to a value."""

    __slots__ = ()

    @property
    def tagged(self) -> str:
        """As it is called in a Cluster."""
        return f"{TAG}:{self.removeprefix(_PREFIX)}"


def key(name: str) -> Key:
    """The key called ``name`` among those of the gateways."""
    return Key(_PREFIX + name)


class TaggingEncoder(Encoder):
    """Encodes what is sent to a Cluster: keys with their tag, all else as it is."""

    def encode(self, value: Any) -> Any:
        """The bytes of one argument of a command."""
        return super().encode(value.tagged if isinstance(value, Key) else value)  # type: ignore[no-untyped-call]
