"""The pause in which a session leaves a pipeline that still works: what is on its way arrives, and nothing more enters.

Knows flags alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Handover:
    """That of one session.

    Args:
        changed: called where either flag changes what others may wait for.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.begun = False
        """Nothing more is to be sent to the pipeline."""
        self.is_sending = False
        """Something is being sent to it, and is sent to its end."""

    @contextmanager
    def sending(self) -> Iterator[None]:
        """What the body sends belongs together."""
        self.is_sending = True
        try:
            yield
        finally:
            self.is_sending = False
            if self.begun:
                self._changed()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """While the body runs, nothing enters the pipeline."""
        self.begun = True
        self._changed()
        try:
            yield
        finally:
            self.begun = False
            self._changed()
