"""How long the audio encoder of the 14B system takes for one block on CPU cores: what its requests are sized by.

    python -m benchmarks.audio_encoder --threads 1 2

Weights that are all one number: the time does not depend on them.  Live audio, that is the newest block with the
context before it.  What is printed is the time on cores, all threads together, which other work on the machine does not
stretch as it does the time on the clock.
"""

import argparse
import os
import platform
import statistics
import time

import numpy as np
import torch
from transformers import Wav2Vec2Model

from live_avatar.config import S2V_14B, SAMPLE_RATE_HZ, Preset
from live_avatar.model.audio_tokens import AudioTokenEncoder
from live_avatar.model.components import build_on_meta
from live_avatar.services.audio_encoder.audio_features import StreamingFeatures

AUDIO_S = 10
"""Speech at hand: enough for the context before a block and eight blocks."""


def times(preset: Preset, runs: int) -> list[float]:
    """Core seconds of each of ``runs`` blocks of live audio, after one that nobody counts."""
    speech, tokens = (network(preset, name) for name in ("speech", "audio"))
    assert isinstance(speech, Wav2Vec2Model)
    assert isinstance(tokens, AudioTokenEncoder)
    audio_features = StreamingFeatures(speech, preset)
    samples = np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ * AUDIO_S, dtype=np.float32) * 0.1
    audio_features.append(samples)
    first = round(preset.stream.left_context_s * SAMPLE_RATE_HZ / preset.samples_per_block) + 1
    taken = []
    for block in range(first, first + runs + 1):
        began = time.process_time()
        tokens(audio_features.features(block))
        taken.append(time.process_time() - began)
    return taken[1:]


def network(preset: Preset, name: str) -> torch.nn.Module:
    """A network of the system without its weights."""
    module = build_on_meta(preset, name).to_empty(device="cpu").float().eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(0.01)
    return module


def main() -> None:
    """Prints a row for each number of threads."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=7, choices=range(1, 8))
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(
        f"threads   core ms of a block of {1000 * S2V_14B.samples_per_block / SAMPLE_RATE_HZ:.0f} ms: median, fastest"
    )
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            taken = times(S2V_14B, arguments.runs)
        print(f"{threads:7}   {1000 * statistics.median(taken):.0f}, {1000 * min(taken):.0f}")


if __name__ == "__main__":
    main()
