"""A chain, and signed and unsigned media, for tests."""

from functools import cache
from pathlib import Path

import numpy as np

from live_avatar.config import TINY
from live_avatar.provenance.claim_signer import ClaimSigner, signer_from_files
from live_avatar.provenance.facts import MediaFacts, mark_value
from live_avatar.provenance.own_chain import CERTIFICATE, KEY, OwnChain, make_chain, write_chain
from live_avatar.services.gateway.video.muxer import EncodedFrames, FragmentedMp4
from live_avatar.services.vae_decoder.h264 import H264Encoder
from live_avatar.watermark.payload import session_number
from tests.watermark.marking import DEPLOYMENT, SESSION_ID, Pixels

RATE_HZ = 16_000
FACTS = MediaFacts(
    session_id=SESSION_ID,
    model_digest="sha256:00",
    mark=mark_value(DEPLOYMENT, session_number(SESSION_ID)),
    consent="consent-7",
)


@cache
def chain() -> OwnChain:
    return make_chain("Tests", 2)


def signer(folder: Path) -> ClaimSigner:
    write_chain(folder, chain())
    return signer_from_files(folder / CERTIFICATE, folder / KEY)


def grey(frames: int) -> Pixels:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (frames, 64, 64, 3), np.uint8)


def mux(clip: Pixels, muxer: FragmentedMp4) -> list[bytes]:
    """Units of a clip [T, H, W, 3] of whole blocks but for the dropped frames, with a low hum."""
    encoder = H264Encoder(clip.shape[2], clip.shape[1], TINY.stream.fps)
    hum = (np.sin(np.arange(TINY.samples_per_block) / 20) / 4).astype(np.float32)
    units, at, block = [], 0, 0
    while at < len(clip):
        count = TINY.frames_per_block - (TINY.stream.dropped_frames if block == 0 else 0)
        frames = tuple(encoder.encode(clip[at : at + count], starts_block=True))
        pictures = EncodedFrames(block=block, first_frame=at, frames=frames)
        units += [unit.data for unit in muxer.mux(pictures, hum)]
        at, block = at + count, block + 1
    return units


def unsigned(clip: Pixels) -> list[bytes]:
    """Units without a signature."""
    return mux(clip, FragmentedMp4(TINY, (clip.shape[2], clip.shape[1]), RATE_HZ))
