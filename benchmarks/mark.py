"""What the invisible mark costs: its time over that of decoding and encoding the same frames, on one thread."""

import statistics
import time

import torch

from benchmarks.sections import SIZE, Numbers, Workplace
from live_avatar.cli.inputs import TRAINED
from live_avatar.config import TINY
from live_avatar.memory import largest_size
from live_avatar.model.networks import open_networks
from live_avatar.model.vae import VAE
from live_avatar.services.vae_decoder.h264 import H264Encoder
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.watermark.carrier import carrier_of
from live_avatar.watermark.embedding import Clock, Marker

CLOCK = Clock(fps=TINY.stream.fps, frames_per_block=TINY.frames_per_block, dropped_frames=TINY.stream.dropped_frames)
BLOCKS, LARGE_BLOCKS = 20, 2
_SEED = 1


def mark(_place: Workplace) -> Numbers:
    """Marking over decoding and encoding, with TINY's decoder at its own size and at 704x384."""
    torch.set_num_threads(1)
    vae = open_networks(TINY, TRAINED, torch.device("cpu")).load("vae")
    assert isinstance(vae, VAE)
    height, width = largest_size(TINY)
    small, small_ms = _share(vae, width, height, BLOCKS)
    large, large_ms = _share(vae, *SIZE, LARGE_BLOCKS)
    return {
        "mark_share": max(small, large),
        "mark_share_tiny": small,
        "mark_share_704x384": large,
        "mark_ms_per_block_tiny": small_ms,
        "mark_ms_per_block_704x384": large_ms,
    }


def _share(vae: VAE, width: int, height: int, blocks: int) -> tuple[float, float]:
    """Share of the mark, and milliseconds per block; the first block is left out."""
    decoder = FrameDecoder(vae, TINY.stream, use_motion=TINY.dit.use_motion)
    session, encoder = decoder.open(), H264Encoder(width, height, CLOCK.fps)
    marker = Marker(carrier_of(bytes(32)), CLOCK, deployment=1, session=2, device=torch.device("cpu"))
    factor = TINY.vae.spatial_factor
    shape = (TINY.vae.latent_channels, TINY.stream.latents_per_block, height // factor, width // factor)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(_SEED))
    others, marks = [], []
    for block in range(blocks + 1):
        began = time.perf_counter()
        frames = list(decoder.decode(session, block, latent))
        decoded = time.perf_counter()
        marked = [marker.mark(one.pixels, one.first) for one in frames]
        done = time.perf_counter()
        for number, one in enumerate(marked):
            encoder.encode(one.numpy(), starts_block=number == 0)
        encoded = time.perf_counter()
        others.append(decoded - began + encoded - done)
        marks.append(done - decoded)
    took_s = statistics.median(marks[1:])
    return took_s / statistics.median(others[1:]), 1000 * took_s
