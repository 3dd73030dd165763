"""What one session uses: media that was given to the transport, and the compute time of its blocks.

Knows messages of the public API; nothing of stores or streams.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from live_avatar.gateway.v1.recovery_point_pb2 import UsageState
from live_avatar.services.gateway.store.usage import Amounts
from live_avatar.v1.avatar_service_pb2 import StreamAvatarResponse

_NS_PER_S = 1_000_000_000


class UsageMeter:
    """Totals of a session in its present epoch.

    Frames count as they are given to the transport; a block counts with its first frame, and its compute time too.

    Args:
        fps: frames per second of media.
    """

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._frames = 0
        self._next_frame = 0
        self._blocks = 0
        self._last_block = -1
        self._service_ns = Counter[str]()

    @property
    def total(self) -> Amounts:
        """All that was used so far."""
        media_ns = self._frames * _NS_PER_S // self._fps
        return Amounts(media_ns=media_ns, blocks=self._blocks, service_ns=dict(self._service_ns))

    def snapshot(self) -> UsageState:
        """As it is stored."""
        return UsageState(
            frames=self._frames,
            next_frame=self._next_frame,
            blocks=self._blocks,
            last_block=self._last_block,
            service_ns=self._service_ns,
        )

    def restore(self, stored: UsageState) -> None:
        """Makes it what ``snapshot`` was made of."""
        self._frames, self._next_frame = stored.frames, stored.next_frame
        self._blocks, self._last_block = stored.blocks, stored.last_block
        self._service_ns = Counter(dict(stored.service_ns))

    @contextmanager
    def writing(self, response: StreamAvatarResponse) -> Iterator[None]:
        """Counts what the body writes; one body at a time.

        A write that is cancelled has given the message to the transport, which delivers it; one that fails has not.
        """
        before = (self._frames, self._next_frame, self._blocks, self._last_block, Counter(self._service_ns))
        if response.video_unit.frame_count:
            self._count(response.video_unit)
        try:
            yield
        except Exception:
            self._frames, self._next_frame, self._blocks, self._last_block, self._service_ns = before
            raise

    def _count(self, unit: StreamAvatarResponse.VideoUnit) -> None:
        """Counts what is not sent again."""
        end = unit.first_frame_index + unit.frame_count
        self._frames += max(0, end - max(self._next_frame, unit.first_frame_index))
        self._next_frame = max(self._next_frame, end)
        if unit.block_index <= self._last_block:
            return
        self._last_block = unit.block_index
        self._blocks += 1
        for timing in unit.timings:
            spent_ns = timing.compute_time.ToNanoseconds()
            if spent_ns > 0:
                self._service_ns[timing.service] += spent_ns
