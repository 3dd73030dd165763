"""What spoils a live session for its viewer: one state for each cause, which changes seldom.

Arithmetic on blocks and times that the caller measures; reads no clock and knows no session.
"""

from dataclasses import dataclass
from enum import StrEnum

NOTED_NS = 120_000_000
"""Waiting that a viewer notices, summed up until it has been calm."""
CALM_BLOCKS = 4
"""Blocks in time after which a cause is over; it changes no more often than this."""


class Cause(StrEnum):
    """Why a live session is not what it should be; part of the API."""

    AUDIO_STARVED = "AUDIO_STARVED"
    """Speech does not come in time, and silence stands in its place."""
    PIPELINE_SLOW = "PIPELINE_SLOW"
    """Blocks come later from the pipeline than they are to be shown."""
    CLIENT_SLOW = "CLIENT_SLOW"
    """Blocks are there in time, and the client does not take them."""


@dataclass
class Degradation:
    """The state of one cause in one session.

    A session is degraded once ``NOTED_NS`` were lost with no calm between, and no longer after ``CALM_BLOCKS`` in time.
    """

    degraded: bool = False
    late_ns: int = 0
    """How late the newest late block was."""
    lost_ns: int = 0
    """All that was lost since it was calm."""
    _calm: int = 0
    """Blocks in time since the last late one."""
    _changed_at: int = -CALM_BLOCKS
    """Block of the last change."""

    def note(self, block: int, late_ns: int) -> bool:
        """Takes by how much ``block`` was late for this cause; returns whether ``degraded`` changes."""
        if late_ns > 0:
            if self._calm >= CALM_BLOCKS:
                self.lost_ns = 0
            self._calm, self.late_ns, self.lost_ns = 0, late_ns, self.lost_ns + late_ns
        else:
            self._calm += 1
        changes = self._calm >= CALM_BLOCKS if self.degraded else self._calm == 0 and self.lost_ns >= NOTED_NS
        return changes and self._change(block)

    def foresee(self, block: int, late_ns: int) -> bool:
        """Whether the session is degraded now that ``block``, which has not come yet, is late by so much already."""
        lost_ns = late_ns + (self.lost_ns if self._calm < CALM_BLOCKS else 0)
        if self.degraded or lost_ns < NOTED_NS or not self._change(block):
            return False
        self.late_ns = late_ns
        return True

    def _change(self, block: int) -> bool:
        if block - self._changed_at < CALM_BLOCKS:
            return False
        self.degraded, self._changed_at = not self.degraded, block
        return True
