"""Audio tokens against the specification written out with all copies of the first frame."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from live_avatar.config import S2V_14B, DiTConfig
from live_avatar.model.audio_tokens import AudioTokenEncoder, public_names
from tests.model.random_dit import CONFIG, randomise

FAST = settings(max_examples=20, deadline=None)


def encoder(config: DiTConfig = CONFIG) -> AudioTokenEncoder:
    module = AudioTokenEncoder(config)
    randomise(module)
    with torch.no_grad():
        module.mix.copy_(torch.linspace(0.1, 1.0, config.audio_states).view_as(module.mix))
    return module


def features(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, CONFIG.audio_states, CONFIG.audio_dim, frames, generator=generator)


SIZES = (CONFIG, replace(CONFIG, dim=80, audio_tokens=3), replace(CONFIG, dim=20, audio_tokens=7))
"""Widths that are multiples of 4, of the number of tokens or not."""


def specified(module: AudioTokenEncoder, received: Tensor) -> tuple[Tensor, Tensor]:
    """Spec 1.7 step by step, for one speaker: local tokens [1, F, N, C] and global vector [1, F, C]."""
    weights = _public_weights(module)
    copies, dropped = CONFIG.audio_history_frames, CONFIG.audio_history_latents
    received = torch.cat([received[..., :1].repeat(1, 1, 1, copies), received], dim=-1)
    gates = F.silu(weights["weights"])
    mixed = (received * gates / gates.sum()).sum(dim=1)

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel, bias = weights[f"encoder.{name}.conv.weight"], weights[f"encoder.{name}.conv.bias"]
        return F.conv1d(torch.cat([x[..., :1], x[..., :1], x], dim=-1), kernel, bias, stride=stride)

    def norm(x: Tensor) -> Tensor:
        return F.silu(F.layer_norm(x.mT, (x.shape[1],), eps=1e-6)).mT

    def chain(x: Tensor) -> Tensor:
        return norm(conv(norm(conv(norm(x), "conv2", 2)), "conv3", 2)).mT

    width = module.config.dim // 4
    local = conv(mixed, "conv1_local")
    tokens = [chain(local[:, n * width : (n + 1) * width]) for n in range(module.config.audio_tokens)]
    tokens.append(weights["encoder.padding_tokens"][0].expand_as(tokens[0]))
    glob = F.linear(
        chain(conv(mixed, "conv1_global")),
        weights["encoder.final_linear.weight"],
        weights["encoder.final_linear.bias"],
    )
    return torch.stack(tokens, dim=2)[:, dropped:], glob[:, dropped:]


def _public_weights(module: AudioTokenEncoder) -> dict[str, Tensor]:
    ours = module.state_dict()
    return {public.removeprefix("casual_audio_encoder."): ours[name] for public, name in public_names(CONFIG).items()}


@FAST
@given(latents=st.integers(1, 5), seed=st.integers(0, 5), config=st.sampled_from(SIZES))
def test_tokens_are_those_of_the_specification(latents: int, seed: int, config: DiTConfig) -> None:
    module = encoder(config)
    tokens = module(features(4 * latents, seed))
    local, glob = specified(module, features(4 * latents, seed))
    assert tokens.local.shape == (1, 1, latents, config.audio_tokens + 1, config.dim)
    assert tokens.glob.shape == (1, 1, latents, config.dim)
    assert tokens.mask is None
    torch.testing.assert_close(tokens.local[:, 0], local, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokens.glob[:, 0], glob, rtol=1e-4, atol=1e-5)


def test_a_latent_receives_nothing_later() -> None:
    module, received = encoder(), features(12)
    plain = module(received)
    for frame in range(12):
        changed = received.clone()
        changed[..., frame] += 1
        after = module(changed)
        latent = frame // 4
        assert torch.equal(after.local[:, :, :latent], plain.local[:, :, :latent])
        assert torch.equal(after.glob[:, :, :latent], plain.glob[:, :, :latent])
        assert not torch.equal(after.glob[:, :, latent], plain.glob[:, :, latent])


def test_the_learned_padding_comes_last_and_does_not_listen() -> None:
    module = encoder()
    for seed in range(2):
        last = module(features(8, seed)).local[0, 0, :, -1]
        assert torch.equal(last, module.padding_token[0, 0].expand_as(last))


def test_a_batch_is_its_members() -> None:
    module = encoder()
    together = module(torch.cat([features(8, 0), features(8, 1)]))
    for member in range(2):
        alone = module(features(8, member))
        torch.testing.assert_close(together.local[member], alone.local[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.glob[member], alone.glob[0], rtol=1e-5, atol=1e-6)


def test_public_names_cover_the_module() -> None:
    with torch.device("meta"):
        ours = AudioTokenEncoder(S2V_14B.dit).state_dict()
    assert sorted(public_names(S2V_14B.dit).values()) == sorted(ours)
