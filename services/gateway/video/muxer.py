"""Muxes the encoded frames of a block and the speech of the same span into what the client receives.

A ``Muxer`` belongs to one session and is fed blocks in order.  All positions are integers: frame n is shown at
(n + dropped frames) / fps and sample i played at i / rate, both on the session's clock; an MP4 shows frame 0 from 0 on.
Knows the encodings and the container; not who is waiting, nor why.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
import soxr
from av.audio.codeccontext import AudioCodecContext

from live_avatar.config import Preset
from live_avatar.provenance.segments import SegmentSigner
from live_avatar.services.gateway.video import mp4
from live_avatar.v1 import media_pb2

AAC_RATE_HZ = 48_000
"""Whatever the rate of the speech: the encoder holds back three packets, and these are the shortest."""
AAC_BITS_PER_SECOND = 64_000
AAC_PACKET_SAMPLES = 1024
TICKS_PER_FRAME = 512
_VIDEO_TRACK, _AUDIO_TRACK = 1, 2

Speech = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EncodedFrames:
    """Encoded frames of one block that are to be shown."""

    block: int
    first_frame: int
    frames: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """One piece of video for the client."""

    data: bytes
    first_frame: int
    frame_count: int
    keyframe: bool


@dataclass(frozen=True, kw_only=True)
class MuxerPosition:
    """How far a file has come, and the speech before that."""

    fragments: int
    packets: int
    sample: int
    """Of the speech that follows, at the client's rate."""
    recent: Speech
    """The newest samples [n] before it; as many as there are, half a second is enough."""


class Muxer(Protocol):
    """What turns blocks of one session into units of video."""

    carries_audio: bool
    """The units hold the speech as well; otherwise it travels beside them."""

    def mux(self, frames: EncodedFrames, speech: Speech) -> Iterator[Fragment]:
        """Units of the next block; ``speech`` [n] in [-1, 1] at the client's rate continues that of the last one."""
        ...

    def finish(self) -> bytes:
        """What is left when no block follows; may be empty."""
        ...

    @property
    def position(self) -> tuple[int, int]:
        """Fragments so far, and packets of speech in them; both 0 where units do not depend on those before."""
        ...

    def go_on(self, position: MuxerPosition) -> None:
        """Continues the file of another muxer; before the first block."""
        ...

    def prepare(self, first_picture: bytes) -> None:
        """Does before the first block what may take long; with the first frame that ``mux`` will get.  Idempotent.

        Raises:
            ValueError: the first picture brings no parameter sets, or the key gives no signature that holds.
            OSError: the key cannot be asked.
        """
        ...


def muxer_for(
    encoding: int, preset: Preset, size: tuple[int, int], rate_hz: int, signer: SegmentSigner | None = None
) -> Muxer:
    """The muxer of a ``VideoFormat.Encoding``.

    Args:
        encoding: of the frames.
        preset: of the session's pipeline.
        size: (width, height) in pixels.
        rate_hz: of the speech.
        signer: signs fragments; other encodings have no place for a signature.
    """
    if encoding == media_pb2.VideoFormat.ENCODING_FMP4:
        return FragmentedMp4(preset, size, rate_hz, signer)
    if encoding == media_pb2.VideoFormat.ENCODING_H264_ANNEXB:
        return AccessUnits()
    return RawFrames()


class AccessUnits:
    """One unit per block: its H.264 access units one after the other."""

    carries_audio = False

    def mux(self, frames: EncodedFrames, speech: Speech) -> Iterator[Fragment]:
        """See ``Muxer``; ``speech`` travels beside the video."""
        if frames.frames:
            yield Fragment(
                data=b"".join(frames.frames),
                first_frame=frames.first_frame,
                frame_count=len(frames.frames),
                keyframe=True,
            )

    def finish(self) -> bytes:
        """Nothing: every block is complete."""
        return b""

    def prepare(self, first_picture: bytes) -> None:
        """Nothing takes long."""

    @property
    def position(self) -> tuple[int, int]:
        """See ``Muxer``."""
        return 0, 0

    def go_on(self, position: MuxerPosition) -> None:
        """See ``Muxer``; every block is complete."""


class RawFrames:
    """One unit per frame: [height, width, 3] uint8."""

    carries_audio = False

    def mux(self, frames: EncodedFrames, speech: Speech) -> Iterator[Fragment]:
        """See ``Muxer``; ``speech`` travels beside the video."""
        for offset, frame in enumerate(frames.frames):
            yield Fragment(data=frame, first_frame=frames.first_frame + offset, frame_count=1, keyframe=True)

    def finish(self) -> bytes:
        """Nothing: every frame is complete."""
        return b""

    def prepare(self, first_picture: bytes) -> None:
        """Nothing takes long."""

    @property
    def position(self) -> tuple[int, int]:
        """See ``Muxer``."""
        return 0, 0

    def go_on(self, position: MuxerPosition) -> None:
        """See ``Muxer``; every frame is complete."""


class FragmentedMp4:
    """One fragment per block, with the speech as AAC; the first unit begins with the file's header.

    The units of a session, one after the other, are a file.  Its first picture is shown from 0 on, until the second
    is due: players differ in what they do about a track that begins late.

    Args:
        preset: of the session's pipeline.
        size: (width, height) in pixels.
        rate_hz: of the speech.
        signer: signs the header and each fragment; None: neither is signed.
    """

    carries_audio = True

    def __init__(
        self, preset: Preset, size: tuple[int, int], rate_hz: int, signer: SegmentSigner | None = None
    ) -> None:
        self._fps = preset.stream.fps
        self._dropped = preset.stream.dropped_frames
        self._size = size
        self._rate_hz = rate_hz
        self._voice = AacVoice(rate_hz)
        self._sequence = 0
        self._signer = signer
        self._header = b""
        """Until it is sent."""

    def prepare(self, first_picture: bytes) -> None:
        """See ``Muxer``: makes and signs the header."""
        if self._sequence == 0 and not self._header:
            header = self._init_segment(first_picture)
            self._header = header if self._signer is None else self._signer.header(header)

    @property
    def position(self) -> tuple[int, int]:
        """See ``Muxer``."""
        return self._sequence, self._voice.packets

    def go_on(self, position: MuxerPosition) -> None:
        """See ``Muxer``; encoder and resampler are warmed, with the sound that was before."""
        self._sequence = position.fragments
        self._voice = AacVoice(self._rate_hz)
        self._voice.go_on(position.recent, position.sample, position.packets)

    def mux(self, frames: EncodedFrames, speech: Speech) -> Iterator[Fragment]:
        """See ``Muxer``; raises like ``prepare`` where that was not called."""
        packets = self._voice.append(speech)
        if not frames.frames:
            self._voice.put_back(packets)
            return
        self.prepare(frames.frames[0])
        # A thread of an earlier stream may sign it once more, later: it is sent once all the same.
        header, self._header = self._header if self._sequence == 0 else b"", b""
        yield Fragment(
            data=header + self._fragment(self._video(frames), self._voice.run(packets)),
            first_frame=frames.first_frame,
            frame_count=len(frames.frames),
            keyframe=True,
        )

    def finish(self) -> bytes:
        """A last fragment with the rest of the speech; empty where no video came."""
        if self._sequence == 0:
            return b""
        run = self._voice.run(self._voice.finish())
        return self._fragment(run) if run.samples else b""

    def _video(self, frames: EncodedFrames) -> mp4.Run:
        held = self._dropped if frames.first_frame == 0 else 0
        durations = [TICKS_PER_FRAME] * len(frames.frames) if held else []
        if held:
            durations[0] += held * TICKS_PER_FRAME
        return mp4.Run(
            track_id=_VIDEO_TRACK,
            start=(frames.first_frame + self._dropped - held) * TICKS_PER_FRAME,
            samples=[mp4.sample_of(frame) for frame in frames.frames],
            starts_with_keyframe=True,
            durations=durations,
        )

    def _fragment(self, *runs: mp4.Run) -> bytes:
        self._sequence += 1
        fragment = mp4.fragment(self._sequence, runs)
        return fragment if self._signer is None else self._signer.fragment(self._sequence, fragment)

    def _init_segment(self, first_picture: bytes) -> bytes:
        sps, pps = mp4.parameter_sets(first_picture)
        video = mp4.VideoTrack(
            track_id=_VIDEO_TRACK,
            ticks_per_second=self._fps * TICKS_PER_FRAME,
            ticks_per_frame=TICKS_PER_FRAME,
            width=self._size[0],
            height=self._size[1],
            sps=sps,
            pps=pps,
        )
        return mp4.init_segment(video, self._voice.track())


class AacVoice:
    """The speech of one session as AAC packets."""

    def __init__(self, rate_hz: int) -> None:
        same = rate_hz == AAC_RATE_HZ
        self._resampler = None if same else soxr.ResampleStream(rate_hz, AAC_RATE_HZ, 1, "float32", "HQ")
        self._encoder = _aac_encoder()
        self._rate_hz = rate_hz
        self._waiting: list[bytes] = []
        self._samples = 0
        self._packets = 0
        self._surplus = 0
        """Packets that come next and are in the track already."""

    @property
    def packets(self) -> int:
        """Those that are in the track."""
        return self._packets

    def go_on(self, recent: Speech, sample: int, packets: int) -> None:
        """Continues the track of another one; only before the first sample.

        The encoder begins a whole number of packets after the beginning of the track, and what it makes of them of
        packets that are there already is dropped.

        Args:
            recent: the newest samples [n] before ``sample``; zeros stand for those before them.
            sample: the next to come.
            packets: in the track.
        """
        period = _shared_samples(self._rate_hz)
        begin = max(0, sample - recent.size) // period * period
        missing = max(0, sample - begin - recent.size)
        warm = np.concatenate((np.zeros(missing, np.float32), recent[max(0, recent.size - (sample - begin)) :]))
        self._packets = packets
        skipped = begin * AAC_RATE_HZ // self._rate_hz // AAC_PACKET_SAMPLES
        made = self.append(warm)
        self._surplus = max(0, packets - skipped - len(made))
        self.put_back(made[max(0, packets - skipped) :])

    def append(self, speech: Speech) -> list[bytes]:
        """The packets that ``speech`` completes."""
        if self._resampler is not None:
            speech = self._resampler.resample_chunk(speech)
        return self._encode(speech)

    def finish(self) -> list[bytes]:
        """The remaining packets."""
        nothing = np.empty(0, np.float32)
        packets = self._encode(
            nothing if self._resampler is None else self._resampler.resample_chunk(nothing, last=True)
        )
        # Without a single sample the encoder has nothing to flush.
        return packets + [bytes(packet) for packet in self._encoder.encode(None)] if self._samples else packets

    def put_back(self, packets: list[bytes]) -> None:
        """Keeps packets for which there was no fragment; ``append`` returns them next."""
        self._waiting = packets

    def run(self, packets: list[bytes]) -> mp4.Run:
        """Packets as they continue the track."""
        start = self._packets * AAC_PACKET_SAMPLES
        self._packets += len(packets)
        return mp4.Run(track_id=_AUDIO_TRACK, start=start, samples=packets, starts_with_keyframe=False)

    def track(self) -> mp4.AudioTrack:
        """How the packets are to be read."""
        config = self._encoder.extradata
        assert config is not None, "the AAC encoder has its configuration when it opens"
        return mp4.AudioTrack(
            track_id=_AUDIO_TRACK,
            sample_rate_hz=AAC_RATE_HZ,
            samples_per_packet=AAC_PACKET_SAMPLES,
            priming_samples=AAC_PACKET_SAMPLES,
            bitrate=AAC_BITS_PER_SECOND,
            config=config,
        )

    def _encode(self, speech: Speech) -> list[bytes]:
        packets, self._waiting = self._waiting, []
        if speech.size:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(speech[None]), format="fltp", layout="mono")
            frame.sample_rate = AAC_RATE_HZ
            frame.pts = self._samples
            self._samples += speech.size
            packets += [bytes(packet) for packet in self._encoder.encode(frame)]
        known = min(self._surplus, len(packets))
        self._surplus -= known
        return packets[known:]


def _shared_samples(rate_hz: int) -> int:
    """Samples at ``rate_hz`` that last for a whole number of packets."""
    common = gcd(rate_hz, AAC_RATE_HZ)
    ticks = AAC_RATE_HZ // common
    return rate_hz // common * (AAC_PACKET_SAMPLES // gcd(ticks, AAC_PACKET_SAMPLES))


def _aac_encoder() -> AudioCodecContext:
    encoder = av.CodecContext.create("aac", "w")
    assert isinstance(encoder, AudioCodecContext), "AAC is an audio codec"
    encoder.sample_rate = AAC_RATE_HZ
    encoder.layout = "mono"
    encoder.format = "fltp"
    encoder.bit_rate = AAC_BITS_PER_SECOND
    encoder.flags |= av.codec.context.Flags.global_header
    encoder.open()
    return encoder
