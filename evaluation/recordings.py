"""Speech that people recorded, of which nobody knows the mouth: does the avatar's follow how loud it is?

Letters: T frames, N samples.
"""

import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from evaluation.dataset import Subject
from evaluation.evaluator import NEAR, Evaluator
from evaluation.lookahead import recording
from evaluation.mouth_metric import Track, sync
from evaluation.plan import Job
from evaluation.recorder import Recorder
from evaluation.variants import Script, Streamed
from evaluation.windows import TimeWindow
from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.streaming.resample import Samples
from live_avatar.trainer.clip import SAMPLES_PER_FRAME

LONGEST_S = 20
PEOPLE = 3
"""Who say each recording."""
LOUDNESS_POWER = 0.6
"""How loud a pressure sounds (Stevens)."""
_SMOOTH = np.array([0.25, 0.5, 0.25], np.float32)


def loudness(samples: Samples) -> Track:
    """How loud ``samples`` [N] are in every frame, [T], 1 at the loudest; smoothed, as a mouth is."""
    whole = samples[: samples.size // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME]
    power = np.square(whole.reshape(-1, SAMPLES_PER_FRAME)).mean(axis=1) ** (LOUDNESS_POWER / 2)
    track: Track = np.convolve(power, _SMOOTH, mode="same").astype(np.float32)
    return track / max(float(track.max()), 1e-9)


def measure_recordings(recorder: Recorder, row: Streamed, span: TimeWindow, files: Iterable[Path]) -> None:
    """Measures how well mouths follow recorded speech, and stores the results.

    Raises:
        ValueError: a file holds no speech that can be read, or less than a block.
    """
    for file in files:
        if recorder.again or not recorder.results.has_recording(file.name, row.digest):
            subjects = [recorder.subject(Job(row, number, (span,))) for number in range(PEOPLE)]
            measured = [
                measure_recording(row, recorder.evaluator, subject, file, recorder.seed) for subject in subjects
            ]
            means = {key: statistics.fmean(numbers[key] for numbers in measured) for key in measured[0]}
            recorder.results.add_recording(file.name, row.digest, means)


def measure_recording(row: Streamed, evaluator: Evaluator, subject: Subject, file: Path, seed: int) -> dict[str, float]:
    """How the openness of ``subject``'s mouth follows the loudness of ``file``; beside it how a synthetic mouth would.

    Raises:
        ValueError: the file holds no speech that can be read, or less than a block.
    """
    size = row.avatar.preset.samples_per_block
    samples = recording(file)[: LONGEST_S * SAMPLE_RATE_HZ]
    blocks = samples.size // size
    if not blocks:
        raise ValueError(f"{file} is shorter than a block")
    span = TimeWindow(0, blocks * size / SAMPLE_RATE_HZ, 0, blocks)
    script = Script(subject.portrait, subject.clip.prompt, np.split(samples[: blocks * size], blocks))
    (segment,) = row.session(script, (span,), seed, lambda done: None).segments
    read, volume = evaluator.mouths.read(segment.frames), loudness(samples[: blocks * size])[segment.hidden :]
    truth = sync(subject.clip.openness, loudness(subject.clip.samples), NEAR)
    best = sync(read, volume)
    return {
        "seconds": span.seconds,
        "sync": sync(read, volume, NEAR).correlation,
        "lag": best.lag,
        "puppet": truth.correlation,
    }
