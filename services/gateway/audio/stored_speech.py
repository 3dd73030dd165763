"""Logs of a session's speech as they were stored, and the forms that queues over them have in a recovery point.

Knows samples and messages; nothing of stores.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from live_avatar.gateway.v1.recovery_point_pb2 import SampleRun, SampleTrack
from live_avatar.services.gateway.audio.kept_sound import KeptSound
from live_avatar.services.gateway.audio.sample_log import SILENCE, Run, Samples
from live_avatar.services.gateway.audio.speech import SampleQueue, decoded
from live_avatar.services.gateway.limits import SAMPLE_BYTES
from live_avatar.v1.media_pb2 import AudioFormat


class StoredLog:
    """The pieces of a log that are stored.

    Args:
        pieces: bytes by the position of their first sample.
        encoding: in which the client sent them; None: they are float32 of any size, which the resampler made.
    """

    def __init__(self, pieces: Mapping[int, bytes], encoding: "AudioFormat.Encoding.ValueType | None" = None) -> None:
        self._pieces = sorted(pieces.items())
        self._encoding = encoding

    def read(self, run: Run) -> Samples:
        """The samples of a run [n].

        Raises:
            ValueError: some of them are not stored.
        """
        if run.origin is None:
            return np.zeros(run.count, np.float32)
        data = self.read_bytes(run.origin, run.origin + run.count)[1]
        return np.frombuffer(data, "<f4") if self._encoding is None else decoded(data, self._encoding)

    def read_bytes(self, first: int, end: int) -> tuple[int, bytes]:
        """``first``, and the samples from there to ``end`` - 1 as they are stored; raises ValueError as ``read``."""
        size = SAMPLE_BYTES[self._encoding or AudioFormat.ENCODING_PCM_F32LE]
        parts = [
            data[max(0, first - at) * size : (end - at) * size]
            for at, data in self._pieces
            if at < end and at + len(data) // size > first
        ]
        found = b"".join(parts)
        if len(found) != (end - first) * size:
            raise ValueError(f"{len(found) // size} of {end - first} samples from {first} on are stored")
        return first, found

    def read_all(self, runs: Sequence[Run]) -> Samples:
        """The samples of all runs, one after the other."""
        return np.concatenate([np.empty(0, np.float32), *map(self.read, runs)])


def run_message(run: Run) -> SampleRun:
    """A run as it is stored."""
    return SampleRun(origin=0 if run.origin is None else run.origin + 1, count=run.count)


def read_run(message: SampleRun) -> Run:
    """What ``run_message`` made."""
    return Run(message.origin - 1 if message.origin else SILENCE, message.count)


def track_message(held: SampleQueue | KeptSound) -> SampleTrack:
    """Where samples lie and come from."""
    return SampleTrack(first=held.first, runs=map(run_message, held.layout.runs))


def read_queue(track: SampleTrack, log: StoredLog) -> SampleQueue:
    """A queue as it was; raises ValueError where samples are not stored."""
    queue = SampleQueue()
    queue.begin_at(track.first)
    for run in map(read_run, track.runs):
        queue.append(log.read(run), run.origin)
    return queue


def read_kept(track: SampleTrack, log: StoredLog) -> KeptSound:
    """What was kept; raises ValueError where samples are not stored."""
    runs = [read_run(run) for run in track.runs]
    kept = KeptSound(track.first)
    kept.append(log.read_all(runs), runs)
    return kept


def oldest_origin(tracks: Sequence[SampleTrack], end: int) -> int:
    """The first sample of a log that some of ``tracks`` needs; ``end``: none does."""
    origins = (run.origin - 1 for track in tracks for run in track.runs if run.origin)
    return min(origins, default=end)
