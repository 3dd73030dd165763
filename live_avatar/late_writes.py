"""Keeps the server's last word when a write comes too late.

A server may end a call while its client still sends.  The asyncio side of gRPC then puts INTERNAL in the place of the
status on its way and drops what was not read yet (github.com/grpc/grpc/issues/36066, open in 1.85).  Knows gRPC's calls
and nothing of ours.
"""

from typing import Any


def keep_last_word(call: Any) -> None:
    """Makes failed writes of the asyncio ``call`` wait for the server's status instead of replacing it.

    Does nothing where gRPC no longer has what it works around.
    """
    core = getattr(call, "_cython_call", None)
    if hasattr(core, "set_internal_error"):
        call._cython_call = _Core(core)


class _Core:
    """The lower half of a call, except for what a failed write does to its status."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_internal_error(self, details: str) -> None:
        """Leaves the status to the server, whose reset made the write fail."""
