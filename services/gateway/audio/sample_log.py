"""Received samples in the order in which they came, and which of them lie where on the session's clock.

A log only grows at its end and is forgotten from its beginning, so that what was stored of it stays right whatever
becomes of the samples.  Knows positions and bytes; nothing of stores.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
SILENCE = None
"""Origin of samples that nobody sent."""


@dataclass(frozen=True)
class Run:
    """Samples that follow each other in a log, from ``origin`` on; or silence."""

    origin: int | None
    count: int


class Layout:
    """Where the samples of a queue come from, oldest first."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._runs: deque[Run] = deque()
        self.extend(runs)

    @property
    def runs(self) -> Sequence[Run]:
        """As they follow each other."""
        return tuple(self._runs)

    @property
    def first_origin(self) -> int | None:
        """The oldest sample of the log among them; None: there is none."""
        return min((run.origin for run in self._runs if run.origin is not None), default=None)

    def append(self, run: Run) -> None:
        """Adds samples at the end; those that continue the last run become part of it."""
        last = self._runs[-1] if self._runs else None
        follows = last is not None and (
            run.origin is last.origin is None or (last.origin is not None and run.origin == last.origin + last.count)
        )
        if last is not None and follows:
            self._runs[-1] = Run(last.origin, last.count + run.count)
        elif run.count:
            self._runs.append(run)

    def extend(self, runs: Iterable[Run]) -> None:
        """Adds runs at the end."""
        for run in runs:
            self.append(run)

    def take(self, count: int) -> list[Run]:
        """Removes the first ``count`` samples, as far as there are any."""
        taken = []
        while self._runs and count > 0:
            run = self._runs.popleft()
            head, rest = _split(run, count)
            if rest.count:
                self._runs.appendleft(rest)
            taken.append(head)
            count -= head.count
        return taken

    def put_back(self, runs: Sequence[Run]) -> None:
        """Puts ``runs`` in front."""
        behind = self._runs
        self._runs = deque()
        self.extend((*runs, *behind))

    def keep(self, count: int) -> None:
        """Forgets all but the first ``count`` samples."""
        self._runs = deque(self.take(count))


class SampleLog:
    """Samples of one rate as bytes; kept from the first that is not stored on.

    Args:
        sample_bytes: of one sample.
    """

    def __init__(self, sample_bytes: int) -> None:
        self._sample_bytes = sample_bytes
        self._data = bytearray()
        self._keeps = False
        self._first = 0
        self.end = 0
        """Position after the last sample."""

    def keep(self) -> None:
        """Keeps what comes from now on until ``forget``; before, samples are counted alone."""
        if not self._keeps:
            self._keeps, self._first = True, self.end

    def append(self, data: bytes) -> int:
        """Adds samples; returns the position of the first of them."""
        origin = self.end
        self.end += len(data) // self._sample_bytes
        if self._keeps:
            self._data += data
        return origin

    def read(self, first: int, end: int) -> tuple[int, bytes]:
        """What is kept from position ``first`` to ``end`` - 1, and where that begins."""
        first = max(first, self._first)
        size = self._sample_bytes
        return first, bytes(self._data[(first - self._first) * size : max(0, end - self._first) * size])

    def forget(self, before: int) -> None:
        """Forgets samples before position ``before``."""
        gone = min(max(0, before - self._first), len(self._data) // self._sample_bytes)
        del self._data[: gone * self._sample_bytes]
        self._first += gone

    def go_on(self, first: int, data: bytes) -> None:
        """Continues a log that has ``data`` at its end, from position ``first`` on."""
        self._data, self._first, self._keeps = bytearray(data), first, True
        self.end = first + len(data) // self._sample_bytes


def _split(run: Run, count: int) -> tuple[Run, Run]:
    """The first ``count`` samples of a run, and the rest."""
    count = min(count, run.count)
    return Run(run.origin, count), Run(None if run.origin is None else run.origin + count, run.count - count)
