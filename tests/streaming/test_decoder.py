"""The two ends that touch the VAE: pictures in order and numbered, a portrait to the sink."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from live_avatar.config import MOTION_LATENTS
from live_avatar.model.vae import to_uint8
from live_avatar.streaming.decoder import FrameDecoder, Frames
from tests.streaming.small_pipeline import RULES, VAE_CONFIG, random_vae

PER_LATENT = VAE_CONFIG.temporal_factor


@pytest.fixture(scope="module")
def decoder() -> FrameDecoder:
    return FrameDecoder(random_vae(), RULES, use_motion=True)


def latents(count: int, seed: int = 0) -> Tensor:
    return torch.randn(VAE_CONFIG.latent_channels, count, 2, 3, generator=torch.Generator().manual_seed(seed))


def decoded(decoder: FrameDecoder, past: Tensor, blocks: int) -> list[Frames]:
    session = decoder.open()
    decoder.warm(session, past)
    parts = latents(blocks * RULES.latents_per_block).split(RULES.latents_per_block, dim=1)
    return [frames for index, part in enumerate(parts) for frames in decoder.decode(session, index, part)]


@torch.inference_mode()
def test_pictures_are_those_of_one_whole_decode(decoder: FrameDecoder) -> None:
    past, blocks = latents(RULES.warmup_latents, seed=1), 3
    shown = decoded(decoder, past, blocks)
    movie = torch.cat([past, latents(blocks * RULES.latents_per_block)], dim=1)
    whole = to_uint8(decoder.vae.decode(movie[None]))[0]
    count = blocks * RULES.latents_per_block * PER_LATENT - RULES.dropped_frames
    pixels = torch.cat([frames.pixels for frames in shown])
    assert len(pixels) == count
    difference = (pixels.int() - whole[-count:].int()).abs()
    assert difference.max() <= 1, "rounding to the next level may differ by the order of summation"
    assert difference.float().mean() < 0.01


def test_numbers_run_on_from_zero_and_leave_latent_by_latent(decoder: FrameDecoder) -> None:
    shown = decoded(decoder, latents(RULES.warmup_latents, seed=1), blocks=2)
    following = 0
    for frames in shown:
        assert frames.first == following
        following += len(frames.pixels)
    sizes = [len(frames.pixels) for frames in shown]
    assert sizes == [PER_LATENT - RULES.dropped_frames] + [PER_LATENT] * (2 * RULES.latents_per_block - 1)


@pytest.mark.parametrize("dropped", [0, 4, 5])
def test_any_number_of_first_frames_can_be_dropped(decoder: FrameDecoder, dropped: int) -> None:
    other = FrameDecoder(decoder.vae, replace(RULES, dropped_frames=dropped), use_motion=True)
    shown = decoded(other, latents(RULES.warmup_latents), blocks=1)
    assert shown[0].first == 0
    assert sum(len(frames.pixels) for frames in shown) == RULES.latents_per_block * PER_LATENT - dropped


def test_only_the_warm_up_latents_of_a_longer_past_count(decoder: FrameDecoder) -> None:
    past = latents(MOTION_LATENTS, seed=1)
    other = past.clone()
    other[:, RULES.warmup_latents :] += 1
    some, others = decoded(decoder, past, 1), decoded(decoder, other, 1)
    assert all(torch.equal(one.pixels, another.pixels) for one, another in zip(some, others, strict=True))


def test_a_reset_session_is_a_new_one(decoder: FrameDecoder) -> None:
    past, session = latents(RULES.warmup_latents, seed=1), decoder.open()
    first = latents(RULES.latents_per_block)
    decoder.warm(session, past)
    fresh = list(decoder.decode(session, 0, first))
    session.reset()
    decoder.warm(session, past)
    again = list(decoder.decode(session, 0, first))
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(fresh, again, strict=True))


def test_a_block_out_of_turn_is_refused(decoder: FrameDecoder) -> None:
    session = decoder.open()
    with pytest.raises(ValueError, match="block 1 came where block 0 was due"):
        next(decoder.decode(session, 1, latents(3)))


@torch.inference_mode()
def test_a_portrait_becomes_the_last_latent_of_a_still_video(decoder: FrameDecoder) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 16, 24, generator=generator) * 2 - 1
    sink = decoder.encode_portrait(pixels)
    movie = pixels[None, :, None].expand(-1, -1, RULES.reference_frames, -1, -1)
    assert sink.version == 0
    assert torch.equal(sink.reference, decoder.vae.encode(movie)[0, :, -1:])
    assert sink.motion is not None
    assert sink.motion.shape == (VAE_CONFIG.latent_channels, MOTION_LATENTS, 2, 3)
    bare = FrameDecoder(decoder.vae, replace(RULES, reference_frames=1), use_motion=False).encode_portrait(pixels)
    assert bare.motion is None
    assert torch.equal(bare.reference, decoder.vae.encode(movie[:, :, :1])[0])
    assert not torch.equal(bare.reference, sink.reference)
