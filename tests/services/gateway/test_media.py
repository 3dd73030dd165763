"""What clients receive, read back by a player's demuxer: every frame, at its time, with the speech in its place."""

import io
from collections.abc import Iterator

import av
import numpy as np
import pytest

from live_avatar.config import TINY
from live_avatar.v1.media_pb2 import VideoFormat
from services.gateway.media import AAC_PACKET_SAMPLES, FragmentedMp4, Packer, Pictures, Speech, Unit, packer_for
from services.vae_decoder.media import H264Encoder

SIZE = (64, 48)
FPS = TINY.stream.fps
DROPPED = TINY.stream.dropped_frames
PER_BLOCK = TINY.frames_per_block


def first_frame(block: int) -> int:
    return max(0, block * PER_BLOCK - DROPPED)


def film(blocks: int, bright: set[int]) -> Iterator[Pictures]:
    """Black pictures but for the ``bright`` ones."""
    encoder = H264Encoder(*SIZE, FPS)
    for block in range(blocks):
        first, last = first_frame(block), first_frame(block + 1)
        pixels = np.zeros((last - first, SIZE[1], SIZE[0], 3), np.uint8)
        pixels[[frame - first for frame in bright if first <= frame < last]] = 255
        yield Pictures(block=block, first_frame=first, frames=tuple(encoder.encode(pixels, starts_block=True)))


def pack_all(packer: Packer, pictures: Iterator[Pictures], speech: Speech, rate_hz: int) -> tuple[list[Unit], bytes]:
    """Units of all blocks, and what is left at the end."""
    units: list[Unit] = []
    for one in pictures:
        first, last = (n * PER_BLOCK * rate_hz // FPS for n in (one.block, one.block + 1))
        units += packer.pack(one, speech[first:last])
    return units, packer.finish()


def clicks(seconds: list[float], length_s: float, rate_hz: int) -> Speech:
    speech = np.zeros(round(length_s * rate_hz), np.float32)
    for second in seconds:
        at = round(second * rate_hz)
        speech[at : at + rate_hz // 500] = 0.9
    return speech


def shown(data: bytes) -> list[tuple[float, bool]]:
    """Time of each frame, and whether it is bright."""
    with av.open(io.BytesIO(data), "r") as file:
        return [(float(frame.time), frame.to_ndarray(format="gray").mean() > 128) for frame in file.decode(video=0)]


def heard(data: bytes) -> tuple[float, np.ndarray[tuple[int], np.dtype[np.float32]], int]:
    """Time of the first sample, the samples, and their rate."""
    with av.open(io.BytesIO(data), "r") as file:
        frames = list(file.decode(audio=0))
        rate_hz = file.streams.audio[0].rate
    assert frames[0].time is not None
    return frames[0].time, np.concatenate([frame.to_ndarray()[0] for frame in frames]), rate_hz


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 32_123, 48_000])
def test_clicks_and_flashes_meet_in_the_file(rate_hz: int) -> None:
    at = [0.52, 1.0, 1.96, 2.84]
    packer = packer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, rate_hz)
    bright = {round(second * FPS) - DROPPED for second in at}
    units, tail = pack_all(packer, film(6, bright), clicks(at, 2.88, rate_hz), rate_hz)
    data = b"".join(unit.data for unit in units) + tail
    frames = shown(data)
    assert [time for time, _ in frames] == pytest.approx([n / FPS for n in range(DROPPED, 6 * PER_BLOCK)])
    assert [time for time, is_bright in frames if is_bright] == pytest.approx(at)
    began, samples, played_hz = heard(data)
    assert began == 0
    assert samples.size / played_hz == pytest.approx(2.88, abs=2 * AAC_PACKET_SAMPLES / played_hz + 0.001)
    loud = np.flatnonzero(np.abs(samples) > 0.3) / played_hz
    for second in at:
        near = loud[np.abs(loud - second) < 0.1]
        assert near.size
        assert near[0] == pytest.approx(second, abs=0.003)


def test_every_block_is_complete_when_it_leaves() -> None:
    """A viewer who has the units up to a block can play it: nothing is kept back for the next one."""
    packer = packer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, 16_000)
    speech, data = clicks([], 1.44, 16_000), b""
    for pictures in film(3, set()):
        for unit in packer.pack(pictures, speech[pictures.block * 7_680 : (pictures.block + 1) * 7_680]):
            data += unit.data
        assert len(shown(data)) == first_frame(pictures.block + 1)
        _, samples, rate_hz = heard(data)
        assert samples.size / rate_hz >= (pictures.block + 1) * 0.48 - 0.1


def test_one_fragment_per_block_after_one_header() -> None:
    packer = packer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, 16_000)
    units, tail = pack_all(packer, film(3, set()), clicks([], 1.44, 16_000), 16_000)
    assert [boxes(unit.data) for unit in units] == [["ftyp", "moov", "moof", "mdat"], *[["moof", "mdat"]] * 2]
    assert boxes(tail) == ["moof", "mdat"]
    assert [(unit.first_frame, unit.frame_count, unit.keyframe) for unit in units] == [
        (0, 9, True), (9, 12, True), (21, 12, True)
    ]  # fmt: skip


def boxes(data: bytes) -> list[str]:
    found = []
    while data:
        found.append(data[4:8].decode())
        data = data[int.from_bytes(data[:4], "big") :]
    return found


def test_a_session_without_video_has_no_file() -> None:
    assert FragmentedMp4(TINY, SIZE, 16_000).finish() == b""


def test_a_block_whose_pictures_are_all_cut_keeps_its_speech() -> None:
    packer = FragmentedMp4(TINY, SIZE, 16_000)
    pictures, *_ = film(1, set())
    speech = clicks([], 0.5, 16_000)
    units = list(packer.pack(pictures, speech[:7_680]))
    assert list(packer.pack(Pictures(block=1, first_frame=9, frames=()), speech[7_680:])) == []
    _, samples, _ = heard(units[0].data + packer.finish())
    assert samples.size >= speech.size


def test_a_file_cannot_begin_without_parameter_sets() -> None:
    pictures, *_ = film(1, set())
    packer = FragmentedMp4(TINY, SIZE, 16_000)
    broken = Pictures(block=0, first_frame=0, frames=pictures.frames[1:])
    with pytest.raises(ValueError, match="parameter sets"):
        list(packer.pack(broken, clicks([], 0.48, 16_000)))


def test_access_units_are_one_stream() -> None:
    packer = packer_for(VideoFormat.ENCODING_H264_ANNEXB, TINY, SIZE, 16_000)
    units, tail = pack_all(packer, film(3, {5}), clicks([], 1.44, 16_000), 16_000)
    assert (len(units), tail, packer.carries_audio) == (3, b"", False)
    with av.open(io.BytesIO(b"".join(unit.data for unit in units)), mode="r", format="h264") as file:
        bright = [frame.to_ndarray(format="gray").mean() > 128 for frame in file.decode(video=0)]
    assert (len(bright), bright.index(True)) == (33, 5)


def test_raw_pictures_are_one_unit_each() -> None:
    packer = packer_for(VideoFormat.ENCODING_RAW_RGB24, TINY, SIZE, 16_000)
    pictures = Pictures(block=1, first_frame=9, frames=(b"a", b"b"))
    assert [(unit.first_frame, unit.frame_count, unit.data) for unit in packer.pack(pictures, clicks([], 0, 1))] == [
        (9, 1, b"a"), (10, 1, b"b")
    ]  # fmt: skip
