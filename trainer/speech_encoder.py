"""Trains the small speech encoder: what the mouth does, from the sound alone.

The network is the product's wav2vec2; a linear head on every hidden state must predict the mouth of the synthetic
person, and is dropped afterwards.  Half of the batches end in the silence that follows a streamed window, so that the
encoder serves whole recordings and streams alike.

Letters: B batch, T frames, N samples, S hidden states, D width.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil, floor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2Model

from live_avatar.config import Preset, SpeechConfig, preset
from live_avatar.model import components
from live_avatar.model.checkpoint import save_component
from live_avatar.model.device import open_device
from live_avatar.model.speech import build_speech_encoder, hop_samples, public_names
from live_avatar.model.weight_files import Manifest
from live_avatar.streaming.audio_grid import state_position
from live_avatar.streaming.audio_window import MIN_STD
from live_avatar.trainer import snapshot
from live_avatar.trainer.averaging import update_average
from live_avatar.trainer.clip import FPS, SAMPLES_PER_FRAME
from live_avatar.trainer.muon import muon_and_adam
from live_avatar.trainer.overrides import override, pairs_of, run_reporting
from live_avatar.trainer.synthetic.clips import SEEDS, speech
from live_avatar.trainer.synthetic.voices import Split

SNAPSHOT = "speech_encoder.pt"
METRICS = "speech_encoder.jsonl"
TRACKS = ("openness", "width", "roundness", "teeth")
_ADAM_BETAS = (0.9, 0.98)
FEW = 50
"""Utterances that are not worth a process."""


@dataclass(frozen=True, kw_only=True)
class SpeechEncoderConfig:
    """One run."""

    preset: str = "TINY"
    output: Path = Path("out/speech_encoder")
    weights: Path | None = None
    """Folder of weights of the preset to start from; None: start from nothing."""
    device: str = "cpu"
    seed: int = 0
    utterances: int = 4000
    utterance_frames: int = 150
    held_out: int = 24
    steps: int = 3400
    batch: int = 8
    window_frames: int = 65
    """Input of the encoder: the streaming window of 2 s, a block and the look-ahead."""
    learning_rate: float = 2e-3
    warmup_steps: int = 60
    final_rate: float = 0.03
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.99
    late_share: float = 0.2
    """Share of windows that begin with silence, as at the start of a session."""
    save_every: int = 100
    log_every: int = 20
    evaluate_every: int = 250

    def rate(self, step: int) -> float:
        """The learning rate of ``step``: a ramp, then a cosine."""
        fall = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * min(1, (step + 1) / self.warmup_steps) * max(fall, self.final_rate)


@dataclass(frozen=True)
class Utterances:
    """Speech and the mouth that said it."""

    samples: npt.NDArray[np.float32]
    """[B, N]."""
    mouths: npt.NDArray[np.float32]
    """[B, T, 4] in the order of ``TRACKS``."""


def utterances(count: int, frames: int, split: Split, seed: int = 0) -> Utterances:
    """``count`` utterances of ``frames`` frames, spoken in several processes if they are many."""
    say = partial(_utterance, frames, split, seed)
    if count < FEW:
        return _stacked(map(say, range(count)))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
        return _stacked(workers.map(say, range(count), chunksize=FEW))


def _utterance(
    frames: int, split: Split, seed: int, index: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Samples [N] and mouth [T, 4]."""
    sound, mouth = speech(frames, split, np.random.default_rng((SEEDS[split], 4, seed, index)))
    return sound, np.stack([getattr(mouth, track) for track in TRACKS], axis=1)


def _stacked(spoken: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]) -> Utterances:
    samples, mouths = zip(*spoken, strict=True)
    return Utterances(np.stack(samples), np.stack(mouths))


def frames_of_states(states: Tensor, frames: int, config: SpeechConfig) -> Tensor:
    """Hidden states [S, B, n, D] where serving reads them for the first ``frames`` frames, [S, B, T, D]."""
    positions = [state_position(frame, FPS, hop_samples(config)) for frame in range(frames)]
    last = states.shape[2] - 1
    lower, upper = ([min(last, end(each)) for each in positions] for end in (floor, ceil))
    between = torch.tensor([float(each % 1) for each in positions], device=states.device)[:, None]
    return torch.lerp(states[:, :, lower], states[:, :, upper], between)


class MouthReader(nn.Module):
    """The encoder with a linear head on each hidden state."""

    def __init__(self, system: Preset) -> None:
        super().__init__()
        self.system = system
        self.encoder: Wav2Vec2Model = build_speech_encoder(system.speech)
        width, states = system.speech.hidden_size, system.speech.states
        self.weight = nn.Parameter(torch.randn(states, width, len(TRACKS)) / width)
        self.bias = nn.Parameter(torch.full((states, 1, 1, len(TRACKS)), 0.2))

    def ends(self) -> tuple[nn.Parameter, ...]:
        """Parameters of the first convolution, the heads and the positions, whose norm is a weight of its own."""
        apart = ("feature_extractor.conv_layers.0.", "pos_conv_embed.")
        named = self.encoder.named_parameters()
        return (self.weight, self.bias, *(each for name, each in named if any(part in name for part in apart)))

    def forward(self, samples: Tensor, frames: int) -> Tensor:
        """Predicts the mouth of the first ``frames`` frames, [S, B, T, 4], from normalised ``samples`` [B, N]."""
        output = self.encoder(samples, output_hidden_states=True)
        states = torch.stack((*output.hidden_states[:-1], output.last_hidden_state))
        at_frames = frames_of_states(states, frames, self.system.speech)
        scaled = F.layer_norm(at_frames, at_frames.shape[-1:])
        return torch.einsum("sbtd,sdc->sbtc", scaled, self.weight) + self.bias


def draw_windows(pool: Utterances, config: SpeechEncoderConfig, step: int) -> tuple[Tensor, Tensor]:
    """Normalised windows [B, N] of random utterances and their mouths [B, T, 4]."""
    rng = np.random.default_rng((config.seed, step))
    sounds, mouths = [], []
    for index in rng.integers(len(pool.samples), size=config.batch):
        first = int(rng.integers(pool.mouths.shape[1] - config.window_frames + 1))
        frames = slice(first, first + config.window_frames)
        sound = pool.samples[index, frames.start * SAMPLES_PER_FRAME : frames.stop * SAMPLES_PER_FRAME].copy()
        mouth = pool.mouths[index, frames].copy()
        if rng.random() < config.late_share:
            start = int(rng.integers(1, config.window_frames - 12))
            sound[: start * SAMPLES_PER_FRAME], mouth[:start] = 0, 0
        sounds.append(normalised(sound))
        mouths.append(mouth)
    system = preset(config.preset).speech
    tail = hop_samples(system) * (system.position_kernel // 2 if rng.integers(2) else 1)
    return F.pad(torch.from_numpy(np.stack(sounds)), (0, tail)), torch.from_numpy(np.stack(mouths))


def normalised(sound: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Zero mean and unit deviation of what is audible, as a stream's statistics make it."""
    audible = sound[sound != 0] if sound.any() else sound
    normal: npt.NDArray[np.float32] = ((sound - audible.mean()) / max(float(audible.std()), MIN_STD)).astype(np.float32)
    return normal


class Training:
    """A run at one of its steps."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        self.config = config
        self.device = open_device(config.device, torch.get_num_threads())
        torch.manual_seed(config.seed)
        self.reader = MouthReader(preset(config.preset))
        if config.weights is not None:
            known = components.load(self.reader.system, "speech", config.weights)
            self.reader.encoder.load_state_dict(known.state_dict())
        self.reader.to(self.device)
        self.optimizers = muon_and_adam(
            self.reader, self.reader.ends(), betas=_ADAM_BETAS, weight_decay=config.weight_decay
        )
        self.average = {name: tensor.clone() for name, tensor in self.reader.state_dict().items()}
        self.step = 0

    def restore(self) -> None:
        """Goes on from the last snapshot, if there is one."""
        state = snapshot.load(self.config.output / SNAPSHOT)
        if state is not None:
            self.reader.load_state_dict(state["weights"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.average = {name: tensor.to(self.device) for name, tensor in state["average"].items()}
            self.step = state["step"]

    def save(self) -> None:
        """Writes a snapshot."""
        state = {"weights": self.reader.state_dict(), "optimizers": [each.state_dict() for each in self.optimizers]}
        snapshot.save(self.config.output / SNAPSHOT, state | {"average": self.average, "step": self.step})

    def learn(self, pool: Utterances) -> float:
        """One step; its loss."""
        samples, mouths = (each.to(self.device) for each in draw_windows(pool, self.config, self.step))
        loss = F.mse_loss(self.reader(samples, mouths.shape[1]), mouths.expand(len(self.reader.weight), -1, -1, -1))
        self.reader.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.reader.parameters(), self.config.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.rate(self.step)
            optimizer.step()
        self.step += 1
        update_average(self.average, self.reader.state_dict(), self.step, self.config.ema)
        return float(loss.detach())

    def averaged(self) -> MouthReader:
        """The network with the average of its weights."""
        reader = MouthReader(preset(self.config.preset)).to(self.device)
        reader.load_state_dict(self.average)
        return reader.eval()


@torch.no_grad()
def evaluate(reader: MouthReader, data: Utterances) -> dict[str, float]:
    """Correlation of the last state's prediction with the truth, per track, over all frames of ``data``."""
    predicted = []
    for sound, mouth in zip(data.samples, data.mouths, strict=True):
        samples = F.pad(torch.from_numpy(normalised(sound))[None], (0, hop_samples(reader.system.speech)))
        predicted.append(reader(samples.to(reader.weight.device), len(mouth))[-1, 0].cpu())
    guess = torch.cat(predicted).numpy()
    truth = rearrange(data.mouths, "b t c -> (b t) c")
    return {track: float(np.corrcoef(guess[:, at], truth[:, at])[0, 1]) for at, track in enumerate(TRACKS)}


def train_speech_encoder(config: SpeechEncoderConfig) -> MouthReader:
    """Runs ``config`` to its end, from its last snapshot if there is one; returns the averaged network."""
    training = Training(config)
    training.restore()
    pool = utterances(config.utterances, config.utterance_frames, "train", config.seed)
    held_out = utterances(config.held_out, config.utterance_frames, "held_out")
    config.output.mkdir(parents=True, exist_ok=True)
    with (config.output / METRICS).open("a") as lines:
        for numbers in _steps(training, pool, held_out):
            lines.write(json.dumps(numbers) + "\n")
            lines.flush()
    training.save()
    return training.averaged()


def _steps(training: Training, pool: Utterances, held_out: Utterances) -> Iterator[dict[str, float]]:
    """The steps that are left; what to report."""
    config = training.config
    while training.step < config.steps:
        loss, step = training.learn(pool), training.step
        if step % config.log_every == 0:
            yield {"step": step, "loss": loss}
        if step % config.save_every == 0:
            training.save()
        if step % config.evaluate_every == 0 or step == config.steps:
            measured = evaluate(training.averaged(), held_out)
            yield {"step": step, **{f"held_out_{track}": value for track, value in measured.items()}}


def export_speech_encoder(reader: MouthReader, folder: Path) -> Manifest:
    """Writes the encoder as the file set ``speech`` of its system under ``folder``.

    Raises:
        DamagedFileError: the folder holds a speech encoder already.
    """
    system = reader.system
    names = public_names(system.speech)
    return save_component(
        reader.encoder.cpu(), names, folder / "speech", preset=system.weights_name, component="speech"
    )


def main(arguments: list[str]) -> None:
    """``python -m live_avatar.trainer.speech_encoder [--key value ...]``: trains, then writes the weights."""
    config = override(SpeechEncoderConfig(), pairs_of(arguments))
    export_speech_encoder(train_speech_encoder(config), config.output)


if __name__ == "__main__":
    sys.exit(run_reporting("python -m live_avatar.trainer.speech_encoder", lambda: main(sys.argv[1:])))
