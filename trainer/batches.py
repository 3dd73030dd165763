"""From samples to the batch of a step: crops, dropped conditions, references.

Every draw is keyed by the sample's place in the whole step, so that it does not matter how a step is split over
processes.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from live_avatar.trainer.data import Dataset, Sample, crop, padded
from live_avatar.trainer.network import Batch
from live_avatar.trainer.presets import FlowMatchingConfig, TrainingConfig
from live_avatar.trainer.random_streams import generator


def items_of(config: TrainingConfig, rank: int, ranks: int) -> range:
    """The places in a step that process ``rank`` of ``ranks`` works on.

    Raises:
        ValueError: the batch does not split evenly.
    """
    if config.batch % ranks:
        raise ValueError(f"batch={config.batch} does not split over {ranks} processes")
    share = config.batch // ranks
    return range(rank * share, (rank + 1) * share)


def batch_of(dataset: Dataset, config: TrainingConfig, step: int, items: range, device: torch.device) -> Batch:
    """The clips ``items`` of ``step``, cut to the run's length."""
    samples = [_cut(dataset.sample(step * config.batch + item), config, step, item) for item in items]
    rows, use_motion = config.system.dit.text_len, config.system.dit.use_motion
    emphasis = config.emphasis if isinstance(config, FlowMatchingConfig) else 1.0

    def stack(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).to(device, torch.float32)

    return Batch(
        latents=stack([sample.latents for sample in samples]),
        speech=stack([sample.speech for sample in samples]),
        text=stack([padded(sample.text, rows) for sample in samples]),
        reference=stack([sample.reference for sample in samples]),
        motion=stack([sample.motion for sample in samples]) if use_motion else None,
        weight=stack([_weight(sample.important, emphasis) for sample in samples]),
    )


def with_dropped_conditions(
    batch: Batch, negative_text: Tensor, config: FlowMatchingConfig, step: int, items: range
) -> Batch:
    """``batch`` as flow matching sees it: some audio silent, some prompts negative, some references their own latent.

    A clip without audio or prompt teaches what guidance subtracts (spec 10.2); a reference from the clip itself is
    what the sink becomes once the model's own first latent takes its place (spec 2.7).
    """
    rng = torch.from_numpy(np.stack([generator(config.seed, "drop", step, item).random(3) for item in items]))
    silent, no_text, own = (rng < torch.tensor([config.drop_audio, config.drop_text, config.own_reference])).T
    text = padded(negative_text, batch.text.shape[1]).to(batch.text)
    return replace(
        batch,
        speech=torch.where(_column(silent, batch.speech), 0, batch.speech),
        text=torch.where(_column(no_text, batch.text), text, batch.text),
        reference=torch.where(_column(own, batch.reference), batch.latents[:, :, :1], batch.reference),
    )


def _cut(sample: Sample, config: TrainingConfig, step: int, item: int) -> Sample:
    random = generator(config.seed, "crop", step, item)
    return crop(sample, config.blocks, config.system.stream.latents_per_block, random)


def _weight(important: Tensor, emphasis: float) -> Tensor:
    """[h, w] weights, 1 on average: ``emphasis`` times as much where the sample is important."""
    weight = 1 + (emphasis - 1) * important.float()
    return weight / weight.mean()


def _column(chosen: Tensor, like: Tensor) -> Tensor:
    """[B] as a condition that broadcasts against ``like`` [B, ...]."""
    return chosen.to(like.device).view(-1, *[1] * (like.dim() - 1))
