"""The denoiser's inputs one by one: speakers, pose, text, noise levels, sink, and its number types."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from live_avatar.config import S2V_14B, DiTConfig
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.dit import (
    AudioInjection,
    CausalDiT,
    NoisyInput,
    public_names,
)
from live_avatar.model.kv_cache import KVWindow
from tests.model.random_dit import (
    CONFIG,
    NO_MOTION,
    ONE_LAYER,
    TOLERANCE,
    Clip,
    near,
    random_audio,
    random_dit,
    transformer_layer,
)


def injection_of(model: CausalDiT) -> AudioInjection:
    injection = transformer_layer(model, 0).audio
    assert injection is not None
    return injection


def one_block(model: CausalDiT, clip: Clip, change: Callable[[NoisyInput], NoisyInput] = lambda noisy: noisy) -> Tensor:
    """Velocity of block 0 with its input changed."""
    window = clip.with_sink(model, clip.window())
    noisy = change(clip.noisy(model, clip.latent(), 0))
    velocity: Tensor = model(noisy, None, clip.text(model), window.begin(30))
    return velocity


@torch.inference_mode()
def test_speakers_received_everywhere_add_up() -> None:
    """Residuals of one layer add; with masks of one, two speakers are the sum of each alone."""
    clip = Clip(config=ONE_LAYER)
    model = random_dit(clip.config)
    injection = injection_of(model)
    both = random_audio(clip.config, clip.latents_per_block, seed=3, speakers=2)
    tokens = clip.latents_per_block * clip.geometry.latent_tokens
    x = torch.randn(1, tokens, clip.config.dim, generator=torch.Generator().manual_seed(4))
    added = [injection(x, AudioTokens(both.local[:, [s]], both.glob[:, [s]])) - x for s in range(2)]
    near(injection(x, both) - x, added[0] + added[1])
    everywhere = torch.ones(1, 2, clip.latents_per_block, clip.geometry.latent_tokens)
    assert torch.equal(injection(x, both), injection(x, AudioTokens(both.local, both.glob, everywhere)))


@torch.inference_mode()
def test_every_token_receives_the_speakers_its_masks_name() -> None:
    clip = Clip(config=ONE_LAYER)
    model = random_dit(clip.config)
    injection = injection_of(model)
    both = random_audio(clip.config, clip.latents_per_block, seed=3, speakers=2)
    tokens = clip.geometry.latent_tokens
    x = torch.randn(1, clip.latents_per_block * tokens, clip.config.dim, generator=torch.Generator().manual_seed(4))
    left = (torch.arange(tokens) < tokens // 2).float().expand(1, clip.latents_per_block, -1)
    received = injection(x, AudioTokens(both.local, both.glob, torch.stack([left, 1 - left], dim=1)))
    alone = [injection(x, AudioTokens(both.local[:, [s]], both.glob[:, [s]])) for s in range(2)]
    near(received, torch.where(left.flatten()[None, :, None].bool(), alone[0], alone[1]))


@torch.inference_mode()
def test_a_silenced_second_speaker_is_no_speaker() -> None:
    clip, model = Clip(), random_dit()
    both = random_audio(CONFIG, clip.latents_per_block, seed=3, speakers=2)
    ones = torch.ones(1, 1, clip.latents_per_block, clip.geometry.latent_tokens)
    masked = AudioTokens(both.local, both.glob, torch.cat([ones, 0 * ones], dim=1))
    single = AudioTokens(both.local[:, :1], both.glob[:, :1])
    near(
        one_block(model, clip, lambda noisy: replace(noisy, audio=masked)),
        one_block(model, clip, lambda noisy: replace(noisy, audio=single)),
    )


@torch.inference_mode()
def test_no_pose_is_a_pose_of_zeros() -> None:
    clip, model = Clip(), random_dit()
    zeros = torch.zeros_like(clip.latent()[:, :, : clip.latents_per_block])
    without = one_block(model, clip)
    near(one_block(model, clip, lambda noisy: replace(noisy, pose=zeros)), without)
    posed = one_block(model, clip, lambda noisy: replace(noisy, pose=zeros + 1))
    assert (posed - without).abs().max() > 20 * TOLERANCE


@torch.inference_mode()
def test_missing_text_rows_are_zeros_and_count() -> None:
    model = random_dit()
    states = torch.randn(1, CONFIG.text_len - 2, CONFIG.text_dim, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([states, torch.zeros(1, 2, CONFIG.text_dim)], dim=1)
    for short, full in zip(model.embed_text(states).layers, model.embed_text(padded).layers, strict=True):
        assert short[0].shape[1] == CONFIG.text_len
        assert torch.equal(short[0], full[0])
        assert torch.equal(short[1], full[1])
    clip = Clip()
    window = clip.with_sink(model, clip.window())
    noisy = clip.noisy(model, clip.latent(), 0)
    other = torch.cat([states, torch.ones(1, 2, CONFIG.text_dim)], dim=1)
    velocities = [model(noisy, None, model.embed_text(text), window.begin(30)) for text in (padded, other)]
    assert (velocities[0] - velocities[1]).abs().max() > 20 * TOLERANCE


def test_a_prompt_longer_than_the_model_takes_is_refused() -> None:
    model = random_dit()
    with pytest.raises(ValueError, match=f"{CONFIG.text_len + 1} text states"):
        model.embed_text(torch.zeros(1, CONFIG.text_len + 1, CONFIG.text_dim))


@torch.inference_mode()
def test_naming_a_noise_level_once_or_per_latent_is_the_same() -> None:
    clip, model = Clip(latents_per_block=3), random_dit()
    level = torch.tensor([[602.15]])
    one = one_block(model, clip, lambda noisy: replace(noisy, time=model.embed_time(level)))
    per_latent = one_block(model, clip, lambda noisy: replace(noisy, time=model.embed_time(level.expand(1, 3))))
    near(per_latent, one)
    mixed = torch.tensor([[602.15, 602.15, 8.9]])
    other = one_block(model, clip, lambda noisy: replace(noisy, time=model.embed_time(mixed)))
    assert (other - one).abs().max() > 20 * TOLERANCE


def test_noise_levels_that_do_not_divide_the_latents_are_refused() -> None:
    clip, model = Clip(latents_per_block=3), random_dit()
    with pytest.raises(ValueError, match="3 latents cannot be split evenly over 2 noise levels"):
        one_block(model, clip, lambda noisy: replace(noisy, time=model.embed_time(torch.tensor([[600.0, 8.0]]))))


@pytest.mark.parametrize(("config", "kind"), [(CONFIG, "without"), (NO_MOTION, "with")])
def test_a_sink_of_the_wrong_kind_is_refused(config: DiTConfig, kind: str) -> None:
    clip = Clip(config=config)
    other = replace(clip, config=replace(clip.config, use_motion=not clip.config.use_motion))
    model = random_dit(clip.config)
    with pytest.raises(ValueError, match=f"a sink {kind} motion latents"):
        model(None, other.sink(model), clip.text(model), clip.window().prefill())


def test_time_embedding_of_the_specification() -> None:
    model, timestep = random_dit(), torch.tensor([[857.69232, 0.0]])
    embedded = model.embed_time(timestep)
    half = CONFIG.freq_dim // 2
    for run, t in enumerate(timestep[0].tolist()):
        angles = torch.tensor([t * 10_000.0 ** (-j / half) for j in range(half)], dtype=torch.float64)
        e = model.time_embedding(torch.cat([angles.cos(), angles.sin()]).float())
        near(embedded.head[0, run], e)
        near(embedded.layers[0, run].flatten(), model.time_projection(torch.nn.functional.silu(e)))


@torch.inference_mode()
def test_short_motion_is_padded_in_front_and_long_motion_is_cut_in_front() -> None:
    clip, model = Clip(), random_dit()
    sink = clip.sink(model)
    assert sink.motion is not None
    short, more = sink.motion[:, :, -5:], torch.cat([sink.motion[:, :, :4], sink.motion], dim=2)
    padded = torch.cat([torch.zeros_like(sink.motion[:, :, 5:]), short], dim=2)
    assert torch.equal(model.sink_tokens(replace(sink, motion=short)), model.sink_tokens(replace(sink, motion=padded)))
    assert torch.equal(model.sink_tokens(replace(sink, motion=more)), model.sink_tokens(sink))


def test_public_names_cover_the_model_without_the_audio_encoder() -> None:
    names = public_names(S2V_14B.dit)
    with torch.device("meta"):
        ours = CausalDiT(S2V_14B.dit).state_dict()
    assert sorted(names.values()) == sorted(ours)
    assert len(names) == len(set(names.values()))


@torch.inference_mode()
def test_bfloat16_stays_near_float32() -> None:
    """Eight bits of mantissa round every activation by up to 0.4 %; a few roundings in a row make it about 1 %."""
    clip, low = Clip(blocks=3), random_dit().to(torch.bfloat16)
    exact = random_dit()
    exact.load_state_dict({name: value.float() for name, value in low.state_dict().items()})
    window = KVWindow(
        clip.geometry,
        latents_per_block=clip.latents_per_block,
        window_blocks=clip.window_blocks,
        dtype=torch.bfloat16,
    )
    rounded = clip.latent().bfloat16().float()
    expected = clip.streamed(exact, rounded)
    actual = _streamed_low(low, clip, rounded, window)
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).square().mean().sqrt() < 0.02 * expected.square().mean().sqrt()


def _streamed_low(model: CausalDiT, clip: Clip, latent: Tensor, window: KVWindow) -> Tensor:
    """The clip with every input rounded to bfloat16."""
    sink, prefill = clip.sink(model), window.prefill()
    assert sink.motion is not None
    text = model.embed_text(clip.text_states().bfloat16())
    low_sink = replace(sink, reference=sink.reference.bfloat16(), motion=sink.motion.bfloat16())
    model(None, low_sink, text, prefill)
    window.set_sink(prefill.states())
    velocities = []
    for block, reference_offset in enumerate(clip.distances()):
        noisy = clip.noisy(model, latent, block)
        audio = AudioTokens(noisy.audio.local.bfloat16(), noisy.audio.glob.bfloat16())
        low = replace(noisy, latent=noisy.latent.bfloat16(), audio=audio)
        velocities.append(model(low, None, text, window.begin(reference_offset)))
        window.commit()
    return torch.cat(velocities, dim=2)
