"""The video units that a client has room for.

Knows numbers alone.
"""

from live_avatar.services.gateway.refusals import refuse


class CreditWindow:
    """Grants of one client, less what was sent.

    Args:
        most: credits that may be held at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._available = 0

    @property
    def available(self) -> int:
        """Units that may be sent now."""
        return self._available

    def grant(self, units: int) -> None:
        """Adds credits; raises ServiceError INVALID_ARGUMENT where they are more than may be held."""
        if self._available + units > self._most:
            message = f"{self._available} + {units} video units are more than {self._most}"
            refuse("CREDIT_OUT_OF_RANGE", message, "credit.video_units")
        self._available += units

    def spend(self) -> None:
        """Takes one credit for a unit that is sent now."""
        assert self._available > 0, "a unit is sent only where a credit is available"
        self._available -= 1
