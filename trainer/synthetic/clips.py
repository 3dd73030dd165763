"""The synthetic set: an unlimited number of talking portraits, each a function of its index.

The speech is real audio by espeak-ng, and the openness of the mouth in every frame is known, so that how well a
model's mouth follows its audio can be measured exactly.  The two splits share no people, voices, words or sentences.

Letters: T frames, N samples.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from live_avatar.trainer.clip import FPS, SAMPLES_PER_FRAME, Clip
from live_avatar.trainer.synthetic.identity import Identity, draw_identity
from live_avatar.trainer.synthetic.microphone import record
from live_avatar.trainer.synthetic.motion import Mouth, Track, Traits, draw_motion, still
from live_avatar.trainer.synthetic.painter import Boxes, eye_boxes, mouth_boxes, paint
from live_avatar.trainer.synthetic.sentences import draw_text
from live_avatar.trainer.synthetic.synthesis import stretched, synthesiser
from live_avatar.trainer.synthetic.visemes import mouth_of
from live_avatar.trainer.synthetic.voices import Split, draw_voice

SEEDS: dict[Split, int] = {"train": 0, "held_out": 1}
"""First number of every seed: what is drawn for the two splits has nothing in common."""
STRETCH = (0.88, 1.12)
"""How much slower and lower a voice is played: throats are of more sizes than the synthesiser's."""
LATEST_START_S = 0.6
WORDS_PER_SECOND = 3.5
"""More than the fastest voice speaks, so that speech fills the clip."""


@dataclass(frozen=True, kw_only=True)
class SyntheticClip(Clip):
    """A clip with the truth about it."""

    split: Split
    identity: int
    """Number of the person within the split."""
    traits: Traits
    openness: Track
    """[T], of the mouth, 0 to about 1; so are the three below."""
    width: Track
    roundness: Track
    teeth: Track
    mouth_boxes: Boxes
    """Top, left, bottom and right pixel, [T, 4]."""
    eye_boxes: Boxes
    """The same of both eyes together."""


def synthetic_clip(index: int, *, frames: int, size: int, split: Split) -> SyntheticClip:
    """Clip ``index`` of ``split``: ``frames`` pictures of ``size`` x ``size`` pixels.  Every clip is another person.

    Raises:
        ValueError: a negative index, or sizes that are not positive.
        SpeechError: libespeak-ng is not installed.
    """
    if index < 0 or frames < 1 or size < 1:
        raise ValueError(f"index={index} must not be negative, frames={frames} and size={size} must be positive")
    rng = np.random.default_rng((SEEDS[split], 2, index))
    traits = Traits(smile=bool(rng.integers(2)), lively=bool(rng.integers(2)))
    samples, mouth = speech(frames, split, rng)
    motion, person = draw_motion(mouth, traits, rng), person_of(index, split)
    return SyntheticClip(
        name=f"puppet-{split}-{index:06}",  # the choices that `encoding` makes depend on the name: it stays
        frames=paint(person, motion, size),
        samples=samples,
        prompt=prompt_of(traits),
        split=split,
        identity=index,
        traits=traits,
        openness=mouth.openness,
        width=mouth.width,
        roundness=mouth.roundness,
        teeth=mouth.teeth,
        mouth_boxes=mouth_boxes(person, motion, size),
        eye_boxes=eye_boxes(person, motion, size),
    )


def reference(clip: SyntheticClip) -> npt.NDArray[np.uint8]:
    """The still portrait [H, W, 3] of the clip's person: at rest, mouth shut, no trait of the prompt in it."""
    portrait: npt.NDArray[np.uint8] = paint(person_of(clip.identity, clip.split), still(), clip.frames.shape[1])[0]
    return portrait


def person_of(index: int, split: Split) -> Identity:
    """Person ``index`` of ``split``."""
    return draw_identity(np.random.default_rng((SEEDS[split], 3, index)))


def prompt_of(traits: Traits) -> str:
    """``traits`` in words; at most 64 bytes."""
    mood = "smiling" if traits.smile else "serious"
    movement = "lively" if traits.lively else "calm"
    return f"A {mood}, {movement} person is talking."


def speech(
    frames: int, split: Split, rng: np.random.Generator, voice_name: str = ""
) -> tuple[npt.NDArray[np.float32], Mouth]:
    """Random speech of ``frames`` frames: samples [N] as a microphone records them, and the mouth that speaks them.

    ``voice_name`` is one of espeak-ng's own; empty: someone of ``split``.
    """
    voice = draw_voice(split, rng)
    if voice_name:
        voice = replace(voice, name=voice_name, variant="")
    words = max(6, round(frames / FPS * WORDS_PER_SECOND))
    spoken = synthesiser().say(draw_text(split, words, rng), voice)
    spoken = stretched(spoken, rng.uniform(*STRETCH))
    delay_s = rng.uniform(0, LATEST_START_S)
    samples = np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
    first = round(delay_s * FPS * SAMPLES_PER_FRAME)
    audible = spoken.samples[: max(0, samples.size - first)]
    samples[first : first + audible.size] = audible
    return record(samples, rng), mouth_of(spoken.phonemes, frames, delay_s)
