"""The audio encoder's work equals the library's, and refuses what it must."""

import gc
import weakref

import numpy as np
import pytest
import torch

from live_avatar import wire
from live_avatar.config import TINY
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest
from live_avatar.services.audio_encoder import audio_features
from live_avatar.services.audio_encoder.work import PROMPTS_KEPT, AudioEncoderWork
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.memory_budget import MemoryBudget
from live_avatar.serving.parts import PART_BYTES, conditioning_parts
from live_avatar.streaming.audio_grid import whole_file_blocks
from live_avatar.streaming.audio_window import AudioWindow, encode_block
from live_avatar.v1.avatar_service_pb2 import LISTENING_STREAMING, LISTENING_UNSPECIFIED

from . import tiny
from .tiny import audio_request, block_request, key, open_request, waveform

STREAMING = LISTENING_STREAMING
BLOCK_SAMPLES = TINY.samples_per_block


def encoder(max_whole_file_s: float = 10.0, memory_budget: MemoryBudget = tiny.MEMORY_BUDGET) -> AudioEncoderWork:
    return AudioEncoderWork(
        TINY,
        tiny.speech(),
        tiny.audio_tokens(),
        tiny.text(),
        memory_budget=memory_budget,
        max_whole_file_s=max_whole_file_s,
    )


def received(work: AudioEncoderWork, index: int, name: str = "session") -> torch.Tensor:
    (request,) = work.block(block_request(index, name))
    assert request.block.index == index
    assert request.block.key == key(name)
    return wire.audio_from_message(request.block.audio).local


def test_whole_file_equals_the_library() -> None:
    samples = waveform(2.5)
    work = encoder()
    work.open(open_request())
    for start in range(0, samples.size, 3000):
        piece = samples[start : start + 3000]
        assert not list(work.audio(audio_request(piece, start, last=start + 3000 >= samples.size)))
    with torch.inference_mode():
        for index, features in enumerate(whole_file_blocks(tiny.speech(), torch.from_numpy(samples), TINY)):
            assert torch.equal(received(work, index), tiny.audio_tokens()(features).local)
        nothing = tiny.audio_tokens()(torch.zeros_like(features)).local
        assert torch.equal(received(work, 3), nothing)
        assert torch.equal(received(work, 4), nothing)


@pytest.mark.parametrize("surplus", [0, 1, 399, 400, 720, 1000])
def test_every_block_begun_is_encoded(surplus: int) -> None:
    samples = waveform(3)[: 2 * BLOCK_SAMPLES + surplus]
    work = encoder()
    work.open(open_request())
    work.audio(audio_request(samples))
    blocks = -(-samples.size // BLOCK_SAMPLES)
    shapes = [received(work, index).shape for index in range(blocks)]
    assert shapes == [shapes[0]] * blocks


def test_streaming_equals_the_library() -> None:
    samples = waveform(3)
    work, window = encoder(), AudioWindow(TINY)
    work.open(open_request(listening=STREAMING))
    work.audio(audio_request(samples[: 2 * BLOCK_SAMPLES], last=False))
    window.append(samples[: 2 * BLOCK_SAMPLES])
    assert torch.equal(received(work, 0), planned(window))
    with pytest.raises(ServiceError, match="AUDIO_MISSING"):
        received(work, 1)
    work.audio(audio_request(samples[2 * BLOCK_SAMPLES :], 2 * BLOCK_SAMPLES))
    window.append(samples[2 * BLOCK_SAMPLES :])
    assert torch.equal(received(work, 1), planned(window))


def test_a_stream_may_go_back_to_what_no_block_holds() -> None:
    """Silence that stood for the look-ahead gives way to speech; a recording, or a heard block, stays."""
    samples, ahead = waveform(2)[:BLOCK_SAMPLES], BLOCK_SAMPLES + 1_600
    work, window = encoder(), AudioWindow(TINY)
    work.open(open_request(listening=STREAMING))
    work.audio(audio_request(np.zeros(ahead, np.float32), last=False))
    window.append(np.zeros(ahead, np.float32))
    assert torch.equal(received(work, 0), planned(window))
    with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
        work.audio(audio_request(samples, BLOCK_SAMPLES - 1, last=False))
    work.audio(audio_request(samples, BLOCK_SAMPLES))
    window.rewind(BLOCK_SAMPLES)
    window.append(samples)
    window.finish()
    assert torch.equal(received(work, 1), planned(window))
    whole = encoder()
    whole.open(open_request())
    whole.audio(audio_request(samples, last=False))
    with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
        whole.audio(audio_request(samples, 5))


@torch.inference_mode()
def planned(window: AudioWindow) -> torch.Tensor:
    tokens: AudioTokens = tiny.audio_tokens()(encode_block(tiny.speech(), window.next_block()))
    return tokens.local


def test_sessions_do_not_receive_each_other() -> None:
    work, alone = encoder(), encoder()
    for name, seed in (("a", 1), ("b", 2)):
        work.open(open_request(name))
        work.audio(audio_request(waveform(1, seed), name=name))
    alone.open(open_request("b"))
    alone.audio(audio_request(waveform(1, 2), name="b"))
    first = received(work, 0, "a")
    assert torch.equal(received(work, 0, "b"), received(alone, 0, "b"))
    assert not torch.equal(first, received(encoder_after("b", 2), 0, "b"))


def encoder_after(name: str, seed: int) -> AudioEncoderWork:
    work = encoder()
    work.open(open_request(name))
    work.audio(audio_request(waveform(1, seed), name=name))
    return work


@pytest.mark.parametrize(
    ("samples", "offset", "reason"),
    [
        (b"123", 0, "AUDIO_MALFORMED"),
        (np.array([np.nan], np.float32).tobytes(), 0, "AUDIO_MALFORMED"),
        (np.array([np.inf], np.float32).tobytes(), 0, "AUDIO_MALFORMED"),
        (bytes(4), 1, "MESSAGE_OUT_OF_ORDER"),
        (bytes(4 * 16_000), 0, "AUDIO_TOO_LONG"),
    ],
)
def test_bad_audio(samples: bytes, offset: int, reason: str) -> None:
    work = encoder(max_whole_file_s=0.5)
    work.open(open_request())
    with pytest.raises(ServiceError, match=reason):
        work.audio(StreamBlocksRequest.Audio(key=key(), samples=samples, sample_offset=offset))


def test_audio_after_the_last() -> None:
    work = encoder()
    work.open(open_request())
    work.audio(audio_request(waveform(1)))
    with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
        work.audio(audio_request(waveform(1), BLOCK_SAMPLES))


def test_too_short_and_too_fast() -> None:
    work = encoder()
    work.open(open_request("short"))
    with pytest.raises(ServiceError, match="AUDIO_TOO_SHORT"):
        work.audio(audio_request(np.zeros(0, np.float32), name="short"))
    work.open(open_request("fast", listening=STREAMING))
    with pytest.raises(ServiceError, match="AUDIO_TOO_FAST"):
        work.audio(audio_request(waveform(40), name="fast"))


def test_block_without_audio_and_out_of_order() -> None:
    work = encoder()
    with pytest.raises(ServiceError, match="SESSION_NOT_FOUND"):
        work.block(block_request(0))
    work.open(open_request())
    with pytest.raises(ServiceError, match="AUDIO_MISSING"):
        work.block(block_request(0))
    work.audio(audio_request(waveform(2)))
    with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
        work.block(block_request(1))


def test_unknown_mode_reserves_nothing() -> None:
    work = encoder()
    with pytest.raises(ServiceError, match="AUDIO_FORMAT_UNSUPPORTED"):
        work.open(open_request(listening=LISTENING_UNSPECIFIED))
    assert work.close(key()) == 0


def test_prompt_becomes_text_states_and_the_sink_goes_through() -> None:
    work = encoder()
    work.open(open_request())
    sink = torch.randn(16, 1, 300, 300, generator=torch.Generator().manual_seed(0))
    body = ConditioningBody(prompt=tiny.PROMPT)
    body.sink.reference.CopyFrom(wire.tensor_to_message(sink))
    sent = conditioning_parts(key(), 4, body.SerializeToString())
    assert len(sent) > 2
    *early, passed = [list(work.condition(request.conditioning_part)) for request in sent]
    assert early == [[]] * (len(sent) - 1)
    parts = [request.conditioning_part for request in passed]
    assert [part.part for part in parts] == list(range(parts[0].part_count))
    assert {part.from_block for part in parts} == {4}
    assert max(len(part.data) for part in parts) <= PART_BYTES
    joined = ConditioningBody.FromString(b"".join(part.data for part in parts))
    assert not joined.HasField("prompt")
    assert torch.equal(wire.tensor_from_message(joined.text_states, "text"), tiny.text().encode(tiny.PROMPT))
    assert joined.sink == body.sink


def test_bad_conditioning() -> None:
    work = encoder()
    work.open(open_request())
    (long,) = conditioning_parts(key(), 0, tiny.prompt_body(prompt="x" * 9000))
    with pytest.raises(ServiceError, match="PROMPT_TOO_LONG"):
        work.condition(long.conditioning_part)
    (broken,) = conditioning_parts(key(), 0, b"\xff\xff\xff")
    with pytest.raises(ServiceError, match="CONDITIONING_MALFORMED"):
        work.condition(broken.conditioning_part)


def test_close_frees_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[audio_features.OfflineFeatures]] = []
    begin = audio_features.OfflineFeatures.__init__

    def noted(self: audio_features.OfflineFeatures, *args: object) -> None:
        begin(self, *args)  # type: ignore[arg-type]
        made.append(weakref.ref(self))

    monkeypatch.setattr(audio_features.OfflineFeatures, "__init__", noted)
    work = encoder()
    reserved = work.open(open_request())
    work.audio(audio_request(waveform(1)))
    received(work, 0)
    assert reserved > waveform(1).nbytes
    assert work.close(key()) == reserved
    assert work.close(key()) == 0
    gc.collect()
    assert [ref() for ref in made] == [None]


def test_room_is_kept() -> None:
    work = encoder(memory_budget=MemoryBudget(max_bytes=2**31, max_sessions=1))
    work.open(open_request("a"))
    with pytest.raises(ServiceError, match="CAPACITY_EXHAUSTED"):
        work.open(open_request("b"))
    work.close(key("a"))
    assert work.open(open_request("b"))


def states(work: AudioEncoderWork, prompt: str) -> bytes:
    (request,) = conditioning_parts(key(), 0, tiny.prompt_body(prompt=prompt))
    (passed,) = work.condition(request.conditioning_part)
    return ConditioningBody.FromString(passed.conditioning_part.data).text_states.SerializeToString()


def test_a_prompt_that_was_encoded_a_moment_ago_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = tiny.text().encode

    def counted(prompt: str) -> torch.Tensor:
        encoded.append(prompt)
        return encode(prompt)

    monkeypatch.setattr(tiny.text(), "encode", counted)
    work = encoder()
    work.open(open_request())
    first = states(work, "a fox")
    assert states(work, "a hen") != first
    assert states(work, "a fox") == first == states(fresh(), "a fox")
    assert encoded == ["a fox", "a hen", "a fox"]
    for number in range(PROMPTS_KEPT):
        states(work, f"prompt {number}")
    assert states(work, "a fox") == first
    assert encoded.count("a fox") == 3


def fresh() -> AudioEncoderWork:
    """One that has encoded nothing yet."""
    work = encoder()
    work.open(open_request())
    return work
