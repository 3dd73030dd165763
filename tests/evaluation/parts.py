"""Parts of the evaluation, small enough for tests."""

from functools import cache

import torch

from evaluation import identity, mouth_metric
from evaluation.dataset import other_truths, portraits
from evaluation.evaluator import Evaluator
from evaluation.windows import TimeWindow, spans_of
from live_avatar.config import TINY

SIDE = 64
SPAN: TimeWindow = spans_of([0], 2.4, TINY)[0]


@cache
def evaluator(span: TimeWindow = SPAN) -> Evaluator:
    """A judge of shots of ``span``'s length, fitted in a few seconds."""
    faces = identity.fit(people=120, steps=60)
    references = torch.stack([faces.read(portrait[None]) for portrait in portraits(SIDE)])
    return Evaluator(mouth_metric.fit(people=120, steps=250), faces, references, other_truths(span, TINY))
