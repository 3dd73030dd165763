"""The autoencoder: fast against slow, streamed against whole, and its manners."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from live_avatar.config import S2V_14B, TINY, VAEConfig
from live_avatar.model.vae import VAE, DecoderCache, decoder_cache_nbytes, public_names, to_uint8
from tests.model import slow_vae

MANIFEST = Path(__file__).parents[1] / "golden" / "data" / "manifests" / "vae_wan21.json"
CONFIG = VAEConfig(dim=4, latent_channels=3, mean=(0.5, -0.25, 0.0), std=(2.0, 0.5, 1.5))
TOLERANCE = 1e-4
FAST = settings(max_examples=12, deadline=None)


def random_vae(config: VAEConfig = CONFIG) -> VAE:
    """Random weights, with no bias or gain left at its neutral value."""
    torch.manual_seed(0)
    vae = VAE(config)
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter[0].numel() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return vae


def random_latents(frames: int, height: int = 2, width: int = 3, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, CONFIG.latent_channels, frames, height, width, generator=generator)


def public_weights(vae: VAE) -> dict[str, Tensor]:
    ours = vae.state_dict()
    return {public: ours[name] for public, name in public_names(vae.config).items()}


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(scope="module")
def vae() -> VAE:
    return random_vae()


def test_public_names_cover_the_checkpoint_one_to_one() -> None:
    manifest = json.loads(MANIFEST.read_text())
    names = public_names(S2V_14B.vae)
    with torch.device("meta"):
        ours = VAE(S2V_14B.vae).state_dict()
    assert {public: list(ours[name].shape) for public, name in names.items()} == {k: v[0] for k, v in manifest.items()}
    assert sorted(names.values()) == sorted(ours)


@FAST
@given(frames=st.integers(1, 5), height=st.integers(1, 4), width=st.integers(1, 4), batch=st.integers(1, 2))
@torch.inference_mode()
def test_decode_equals_the_slow_twin(frames: int, height: int, width: int, batch: int) -> None:
    vae = random_vae()
    latents = random_latents(frames, height, width, batch)
    slow = slow_vae.decode(public_weights(vae), latents, vae.mean, vae.std)
    assert slow.shape == (batch, 3, 1 + 4 * (frames - 1), 8 * height, 8 * width)
    assert_near(vae.decode(latents), slow)


@FAST
@given(groups=st.integers(0, 3), height=st.integers(1, 3), width=st.integers(1, 3), batch=st.integers(1, 2))
@torch.inference_mode()
def test_encode_equals_the_slow_twin(groups: int, height: int, width: int, batch: int) -> None:
    vae = random_vae()
    generator = torch.Generator().manual_seed(groups)
    video = torch.rand(batch, 3, 1 + 4 * groups, 8 * height, 8 * width, generator=generator) * 2 - 1
    slow = slow_vae.encode(public_weights(vae), video, vae.mean, vae.std)
    assert slow.shape == (batch, CONFIG.latent_channels, 1 + groups, height, width)
    assert_near(vae.encode(video), slow)


@FAST
@given(parts=st.lists(st.integers(1, 4), min_size=1, max_size=4))
@torch.inference_mode()
def test_any_split_of_the_latents_gives_the_same_frames(parts: list[int]) -> None:
    vae, cache = random_vae(), DecoderCache()
    latents = random_latents(sum(parts))
    streamed = [vae.decode_next(part, cache) for part in latents.split(parts, dim=2)]
    assert [part.shape[2] for part in streamed] == [4 * parts[0] - 3, *(4 * count for count in parts[1:])]
    slow = slow_vae.decode(public_weights(vae), latents, vae.mean, vae.std)
    assert_near(torch.cat(streamed, dim=2), slow)


@torch.inference_mode()
def test_the_past_matters_until_reset(vae: VAE) -> None:
    latents, cache = random_latents(3), DecoderCache()
    fresh = vae.decode_next(latents, cache)
    continued = vae.decode_next(latents, cache)
    assert continued.shape[2] > fresh.shape[2]
    cache.reset()
    assert cache.nbytes == 0
    assert torch.equal(vae.decode_next(latents, cache), fresh)


@torch.inference_mode()
def test_two_sessions_do_not_touch_each_other(vae: VAE) -> None:
    latents, other = random_latents(4), random_latents(5)
    alone = DecoderCache()
    expected = [vae.decode_next(part, alone) for part in latents.split(2, dim=2)]
    one, two = DecoderCache(), DecoderCache()
    first = vae.decode_next(latents[:, :, :2], one)
    vae.decode_next(other, two)
    assert torch.equal(first, expected[0])
    assert torch.equal(vae.decode_next(latents[:, :, 2:], one), expected[1])


@torch.inference_mode()
def test_a_failed_decode_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, cache = random_vae(), DecoderCache()
    latents = random_latents(3)
    vae.decode_next(latents, cache)
    before = cache.histories
    copies = [history.clone() for history in before]

    def fail(*_: object) -> Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(vae.decoder.head, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            vae.decode_next(latents, cache)
    assert cache.histories is before
    assert all(torch.equal(history, copy) for history, copy in zip(before, copies, strict=True))


@torch.inference_mode()
def test_the_cache_owns_its_memory_and_its_size_is_known_beforehand(vae: VAE) -> None:
    cache = DecoderCache()
    vae.decode_next(random_latents(1, 2, 3), cache)
    after_one = cache.nbytes
    vae.decode_next(random_latents(3, 2, 3), cache)
    stored = sum(history.untyped_storage().nbytes() for history in cache.histories)
    assert after_one == cache.nbytes == stored == decoder_cache_nbytes(CONFIG, 2, 3, torch.float32)


def test_the_cache_of_the_full_model_is_what_the_specification_says() -> None:
    assert decoder_cache_nbytes(S2V_14B.vae, 2, 4, torch.bfloat16) == 151_328 * 2 * 4 * torch.bfloat16.itemsize


def test_constants_are_rounded_to_bfloat16_as_the_public_pipeline_does() -> None:
    vae = VAE(VAEConfig(dim=2)).to(torch.bfloat16)
    zeros = torch.zeros(1, 16, 1, 1, 1, dtype=torch.bfloat16)
    expected_mean = torch.tensor([-0.7578125, -0.70703125, -0.91015625, 0.107421875, -0.1748046875, 0.96484375,
                                  -0.1513671875, 1.5546875, 0.4140625, -0.0712890625, 0.55078125, -0.36328125,
                                  -0.1923828125, -0.94921875, 0.25, -0.29296875], dtype=torch.bfloat16)  # fmt: skip
    expected_scale = torch.tensor([0.35546875, 0.6875, 0.4296875, 0.376953125, 0.8203125, 0.5625, 0.3828125,
                                   0.48046875, 0.306640625, 0.462890625, 0.349609375, 0.64453125, 0.609375,
                                   0.890625, 0.353515625, 0.5234375], dtype=torch.bfloat16)  # fmt: skip
    mean = vae.denormalise(zeros)
    assert torch.equal(mean.flatten(), expected_mean)
    assert torch.equal(vae.normalise(zeros).flatten(), (0 - expected_mean) * expected_scale)


def test_normalise_undoes_denormalise(vae: VAE) -> None:
    latents = random_latents(3)
    torch.testing.assert_close(vae.normalise(vae.denormalise(latents)), latents)


@torch.inference_mode()
def test_bfloat16_weights_give_nearly_the_same_video() -> None:
    exact, rounded = random_vae(TINY.vae), random_vae(TINY.vae).to(torch.bfloat16)
    latents = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    wanted, video = exact.decode(latents), rounded.decode(latents)
    assert video.dtype == torch.bfloat16
    assert (video.float() - wanted).norm() < 0.05 * wanted.norm()
    pictures = wanted.clamp(-1, 1)
    codes, rounded_codes = exact.encode(pictures), rounded.encode(pictures)
    assert (rounded_codes.float() - codes).norm() < 0.05 * codes.norm()


def test_every_parameter_learns() -> None:
    vae = random_vae()
    video = torch.rand(1, 3, 5, 8, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    mean, log_variance = vae.posterior(video)
    loss = vae.decode(vae.normalise(mean)).square().mean() + log_variance.square().mean()
    torch.autograd.backward(loss)
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_model_laid_out_on_the_meta_device_works_once_its_weights_are_assigned(vae: VAE) -> None:
    with torch.device("meta"):
        loaded = VAE(CONFIG)
    loaded.load_state_dict({name: value.contiguous() for name, value in vae.state_dict().items()}, assign=True)
    with torch.inference_mode():
        assert_near(loaded.decode(random_latents(2)), vae.decode(random_latents(2)))


@pytest.mark.parametrize(
    ("shape", "named"),
    [((1, 3, 4, 8, 8), "not 4"), ((1, 3, 0, 8, 8), "not 0"), ((1, 3, 1, 12, 8), "height=12"), ((3, 1, 8, 8), "3, 1")],
)
def test_encode_names_the_offending_size(vae: VAE, shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        vae.encode(torch.zeros(shape))


@torch.inference_mode()
def test_decode_names_the_offending_size(vae: VAE) -> None:
    cache = DecoderCache()
    for wrong in (torch.zeros(1, 4, 1, 2, 3), torch.zeros(3, 1, 2, 3), random_latents(1)[:, :, :0]):
        with pytest.raises(ValueError, match="latents must be"):
            vae.decode_next(wrong, cache)
    assert cache.histories == ()
    vae.decode_next(random_latents(1, 2, 3), cache)
    with pytest.raises(ValueError, match=r"h=2, w=3, .* 2, 4\]"):
        vae.decode_next(random_latents(1, 2, 4), cache)


def test_to_uint8_clamps_and_rounds_to_nearest() -> None:
    video = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 1.5]).view(1, 3, 1, 1, 2)
    pictures = to_uint8(video)
    assert pictures.shape == (1, 1, 1, 2, 3)
    assert pictures[0, 0, 0].T.flatten().tolist() == [0, 0, 128, 191, 255, 255]
