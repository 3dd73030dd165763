"""Trains the small autoencoder on synthetic people: single frames first, then short videos.

Pictures teach the network space at a fraction of the price; videos then only have to teach it time.  Every draw
follows from the seed and the step, so that a run that was killed goes on as if nothing had happened.

Letters: B batch, T frames, H and W pixels.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from live_avatar.config import Preset, preset
from live_avatar.model import components
from live_avatar.model.checkpoint import save_component
from live_avatar.model.device import open_device
from live_avatar.model.vae import VAE, DecoderCache, public_names
from live_avatar.model.weight_files import Manifest
from live_avatar.trainer import snapshot
from live_avatar.trainer.autoencoder_config import AutoencoderConfig, Stage, config_of
from live_avatar.trainer.autoencoder_start import initialise, still_twin
from live_avatar.trainer.averaging import update_average
from live_avatar.trainer.distributed import precision
from live_avatar.trainer.muon import muon_and_adam
from live_avatar.trainer.overrides import run_reporting
from live_avatar.trainer.synthetic.painter import Boxes
from live_avatar.trainer.synthetic.pool import HELD_OUT, TRAINING, FrameSet, speaking, stills, videos

SNAPSHOT = "autoencoder.pt"
METRICS = "autoencoder.jsonl"


@dataclass(frozen=True)
class Batch:
    """Clips ready for the network."""

    video: Tensor
    """[B, 3, T, H, W] in -1..1."""
    weights: Tensor
    """[B, 1, T, H, W]: how much each pixel counts, 1 on average."""

    def to(self, device: torch.device) -> "Batch":
        """The same on ``device``."""
        return Batch(self.video.to(device), self.weights.to(device))


def make_batch(pictures: FrameSet, mouth_weight: float = 1.0, eye_weight: float = 1.0) -> Batch:
    """``pictures`` as tensors, with those weights on mouths and eyes."""
    video = torch.from_numpy(pictures.frames).movedim(-1, 1).float() / 127.5 - 1
    weights = torch.ones(video.shape[0], 1, *video.shape[2:])
    for boxes, weight in ((pictures.eyes, eye_weight), (pictures.mouths, mouth_weight)):
        for clip, frame in np.ndindex(*boxes.shape[:2]):
            top, left, bottom, right = boxes[clip, frame]
            weights[clip, 0, frame, top:bottom, left:right] = weight
    return Batch(video, weights / weights.mean())


def reconstruction_loss(decoded: Tensor, batch: Batch, config: AutoencoderConfig) -> Tensor:
    """Distance of ``decoded`` [B, 3, T, H, W] to the clips: values, edges, changes in time."""
    error = decoded - batch.video
    loss = (batch.weights * (error.abs() + config.square_weight * error.square())).mean()
    for axis in (-1, -2):
        weights = batch.weights.narrow(axis, 1, error.shape[axis] - 1)
        loss = loss + config.gradient_weight / 2 * (weights * error.diff(dim=axis).abs()).mean()
    if error.shape[2] > 1:
        loss = loss + config.change_weight * (batch.weights[:, :, 1:] * error.diff(dim=2).abs()).mean()
    return loss


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of the posterior from a unit normal distribution, per latent number."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def build(system: Preset, seed: int, weights: Path | None = None) -> VAE:
    """The autoencoder of ``system`` with first weights, or those of ``weights``; its latents are not normalised."""
    channels = system.vae.latent_channels
    vae = VAE(replace(system.vae, mean=(0.0,) * channels, std=(1.0,) * channels))
    if weights is None:
        initialise(vae, seed)
    else:
        vae.load_state_dict(components.load(system, "vae", weights).state_dict())
    return vae


@dataclass(frozen=True)
class Measured:
    """Of a step, on the device."""

    loss: Tensor
    square_error: Tensor

    def numbers(self) -> dict[str, float]:
        """The same for people; waits for the device."""
        return {"loss": float(self.loss), "psnr": psnr(self.square_error)}


class Training:
    """A run at one of its steps."""

    def __init__(self, config: AutoencoderConfig) -> None:
        self.config = config
        self.device = open_device(config.device, torch.get_num_threads())
        torch.backends.cudnn.benchmark = True  # on a GPU: the same shapes come thousands of times
        self.vae = build(preset(config.preset), config.seed, config.weights).to(self.device)
        for part in (self.vae.encoder, self.vae.to_moments):
            part.requires_grad_(not config.decoder_alone)
        self.twin = still_twin(self.vae)
        self.optimizers = _optimizers(self.vae)
        self.average = {name: tensor.clone() for name, tensor in self.vae.state_dict().items()}
        self.step = 0

    def restore(self) -> None:
        """Goes on from the last snapshot, if there is one."""
        state = snapshot.load(self.config.output / SNAPSHOT)
        if state is not None:
            self.vae.load_state_dict(state["weights"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.average = {name: tensor.to(self.device) for name, tensor in state["average"].items()}
            self.step = state["step"]

    def save(self) -> None:
        """Writes a snapshot."""
        state = {"weights": self.vae.state_dict(), "optimizers": [each.state_dict() for each in self.optimizers]}
        snapshot.save(self.config.output / SNAPSHOT, state | {"average": self.average, "step": self.step})

    def learn(self, pictures: FrameSet, learning_rate: float) -> Measured:
        """One step on ``pictures``; what it measured, which nobody has to wait for."""
        batch = make_batch(pictures, self.config.mouth_weight, self.config.eye_weight).to(self.device)
        network = self.twin if batch.video.shape[2] == 1 else self.vae
        with precision(self.config.precision, self.device):
            mean, log_variance = network.posterior(batch.video)
            noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(self.step)).to(self.device)
            latents = mean if self.config.decoder_alone else mean + noise * (0.5 * log_variance).exp()
            decoded = network.decode_next(latents, DecoderCache()).float()
        reconstruction = reconstruction_loss(decoded, batch, self.config)
        loss = reconstruction + self.config.divergence_weight * divergence(mean, log_variance)
        self._move(loss, learning_rate)
        return Measured(reconstruction.detach(), F.mse_loss(decoded.detach(), batch.video))

    def _move(self, loss: Tensor, learning_rate: float) -> None:
        self.vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), self.config.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self.step += 1
        update_average(self.average, self.vae.state_dict(), self.step, self.config.ema)

    def averaged(self) -> VAE:
        """The network with the average of its weights."""
        vae = VAE(self.vae.config).to(self.device)
        vae.load_state_dict(self.average)
        return vae.eval()


def _optimizers(vae: VAE) -> tuple[torch.optim.Optimizer, ...]:
    """Adam also moves the two ends, which deal in colours."""
    return muon_and_adam(vae, (vae.encoder.stem.weight, vae.decoder.head.weight), betas=(0.9, 0.99))


def psnr(square_error: Tensor) -> float:
    """Decibels of a mean square error of values in -1..1."""
    return -10 * math.log10(float(square_error) / 4 + 1e-12)


@torch.no_grad()
def evaluate(vae: VAE, pictures: FrameSet) -> dict[str, float]:
    """PSNR in dB of clips that went through ``vae``: whole frames, mouth boxes, eye boxes."""
    network = still_twin(vae) if pictures.frames.shape[1] == 1 else vae
    device = vae.from_latents.weight.device
    errors: dict[str, list[Tensor]] = {"whole": [], "mouth": [], "eyes": []}
    for clip in range(len(pictures.frames)):
        one = pictures.take(np.array([clip]))
        video = make_batch(one).video.to(device)
        decoded = network.decode_next(network.posterior(video)[0], DecoderCache())
        error = (decoded.clamp(-1, 1) - video)[0].square()
        errors["whole"].append(error.mean())
        errors["mouth"].append(_inside(error, one.mouths[0]))
        errors["eyes"].append(_inside(error, one.eyes[0]))
    return {name: psnr(torch.stack(each).mean()) for name, each in errors.items()}


def _inside(error: Tensor, boxes: Boxes) -> Tensor:
    """Mean of ``error`` [3, T, H, W] over one box per frame, [T, 4]."""
    parts = [error[:, frame, top:bottom, left:right] for frame, (top, left, bottom, right) in enumerate(boxes)]
    return torch.stack([part.mean() for part in parts]).mean()


def draw_pictures(pool: FrameSet, clips: int, frames: int, seed: tuple[int, int]) -> FrameSet:
    """A random batch: ``clips`` of ``pool``, all from the same random frame on."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(pool.frames), clips, replace=False)
    first = int(rng.integers(pool.frames.shape[1] - frames + 1))
    return pool.take(chosen).cut(first, frames)


@dataclass(frozen=True)
class Pool:
    """Pictures of one size."""

    training: FrameSet
    held_out: FrameSet


def _paint(config: AutoencoderConfig, size: int, *, is_still: bool) -> Pool:
    if is_still:
        return Pool(
            stills(config.people, config.poses, size, split=TRAINING, seed=config.seed),
            stills(16, 4, size, split=HELD_OUT),
        )
    if config.speaking:
        return Pool(
            speaking(config.clips, config.clip_frames, size, split="train"), speaking(8, 41, size, split="held_out")
        )
    return Pool(
        videos(config.clips, config.clip_frames, size, split=TRAINING, seed=config.seed),
        videos(12, 25, size, split=HELD_OUT),
    )


def train_autoencoder(config: AutoencoderConfig) -> VAE:
    """Runs ``config`` to its end, from its last snapshot if there is one; returns the averaged network."""
    training = Training(config)
    training.restore()
    before = 0
    with (_metrics_file(config)).open("a") as lines:
        pools: dict[bool, dict[int, Pool]] = {}
        for stage in config.stages:
            before += stage.steps
            if training.step >= before:
                continue
            is_still = stage.frames == 1
            if is_still not in pools:
                pools[is_still] = {size: _paint(config, size, is_still=is_still) for size in config.sizes}
            for numbers in _run_stage(training, stage, before - stage.steps, pools[is_still]):
                lines.write(json.dumps(numbers) + "\n")
                lines.flush()
    training.save()
    return training.averaged()


def _metrics_file(config: AutoencoderConfig) -> Path:
    config.output.mkdir(parents=True, exist_ok=True)
    return config.output / METRICS


def _run_stage(training: Training, stage: Stage, first: int, pools: Mapping[int, Pool]) -> Iterator[dict[str, float]]:
    """The steps of ``stage`` that are left, the run's step ``first`` being its first; what to report."""
    config = training.config
    while training.step < first + stage.steps:
        began = time.monotonic()
        size = config.size(training.step)
        clips = stage.clips(size, config.sizes[0])
        pictures = draw_pictures(pools[size].training, clips, stage.frames, (config.seed, training.step))
        measured = training.learn(pictures, stage.rate(training.step - first))
        step = training.step
        if step % config.log_every == 0:
            yield {"step": step, "size": size, **measured.numbers(), "seconds": time.monotonic() - began}
        if step % config.save_every == 0:
            training.save()
        if step % config.evaluate_every == 0 or step == first + stage.steps:
            for side, pool in pools.items():
                found = evaluate(training.averaged(), pool.held_out)
                yield {"step": step, "size": side, **{f"held_out_{name}": db for name, db in found.items()}}


@torch.no_grad()
def measure_latents(vae: VAE, pictures: FrameSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel of the latents of ``pictures``, for ``VAEConfig``."""
    device = vae.from_latents.weight.device
    batches = (make_batch(pictures.take(np.array([clip]))).to(device) for clip in range(len(pictures.frames)))
    means = torch.cat([vae.posterior(batch.video)[0].flatten(2) for batch in batches], dim=2)
    deviation, mean = torch.std_mean(means[0], dim=1)
    return tuple(round(float(x), 4) for x in mean), tuple(round(float(x), 4) for x in deviation)


def export_autoencoder(vae: VAE, system: Preset, folder: Path) -> Manifest:
    """Writes ``vae`` in float32 as the file set ``vae`` of ``system`` under ``folder``.

    Raises:
        DamagedFileError: the folder holds an autoencoder already.
    """
    return save_component(
        vae.cpu(), public_names(system.vae), folder / "vae", preset=system.weights_name, component="vae"
    )


def main(arguments: list[str]) -> None:
    """``python -m live_avatar.trainer.autoencoder [NAME] [--key value ...]``: trains, then writes the weights.

    Says what mean and deviation new latents have, which belong into the preset.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = config_of(arguments)
    vae = train_autoencoder(config)
    if not config.decoder_alone:
        mean, std = measure_latents(vae, videos(60, 25, config.sizes[-1], split=TRAINING, seed=config.seed + 1))
        logging.info("latents of %s: mean=%s, std=%s", config.preset, mean, std)
    export_autoencoder(vae, preset(config.preset), config.output)


if __name__ == "__main__":
    sys.exit(run_reporting("python -m live_avatar.trainer.autoencoder", lambda: main(sys.argv[1:])))
