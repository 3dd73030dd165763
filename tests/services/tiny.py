"""TINY networks, loaded once, and the requests that the tests of all services send."""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, Wav2Vec2Model

from live_avatar.config import TINY
from live_avatar.model.audio_tokens import AudioTokenEncoder
from live_avatar.model.dit import CausalDiT
from live_avatar.model.networks import open_networks
from live_avatar.model.text import TextEncoder
from live_avatar.model.vae import VAE
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, SessionKey, StreamBlocksRequest, VideoProfile
from live_avatar.serving.memory_budget import MemoryBudget
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.rng import PhiloxRng
from live_avatar.streaming.schedule import inference_schedule
from live_avatar.v1.avatar_service_pb2 import LISTENING_WHOLE_FILE, Listening

NETWORKS = open_networks(TINY, None)
SIDE = 64
PROMPT = "a person talks to the camera"
MEMORY_BUDGET = MemoryBudget(max_bytes=2**31, max_sessions=0)
Open = StreamBlocksRequest.Open


@cache
def vae() -> VAE:
    network = NETWORKS.load("vae")
    assert isinstance(network, VAE)
    return network


@cache
def dit() -> CausalDiT:
    network = NETWORKS.load("dit")
    assert isinstance(network, CausalDiT)
    return network


@cache
def speech() -> Wav2Vec2Model:
    network = NETWORKS.load("speech")
    assert isinstance(network, Wav2Vec2Model)
    return network


@cache
def audio_tokens() -> AudioTokenEncoder:
    network = NETWORKS.load("audio")
    assert isinstance(network, AudioTokenEncoder)
    return network


@cache
def text() -> TextEncoder:
    network = NETWORKS.load("text")
    assert isinstance(network, PreTrainedModel)
    return TextEncoder(network, NETWORKS.tokenizer(), TINY.dit.text_len)


def denoiser(steps: range) -> Denoiser:
    rules = TINY.stream
    return Denoiser(dit(), rules, inference_schedule(rules.steps), steps, PhiloxRng(rules.reference_distance))


def frame_decoder() -> FrameDecoder:
    return FrameDecoder(vae(), TINY.stream, use_motion=TINY.dit.use_motion)


def waveform(blocks: float, seed: int = 0) -> NDArray[np.float32]:
    """Noise of so many blocks, at the level of speech."""
    generator = np.random.default_rng(seed)
    samples: NDArray[np.float32] = generator.standard_normal(round(blocks * TINY.samples_per_block), np.float32) * 0.1
    return samples


def portrait_pixels(seed: int = 0) -> torch.Tensor:
    """A smooth picture [3, H, W] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")[0]


def key(name: str = "session", epoch: int = 1) -> SessionKey:
    return SessionKey(session_id=name, epoch=epoch)


def open_request(
    name: str = "session",
    *,
    width: int = SIDE,
    height: int = SIDE,
    listening: Listening.ValueType = LISTENING_WHOLE_FILE,
    video: VideoProfile.Encoding.ValueType = VideoProfile.ENCODING_RAW_RGB24,
) -> StreamBlocksRequest.Open:
    return Open(
        key=key(name),
        seed=7,
        width=width,
        height=height,
        listening=listening,
        video=VideoProfile(encoding=video),
    )


def audio_request(
    samples: NDArray[np.float32], offset: int = 0, *, last: bool = True, name: str = "session"
) -> StreamBlocksRequest.Audio:
    return StreamBlocksRequest.Audio(key=key(name), samples=samples.tobytes(), sample_offset=offset, last=last)


def block_request(index: int, name: str = "session") -> StreamBlocksRequest.Block:
    return StreamBlocksRequest.Block(key=key(name), index=index)


def prompt_body(sink: bytes | None = None, prompt: str | None = PROMPT) -> bytes:
    body = ConditioningBody(prompt=prompt)
    if sink is not None:
        body.sink.ParseFromString(sink)
    return body.SerializeToString()
