"""Tensors and the pipeline's nouns survive the wire bit for bit; messages that lie about themselves do not enter."""

import tracemalloc
from collections.abc import Callable

import grpc
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from live_avatar import wire
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.pipeline.v1 import blocks_pb2, tensor_pb2
from live_avatar.serving.errors import ServiceError
from live_avatar.streaming.block import Block, Conditioning, Sink

KEY = blocks_pb2.SessionKey(session_id="s", epoch=3)
F32 = tensor_pb2.Tensor.DATA_TYPE_F32
ITEM_BYTES = {1: 4, 2: 2, 3: 2, 4: 1, 5: 1, 6: 8}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.uint8, torch.int64]


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def through(tensor: Tensor) -> Tensor:
    sent = wire.tensor_to_message(tensor).SerializeToString()
    return wire.tensor_from_message(tensor_pb2.Tensor.FromString(sent), "x")


def random_bits(dtype: torch.dtype, *shape: int) -> Tensor:
    """Every bit pattern, so NaN payloads and negative zeros too."""
    generator = torch.Generator().manual_seed(1)
    numel = int(torch.tensor(shape).prod()) if shape else 1
    raw = torch.randint(0, 256, (numel * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def refused(call: Callable[[], object]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        call()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TENSOR_MALFORMED")
    return caught.value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (16, 3, 4, 6), (1, 1, 1, 1, 1, 1, 1, 2)], ids=str)
def test_round_trip_is_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = random_bits(dtype, *shape)
    back = through(tensor)
    assert (back.dtype, back.shape) == (dtype, tensor.shape)
    assert bits(back) == bits(tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layout_does_not_matter(dtype: torch.dtype) -> None:
    tensor = random_bits(dtype, 4, 6, 8)
    views = (tensor.permute(2, 0, 1), tensor[1:3, ::2], tensor[:1].expand(3, -1, -1), tensor[0, 0, 3])
    for view in views:
        back = through(view)
        assert back.shape == view.shape
        assert bits(back) == bits(view)


def test_received_tensor_is_its_own_and_writable() -> None:
    message = wire.tensor_to_message(torch.zeros(3))
    wire.tensor_from_message(message, "x").fill_(1)
    assert message.data == bytes(12)


def test_gradients_do_not_hinder() -> None:
    assert torch.equal(through(torch.ones(2, requires_grad=True)), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.complex64], ids=str)
def test_dtype_without_a_wire_name_is_our_own_mistake(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=str(dtype)):
        wire.tensor_to_message(torch.zeros(2, dtype=dtype))


@given(
    dtype=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 7),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 9), max_size=12),
    size=st.integers(0, 300),
)
def test_lying_tensors_are_refused_and_honest_ones_are_not(dtype: int, shape: list[int], size: int) -> None:
    message = tensor_pb2.Tensor(shape=shape, data=bytes(size))
    message.dtype = dtype  # type: ignore[assignment]
    elements = 1
    for dim in shape:
        elements *= dim
    honest = (
        dtype in ITEM_BYTES
        and len(shape) <= 8
        and all(0 <= dim < 2**31 for dim in shape)
        and elements * ITEM_BYTES[dtype] == size
    )
    if honest and elements > 0:
        assert list(wire.tensor_from_message(message, "x").shape) == shape
    elif not honest:
        assert refused(lambda: wire.tensor_from_message(message, "latent")).field == "latent"


@pytest.mark.parametrize(
    "message",
    [
        tensor_pb2.Tensor(dtype=F32, shape=[2, 2], data=bytes(15)),
        tensor_pb2.Tensor(dtype=F32, shape=[2, 2], data=bytes(17)),
        tensor_pb2.Tensor(dtype=F32, shape=[-1, -4], data=bytes(16)),
        tensor_pb2.Tensor(dtype=F32, shape=[2**62, 4], data=b""),
        tensor_pb2.Tensor(dtype=F32, shape=[2**62, 0], data=b""),
        tensor_pb2.Tensor(dtype=F32, shape=[2**31], data=b""),
        tensor_pb2.Tensor(dtype=F32, shape=[1] * 9, data=bytes(4)),
        tensor_pb2.Tensor(dtype=F32, shape=[1] * 1_000_000, data=bytes(4)),
        tensor_pb2.Tensor(shape=[1], data=bytes(4)),
        tensor_pb2.Tensor(),
    ],
    ids=[
        "short",
        "long",
        "negative",
        "overflow",
        "huge beside zero",
        "2^31",
        "rank 9",
        "rank 10^6",
        "no dtype",
        "none",
    ],
)
def test_refusal_allocates_next_to_nothing(message: tensor_pb2.Tensor) -> None:
    tracemalloc.start()
    try:
        refused(lambda: wire.tensor_from_message(message, "x"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("shape", [(2, 3), (None, 3), (2, None), (None, None)])
def test_expected_shape_accepts(shape: wire.Shape) -> None:
    assert wire.tensor_from_message(wire.tensor_to_message(torch.ones(2, 3)), "x", shape).shape == (2, 3)


@pytest.mark.parametrize("shape", [(), (2,), (2, 4), (3, None), (2, 3, None)])
def test_expected_shape_refuses(shape: wire.Shape) -> None:
    message = wire.tensor_to_message(torch.ones(2, 3))
    assert "x: shape [2, 3]" in refused(lambda: wire.tensor_from_message(message, "x", shape)).message


def tokens(*, mask: bool = False) -> AudioTokens:
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(1, 2, 3, 6, generator=generator) if mask else None
    local = torch.randn(1, 2, 3, 5, 8, generator=generator)
    return AudioTokens(local=local, glob=torch.randn(1, 2, 3, 8, generator=generator), mask=weights)


def assert_same_tokens(got: AudioTokens, want: AudioTokens) -> None:
    assert torch.equal(got.local, want.local)
    assert torch.equal(got.glob, want.glob)
    assert (got.mask is None) == (want.mask is None)
    if got.mask is not None and want.mask is not None:
        assert torch.equal(got.mask, want.mask)


@pytest.mark.parametrize("mask", [False, True])
def test_audio_tokens_lose_their_batch_dimension_on_the_wire_alone(mask: bool) -> None:
    audio = tokens(mask=mask)
    message = wire.audio_to_message(audio)
    assert list(message.local.shape) == [2, 3, 5, 8]
    assert_same_tokens(wire.audio_from_message(message), audio)


def test_audio_tokens_of_a_larger_batch_are_our_own_mistake() -> None:
    audio = tokens()
    with pytest.raises(ValueError, match="not 2"):
        wire.audio_to_message(AudioTokens(local=audio.local.expand(2, -1, -1, -1, -1), glob=audio.glob))


@pytest.mark.parametrize(
    ("field", "shape"), [("local", (2, 3, 8)), ("global", (2, 4, 8)), ("global", (2, 3, 9)), ("mask", (1, 3, 6))]
)
def test_audio_tokens_that_disagree_are_refused(field: str, shape: tuple[int, ...]) -> None:
    message = wire.audio_to_message(tokens(mask=True))
    getattr(message, field).CopyFrom(wire.tensor_to_message(torch.zeros(shape)))
    assert refused(lambda: wire.audio_from_message(message)).field == f"audio.{field}"


@pytest.mark.parametrize("motion", [None, torch.arange(16 * 5 * 8.0).view(16, 5, 2, 4).bfloat16()])
def test_sink_round_trip(motion: Tensor | None) -> None:
    sink = Sink(version=1, reference=torch.randn(16, 1, 2, 4).bfloat16(), motion=motion)
    warmup = torch.randn(16, 7, 2, 4)
    message = wire.sink_to_message(sink, warmup)
    back = wire.sink_from_message(message)
    assert back.version == 1
    assert torch.equal(back.reference, sink.reference)
    assert (back.motion is None) if motion is None else torch.equal(back.motion, motion)  # type: ignore[arg-type]
    received = wire.warmup_from_message(message)
    assert received is not None
    assert torch.equal(received, warmup)
    assert wire.warmup_from_message(wire.sink_to_message(sink)) is None


@pytest.mark.parametrize(
    ("field", "shape"), [("reference", (16, 2, 2, 4)), ("motion", (16, 5, 2, 3)), ("motion", (4,))]
)
def test_sink_whose_tensors_disagree_is_refused(field: str, shape: tuple[int, ...]) -> None:
    sink = Sink(version=0, reference=torch.zeros(16, 1, 2, 4), motion=torch.zeros(16, 5, 2, 4))
    message = wire.sink_to_message(sink)
    getattr(message, field).CopyFrom(wire.tensor_to_message(torch.zeros(shape)))
    assert refused(lambda: wire.sink_from_message(message)).field == f"sink.{field}"


def test_conditioning_round_trip() -> None:
    sink = Sink(version=0, reference=torch.randn(16, 1, 2, 4), motion=None)
    text = torch.randn(7, 12)
    body = wire.conditioning_to_body(Conditioning(from_block=4, sink=sink, text=text))
    back = wire.conditioning_from_body(body, 4)
    assert back.from_block == 4
    assert back.sink is not None
    assert torch.equal(back.sink.reference, sink.reference)
    assert back.text is not None
    assert torch.equal(back.text, text)


def test_absent_parts_of_a_conditioning_stay_absent() -> None:
    body = wire.conditioning_to_body(Conditioning(from_block=9))
    assert wire.conditioning_from_body(body, 9) == Conditioning(from_block=9)


@pytest.mark.parametrize("prompt", ["", "a person talks"])
def test_prompt_that_no_encoder_replaced_is_refused(prompt: str) -> None:
    with pytest.raises(ServiceError, match="CONDITIONING_MALFORMED") as caught:
        wire.conditioning_from_body(blocks_pb2.ConditioningBody(prompt=prompt), 0)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("latent", [None, torch.ones(16, 3, 2, 4, dtype=torch.bfloat16)])
def test_block_round_trip(latent: Tensor | None) -> None:
    block = Block(index=5, audio=tokens(), latent=latent)
    message = wire.block_to_message(block, KEY)
    assert (message.key, message.index) == (KEY, 5)
    back = wire.block_from_message(message)
    assert back.index == 5
    assert_same_tokens(back.audio, block.audio)
    assert (back.latent is None) if latent is None else torch.equal(back.latent, latent)  # type: ignore[arg-type]


def test_block_whose_latent_and_audio_disagree_is_refused() -> None:
    message = wire.block_to_message(Block(index=0, audio=tokens(), latent=torch.ones(16, 4, 2, 4)), KEY)
    assert refused(lambda: wire.block_from_message(message)).field == "latent"


def test_block_without_audio_is_refused() -> None:
    message = blocks_pb2.StreamBlocksRequest.Block(key=KEY, index=0)
    assert refused(lambda: wire.block_from_message(message)).field == "audio.local"


def test_block_that_is_passed_on_keeps_its_audio_and_gets_its_latent() -> None:
    came = wire.block_to_message(Block(index=5, audio=tokens(mask=True), latent=torch.ones(16, 3, 2, 4)), KEY)
    cleaner = torch.rand(16, 3, 2, 4)
    slow = wire.block_to_message(Block(index=5, audio=tokens(mask=True), latent=cleaner), KEY)
    assert wire.passed_on(came, cleaner) == blocks_pb2.StreamBlocksRequest(block=slow)
    assert torch.equal(wire.tensor_from_message(came.latent, "latent"), torch.ones(16, 3, 2, 4)), "what came stays"
