"""The frames of a recording as it was spoken: what cannot be decoded is silence of the same length.

Knows packets, times and frames; nothing of files or channels.
"""

from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

MAX_DAMAGED_IN_A_ROW = 1_000
"""Reads of a damaged container after which nothing more is expected of it."""
_SHORTEST_GAP_S = 0.001
_SHORTEST_HOLE_S = 0.1
"""Between two frames with no damaged packet between them: what a container lost without a word, as Ogg and FLAC do."""
_LONGEST_GAP_S = 600.0
"""A stretch that seems longer is one whose times are wrong."""


class SoundFrames:
    """An iterator of frames and, between them, of the length of what was lost, in seconds."""

    def __init__(self, container: InputContainer, stream: AudioStream) -> None:
        self._container = container
        self._stream = stream
        self._lost_s = 0.0
        """Of the packets since the last frame, by what they say of themselves."""
        self._end_s: float | None = None
        """When the last frame ended."""
        self.lost_s = 0.0
        """In all."""
        self.bad_samples = 0
        """Samples that were no numbers."""

    def __iter__(self) -> Iterator[AudioFrame | float]:
        for packet in self._packets():
            yield from self._decode(packet)
        if self._lost_s:
            self.lost_s += self._lost_s

    def _packets(self) -> "Iterator[Packet[AudioStream]]":
        """Every packet, over damaged places of the container."""
        damaged = 0
        packets = self._container.demux(self._stream)
        while damaged < MAX_DAMAGED_IN_A_ROW:
            try:
                packet = next(packets, None)
            except (av.error.EOFError, OSError):
                return
            except av.error.FFmpegError:
                damaged += 1
                packets = self._container.demux(self._stream)
                continue
            if packet is None:
                return
            damaged = 0
            yield packet

    def _decode(self, packet: "Packet[AudioStream]") -> Iterator[AudioFrame | float]:
        begins_s = _seconds(packet, packet.pts)
        if self._end_s is None and begins_s is not None:
            self._end_s = begins_s
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            self._lost_s += _seconds(packet, packet.duration) or 0.0
            return
        for frame in frames:
            if frame.samples:
                yield from self._gap_before(frame)
                self._end_s = None if frame.time is None else frame.time + frame.samples / frame.sample_rate
                yield self._with_numbers(frame)

    def _gap_before(self, frame: AudioFrame) -> Iterator[float]:
        """The length of what was lost before ``frame``: by the times, or where they say nothing, by the packets."""
        lost_s, self._lost_s = self._lost_s, 0.0
        if self._end_s is not None and frame.time is not None:
            shortest_s = _SHORTEST_GAP_S if lost_s else _SHORTEST_HOLE_S
            gap_s = frame.time - self._end_s
            lost_s = gap_s if shortest_s < gap_s < _LONGEST_GAP_S else 0.0
        if lost_s:
            self.lost_s += lost_s
            yield lost_s

    def _with_numbers(self, frame: AudioFrame) -> AudioFrame:
        """The frame, without what is no number."""
        if not frame.format.name.startswith(("flt", "dbl")):
            return frame
        samples = frame.to_ndarray().astype(np.float64)
        bad = int(np.count_nonzero(~np.isfinite(samples)))
        if not bad:
            return frame
        self.bad_samples += bad
        numbers = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
        form = frame.format.name
        kind: npt.DTypeLike = np.float64 if form.startswith("dbl") else np.float32
        fixed = AudioFrame.from_ndarray(numbers.astype(kind), format=form, layout=frame.layout)
        fixed.sample_rate, fixed.pts, fixed.time_base = frame.sample_rate, frame.pts, frame.time_base
        return fixed


def _seconds(packet: "Packet[AudioStream]", count: int | None) -> float | None:
    return None if count is None or packet.time_base is None else float(count * packet.time_base)
