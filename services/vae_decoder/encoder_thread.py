"""The encoder thread: encodes frames of all sessions in order, in parallel with the device.

Knows pictures and encoders; knows nothing of messages or sessions.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore
from types import TracebackType

from live_avatar.services.vae_decoder.h264 import Pixels, VideoEncoder

MAX_WAITING = 8
"""Pieces of a block that wait for the thread; the device waits when there are more."""


@dataclass(frozen=True)
class Encoded:
    """Consecutive encoded pictures."""

    frames: list[bytes]
    elapsed_ns: int
    """Time the encoder took."""


class EncoderThread:
    """One thread for the encoders of all sessions, which keep their order."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._thread = ThreadPoolExecutor(1, "encoder")
        self._slots = BoundedSemaphore(max_waiting)

    def submit(self, encoder: VideoEncoder, pixels: Pixels, *, starts_block: bool) -> Future[Encoded]:
        """Queues ``pixels`` [T, H, W, 3] for ``encoder``; waits while the queue is full."""
        self._slots.acquire()
        try:
            future = self._thread.submit(_encode, encoder, pixels, starts_block)
        except RuntimeError:
            self._slots.release()
            raise
        future.add_done_callback(lambda _: self._slots.release())
        return future

    def __enter__(self) -> "EncoderThread":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)


def _encode(encoder: VideoEncoder, pixels: Pixels, starts_block: bool) -> Encoded:
    began = time.perf_counter_ns()
    frames = encoder.encode(pixels, starts_block=starts_block)
    return Encoded(frames, time.perf_counter_ns() - began)
