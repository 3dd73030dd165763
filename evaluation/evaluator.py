"""All metrics of one segment: does the mouth follow the sound, is it the right person, are colours and edges kept?

Letters: T frames, P people, E width of an embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation import frame_metrics, identity, mouth_metric
from evaluation.dataset import Segment, Subject, other_truths, portraits
from evaluation.identity import FaceReader, nearest
from evaluation.mouth_metric import OpennessReader, Track, sync
from evaluation.windows import TimeWindow
from live_avatar.config import Preset

NEAR = 1
"""Frames that a mouth may be early or late for its correlation to count."""

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Evaluator:
    """Computes the metrics of a segment."""

    mouths: OpennessReader
    faces: FaceReader
    references: Tensor
    """[P, E]"""
    others: tuple[Track, ...]
    """What mouths do that say something else, [T] each."""

    def numbers(self, subject: Subject, segment: Segment) -> dict[str, float]:
        """What is measured of ``segment``, by key (``docs/performance/quality.md``)."""
        read, truth = self.mouths.read(segment.frames), subject.clip.openness[segment.hidden :]
        best = sync(read, truth)
        face = self.faces.read(segment.frames)
        return {
            "sync": sync(read, truth, NEAR).correlation,
            "lag": best.lag,
            "other": self._other(read, segment.hidden),
            "amplitude": best.amplitude,
            "identity": float(nearest(face, self.references) == subject.number),
            "likeness": float(self.references[subject.number] @ face),
            "drift": frame_metrics.colour_drift(segment.frames, subject.portrait),
            "sharpness": frame_metrics.sharpness(segment.frames)
            / frame_metrics.sharpness(subject.clip.frames[segment.hidden :]),
        }

    def fidelity(self, subject: Subject, segment: Segment) -> dict[str, float]:
        """How near frames that are to be the true ones come to them, in dB: all of them, and the box of the mouth."""
        truth, boxes = subject.clip.frames[segment.hidden :], subject.clip.mouth_boxes[segment.hidden :]
        mouths = (frame_metrics.inside(frames, boxes) for frames in (segment.frames, truth))
        return {"psnr": frame_metrics.psnr(segment.frames, truth), "mouth_psnr": frame_metrics.psnr(*mouths)}

    def _other(self, read: Track, hidden: int) -> float:
        """Mean correlation with what is not said, measured like that with what is."""
        found = [sync(read, track[hidden:], NEAR).correlation for track in self.others]
        return sum(found) / len(found)


def fit_evaluator(span: TimeWindow, preset: Preset, size: int) -> Evaluator:
    """Fits an evaluator for segments of ``span``'s length; takes about a minute."""
    faces = identity.fit()
    return Evaluator(
        mouths=mouth_metric.fit(),
        faces=faces,
        references=torch.stack([faces.read(portrait[None]) for portrait in portraits(size)]),
        others=other_truths(span, preset),
    )
