"""The two ends of the pipeline on one thread of the CPU, per block: the audio encoder, and H.264."""

import statistics
import time

import torch

from benchmarks.audio_encoder import times
from benchmarks.emulated_work import moving_gradient
from benchmarks.sections import SIZE, Numbers, Workplace
from live_avatar.config import S2V_14B, TINY
from live_avatar.services.vae_decoder.h264 import H264Encoder

RUNS = 7


def edges(place: Workplace) -> Numbers:
    """What listening takes for one block of live audio, and encoding for its pictures."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        numbers = {
            f"audio_encoder_ms_{preset.name.lower()}": 1000 * statistics.median(times(preset, RUNS))
            for preset in (TINY, S2V_14B)
        }
    numbers |= {f"h264_ms_{width}x{height}": encoding_ms(width, height) for width, height in (SIZE, (64, 64))}
    return numbers | {"h264_ms_64x64_enlarged_4": encoding_ms(64, 64, upscale_factor=4)}


def encoding_ms(width: int, height: int, upscale_factor: int = 1) -> float:
    """Median time of encoding a block of moving pictures, as the decoder's service does it."""
    encoder = H264Encoder(width, height, S2V_14B.stream.fps, upscale_factor=upscale_factor)
    pictures = moving_gradient(S2V_14B, width, height)
    took = []
    for _ in range(RUNS):
        began = time.perf_counter()
        encoder.encode(pictures, starts_block=True)
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)
