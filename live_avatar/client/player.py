"""Where a viewer is in a live video: a clock that runs at the frame rate and waits where there is nothing to show.

Arithmetic on times that the caller measures, in seconds; knows neither streams nor pictures.
"""


class PlayerClock:
    """The clock of a player that shows the first picture as it comes and every other in its time.

    Args:
        frames_per_second: of the video.
    """

    def __init__(self, frames_per_second: int) -> None:
        self._fps = frames_per_second
        self._anchor_s: float | None = None
        self._anchor_frame = 0
        self.received = 0
        """Frames that have come."""
        self.late_frames = 0
        """Frame times during which the last picture stood still."""

    @property
    def stalled_s(self) -> float:
        """For how long the last picture stood still, in all."""
        return self.late_frames / self._fps

    def receive(self, end_frame: int, now_s: float) -> None:
        """Frames up to ``end_frame`` are here."""
        if self._anchor_s is None:
            self._anchor_s = now_s
        elif self._reached(now_s) > self.received:
            self.late_frames += self._reached(now_s) - self.received
            self._anchor_s, self._anchor_frame = now_s, self.received
        self.received = max(self.received, end_frame)

    def position(self, now_s: float) -> int:
        """Frames shown."""
        return min(self._reached(now_s), self.received)

    def due_s(self, frame: int) -> float | None:
        """When ``frame`` is shown if nothing is late; None before the first picture."""
        if self._anchor_s is None:
            return None
        return self._anchor_s + (frame - self._anchor_frame) / self._fps

    def lead_s(self, now_s: float) -> float:
        """Video that is here and not shown yet."""
        return (self.received - self.position(now_s)) / self._fps

    def _reached(self, now_s: float) -> int:
        if self._anchor_s is None:
            return 0
        return self._anchor_frame + int((now_s - self._anchor_s) * self._fps)
