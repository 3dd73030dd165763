"""The autoencoder against the known answer of its fixture."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from live_avatar.config import VAEConfig
from live_avatar.model.vae import VAE, DecoderCache, public_names
from tests.golden.fixture_weights import generate, generate_input

FIXTURES = Path(__file__).parent / "data" / "fixtures"
ABSOLUTE_TOLERANCE = 1e-4
SPLIT = (2, 3)


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FIXTURES / "vae_small.safetensors")


@pytest.fixture(scope="module")
def vae() -> VAE:
    meta = json.loads((FIXTURES / "fixtures.json").read_text())["vae_small"]
    config = VAEConfig(dim=meta["dim"], latent_channels=meta["z_dim"])
    vae = VAE(config)
    ours = vae.state_dict()
    names = public_names(config)
    public = generate(meta["prefix"], {public: ours[name].shape for public, name in names.items()})
    vae.load_state_dict({names[key]: value for key, value in public.items()})
    return vae.eval()


@torch.inference_mode()
def test_encode(vae: VAE, expected: dict[str, Tensor]) -> None:
    video = generate_input("in:video", (1, 3, 9, 32, 48), amplitude=1.0)
    torch.testing.assert_close(vae.encode(video), expected["encode"], rtol=0, atol=ABSOLUTE_TOLERANCE)


@torch.inference_mode()
def test_decode_whole_and_streamed(vae: VAE, expected: dict[str, Tensor]) -> None:
    latents = generate_input("in:z", (1, 16, 5, 4, 6))
    torch.testing.assert_close(vae.decode(latents), expected["decode_unclamped"], rtol=0, atol=ABSOLUTE_TOLERANCE)
    cache = DecoderCache()
    streamed = torch.cat([vae.decode_next(part, cache) for part in latents.split(SPLIT, dim=2)], dim=2)
    torch.testing.assert_close(streamed, expected["decode_unclamped"], rtol=0, atol=ABSOLUTE_TOLERANCE)
