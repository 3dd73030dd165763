"""Parts of the bench of quality, small enough for tests."""

from functools import cache

import torch

from bench import openness
from bench.quality import identity
from bench.quality.cast import other_truths, portraits
from bench.quality.judge import Judge
from bench.quality.spans import Span, spans_of
from live_avatar.config import TINY

SIDE = 64
SPAN: Span = spans_of([0], 2.4, TINY)[0]


@cache
def judge(span: Span = SPAN) -> Judge:
    """A judge of shots of ``span``'s length, fitted in a few seconds."""
    faces = identity.fit(people=120, steps=60)
    references = torch.stack([faces.read(portrait[None]) for portrait in portraits(SIDE)])
    return Judge(openness.fit(people=120, steps=250), faces, references, other_truths(span, TINY))
