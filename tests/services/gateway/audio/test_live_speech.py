"""Pacing and the jitter buffer of a live session under a fake clock, without a stream or a pipeline."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN

from live_avatar.config import TINY
from live_avatar.services.gateway.audio.live_speech import MAX_UTTERANCES
from live_avatar.services.gateway.sessions.live import LiveDelivery
from live_avatar.services.gateway.sessions.policy import LiveRules
from live_avatar.serving.errors import ServiceError
from live_avatar.streaming.pacing import NS_PER_S
from live_avatar.v1.media_pb2 import AudioFormat
from tests.services.gateway.live_session import arrived, live_config, live_context

RATE_HZ = 16_000
BLOCK = TINY.samples_per_block
BLOCK_MS = 480
MS = NS_PER_S // 1000
LATENCY_MS = 150


@dataclass
class Stage:
    """A live session whose pipeline takes ``LATENCY_MS``, millisecond by millisecond."""

    rate_hz: int = RATE_HZ
    jitter_ms: int = 200
    now_ms: int = 0
    idle: list[bool] = field(default_factory=list)
    played: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = field(default_factory=list)
    received: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = field(default_factory=list)
    admitted_ms: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = live_config(self.rate_hz, AudioFormat.ENCODING_PCM_F32LE)
        context = live_context(config, LiveRules(jitter_ms=self.jitter_ms))
        self.utterances, self.ledger = context.utterances, context.ledger
        self.live = LiveDelivery(context)
        self._flying: list[tuple[int, int]] = []
        self._offset = 0

    def speak(self, samples: np.ndarray[tuple[int], np.dtype[np.float32]], name: str = "") -> None:
        self.live.speech.receive_audio(samples.astype("<f4").tobytes(), self._offset, name, self.now_ms * MS)
        self._offset += samples.size

    def end(self) -> None:
        self.live.speech.end_utterance()
        self._offset = 0

    def run(self, milliseconds: int) -> None:
        for _ in range(milliseconds):
            self._step()
            self.now_ms += 1

    def _step(self) -> None:
        now_ns = self.now_ms * MS
        while self._flying and self._flying[0][0] <= self.now_ms:
            self.live.block_shown(arrived(self._flying.pop(0)[1]), now_ns)
        due_ns = self.live.next_admission_ns(now_ns)
        if due_ns is not None and due_ns <= now_ns:
            block = self.ledger.admitted
            filled = self.live.fill(block, now_ns)
            self.ledger.admit(INVALID_SPAN, 0.0, idle=filled.idle)
            self.idle.append(filled.idle)
            first = self.live.speech.audio_in.first
            assert first == block * BLOCK or self.live.speech.audio_in.first >= block * BLOCK
            self.played.append(self.live.speech.cut(block))
            self.received.append(self.live.speech.audio_in.take((block + 1) * BLOCK))
            self.admitted_ms.append(self.now_ms)
            self._flying.append((self.now_ms + LATENCY_MS, block))

    @property
    def movie(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Everything that is played."""
        return np.concatenate(self.played)


def ramp(samples: int, first: int = 1) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Samples that are all different and none of them silent."""
    return (np.arange(first, first + samples) / 2**20).astype(np.float32)


def holes(movie: np.ndarray[tuple[int], np.dtype[np.float32]], samples: int) -> int:
    """Silent samples inside a ramp of ``samples``, which must be there whole and in order."""
    spoken = np.flatnonzero(movie)
    assert np.array_equal(movie[spoken], ramp(samples))
    return int(spoken[-1] - spoken[0] + 1 - samples)


def test_silence_is_admitted_at_the_pace_of_playback() -> None:
    stage = Stage()
    stage.run(10_000)
    assert all(stage.idle)
    assert len(stage.idle) == pytest.approx(10_000 / BLOCK_MS, abs=2)
    assert not stage.movie.any()


def test_speech_after_silence_enters_at_once_at_the_start_of_a_block() -> None:
    stage = Stage()
    stage.run(5_003)
    stage.speak(ramp(3 * RATE_HZ))
    stage.end()
    block = len(stage.idle)
    stage.run(1)
    assert not stage.idle[block]
    stage.run(5_000)
    first = int(np.flatnonzero(stage.movie)[0])
    assert first == block * BLOCK
    assert holes(stage.movie, 3 * RATE_HZ) == 0
    assert np.array_equal(np.concatenate(stage.received), stage.movie)
    assert stage.live.starved_blocks == 0


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_two_clocks_stay_together_at_any_rate(rate_hz: int) -> None:
    """Each utterance stands at the same time in what is heard and in what is played."""
    stage = Stage(rate_hz=rate_hz)
    for _ in range(20):
        stage.run(1_337)
        wave = np.sin(np.arange(rate_hz) * 2 * np.pi * 200 / rate_hz).astype(np.float32) * 0.5
        stage.speak(wave)
        stage.end()
    stage.run(4_000)
    played, received = stage.movie, np.concatenate(stage.received)
    assert len(played) / rate_hz == pytest.approx(len(received) / RATE_HZ, abs=1 / 8_000)
    for second in range(0, len(received) // RATE_HZ):
        loud_received = float(np.abs(received[second * RATE_HZ :][:RATE_HZ]).mean())
        loud_played = float(np.abs(played[second * rate_hz :][:rate_hz]).mean())
        assert loud_received == pytest.approx(loud_played, abs=0.01)


def test_utterances_that_wait_follow_each_other_without_a_gap() -> None:
    stage = Stage()
    stage.run(3_000)
    for part in range(4):
        stage.speak(ramp(5_000, 1 + part * 5_000), f"part {part}")
        stage.end()
    stage.run(4_000)
    assert holes(stage.movie, 20_000) == 0


def test_real_time_speech_waits_for_the_jitter_buffer_and_then_flows() -> None:
    stage = Stage()
    stage.run(5_000)
    asked = stage.now_ms
    for part in range(200):
        stage.speak(ramp(320, 1 + part * 320))
        stage.run(20)
    stage.end()
    stage.run(2_000)
    assert holes(stage.movie, 64_000) == 0
    first = stage.admitted_ms[stage.idle.index(False)]
    assert first - asked <= BLOCK_MS + 200 + BLOCK_MS


@settings(max_examples=60, deadline=None)
@given(data=st.data(), jitter_ms=st.sampled_from([0, 200, 400, 800]))
def test_late_bursts_cost_no_more_silence_than_is_stated(data: st.DataObject, jitter_ms: int) -> None:
    """Pieces of 20 ms that come up to 800 ms late, in bursts, then in real time."""
    stage = Stage(jitter_ms=jitter_ms)
    stage.run(3_000)
    count, late = 150, [0]
    for _ in range(count - 1):
        late.append(max(0, min(800, late[-1] - 20) if data.draw(st.booleans()) else data.draw(st.integers(0, 800))))
    arrivals, newest = [], 0
    for piece, delay in enumerate(late):
        newest = max(newest, 20 * (piece + 1) + delay)
        arrivals.append(newest)
    began, sent = stage.now_ms, 0
    while sent < count:
        while sent < count and arrivals[sent] <= stage.now_ms - began:
            stage.speak(ramp(320, 1 + sent * 320))
            sent += 1
        stage.run(5)
    stage.end()
    stage.run(3_000)
    worst = max(late)
    bound_ms = worst - jitter_ms + BLOCK_MS if worst > jitter_ms else 0
    assert holes(stage.movie, count * 320) <= bound_ms * RATE_HZ // 1000
    assert bool(stage.live.starved_blocks) == bool(holes(stage.movie, count * 320))


def test_an_utterance_that_stops_without_an_end_is_spoken_all_the_same() -> None:
    stage = Stage()
    stage.run(3_000)
    stage.speak(ramp(1_000))
    stage.run(BLOCK_MS + 200 + BLOCK_MS + 100)
    assert holes(stage.movie, 1_000) == 0
    stage.run(2_000)
    assert stage.live.starved_blocks
    stage.speak(ramp(1_000, 1_001))
    stage.end()
    stage.run(2_000)
    assert holes(stage.movie, 2_000) > RATE_HZ


@pytest.mark.parametrize("pause_ms", range(0, 2_000, 170))
def test_nothing_of_an_interrupted_utterance_is_left(pause_ms: int) -> None:
    stage = Stage()
    stage.run(3_000)
    stage.speak(ramp(4 * RATE_HZ), "old")
    stage.run(pause_ms)
    clean = stage.ledger.admitted
    stage.live.speech.drop(clean)
    stage.speak(ramp(100, 4 * RATE_HZ + 1), "old")
    stage.run(1_000)
    stage.end()
    stage.run(1_000)
    assert not stage.movie[clean * BLOCK :].any()
    assert not np.concatenate(stage.received)[clean * BLOCK :].any()
    stage.speak(ramp(RATE_HZ), "new")
    stage.end()
    stage.run(3_000)
    assert holes(stage.movie[clean * BLOCK :], RATE_HZ) == 0
    assert stage.live.starved_blocks == 0


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 3 * RATE_HZ), max_size=30), rate_hz=st.sampled_from([16_000, 44_100]))
def test_what_is_received_does_not_depend_on_the_chunks(cuts: list[int], rate_hz: int) -> None:
    """One sample to three seconds: the same bits, where the speech comes before the block it begins in."""
    spoken = np.sin(np.arange(4 * rate_hz) / 17).astype(np.float32) * 0.3
    movies = []
    for pieces in ([spoken.size], cuts):
        stage = Stage(rate_hz=rate_hz)
        stage.run(2_000)
        first = 0
        for size in [*pieces, spoken.size]:
            if first < spoken.size:
                stage.speak(spoken[first : first + size])
                first += size
        stage.end()
        stage.run(7_000)
        movies.append(np.concatenate(stage.received)[: 18 * BLOCK])
    assert np.array_equal(movies[0], movies[1])
    assert movies[0].any()


def test_no_more_utterances_wait_than_may_however_short_they_are() -> None:
    stage = Stage()
    for number in range(MAX_UTTERANCES):
        stage.speak(np.ones(1, np.float32), f"number {number}")
        stage.end()
    with pytest.raises(ServiceError) as caught:
        stage.speak(np.ones(1, np.float32), "one too many")
    assert caught.value.reason == "AUDIO_QUEUE_FULL"
    stage.end()
    stage.run(4_000)
    assert len(stage.utterances.ended(stage.live.speech.audio_out.end)) == MAX_UTTERANCES
    stage.speak(np.ones(1, np.float32), "when there is room again")
