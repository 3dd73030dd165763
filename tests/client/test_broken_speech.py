"""Recordings as people have them: wrong headers, damage, changes within, channels that cancel, pipes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from live_avatar.client import sound_source
from live_avatar.client.speech import SpeechFile

from .sound_files import RATE_HZ, Samples, coded, damage, pitch, read, tone, wav

MP3 = coded("mp3", "libmp3lame", tone(seconds=3))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Lengths


@pytest.mark.parametrize("size", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_is_as_long_as_its_samples(tmp_path: Path, size: int) -> None:
    data = bytearray(wav(tone()[:, None]))
    data[40:44] = size.to_bytes(4, "little")
    if size in (0, 1):
        data[4:8] = (36).to_bytes(4, "little")
    path = write(tmp_path / "a.wav", bytes(data))
    with SpeechFile(path) as speech:
        fits = speech.fits(10)
        samples = np.frombuffer(b"".join(speech.chunks()), "<i2")
        assert fits
    assert samples.size == RATE_HZ
    assert speech.duration_s == 1.0


@pytest.mark.parametrize("limit_s", [0.999, 1.0, 1.001, 5.0])
def test_whether_it_fits_goes_by_samples(tmp_path: Path, limit_s: float) -> None:
    path = write(tmp_path / "a.wav", wav(tone()[:, None]))
    with SpeechFile(path) as speech:
        assert speech.fits(limit_s) == (limit_s >= 1)
        assert b"".join(speech.chunks()) == tone().tobytes()


def test_a_header_that_says_less_than_comes_is_not_believed(tmp_path: Path) -> None:
    """The length of AAC in its container leaves out what the coder adds: 1 s is a little more."""
    path = write(tmp_path / "a.m4a", coded("ipod", "aac", tone(24_000, 1.0), 24_000))
    with SpeechFile(path) as speech:
        fits = speech.fits(1.0)
        samples = len(b"".join(speech.chunks())) // 2
    assert samples > 24_000
    assert not fits


@pytest.mark.parametrize("kept", [0.9, 0.5])
@pytest.mark.parametrize(
    "data",
    [
        MP3,
        wav(tone(seconds=3)[:, None]),
        coded("flac", "flac", tone(seconds=3)),
        coded("ogg", "libopus", tone(seconds=3)),
    ],
)
def test_a_file_that_ends_early_is_used_as_far_as_it_goes(tmp_path: Path, data: bytes, kept: float) -> None:
    samples, rate_hz, _ = read(write(tmp_path / "a.sound", data[: int(len(data) * kept)]))
    assert samples.size / rate_hz > 1.5 * kept
    assert pitch(samples[:rate_hz], rate_hz) == pytest.approx(300, abs=3)


# Damage


@pytest.mark.parametrize(
    ("places", "lost"),
    [([slice(30, 34)], 1), ([slice(3, 6)], 1), ([slice(20, 23), slice(50, 53)], 2)],
    ids=["middle", "beginning", "two stretches"],
)
def test_a_damaged_stretch_is_silent_and_moves_nothing(tmp_path: Path, places: list[slice], lost: int) -> None:
    """A change of pitch after the damage stays where it was."""
    spoken = np.concatenate([tone(seconds=2.5), tone(seconds=0.5, hertz=1_000)])
    whole = coded("mp3", "libmp3lame", spoken)
    intact, rate_hz, nothing = read(write(tmp_path / "a.mp3", whole))
    broken, _, warnings = read(write(tmp_path / "b.mp3", damage(whole, places)))
    assert nothing == ()
    assert len(warnings) == 1
    assert 0.03 * lost < float(warnings[0].split()[0]) < 0.3 * lost
    assert abs(broken.size - intact.size) <= rate_hz // 50
    for at in (2.2, 2.7):
        stretch = slice(int(at * rate_hz), int((at + 0.2) * rate_hz))
        assert pitch(broken[stretch], rate_hz) == pytest.approx(pitch(intact[stretch], rate_hz), abs=8)


def test_a_damaged_end_is_reported(tmp_path: Path) -> None:
    intact, rate_hz, _ = read(write(tmp_path / "a.mp3", MP3))
    broken, _, warnings = read(write(tmp_path / "b.mp3", damage(MP3, [slice(-8, None)])))
    assert len(warnings) == 1
    assert broken.size > intact.size - 0.5 * rate_hz


def test_a_file_in_which_nothing_decodes_is_refused_before_anything_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3", damage(MP3, [slice(0, None)]))
    with pytest.raises(ValueError, match=r"a\.mp3"):
        SpeechFile(path)


# Changes within


@pytest.mark.parametrize(
    "second",
    [
        (44_100, "stereo"),
        (32_000, "mono"),
        (48_000, "stereo"),
    ],
    ids=["channels", "rate", "both"],
)
def test_channels_and_rate_may_change_within_a_file(tmp_path: Path, second: tuple[int, str]) -> None:
    data = b"".join(
        coded("mp3", "libmp3lame", tone(rate_hz), rate_hz, layout, write_xing="0", id3v2_version="0")
        for rate_hz, layout in ((44_100, "mono"), second)
    )
    samples, rate_hz, _ = read(write(tmp_path / "a.mp3", data))
    assert rate_hz in (44_100, second[0])
    assert samples.size / rate_hz == pytest.approx(2.1, abs=0.15)
    for at in (0.3, 1.4):
        stretch = samples[int(at * rate_hz) : int((at + 0.5) * rate_hz)]
        assert pitch(stretch, rate_hz) == pytest.approx(300, abs=4)


def test_a_page_that_a_container_drops_without_a_word_is_silence(tmp_path: Path) -> None:
    """Ogg leaves out a page whose checksum is wrong; only the times of the frames tell."""
    data = bytearray(coded("ogg", "libopus", tone(48_000, 8.0), 48_000))
    pages = [place for place in range(len(data)) if data[place : place + 4] == b"OggS"]
    data[pages[len(pages) // 2] + 100] ^= 0xFF
    samples, rate_hz, warnings = read(write(tmp_path / "a.opus", bytes(data)))
    assert samples.size == 8 * rate_hz
    assert warnings == ("1.00 s of the recording are damaged and stay silent",)


def test_a_folder_is_named_as_the_user_wrote_it(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        read(tmp_path)
    assert caught.value.filename == str(tmp_path)


# Channels


def power(samples: Samples) -> float:
    return float(np.square(samples.astype(float)).mean())


@pytest.mark.parametrize("factor", [-1.0, -0.9, -0.6])
def test_channels_that_cancel_each_other_are_not_added(tmp_path: Path, factor: float) -> None:
    left = tone()
    both = np.stack([left, np.round(left * factor).astype(np.int16)], axis=1)
    samples, _, warnings = read(write(tmp_path / "a.wav", wav(both)))
    assert np.array_equal(samples, left)
    assert ["cancel" in warning for warning in warnings] == [True]


@pytest.mark.parametrize("right", ["same", "silent", "unlike"])
def test_channels_that_do_not_cancel_are_mixed_as_ever(tmp_path: Path, right: str) -> None:
    left = tone()
    other = {"same": left, "silent": left * 0, "unlike": tone(hertz=700)}[right]
    samples, _, warnings = read(write(tmp_path / "a.wav", wav(np.stack([left, other], axis=1))))
    mixed = (left.astype(int) + other) / 2
    assert np.abs(samples - mixed).max() <= 1
    assert warnings == ()


@pytest.mark.parametrize("speaking", [0, 2, 5])
def test_one_channel_of_many_speaks_and_nothing_cancels(tmp_path: Path, speaking: int) -> None:
    channels = np.zeros((RATE_HZ, 6), np.int16)
    channels[:, speaking] = tone()
    samples, _, warnings = read(write(tmp_path / "a.wav", wav(channels)))
    assert np.array_equal(samples, tone())
    assert warnings == ()


def test_silence_decides_nothing_about_channels(tmp_path: Path) -> None:
    left = np.concatenate([np.zeros(RATE_HZ, np.int16), tone()])
    samples, _, _ = read(write(tmp_path / "a.wav", wav(np.stack([left, -left], axis=1))))
    assert power(samples[RATE_HZ:]) == pytest.approx(power(tone()), rel=0.1)


def test_the_centre_of_a_video_speaks(tmp_path: Path) -> None:
    channels = np.stack([tone(hertz=900)] * 6, axis=1) // 4
    channels[:, 2] = tone()
    extensible = wav(channels, kind=1)
    samples, rate_hz, _ = read(write(tmp_path / "a.wav", extensible))
    assert pitch(samples, rate_hz) == pytest.approx(300, abs=2)
    movie = coded("flac", "flac", tone(), layout="5.1")
    samples, rate_hz, _ = read(write(tmp_path / "a.flac", movie))
    assert power(samples) == pytest.approx(power(tone()), rel=0.05)


# Samples


def test_what_is_no_number_is_never_sent(tmp_path: Path) -> None:
    spoken = (tone() / 32_768).astype("<f4")
    spoken[[100, 5_000]], spoken[200], spoken[300] = np.nan, np.inf, -np.inf
    spoken[400] = 50.0
    samples, _, warnings = read(write(tmp_path / "a.wav", wav(spoken[:, None], kind=3, bits=32)))
    assert (samples[100], samples[5_000], samples[200], samples[300], samples[400]) == (0, 0, 32_767, -32_768, 32_767)
    assert np.array_equal(samples[6_000:], tone()[6_000:])
    assert [warning.split()[0] for warning in warnings] == ["4"]


def test_a_recording_without_a_voice_is_reported(tmp_path: Path) -> None:
    for name, loudest, reported in (("silent", 0, True), ("hiss", 20, True), ("quiet", 100, False)):
        spoken = np.round(tone() * (loudest / 8_000)).astype(np.int16)
        _, _, warnings = read(write(tmp_path / f"{name}.wav", wav(spoken[:, None])))
        assert [("-60 dB" in warning) for warning in warnings] == [True] * reported


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 32_000, 96_000, 192_000])
@pytest.mark.parametrize("form", ["pcm_u8", "pcm_s24le", "pcm_f32le", "pcm_f64le", "pcm_mulaw", "pcm_alaw"])
def test_every_kind_of_wav(tmp_path: Path, form: str, rate_hz: int) -> None:
    samples, rate, _ = read(write(tmp_path / "a.wav", coded("wav", form, tone(rate_hz), rate_hz)))
    assert rate == min(rate_hz, 48_000)
    assert samples.size / rate == pytest.approx(1, abs=0.01)
    assert pitch(samples, rate) == pytest.approx(300, abs=2)


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("ogg", "libopus"),
        ("webm", "libopus"),
        ("flac", "flac"),
        ("adts", "aac"),
        ("aiff", "pcm_s16be"),
    ],
)
def test_other_kinds(tmp_path: Path, form: str, codec: str) -> None:
    samples, rate, _ = read(write(tmp_path / "a.sound", coded(form, codec, tone(48_000), 48_000)))
    assert samples.size / rate == pytest.approx(1, abs=0.1)
    assert pitch(samples[rate // 4 : rate // 2], rate) == pytest.approx(300, abs=5)


def test_a_file_of_nothing_and_one_of_names_in_another_alphabet(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty\.wav"):
        SpeechFile(write(tmp_path / "empty.wav", b""))
    path = write(tmp_path / "12:30.wav", wav(tone()[:, None]))
    assert read(path)[0].size == RATE_HZ


# Input that can be read once


@contextmanager
def fed(path: Path, data: bytes, pause_s: float = 0.0) -> Iterator[Path]:
    """A named pipe into which somebody writes ``data``, once."""
    os.mkfifo(path)

    def feed() -> None:
        with path.open("wb", buffering=0) as pipe:
            for first in range(0, len(data), 30_000):
                pipe.write(data[first : first + 30_000])
                time.sleep(pause_s)

    feeding = threading.Thread(target=feed, daemon=True)
    feeding.start()
    yield path
    feeding.join(10)
    assert not feeding.is_alive()


KINDS: dict[str, Callable[[], bytes]] = {
    "wav": lambda: wav(tone(seconds=2)[:, None]),
    "mp3": lambda: MP3,
    "flac": lambda: coded("flac", "flac", tone(seconds=2)),
    "ogg": lambda: coded("ogg", "libopus", tone(seconds=2)),
    "index last": lambda: coded("ipod", "aac", tone(seconds=2)),
    "index first": lambda: coded("ipod", "aac", tone(seconds=2), movflags="frag_keyframe+empty_moov"),
    "damaged": lambda: damage(MP3, [slice(30, 34)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_gives_what_the_file_gives(tmp_path: Path, kind: str) -> None:
    data = KINDS[kind]()
    expected, rate_hz, _ = read(write(tmp_path / "a.sound", data))
    with fed(tmp_path / "pipe", data) as pipe:
        samples, _, _ = read(pipe, longest_s=1.0)
    # What a coder put in front of MP3 and AAC is only known where the file can be searched.
    assert abs(samples.size - expected.size) < 0.1 * rate_hz
    assert pitch(samples[rate_hz : 3 * rate_hz // 2], rate_hz) == pytest.approx(300, abs=3)
    if kind in ("wav", "flac"):
        assert np.array_equal(samples, expected)


def test_standard_input_is_read(tmp_path: Path) -> None:
    code = (
        "import sys, hashlib; from pathlib import Path; from live_avatar.client.speech import SpeechFile\n"
        "with SpeechFile(Path(sys.argv[1])) as speech: sys.stdout.write(str(len(b''.join(speech.chunks()))))"
    )
    for name in ("/dev/stdin", "/dev/fd/0"):
        command = [sys.executable, "-c", code, name]
        done = subprocess.run(command, input=wav(tone()[:, None]), capture_output=True, check=True, timeout=60)
        assert done.stdout == b"32000"


def test_a_pipe_is_decoded_while_it_is_written(tmp_path: Path) -> None:
    """The first samples are here long before the last were written."""
    with fed(tmp_path / "pipe", wav(tone(seconds=40)[:, None]), pause_s=0.05) as pipe, SpeechFile(pipe) as speech:
        began = time.monotonic()
        chunks = speech.chunks()
        next(chunks)
        first_s = time.monotonic() - began
        assert len(b"".join(chunks)) > 35 * 2 * RATE_HZ
        assert first_s < (time.monotonic() - began) / 2


def test_what_waits_for_a_pipe_can_be_stopped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    # For both directions, so that neither end waits for the other to open, and nobody sees an end.
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    feeding = threading.Thread(target=os.write, args=(writer, wav(tone(seconds=20)[:, None])), daemon=True)
    feeding.start()
    try:
        with SpeechFile(tmp_path / "pipe") as speech:
            threading.Timer(1.0, speech.stop).start()
            assert len(b"".join(speech.chunks())) > 0
    finally:
        os.close(writer)


def test_what_must_be_kept_of_a_pipe_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound_source, "MAX_KEPT_BYTES", 1_000)
    data = coded("ipod", "aac", tone(seconds=2))
    with fed(tmp_path / "pipe", data) as pipe, pytest.raises(ValueError, match="give a file"):
        SpeechFile(pipe)
