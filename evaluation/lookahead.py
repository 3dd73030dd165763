"""What look-ahead is worth: streamed speech features against those of the whole recording.

``python -m evaluation.lookahead [--weights DIR] [WAV ...]`` prints a row per look-ahead: the mean absolute difference,
in standard deviations of each hidden state.  Without files it listens to the sample of the package, without weights to
random networks of the preset TINY.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor
from transformers import Wav2Vec2Model

from live_avatar.cli.inputs import SPEECH
from live_avatar.client.speech import SpeechFile
from live_avatar.config import SAMPLE_RATE_HZ, TINY, Preset
from live_avatar.model.networks import open_networks
from live_avatar.streaming.audio_grid import whole_file_blocks
from live_avatar.streaming.audio_window import AudioWindow, encode_block
from live_avatar.streaming.resample import Samples

LOOKAHEADS_S = (0.0, 0.1, 0.25, 0.5)
_PIECE_SAMPLES = SAMPLE_RATE_HZ


def recording(path: Path) -> Samples:
    """The samples [N] of a file at the model's rate, full scale 1."""
    with SpeechFile(path) as file:
        spoken = np.frombuffer(b"".join(file.chunks()), "<i2").astype(np.float32) / np.float32(32_768)
        samples: Samples = soxr.resample(spoken, file.rate_hz, SAMPLE_RATE_HZ)
    return samples


def streamed(model: Wav2Vec2Model, samples: Samples, preset: Preset) -> Tensor:
    """Features [1, S, D, F], encoded as in a live session."""
    window, blocks = AudioWindow(preset), list[Tensor]()
    for first in range(0, samples.size, _PIECE_SAMPLES):
        window.append(samples[first : first + _PIECE_SAMPLES])
        while window.ready():
            blocks.append(encode_block(model, window.next_block()))
    window.finish()
    while window.ready():
        blocks.append(encode_block(model, window.next_block()))
    return torch.cat(blocks, dim=-1)


def difference(model: Wav2Vec2Model, samples: Samples, lookahead_s: float) -> float:
    """Mean absolute difference from the features of the whole, in standard deviations of each hidden state."""
    preset = replace(TINY, stream=replace(TINY.stream, lookahead_s=lookahead_s))
    whole = torch.cat(list(whole_file_blocks(model, torch.from_numpy(samples), preset)), dim=-1)
    live = streamed(model, samples, preset)
    # The last block is filled up with silence, of which the whole has only zeros.
    frames = samples.size * preset.stream.fps // SAMPLE_RATE_HZ
    whole, live = whole[..., :frames].float(), live[..., :frames].float()
    return float(((live - whole).abs().mean((0, 2, 3)) / whole.std((0, 2, 3))).mean())


def table(model: Wav2Vec2Model, recordings: Sequence[Samples]) -> str:
    """A row per look-ahead, as Markdown."""
    rows = ["| look-ahead | difference |", "|---|---|"]
    for lookahead_s in LOOKAHEADS_S:
        found = [difference(model, samples, lookahead_s) for samples in recordings]
        rows.append(f"| {lookahead_s} s | {sum(found) / len(found):.3f} |")
    return "\n".join(rows)


def main() -> None:
    """Prints the table of the files that were given."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.lookahead", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=[SPEECH], help="recordings")
    parser.add_argument("--weights", type=Path, help="folder of converted weights; without it random ones")
    arguments = parser.parse_args()
    networks = open_networks(TINY, arguments.weights)
    model = networks.load("speech")
    assert isinstance(model, Wav2Vec2Model)
    print(f"{len(arguments.files)} recordings, {networks.description}")
    print(table(model, [recording(path) for path in arguments.files]))


if __name__ == "__main__":
    main()
