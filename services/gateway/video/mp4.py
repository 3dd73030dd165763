"""The boxes of a fragmented MP4 file (ISO/IEC 14496-12, -14 and -15), written by hand.

One fragment per block leaves at once: a library's muxer keeps a fragment back until the next block's first picture
has come.  Knows two kinds of track, H.264 and AAC, and nothing of sessions, sockets or encoders.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

_UNITY_MATRIX = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SYNC_SAMPLE = 0x02000000
"""Sample flags: depends on no other sample."""
_DEPENDENT_SAMPLE = 0x01010000
"""Sample flags: depends on others, no place to start decoding."""
_DATA_OFFSET, _FIRST_SAMPLE_FLAGS, _SAMPLE_DURATIONS, _SAMPLE_SIZES = 0x001, 0x004, 0x100, 0x200
"""What a track run holds."""
_UNDETERMINED_LANGUAGE = 0x55C4
_NAL_SPS, _NAL_PPS, _NAL_DELIMITER = 7, 8, 9
_PROFILES_WITHOUT_CHROMA = (66, 77, 88)
"""Baseline, main and extended: their decoder configuration says nothing of the chroma format."""


@dataclass(frozen=True, kw_only=True)
class VideoTrack:
    """H.264, 4:2:0, 8 bits."""

    track_id: int
    ticks_per_second: int
    ticks_per_frame: int
    width: int
    height: int
    sps: bytes
    pps: bytes


@dataclass(frozen=True, kw_only=True)
class AudioTrack:
    """Mono AAC."""

    track_id: int
    sample_rate_hz: int
    samples_per_packet: int
    priming_samples: int
    """What a decoder puts out before the first real sample."""
    bitrate: int
    config: bytes
    """AudioSpecificConfig."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Consecutive samples of one track within a fragment."""

    track_id: int
    start: int
    """Decode time of the first, in ticks of the track."""
    samples: Sequence[bytes]
    starts_with_keyframe: bool
    durations: Sequence[int] = ()
    """Of each sample, in ticks of the track; empty: the track's own."""


def init_segment(video: VideoTrack, audio: AudioTrack) -> bytes:
    """What must come before the first fragment."""
    tracks = _video_track(video) + _audio_track(audio)
    extends = _box(
        b"mvex",
        _full(b"trex", 0, 0, struct.pack(">5I", video.track_id, 1, video.ticks_per_frame, 0, _DEPENDENT_SAMPLE)),
        _full(b"trex", 0, 0, struct.pack(">5I", audio.track_id, 1, audio.samples_per_packet, 0, _SYNC_SAMPLE)),
    )
    header = struct.pack(">4I", 0, 0, 1000, 0) + struct.pack(">IH10x", 0x10000, 0x100) + _UNITY_MATRIX + bytes(24)
    header += struct.pack(">I", max(video.track_id, audio.track_id) + 1)
    brands = _box(b"ftyp", b"iso5", struct.pack(">I", 512), b"iso5", b"iso6", b"mp41")
    return brands + _box(b"moov", _full(b"mvhd", 0, 0, header), tracks, extends)


def fragment(sequence: int, runs: Iterable[Run]) -> bytes:
    """One movie fragment with its data; ``sequence`` counts from 1.  Runs without samples are left out."""
    filled = [run for run in runs if run.samples]
    offsets = [0] * len(filled)
    # The offsets are of fixed width, so a first pass with zeros gives the size of the header.
    position = len(_fragment_header(sequence, filled, offsets)) + 8
    for index, run in enumerate(filled):
        offsets[index] = position
        position += sum(map(len, run.samples))
    data = _box(b"mdat", *(sample for run in filled for sample in run.samples))
    return _fragment_header(sequence, filled, offsets) + data


def split_nal_units(annex_b: bytes) -> list[bytes]:
    """The NAL units of an H.264 byte stream (ITU-T H.264, annex B), without start codes."""
    units = []
    start = annex_b.find(b"\x00\x00\x01")
    while start >= 0:
        following = annex_b.find(b"\x00\x00\x01", start + 3)
        unit = annex_b[start + 3 : following if following >= 0 else len(annex_b)].rstrip(b"\x00")
        if unit:
            units.append(unit)
        start = following
    return units


def parameter_sets(annex_b: bytes) -> tuple[bytes, bytes]:
    """Sequence and picture parameter set of an access unit.

    Raises:
        ValueError: one of them is missing.
    """
    found = {unit[0] & 0x1F: unit for unit in split_nal_units(annex_b)}
    if _NAL_SPS not in found or _NAL_PPS not in found:
        raise ValueError(f"an access unit of {len(annex_b)} bytes has no parameter sets, so no file can begin with it")
    return found[_NAL_SPS], found[_NAL_PPS]


def sample_of(annex_b: bytes) -> bytes:
    """An access unit as a sample: lengths for start codes, without parameter sets and delimiters."""
    units = (unit for unit in split_nal_units(annex_b) if unit[0] & 0x1F not in (_NAL_SPS, _NAL_PPS, _NAL_DELIMITER))
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _fragment_header(sequence: int, runs: Sequence[Run], offsets: Sequence[int]) -> bytes:
    tracks = (_fragment_track(run, offset) for run, offset in zip(runs, offsets, strict=True))
    return _box(b"moof", _full(b"mfhd", 0, 0, struct.pack(">I", sequence)), *tracks)


def _fragment_track(run: Run, offset: int) -> bytes:
    assert len(run.durations) in (0, len(run.samples)), "durations are given of all samples or of none"
    sizes = list(map(len, run.samples))
    # Each sample's entry: its duration, where durations are given, and its size.
    entries = chain.from_iterable(zip(run.durations, sizes, strict=True)) if run.durations else sizes
    table = b"".join(struct.pack(">I", entry) for entry in entries)
    first_flags = struct.pack(">I", _SYNC_SAMPLE) if run.starts_with_keyframe else b""
    run_flags = _DATA_OFFSET | _SAMPLE_SIZES
    run_flags |= _FIRST_SAMPLE_FLAGS if run.starts_with_keyframe else 0
    run_flags |= _SAMPLE_DURATIONS if run.durations else 0
    return _box(
        b"traf",
        _full(b"tfhd", 0, 0x020000, struct.pack(">I", run.track_id)),  # offsets count from this fragment's start
        _full(b"tfdt", 1, 0, struct.pack(">Q", run.start)),
        _full(b"trun", 0, run_flags, struct.pack(">Ii", len(run.samples), offset), first_flags, table),
    )


def _video_track(track: VideoTrack) -> bytes:
    profile, compatibility, level = track.sps[1:4]
    config = bytes((1, profile, compatibility, level, 0xFF, 0xE1))
    config += struct.pack(">H", len(track.sps)) + track.sps + b"\x01" + struct.pack(">H", len(track.pps)) + track.pps
    if profile not in _PROFILES_WITHOUT_CHROMA:
        config += bytes((0xFD, 0xF8, 0xF8, 0))  # 4:2:0, 8 bits, no extension
    entry = struct.pack(">6xH16x2H", 1, track.width, track.height) + struct.pack(
        ">2I4xH32xHh", 72 << 16, 72 << 16, 1, 24, -1
    )
    sample_entry = _box(b"avc1", entry, _box(b"avcC", config))
    media_header = _full(b"vmhd", 0, 1, bytes(8))
    media = _media(track.ticks_per_second, b"vide", media_header, sample_entry)
    return _box(b"trak", _track_header(track.track_id, 0, track.width, track.height), media)


def _audio_track(track: AudioTrack) -> bytes:
    # From the inside out: decoder's own configuration, decoder configuration, elementary stream (ISO/IEC 14496-1).
    specific = _descriptor(5, track.config)
    decoder = struct.pack(">BB3xII", 0x40, 0x15, track.bitrate, track.bitrate) + specific
    stream = struct.pack(">HB", track.track_id, 0) + _descriptor(4, decoder) + _descriptor(6, b"\x02")
    entry = struct.pack(">6xH8x2H4xI", 1, 1, 16, track.sample_rate_hz << 16)
    sample_entry = _box(b"mp4a", entry, _full(b"esds", 0, 0, _descriptor(3, stream)))
    # Playback begins after the priming samples, so that the first real one lies at time 0.
    edits = _box(b"edts", _full(b"elst", 0, 0, struct.pack(">IIiI", 1, 0, track.priming_samples, 0x10000)))
    media = _media(track.sample_rate_hz, b"soun", _full(b"smhd", 0, 0, bytes(4)), sample_entry)
    return _box(b"trak", _track_header(track.track_id, 0x100, 0, 0), edits, media)


def _descriptor(tag: int, body: bytes) -> bytes:
    assert len(body) < 0x80, f"a descriptor of {len(body)} bytes needs a longer length field"
    return bytes((tag, len(body))) + body


def _track_header(track_id: int, volume: int, width: int, height: int) -> bytes:
    fields = struct.pack(">5I8x4H", 0, 0, track_id, 0, 0, 0, 0, volume, 0) + _UNITY_MATRIX
    return _full(b"tkhd", 0, 3, fields, struct.pack(">2I", width << 16, height << 16))


def _media(ticks_per_second: int, handler: bytes, media_header: bytes, sample_entry: bytes) -> bytes:
    header = struct.pack(">4I2H", 0, 0, ticks_per_second, 0, _UNDETERMINED_LANGUAGE, 0)
    here = _box(b"dinf", _full(b"dref", 0, 0, struct.pack(">I", 1), _full(b"url ", 0, 1)))
    empty = (_full(kind, 0, 0, bytes(size)) for kind, size in ((b"stts", 4), (b"stsc", 4), (b"stsz", 8), (b"stco", 4)))
    table = _box(b"stbl", _full(b"stsd", 0, 0, struct.pack(">I", 1), sample_entry), *empty)
    return _box(
        b"mdia",
        _full(b"mdhd", 0, 0, header),
        _full(b"hdlr", 0, 0, bytes(4), handler, bytes(12), b"\x00"),
        _box(b"minf", media_header, here, table),
    )
