"""Probes how well speech features predict the mouth, by voice: ``python -m evaluation.audio_probe [--weights DIR]``.

A linear reader is fitted on the last hidden state of training voices, and tried on utterances that it has not met.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from transformers import Wav2Vec2Model

from live_avatar.cli.inputs import TRAINED
from live_avatar.config import TINY
from live_avatar.model import components
from live_avatar.model.speech import hop_samples
from live_avatar.trainer.speech_encoder import TRACKS, Utterances, frames_of_states, normalised
from live_avatar.trainer.synthetic.clips import SEEDS, speech
from live_avatar.trainer.synthetic.voices import Split

FITTED, TRIED, FRAMES = 300, 24, 150
"""Utterances that the reader is fitted on and tried on, and the length of each."""
WEAKEST = "en+m8"
_RIDGE = 10.0
_FIT_SEED, _TRY_SEED = 3, 99

Features = npt.NDArray[np.float32]


def main() -> None:
    """Prints a row per group of voices: correlation with the truth of every track."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.audio_probe", description="Probes how well speech features predict the mouth."
    )
    parser.add_argument("--weights", type=Path, default=TRAINED, help="folder of weights; the package's own by default")
    encoder = components.load(TINY, "speech", parser.parse_args().weights)
    assert isinstance(encoder, Wav2Vec2Model)
    reader = fit(*_features(encoder, spoken(FITTED, "train", _FIT_SEED)))
    groups = {
        "voices of training, other utterances": spoken(TRIED, "train", _TRY_SEED),
        "held-out voices and words": spoken(TRIED, "held_out", 0),
        f"of them {WEAKEST}": spoken(TRIED, "held_out", 0, WEAKEST),
    }
    print(f"| | {' | '.join(TRACKS)} |")
    for name, utterances in groups.items():
        features, mouths = _features(encoder, utterances)
        print(f"| {name} | {' | '.join(f'{r:.2f}' for r in correlations(read(reader, features), mouths))} |")


def spoken(count: int, split: Split, seed: int, voice_name: str = "") -> Utterances:
    """``count`` utterances, one after the other."""
    rng = (np.random.default_rng((SEEDS[split], 4, seed, index)) for index in range(count))
    spoken_clips = [speech(FRAMES, split, each, voice_name) for each in rng]
    mouths = [np.stack([getattr(mouth, track) for track in TRACKS], axis=1) for _, mouth in spoken_clips]
    return Utterances(np.stack([samples for samples, _ in spoken_clips]), np.stack(mouths))


@torch.no_grad()
def _features(encoder: Wav2Vec2Model, utterances: Utterances) -> tuple[Features, Features]:
    """Last state of every frame [n, D], scaled, and the mouth of every frame [n, 4]."""
    encoder.eval()
    parts = []
    for samples in utterances.samples:
        sound = F.pad(torch.from_numpy(normalised(samples))[None], (0, hop_samples(TINY.speech)))
        state = encoder(sound).last_hidden_state[None]
        at_frames = frames_of_states(state, utterances.mouths.shape[1], TINY.speech)[0, 0]
        parts.append(F.layer_norm(at_frames, at_frames.shape[-1:]))
    return torch.cat(parts).numpy(), utterances.mouths.reshape(-1, len(TRACKS))


def fit(features: Features, mouths: Features) -> Features:
    """Weights [D + 1, 4] of the linear reader that is nearest to ``mouths``, by ridge regression."""
    columns = _with_one(features)
    weights = np.linalg.solve(columns.T @ columns + _RIDGE * np.eye(columns.shape[1]), columns.T @ mouths)
    return np.asarray(weights, np.float32)


def read(reader: Features, features: Features) -> Features:
    """Mouths [n, 4] that ``reader`` predicts from ``features`` [n, D]."""
    return _with_one(features) @ reader


def correlations(predicted: Features, truth: Features) -> list[float]:
    """Of every track."""
    return [float(np.corrcoef(one, other)[0, 1]) for one, other in zip(predicted.T, truth.T, strict=True)]


def _with_one(features: Features) -> Features:
    return np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)


if __name__ == "__main__":
    main()
