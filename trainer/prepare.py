"""Clips to shards of precomputed samples, by any number of workers, over any number of attempts.

Clips are dealt into shards by their place in the source, shards to workers by their number.  A shard appears when it
is whole; what is there already is kept.  A clip that cannot be used is reported in ``skipped-N.jsonl`` beside the
shard, with the reason, and skipped.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from live_avatar import memory
from live_avatar.config import Preset
from live_avatar.config import preset as preset_named
from live_avatar.model import components
from live_avatar.model.checkpoint import save_shared
from live_avatar.model.device import open_device
from live_avatar.trainer.annotations import ClipAnnotations, ClipError
from live_avatar.trainer.clip import Clip
from live_avatar.trainer.data import NEGATIVE_TEXT, SHARD_SUFFIX, DataError, Sample, Shard
from live_avatar.trainer.encoding import ENCODERS, SampleEncoder
from live_avatar.trainer.presets import PrepareConfig
from live_avatar.trainer.videos import VideoFolder

log = logging.getLogger(__name__)


class Source(Protocol):
    """Clips by number."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the clip is called in a report."""
        ...

    def read(self, index: int) -> Clip:
        """The clip, at any length.

        Raises:
            ClipError: it cannot be used.
        """
        ...

    def annotations(self, clip: Clip) -> ClipAnnotations:
        """What else is known of ``clip``."""
        ...


@dataclass
class Report:
    """What came of a call."""

    samples: int = 0
    skipped: int = 0
    kept_shards: int = 0
    """Shards that were there already."""
    reasons: dict[str, str] = field(default_factory=dict, compare=False)
    """Why each skipped clip was skipped, by its name."""


def prepare(config: PrepareConfig) -> Report:
    """Writes the shards of this worker that are not there yet.

    Raises:
        ValueError: no videos, no such worker, or no such set of clips.
        WeightsError: an encoder is missing or damaged.
    """
    preset, worker = preset_named(config.preset), worker_index(config)
    encoder = SampleEncoder(preset, config.weights, open_device(config.device, torch.get_num_threads()))
    source, report = open_source(config, preset), Report()
    config.output.mkdir(parents=True, exist_ok=True)
    _write(config.output / NEGATIVE_TEXT, {"text": encoder.text.encode(config.negative_prompt).cpu()}, {}, worker)
    facts = {"source": source_digest(preset, config.weights)}
    shards = range(-(-len(source) // config.clips_per_shard))
    for number in shards[worker :: config.count]:
        path = config.output / f"clips-{number:06}{SHARD_SUFFIX}"
        if _is_whole(path):
            report.kept_shards += 1
            continue
        first = number * config.clips_per_shard
        numbers = range(first, min(first + config.clips_per_shard, len(source)))
        samples, skipped = _encode(source, numbers, encoder, config)
        _write_report(config.output / f"skipped-{number:06}.jsonl", skipped)
        _write(path, _tensors(samples), facts, worker)
        report.samples += len(samples)
        report.skipped += len(skipped)
        report.reasons |= skipped
        log.info("%s: %d samples, %d clips skipped", path.name, len(samples), len(skipped))
    return report


def worker_index(config: PrepareConfig) -> int:
    """Which of ``config.count`` workers this is.

    Raises:
        ValueError: outside 0..count - 1.
    """
    index = config.index if config.index is not None else int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
    if not 0 <= index < config.count:
        raise ValueError(f"index={index} is not in 0..{config.count - 1}")
    return index


def open_source(config: PrepareConfig, preset: Preset) -> Source:
    """The clips that ``config`` names.

    Raises:
        ValueError: neither or both of ``input`` and ``source``, or a set that does not exist.
    """
    if (config.input is None) == (not config.source):
        raise ValueError("give either --input DIR or --source NAME")
    width, height = map(int, config.size.split("x")) if config.size else reversed(memory.largest_size(preset))
    if config.input is not None:
        return VideoFolder(config.input, size=(height, width), fps=preset.stream.fps, prompt=config.prompt)
    from live_avatar.trainer.synthetic_source import made_source

    return made_source(config, preset, (height, width))


def source_digest(preset: Preset, folder: Path) -> str:
    """Of the networks whose word the samples are: equal digests may be trained on together."""
    whole = hashlib.sha256(preset.weights_name.encode())
    for name in ENCODERS:
        manifest = components.open_converted(preset, name, folder).manifest
        assert manifest is not None
        whole.update(f"{name}={manifest.digest};".encode())
    return whole.hexdigest()


def pieces(clip: Clip, frames: int) -> Iterator[Clip]:
    """``clip`` in pieces of ``frames`` frames; the last may be shorter."""
    samples = len(clip.samples) // max(1, len(clip.frames))
    for number, first in enumerate(range(0, len(clip.frames), frames)):
        last = first + frames
        yield replace(
            clip,
            name=f"{clip.name}#{number}",
            frames=clip.frames[first:last],
            samples=clip.samples[first * samples : last * samples],
        )


def _encode(
    source: Source, numbers: range, encoder: SampleEncoder, config: PrepareConfig
) -> tuple[list[Sample], dict[str, str]]:
    """The samples of some clips, and why the others are skipped, by name."""
    block = encoder.preset.frames_per_block
    parts: list[tuple[Clip, ClipAnnotations]] = []
    skipped: dict[str, str] = {}
    for number in numbers:
        try:
            clip = source.read(number)
            if len(clip.frames) < config.min_blocks * block:
                raise ClipError(f"too short: {len(clip.frames)} frames, {config.min_blocks * block} are needed")
        except ClipError as error:
            skipped[source.name(number)] = str(error)
            log.warning("%s skipped: %s", source.name(number), error)
            continue
        annotations, cut = source.annotations(clip), pieces(clip, config.blocks * block)
        parts += [(part, annotations) for part in cut if len(part.frames) >= config.min_blocks * block]
    return encoder.encode_all(parts), skipped


def _tensors(samples: list[Sample]) -> dict[str, Tensor]:
    return {
        f"{position:04}.{field}": tensor
        for position, sample in enumerate(samples)
        for field, tensor in vars(sample).items()
    }


def _is_whole(path: Path) -> bool:
    """Whether ``path`` is a shard; a damaged one is written again."""
    try:
        return path.exists() and Shard.open(path).samples >= 0
    except DataError as error:
        log.warning("%s", error)
        return False


def _write(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, str], worker: int) -> None:
    """Writes a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{worker}.partial")
    save_shared(dict(tensors), partial, facts or None)
    os.replace(partial, path)


def _write_report(path: Path, skipped: dict[str, str]) -> None:
    lines = (json.dumps({"clip": name, "reason": reason}) + "\n" for name, reason in skipped.items())
    path.write_text("".join(lines))
