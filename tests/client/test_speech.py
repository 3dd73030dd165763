"""Speech files of several kinds."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from live_avatar.client.speech import SpeechFile
from live_avatar.limits import MAX_RATE_HZ

from .sound_files import coded, tone, write_wav


def read(path: Path) -> tuple[npt.NDArray[np.int16], int, float]:
    """All samples, their rate, and the length the file claims."""
    with SpeechFile(path) as speech:
        data = b"".join(speech.chunks())
        return np.frombuffer(data, "<i2"), speech.rate_hz, speech.duration_s


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 48_000])
def test_wav_keeps_every_sample(tmp_path: Path, rate_hz: int) -> None:
    write_wav(tmp_path / "a.wav", tone(rate_hz), rate_hz)
    samples, rate, duration_s = read(tmp_path / "a.wav")
    assert np.array_equal(samples, tone(rate_hz))
    assert (rate, duration_s) == (rate_hz, 1.0)


def test_channels_become_one(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(16_000), 16_000, channels=2)
    samples, _, _ = read(tmp_path / "a.wav")
    assert np.abs(samples.astype(int) - tone(16_000)).max() <= 1


@pytest.mark.parametrize("rate_hz", [4_000, 96_000])
def test_a_rate_that_no_gateway_takes_is_changed(tmp_path: Path, rate_hz: int) -> None:
    write_wav(tmp_path / "a.wav", tone(rate_hz), rate_hz)
    samples, rate, _ = read(tmp_path / "a.wav")
    assert rate == MAX_RATE_HZ
    assert abs(len(samples) - MAX_RATE_HZ) <= MAX_RATE_HZ // rate_hz + 1
    middle = slice(MAX_RATE_HZ // 4, 3 * MAX_RATE_HZ // 4)
    assert np.abs(samples[middle].astype(int) - tone(MAX_RATE_HZ)[middle]).max() < 300


@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.mp3", "libmp3lame")])
def test_coded_speech(tmp_path: Path, name: str, codec: str) -> None:
    (tmp_path / name).write_bytes(coded(name[2:], codec, tone(16_000), 16_000))
    samples, rate, _ = read(tmp_path / name)
    assert rate == 16_000
    assert abs(len(samples) - 16_000) < 2_400
    spectrum = np.abs(np.fft.rfft(samples[4_000:12_000].astype(float)))
    assert spectrum.argmax() * 2 == 300


def test_pieces_are_about_half_a_second(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(16_000, 10), 16_000)
    with SpeechFile(tmp_path / "a.wav") as speech:
        sizes = [len(chunk) for chunk in speech.chunks()]
    assert len(sizes) > 10
    assert max(sizes) < 2 * 16_000


def test_files_without_sound_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound at all")
    with pytest.raises(ValueError, match=r"text\.wav is no audio file that can be read"):
        SpeechFile(tmp_path / "text.wav")
    write_wav(tmp_path / "empty.wav", tone(16_000, 0), 16_000)
    with pytest.raises(ValueError, match=r"empty\.wav holds no sound"):
        read(tmp_path / "empty.wav")
    with pytest.raises(FileNotFoundError):
        SpeechFile(tmp_path / "absent.wav")


def test_a_picture_is_no_speech() -> None:
    portrait = Path(__file__).parents[2] / "live_avatar" / "samples" / "portrait.png"
    with pytest.raises(ValueError, match=r"portrait\.png holds no sound"):
        SpeechFile(portrait)
