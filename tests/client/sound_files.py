"""Recordings of many kinds, whole and broken, made on the spot."""

import io
import struct
import wave
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream

from live_avatar.client.speech import SpeechFile

Samples = npt.NDArray[np.int16]
RATE_HZ = 16_000


def tone(rate_hz: int = RATE_HZ, seconds: float = 1.0, hertz: int = 300) -> Samples:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.round(8_000 * np.sin(2 * np.pi * hertz * time)).astype(np.int16)


def wav(channels: npt.NDArray[np.generic], rate_hz: int = RATE_HZ, kind: int = 1, bits: int = 16) -> bytes:
    """A WAV file of ``channels`` [n, channels], whose samples are written as they are."""
    count = channels.shape[1]
    block = count * bits // 8
    data = channels.tobytes()
    form = struct.pack("<HHIIHH", kind, count, rate_hz, rate_hz * block, block, bits)
    size = 4 + 8 + len(form) + 8 + len(data)
    head = b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    return head + b"data" + struct.pack("<I", len(data)) + data


def write_wav(path: Path, samples: Samples, rate_hz: int, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(np.repeat(samples, channels).astype("<i2").tobytes())


def coded(
    form: str, codec: str, samples: Samples, rate_hz: int = RATE_HZ, layout: str = "mono", **options: str
) -> bytes:
    """``samples`` [n], the same in every channel of ``layout``, as a file of ``form``."""
    file = io.BytesIO()
    with av.open(file, "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        assert isinstance(stream, AudioStream)
        channels = len(av.AudioLayout(layout).channels)
        frame = av.AudioFrame.from_ndarray(np.repeat(samples[None], channels, axis=0), format="s16p", layout=layout)
        frame.sample_rate = rate_hz
        size = stream.codec_context.frame_size or 1_024
        resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate_hz, frame_size=size)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def packets_of(data: bytes) -> list[tuple[int, int]]:
    """Where each packet of a file lies: position and size."""
    with av.open(io.BytesIO(data), "r") as container:
        return [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.pos is not None]


def damage(data: bytes, places: Sequence[slice]) -> bytes:
    """The file with the packets in ``places`` scratched behind their headers, which still name their length."""
    packets, broken = packets_of(data), bytearray(data)
    for place in places:
        for position, size in packets[place]:
            broken[position + 4 : position + size] = b"\xff" * (size - 4)
    return bytes(broken)


def read(path: Path, longest_s: float | None = None) -> tuple[Samples, int, tuple[str, ...]]:
    """All samples, their rate, and what was wrong."""
    with SpeechFile(path) as speech:
        if longest_s is not None:
            speech.fits(longest_s)
        data = b"".join(speech.chunks())
        return np.frombuffer(data, "<i2"), speech.rate_hz, speech.warnings


def pitch(samples: Samples, rate_hz: int) -> float:
    """The loudest frequency of a stretch in Hz, 0 in silence."""
    if np.abs(samples).max(initial=0) < 100:
        return 0.0
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    return float(spectrum.argmax() * rate_hz / samples.size)
