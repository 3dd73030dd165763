"""What clients receive, read back by a player's demuxer: every frame, at its time, with the speech in its place."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from live_avatar.config import TINY
from live_avatar.services.gateway.video.muxer import (
    AAC_PACKET_SAMPLES,
    TICKS_PER_FRAME,
    EncodedFrames,
    Fragment,
    FragmentedMp4,
    Muxer,
    MuxerPosition,
    Speech,
    muxer_for,
)
from live_avatar.services.vae_decoder.h264 import H264Encoder
from live_avatar.v1.media_pb2 import VideoFormat

SIZE = (64, 48)
FPS = TINY.stream.fps
DROPPED = TINY.stream.dropped_frames
PER_BLOCK = TINY.frames_per_block


def first_frame(block: int) -> int:
    return max(0, block * PER_BLOCK - DROPPED)


def movie(blocks: int, bright: set[int]) -> Iterator[EncodedFrames]:
    """Black pictures but for the ``bright`` ones."""
    encoder = H264Encoder(*SIZE, FPS)
    for block in range(blocks):
        first, last = first_frame(block), first_frame(block + 1)
        pixels = np.zeros((last - first, SIZE[1], SIZE[0], 3), np.uint8)
        pixels[[frame - first for frame in bright if first <= frame < last]] = 255
        yield EncodedFrames(block=block, first_frame=first, frames=tuple(encoder.encode(pixels, starts_block=True)))


def mux_all(
    muxer: Muxer, pictures: Iterator[EncodedFrames], speech: Speech, rate_hz: int
) -> tuple[list[Fragment], bytes]:
    """Units of all blocks, and what is left at the end."""
    units: list[Fragment] = []
    for one in pictures:
        first, last = (n * PER_BLOCK * rate_hz // FPS for n in (one.block, one.block + 1))
        units += muxer.mux(one, speech[first:last])
    return units, muxer.finish()


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


def received(data: bytes) -> tuple[float, np.ndarray[tuple[int], np.dtype[np.float32]], int]:
    """Time of the first sample, the samples, and their rate."""
    with av.open(io.BytesIO(data), "r") as file:
        frames = list(file.decode(audio=0))
        rate_hz = file.streams.audio[0].rate
    assert frames[0].time is not None
    return frames[0].time, np.concatenate([frame.to_ndarray()[0] for frame in frames]), rate_hz


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 32_123, 48_000])
def test_clicks_and_flashes_meet_in_the_file(rate_hz: int) -> None:
    at = [0.52, 1.0, 1.96, 2.84]
    muxer = muxer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, rate_hz)
    bright = {round(second * FPS) - DROPPED for second in at}
    units, tail = mux_all(muxer, movie(6, bright), clicks(at, 2.88, rate_hz), rate_hz)
    data = b"".join(unit.data for unit in units) + tail
    frames = shown(data)
    following = [n / FPS for n in range(DROPPED + 1, 6 * PER_BLOCK)]
    assert [time for time, _ in frames] == pytest.approx([0.0, *following])
    assert [time for time, is_bright in frames if is_bright] == pytest.approx(at)
    began, samples, played_hz = received(data)
    assert began == 0
    assert samples.size / played_hz == pytest.approx(2.88, abs=2 * AAC_PACKET_SAMPLES / played_hz + 0.001)
    loud = np.flatnonzero(np.abs(samples) > 0.3) / played_hz
    for second in at:
        near = loud[np.abs(loud - second) < 0.1]
        assert near.size
        assert near[0] == pytest.approx(second, abs=0.003)


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_first_picture_is_held_from_the_beginning(blocks: int) -> None:
    """Picture and sound begin together; no other picture moves."""
    data = packed_video(blocks)
    with av.open(io.BytesIO(data), "r") as file:
        video = file.streams.video[0]
        assert video.time_base is not None and video.start_time == 0
        packets = [packet for packet in file.demux(video) if packet.pts is not None]
        starts = [(packet.pts or 0) * video.time_base for packet in packets]
        lengths = [(packet.duration or 0) * video.time_base for packet in packets]
        assert all(packet.dts == packet.pts for packet in packets)
    assert starts == [0, *(Fraction(n, FPS) for n in range(DROPPED + 1, blocks * PER_BLOCK))]
    assert lengths == [Fraction(DROPPED + 1, FPS), *[Fraction(1, FPS)] * (len(starts) - 1)]


def test_only_the_first_fragment_reports_durations() -> None:
    muxer = muxer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, 16_000)
    units, _ = mux_all(muxer, movie(3, set()), clicks([], 1.44, 16_000), 16_000)
    runs = [video_run(unit.data) for unit in units]
    held = (DROPPED + 1) * TICKS_PER_FRAME
    assert runs == [
        (0, [held, *[TICKS_PER_FRAME] * (PER_BLOCK - DROPPED - 1)]),
        (PER_BLOCK * TICKS_PER_FRAME, []),
        (2 * PER_BLOCK * TICKS_PER_FRAME, []),
    ]


def test_a_video_of_a_single_picture_shows_it_to_its_end() -> None:
    muxer = muxer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, 16_000)
    pictures, *_ = movie(1, set())
    only = EncodedFrames(block=0, first_frame=0, frames=pictures.frames[:1])
    (unit,) = muxer.mux(only, clicks([], 0.16, 16_000))
    assert video_run(unit.data) == (0, [(DROPPED + 1) * TICKS_PER_FRAME])


def test_a_video_of_a_later_block_is_not_held_from_the_beginning() -> None:
    muxer = muxer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, 16_000)
    _, later = movie(2, set())
    (unit,) = muxer.mux(later, clicks([], 0.48, 16_000))
    assert video_run(unit.data) == (PER_BLOCK * TICKS_PER_FRAME, [])


@pytest.mark.parametrize("movflags", ["faststart", "empty_moov+default_base_moof+frag_keyframe", "cmaf"])
def test_a_video_that_is_put_into_other_boxes_begins_with_its_picture(movflags: str, tmp_path: Path) -> None:
    """No edit list is needed for it, so none can be lost."""
    data, target = packed_video(2), tmp_path / "film.mp4"
    with av.open(io.BytesIO(data), "r") as source, av.open(target, "w", "mp4", {"movflags": movflags}) as file:
        video = source.streams.video[0]
        stream = file.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    assert empty_edits(target.read_bytes()) == 0
    frames = shown(target.read_bytes())
    assert [time for time, _ in frames][:3] == pytest.approx([0.0, (DROPPED + 1) / FPS, (DROPPED + 2) / FPS])


def test_every_block_is_complete_when_it_leaves() -> None:
    """A viewer who has the units up to a block can play it: nothing is kept back for the next one."""
    muxer = muxer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, 16_000)
    speech, data = clicks([], 1.44, 16_000), b""
    for pictures in movie(3, set()):
        for unit in muxer.mux(pictures, speech[pictures.block * 7_680 : (pictures.block + 1) * 7_680]):
            data += unit.data
        assert len(shown(data)) == first_frame(pictures.block + 1)
        _, samples, rate_hz = received(data)
        assert samples.size / rate_hz >= (pictures.block + 1) * 0.48 - 0.1


def test_one_fragment_per_block_after_one_header() -> None:
    muxer = muxer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, 16_000)
    units, tail = mux_all(muxer, movie(3, set()), clicks([], 1.44, 16_000), 16_000)
    assert [boxes(unit.data) for unit in units] == [["ftyp", "moov", "moof", "mdat"], *[["moof", "mdat"]] * 2]
    assert boxes(tail) == ["moof", "mdat"]
    assert [(unit.first_frame, unit.frame_count, unit.keyframe) for unit in units] == [
        (0, 9, True), (9, 12, True), (21, 12, True)
    ]  # fmt: skip


def packed_video(blocks: int) -> bytes:
    muxer = muxer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, 16_000)
    units, tail = mux_all(muxer, movie(blocks, set()), clicks([], blocks * 0.48, 16_000), 16_000)
    return b"".join(unit.data for unit in units) + tail


def video_run(data: bytes) -> tuple[int, list[int]]:
    """Decode time of the first picture of a fragment, and the durations that its header tells."""
    decode_time, run = data.index(b"tfdt") + 8, data.index(b"trun") + 4
    flags, count = struct.unpack(">I", data[run : run + 4])[0], struct.unpack(">I", data[run + 4 : run + 8])[0]
    start: int = struct.unpack(">Q", data[decode_time : decode_time + 8])[0]
    entries = run + 12 + (4 if flags & 0x004 else 0)
    if not flags & 0x100:
        return start, []
    return start, list(struct.unpack(f">{2 * count}I", data[entries : entries + 8 * count])[::2])


def empty_edits(data: bytes) -> int:
    """Entries of edit lists that show nothing."""
    found, position = 0, data.find(b"elst")
    while position >= 0:
        version, count = data[position + 4], struct.unpack(">I", data[position + 8 : position + 12])[0]
        size, form = (20, ">Qq") if version else (12, ">Ii")
        for entry in range(count):
            at = position + 12 + entry * size
            found += struct.unpack(form, data[at : at + struct.calcsize(form)])[1] == -1
        position = data.find(b"elst", position + 1)
    return found


def boxes(data: bytes) -> list[str]:
    found = []
    while data:
        found.append(data[4:8].decode())
        data = data[int.from_bytes(data[:4], "big") :]
    return found


def test_a_session_without_video_has_no_file() -> None:
    assert FragmentedMp4(TINY, SIZE, 16_000).finish() == b""


def test_a_block_whose_pictures_are_all_cut_keeps_its_speech() -> None:
    muxer = FragmentedMp4(TINY, SIZE, 16_000)
    pictures, *_ = movie(1, set())
    speech = clicks([], 0.5, 16_000)
    units = list(muxer.mux(pictures, speech[:7_680]))
    assert list(muxer.mux(EncodedFrames(block=1, first_frame=9, frames=()), speech[7_680:])) == []
    _, samples, _ = received(units[0].data + muxer.finish())
    assert samples.size >= speech.size


def test_a_file_cannot_begin_without_parameter_sets() -> None:
    pictures, *_ = movie(1, set())
    muxer = FragmentedMp4(TINY, SIZE, 16_000)
    broken = EncodedFrames(block=0, first_frame=0, frames=pictures.frames[1:])
    with pytest.raises(ValueError, match="parameter sets"):
        list(muxer.mux(broken, clicks([], 0.48, 16_000)))


def test_access_units_are_one_stream() -> None:
    muxer = muxer_for(VideoFormat.ENCODING_H264_ANNEXB, TINY, SIZE, 16_000)
    units, tail = mux_all(muxer, movie(3, {5}), clicks([], 1.44, 16_000), 16_000)
    assert (len(units), tail, muxer.carries_audio) == (3, b"", False)
    with av.open(io.BytesIO(b"".join(unit.data for unit in units)), mode="r", format="h264") as file:
        bright = [frame.to_ndarray(format="gray").mean() > 128 for frame in file.decode(video=0)]
    assert (len(bright), bright.index(True)) == (33, 5)


def test_raw_pictures_are_one_unit_each() -> None:
    muxer = muxer_for(VideoFormat.ENCODING_RAW_RGB24, TINY, SIZE, 16_000)
    pictures = EncodedFrames(block=1, first_frame=9, frames=(b"a", b"b"))
    assert [(unit.first_frame, unit.frame_count, unit.data) for unit in muxer.mux(pictures, clicks([], 0, 1))] == [
        (9, 1, b"a"), (10, 1, b"b")
    ]  # fmt: skip


def sound_of(file: bytes) -> tuple[list[int], Speech]:
    """Times of all packets of sound, and what they decode to."""
    with av.open(io.BytesIO(file), "r") as container:
        times = [int(packet.pts or 0) for packet in container.demux(audio=0) if packet.size]
    with av.open(io.BytesIO(file), "r") as container:
        return times, np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_another_muxer_goes_on_with_the_file(rate_hz: int) -> None:
    """Number and times of the packets are those of an undisturbed file, and the sound is as near to the speech."""
    blocks, moves = 10, {1, 5, 6}
    at = [block * PER_BLOCK * rate_hz // FPS for block in range(blocks + 1)]
    time = np.arange(at[-1]) / rate_hz
    speech = (0.4 * np.sin(2 * np.pi * (300 + 100 * np.sin(time)) * time)).astype(np.float32)
    pictures = list(movie(blocks, set()))

    def file_of(moved: set[int]) -> bytes:
        muxer, units = muxer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, rate_hz), []
        for block, frames in enumerate(pictures):
            if block in moved:
                fragments, packets = muxer.position
                recent = speech[max(0, at[block] - rate_hz // 2) : at[block]]
                muxer = muxer_for(VideoFormat.ENCODING_FMP4, TINY, SIZE, rate_hz)
                muxer.go_on(MuxerPosition(fragments=fragments, packets=packets, sample=at[block], recent=recent))
            units += [unit.data for unit in muxer.mux(frames, speech[at[block] : at[block + 1]])]
        return b"".join(units) + muxer.finish()

    (times, whole), (again, moved) = sound_of(file_of(set())), sound_of(file_of(moves))
    assert times == again and whole.size == moved.size
    noise = np.sqrt(np.mean((whole - moved) ** 2))
    assert noise < 0.1 * np.sqrt(np.mean(whole**2))
