"""The autoencoder against the goldens of kind vae."""

import pytest
import torch
from einops import rearrange

from live_avatar.config import VAEConfig
from live_avatar.model.vae import VAE, DecoderCache, public_names
from tests.golden.conftest import Golden

pytestmark = pytest.mark.golden_kind("vae")


def golden_vae(golden: Golden) -> VAE:
    model = golden.meta["config"]["model"]
    config = VAEConfig(
        dim=model["dim"],
        latent_channels=model["z_dim"],
        multipliers=tuple(model["dim_mult"]),
        residual_blocks=model["num_res_blocks"],
        temporal_downsample=tuple(model["temperal_downsample"]),
        mean=tuple(golden.tensors["scale/mean"].tolist()),
        std=tuple(golden.tensors["scale/std"].tolist()),
    )
    vae = VAE(config)
    names = public_names(config)
    weights = golden.weights(golden.meta["config"]["weights"])
    vae.load_state_dict({names[key]: value for key, value in weights.items()})
    return vae.eval()


@torch.inference_mode()
def test_encode_a_clip(golden: Golden) -> None:
    vae = golden_vae(golden)
    mean, _ = vae.posterior(golden.tensors["encode/clip"])
    golden.close(mean, "encode/latents_unnormalised")
    golden.close(vae.encode(golden.tensors["encode/clip"]), "encode/latents")


@torch.inference_mode()
def test_encode_an_image_alone_and_repeated(golden: Golden) -> None:
    vae = golden_vae(golden)
    image, group = golden.tensors["encode/image"], vae.config.temporal_factor
    golden.close(vae.encode(image), "encode/image_latent_1frame")
    last = vae.encode(image.expand(-1, -1, 1 + group, -1, -1))[:, :, -1:]
    golden.close(last, "encode/image_latent_5frames_last")
    latents = golden.tensors["encode/image_73frames_latents"].shape[2]
    motion = vae.encode(image.expand(-1, -1, 1 + group * (latents - 1), -1, -1))
    golden.close(motion, "encode/image_73frames_latents")


@torch.inference_mode()
def test_decode_whole(golden: Golden) -> None:
    golden.close(golden_vae(golden).decode(golden.tensors["decode/latents"]), "decode/frames")


@torch.inference_mode()
def test_decode_block_by_block_and_the_cache_after_the_first(golden: Golden) -> None:
    vae, cache = golden_vae(golden), DecoderCache()
    blocks = golden.tensors["decode/latents"].split(golden.meta["config"]["block_latents"], dim=2)
    frames = [vae.decode_next(blocks[0], cache)]
    entries = [e for e in golden.meta["decoder_cache"]["after_first_block"] if e["kind"] == "tensor"]
    assert [e["index"] for e in entries] == list(range(len(cache.histories)))
    for index, history in enumerate(cache.histories):
        golden.close(rearrange(history, "b t h w c -> b c t h w"), f"stream/after_first_block/cache_{index:02d}")
    frames += [vae.decode_next(block, cache) for block in blocks[1:]]
    assert [part.shape[2] for part in frames] == golden.meta["stream_frames_per_call"]
    golden.close(torch.cat(frames, dim=2), "decode/frames")


@torch.inference_mode()
def test_blocks_after_a_warm_up(golden: Golden) -> None:
    vae, cache = golden_vae(golden), DecoderCache()
    vae.decode_next(golden.tensors["warm/latents"], cache)
    blocks = golden.tensors["warm/block_latents"].split(golden.meta["config"]["block_latents"], dim=2)
    frames = torch.cat([vae.decode_next(block, cache) for block in blocks], dim=2)
    shown = golden.tensors["warm/frames"].shape[2]
    golden.close(frames[:, :, -shown:].clamp(-1, 1), "warm/frames")
