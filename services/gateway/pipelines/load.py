"""How many live sessions a pipeline keeps up with, from the times its services say they took.

Arithmetic on timings; knows neither sessions nor streams.
"""

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from live_avatar.config import Preset
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.v1.avatar_service_pb2 import BlockTiming

USABLE = 0.9
"""Part of a device's time that is planned for."""
_KEPT = 64
_ENOUGH = 8
"""Blocks after which the measurement counts."""


class Load:
    """The last measured times of one pipeline's services."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def note(self, timings: Iterable[BlockTiming]) -> None:
        """Takes the times of one block into account."""
        for timing in timings:
            spent_ns = timing.compute_time.ToNanoseconds() + timing.encode_time.ToNanoseconds()
            self._seconds[timing.service].append(spent_ns / 1e9)

    def step_s(self, services: Sequence[ServiceInfo]) -> float | None:
        """What one block takes on the busiest device; services on one device add up.  None: not measured yet."""
        by_device: defaultdict[str, float] = defaultdict(float)
        for service in services:
            seconds = self._seconds.get(service.name, ())
            if len(seconds) < _ENOUGH:
                return None
            by_device[service.device] += statistics.median(seconds)
        return max(by_device.values(), default=None)

    def live_sessions(self, services: Sequence[ServiceInfo], preset: Preset) -> int | None:
        """Live sessions the pipeline keeps up with, one at least; None: not measured yet."""
        step_s = self.step_s(services)
        if not step_s:
            return None
        block_s = preset.frames_per_block / preset.stream.fps
        return max(1, int(USABLE * block_s / step_s))
