"""Speech on two clocks: what the model hears, what the viewer hears, where blocks begin and end."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_avatar.config import SAMPLE_RATE_HZ, TINY
from live_avatar.services.gateway.audio.speech import SampleQueue, Samples, Speech, join_small
from live_avatar.serving.errors import ServiceError
from live_avatar.v1.media_pb2 import AudioFormat

S16, F32 = AudioFormat.ENCODING_PCM_S16LE, AudioFormat.ENCODING_PCM_F32LE
BLOCK = TINY.samples_per_block
RATES = (8_000, 11_025, 16_000, 22_050, 44_100, 48_000)


def speech(rate_hz: int = SAMPLE_RATE_HZ, encoding: "AudioFormat.Encoding.ValueType" = S16) -> Speech:
    return Speech(AudioFormat(encoding=encoding, sample_rate_hz=rate_hz, channel_count=1), TINY)


def pcm(samples: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(-9_000, 9_000, samples, np.int16).tobytes()


@given(st.lists(st.integers(0, 50), max_size=20), st.lists(st.integers(0, 400), max_size=20))
def test_a_queue_gives_back_what_it_took(pieces: list[int], ends: list[int]) -> None:
    queue, whole = SampleQueue(), np.arange(sum(pieces), dtype=np.float32)
    for piece in pieces:
        queue.append(whole[queue.end : queue.end + piece])
    taken = [queue.take(end) for end in sorted(ends)]
    assert queue.first == min(max(ends, default=0), whole.size)
    assert np.array_equal(np.concatenate([*taken, queue.take(whole.size)]), whole)


@pytest.mark.parametrize("encoding", [S16, F32])
def test_samples_come_out_as_they_were_sent(encoding: "AudioFormat.Encoding.ValueType") -> None:
    data = pcm(1_000)
    if encoding == F32:
        data = (np.frombuffer(data, "<i2") / np.float32(32_768)).astype("<f4").tobytes()
    one = speech(encoding=encoding)
    one.append(data, 0)
    one.finish()
    assert one.encode(one.cut(0)) == data
    assert one.audio_in.end == 1_000


def test_the_model_receives_full_scale_at_most() -> None:
    one = speech(encoding=F32)
    one.append(np.array([1e30, -1e30, 0.5], "<f4").tobytes(), 0)
    assert one.audio_out.take(3).tolist() == [1.0, -1.0, 0.5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_and_leaves_no_trace(value: float) -> None:
    one = speech(encoding=F32)
    with pytest.raises(ServiceError) as caught:
        one.append(np.array([0, value], "<f4").tobytes(), 0)
    assert (caught.value.reason, caught.value.field) == ("AUDIO_FORMAT_UNSUPPORTED", "audio_chunk.data")
    one.append(np.zeros(2, "<f4").tobytes(), 0)
    assert one.end == 2


@pytest.mark.parametrize("offset", [0, 99, 101, 2**63])
def test_gaps_and_steps_back_are_refused(offset: int) -> None:
    one = speech()
    one.append(pcm(100), 0)
    with pytest.raises(ServiceError, match="100 was due") as caught:
        one.append(pcm(100), offset)
    assert caught.value.reason == "MESSAGE_OUT_OF_ORDER"


@pytest.mark.parametrize("rate_hz", RATES)
def test_blocks_and_frames_follow_the_exact_length(rate_hz: int) -> None:
    for samples, frames in ((1, 1), (rate_hz // 25, 1), (rate_hz // 25 + 1, 2), (rate_hz * 12, 300)):
        one = speech(rate_hz)
        one.append(pcm(samples), 0)
        one.finish()
        assert one.frames_spoken == frames
        assert one.blocks_spoken == -(-frames // TINY.frames_per_block)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(RATES), st.lists(st.integers(1, 30_000), min_size=1, max_size=4))
def test_blocks_cut_the_played_speech_without_loss(rate_hz: int, chunks: list[int]) -> None:
    one, whole = speech(rate_hz), b""
    for index, samples in enumerate(chunks):
        chunk = pcm(samples, index)
        one.append(chunk, len(whole) // 2)
        whole += chunk
    one.finish()
    blocks = [one.cut(block) for block in range(one.blocks_spoken)]
    assert one.encode(np.concatenate(blocks)) == whole
    assert all(abs(block.size - 0.48 * rate_hz) <= 1 for block in blocks[:-1])
    assert abs(one.audio_in.end - sum(chunks) * SAMPLE_RATE_HZ / rate_hz) <= 1


@pytest.mark.parametrize("rate_hz", RATES)
def test_both_clocks_agree_after_many_utterances(rate_hz: int) -> None:
    one = speech(rate_hz)
    for index in range(20):
        one.append(pcm(1_234 + 577 * index, index), 0)
        one.end_utterance()
        lookahead = TINY.stream.lookahead_s * SAMPLE_RATE_HZ
        assert one.audio_in.end >= one.blocks_spoken * BLOCK + int(lookahead)
        assert abs(one.audio_in.end * rate_hz - one.audio_out.end * SAMPLE_RATE_HZ) < 2 * max(rate_hz, SAMPLE_RATE_HZ)


def test_silence_after_an_utterance_is_not_part_of_finished_speech() -> None:
    one = speech()
    one.append(pcm(5_000), 0)
    one.end_utterance()
    assert one.audio_out.end > BLOCK
    one.finish()
    assert one.cut(0).size == 5_000


def test_an_utterance_without_speech_adds_nothing() -> None:
    one = speech()
    one.end_utterance()
    one.finish()
    assert (one.end, one.audio_out.end, one.audio_in.end, one.blocks_spoken) == (0, 0, 0, 0)


@pytest.mark.parametrize("size", [1, 3, 160])
def test_small_pieces_are_held_in_few(size: int) -> None:
    queue, whole = SampleQueue(), np.arange(60_000, dtype=np.float32)
    pieces: deque[Samples] = deque()
    for first in range(0, whole.size, size):
        queue.append(whole[first : first + size])
        join_small(pieces, whole[first : first + size])
    assert len(pieces) < 30
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(queue.take(whole.size), whole)
